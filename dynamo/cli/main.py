"""`dynamo` and `python -m dynamo`: the table of commands, and what becomes of their errors.

Nothing heavy is imported here, and a command imports only its own module: `dynamo node start`
must not pay for tables and clients, and Ctrl-C during an import still ends in one line.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

# Command -> the module and the click object in it, imported when the command is used.
COMMANDS = {
    "demo": "dynamo.cli.demo:demo",
    "get": "dynamo.cli.data:get",
    "put": "dynamo.cli.writing:put",
    "delete": "dynamo.cli.writing:delete",
    "siblings": "dynamo.cli.data:siblings",
    "resolve": "dynamo.cli.writing:resolve",
    "explain": "dynamo.cli.explain:explain",
    "scan": "dynamo.cli.transfer:scan",
    "import": "dynamo.cli.transfer:import_",
    "export": "dynamo.cli.transfer:export",
    "status": "dynamo.cli.status:status",
    "health": "dynamo.cli.health:health",
    "ring": "dynamo.cli.ring:ring",
    "hints": "dynamo.cli.status:hints",
    "gossip": "dynamo.cli.transfers:gossip",
    "cluster": "dynamo.cli.cluster:cluster",
    "tasks": "dynamo.cli.tasks:tasks",
    "transfers": "dynamo.cli.transfers:transfers",
    "node": "dynamo.cli.node:node",
    "config": "dynamo.cli.config:config",
    "sim": "dynamo.cli.sim:sim",
    "completion": "dynamo.cli.about:completion",
    "version": "dynamo.cli.about:version",
}
# What `dynamo --help` says of them, and in which groups. Here, so that help imports no command.
SECTIONS = {
    "Start here": {
        "demo": "See a ring lose a node, split in two, and lose nothing",
    },
    "Keys and values": {
        "get": "Print the value of a key",
        "put": "Store a value under a key",
        "delete": "Remove a key",
        "siblings": "List the concurrent values of a key",
        "resolve": "Replace the concurrent values of a key by one",
        "explain": "Show who holds what of a key, and why",
    },
    "Many keys": {
        "scan": "List keys",
        "import": "Store keys and values from JSON lines",
        "export": "Write keys and values as JSON lines",
    },
    "The ring": {
        "status": "Show all nodes, and whether anything is wrong",
        "health": "The same as an exit code; waits for a healthy ring",
        "ring": "Show who owns how much, or who owns a key",
        "hints": "Show what is kept for nodes that were away",
        "gossip": "Show whether all nodes know the same of the ring",
    },
    "Changing the ring": {
        "cluster": "Grow, shrink and repair it: stage, plan, commit",
        "tasks": "Show committed changes; follow, abort or resume one",
        "transfers": "Show what moves from node to node, and what waits",
    },
    "Nodes": {
        "node": "Run a node, drain it, or stop it",
        "config": "Write, check and show the files of nodes",
    },
    "More": {
        "sim": "Search the simulator for faults in the protocol",
        "completion": "Completion of commands and options for a shell",
        "version": "Show versions",
    },
}
COMPLETE = "_DYNAMO_COMPLETE"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character gets its number, not a traceback.
            stream.reconfigure(errors="backslashreplace")
    try:
        # Imported here: the first 100 ms of a command are imports, and Ctrl-C must be caught there.
        from dynamo.cli.group import complete, dispatch

        if COMPLETE in os.environ:
            return complete(os.environ[COMPLETE])
        return dispatch(args)
    except BrokenPipeError:
        return _broken_pipe()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def _broken_pipe() -> int:
    """The reader of our output has gone (`dynamo scan | head`): no error, and no last words."""
    # What is still buffered would raise again at exit.
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(quiet, stream.fileno())
    return 0
