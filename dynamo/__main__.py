"""`python -m dynamo`: the story of a ring, or one node of a ring of your own.

python -m dynamo                          a ring on this machine loses a node, and loses nothing
python -m dynamo node start -c FILE       run one node until SIGTERM
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    chosen = _parser().parse_args(argv)
    # Imported here: a node needs no client, and the story no server in its own process.
    if chosen.command == "node":
        from dynamo.server.main import start

        return start(chosen.config, chosen.exit_with_stdin)
    from dynamo import story

    return story.main()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dynamo",
        description="Without arguments: a ring on this machine loses a node, and loses nothing.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    node = commands.add_parser("node", help="run a node", allow_abbrev=False)
    verbs = node.add_subparsers(dest="verb", metavar="VERB", required=True)
    start = verbs.add_parser(
        "start",
        help="run one node until SIGTERM",
        description="Run one node. Prints one JSON line when it serves; SIGTERM stops it cleanly.",
        allow_abbrev=False,
    )
    start.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="TOML file")
    start.add_argument(
        "--exit-with-stdin",
        action="store_true",
        help="stop when stdin ends, so that the node does not outlive what started it",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
