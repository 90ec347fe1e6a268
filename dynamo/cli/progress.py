"""Progress of long work on stderr: a bar on a terminal, a line now and then in a pipe."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

LINE_EVERY_S = 2.0


class Progress:
    """Counts in silence; the base of the two that show something."""

    def __init__(self, total: int | None, what: str) -> None:
        self.total = total
        self.what = what
        self.done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away, where there is one."""

    def advance(self, n: int = 1) -> None:
        """`n` more are done."""
        self.done += n

    def rename(self, what: str) -> None:
        """Say from now on that this is what goes on."""
        self.what = what


class _Lines(Progress):
    """For pipes and logs: silent for the first seconds, then a line every few."""

    def __init__(self, total: int | None, what: str) -> None:
        super().__init__(total, what)
        self._started = self._said = time.monotonic()

    def advance(self, n: int = 1) -> None:
        super().advance(n)
        now = time.monotonic()
        if now - self._said >= LINE_EVERY_S:
            self._said = now
            rate = self.done / (now - self._started)
            of = f" of {self.total:,}" if self.total is not None else ""
            print(f"{self.what}: {self.done:,}{of} ({rate:,.0f}/s)", file=sys.stderr, flush=True)


class _Bar(Progress):
    """For terminals."""

    def __init__(self, total: int | None, what: str) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        from dynamo.cli import show

        super().__init__(total, what)
        text = TextColumn("{task.description}", markup=False)
        columns: list[Any]
        if total is None:
            columns = [SpinnerColumn(), text, TextColumn("{task.completed:,.0f}")]
        else:
            columns = [text, BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn()]
        self._bar = Bar(
            *columns, TimeElapsedColumn(), console=show.console(stderr=True), transient=True
        )
        self._task = self._bar.add_task(show.escaped(what), total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, n: int = 1) -> None:
        super().advance(n)
        self._bar.update(self._task, completed=self.done)

    def rename(self, what: str) -> None:
        from dynamo.cli import show

        super().rename(what)
        self._bar.update(self._task, description=show.escaped(what))


def progress(total: int | None, what: str, silent: bool = False) -> Progress:
    """Whatever suits the place that stderr goes to."""
    from dynamo.cli import show

    if silent:
        return Progress(total, what)
    if show.lively(sys.stderr):
        return _Bar(total, what)
    return _Lines(total, what)
