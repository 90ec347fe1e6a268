"""What the commands of `dynamo sim` share: options, a line that lives, and the commit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click

from dynamo.cli import show
from dynamo.cli.shared import DURATION, Shell

REDRAW_S = 0.2
LINE_EVERY_S = 10.0


class Profile(show.ParamType):
    """The name of a profile; imported when used."""

    name = "profile"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from dynamo.sim.profiles import PROFILES

        if value not in PROFILES:
            self.fail(f"there is no profile {value!r}; there are {', '.join(PROFILES)}", param, ctx)
        return str(value)


class PlantName(show.ParamType):
    """The name of an entry of the zoo."""

    name = "plant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from difflib import get_close_matches

        from dynamo.sim.zoo import ENTRIES

        if value and value not in ENTRIES:
            close = get_close_matches(value, ENTRIES, 3, 0.3)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            self.fail(f"{value!r} is not in the zoo; {hint}`dynamo sim zoo` lists it", param, ctx)
        return str(value)


JOBS = click.option(
    "-j", "--jobs", type=click.IntRange(1, 256), metavar="J",
    help="Seeds at once. Default: one a core.",
)  # fmt: skip
PROFILE = click.option(
    "--profile", type=Profile(), default="default", metavar="NAME", show_default=True,
    help="What seeds draw: default, short, ...",
)  # fmt: skip
PLANT = click.option(
    "--plant", type=PlantName(), default="", metavar="NAME",
    help="Plant this mistake of the zoo first, to see how it is found.",
)  # fmt: skip
LIMIT = click.option(
    "--limit", type=DURATION, default="60s", metavar="TIME", show_default=True,
    help="A seed that runs for longer has failed.",
)  # fmt: skip


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def commit() -> str:
    """What runs: `git describe` of the checkout, or the version of the installed package."""
    root = Path(__file__).resolve().parent.parent.parent
    if (root / ".git").exists():
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--tags"],
            cwd=root, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
        if asked.returncode == 0:
            return f"commit {asked.stdout.strip()}"
    import dynamo

    return f"version {dynamo.__version__}"


class Live:
    """One line on stderr about work in progress: redrawn on a terminal, now and then in a pipe."""

    def __init__(self, shell: Shell, line: Callable[[], str]) -> None:
        self._silent = shell.json
        self._shell = shell
        self._line = line
        self._lively = show.lively(sys.stderr)
        self._began_s = self._drawn_s = time.monotonic()
        self._there = False

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self._began_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._wipe()

    def tick(self) -> None:
        """Time has passed: show how far it is, if it is time for that."""
        now_s = time.monotonic()
        if self._silent or now_s - self._drawn_s < (REDRAW_S if self._lively else LINE_EVERY_S):
            return
        self._drawn_s = now_s
        if self._lively:
            columns = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r{self._line()[:columns]}\x1b[K")
            self._there = True
        else:
            sys.stderr.write(self._line() + "\n")
        sys.stderr.flush()

    def interrupt(self, text: str) -> None:
        """Print something that stays."""
        self._wipe()
        self._shell.print(text)
        sys.stdout.flush()

    def _wipe(self) -> None:
        if self._there:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._there = False
