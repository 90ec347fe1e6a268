"""`dynamo node`: run a node, drain it, and stop it."""

from __future__ import annotations

from pathlib import Path

import click

from dynamo.cli.shared import Shell, command, group

CONFIG = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    default=Path("dynamo.toml"),
    show_default=True,
    metavar="FILE",
    help="The node's TOML file.",
)


@group(
    examples="""
    dynamo node start                  the node of ./dynamo.toml, until Ctrl-C or SIGTERM
    dynamo node start -c ring/n1.toml
    dynamo node start -c n4.toml --join 127.0.0.1:7101
    dynamo node drain n1
    dynamo node stop -c ring/n1.toml
    """
)
def node() -> None:
    """Run a node of the ring, drain it, or stop it."""


@command(
    examples="""
    dynamo node start                  the node of ./dynamo.toml
    dynamo node start -c ring/n1.toml
    dynamo node start -c n4.toml --join 127.0.0.1:7101
    DYNAMO_NODE_DURABILITY=interval dynamo node start -c ring/n1.toml
    """
)
@CONFIG
@click.option(
    "--join",
    multiple=True,
    metavar="HOST:PORT",
    help="Join the ring of the node with this peer address; for a file without [[members]].",
)
@click.option(
    "--exit-with-stdin",
    is_flag=True,
    help="Stop when stdin ends, so that the node does not outlive what started it.",
)
def start(shell: Shell, config: Path, join: tuple[str, ...], exit_with_stdin: bool) -> int:
    """Run one node in the foreground until SIGTERM or Ctrl-C.

    Prints one JSON line when it serves. No file yet? `dynamo config init` writes one, also for a
    node that is to join a ring. Such a node is known to the ring from then on, and gets its part
    of the keys once `dynamo cluster join` has been planned and committed.
    """
    # Imported here: this is all that the process of a node needs of the command line.
    from dynamo.server.main import start as run

    return run(config, exit_with_stdin, join)


@command(
    examples="""
    dynamo node stop                   the node of ./dynamo.toml
    dynamo node stop -c ring/n1.toml
    """
)
@CONFIG
@click.option("--force", is_flag=True, help="Stop it whatever that means for the ring.")
def stop(shell: Shell, config: Path, force: bool) -> int:
    """Stop the node of a file cleanly, and wait until it has ended.

    Refuses, with exit code 8, if some keys would be left with fewer live owners than a write
    needs. A node that is not running is no error. Exit code 7 if it has not ended in time.
    """
    from dynamo.cli.stopping import stop as run

    return run(shell, config, force)


@command(
    examples="""
    dynamo node drain n3               before a planned stop
    dynamo node drain n3 --off         take requests again
    """
)
@click.argument("name", metavar="NODE")
@click.option("--off", is_flag=True, help="The opposite.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def drain(shell: Shell, name: str, off: bool, dry_run: bool) -> int:
    """Let NODE take no more requests of clients, and deliver the hints that it keeps.

    Returns once it owes nothing, but to nodes that are down. It stays a member, and its copies stay
    with it: for good it goes with `dynamo cluster leave`.
    """
    from dynamo.cli.draining import drain as run

    return run(shell, name, off, dry_run)


for verb in (start, drain, stop):
    node.add_command(verb)
