"""What people see in a terminal: tables, verdicts, and how far a run has come."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import tables
from bench.figures import heading
from bench.measure import Report
from dynamo.cli import show


def rich_table(rows: tables.Rows, text_columns: int = 1) -> Any:
    """Names and rows as a table; the first columns are text, the others numbers."""
    from rich import box
    from rich.table import Table

    names, lines = rows
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, name in enumerate(names):
        side: Any = "left" if number < text_columns else "right"
        table.add_column(name, justify=side, overflow="fold")  # a digit must not be lost
    for line in lines:
        table.add_row(*line)
    return table


def print_result(result: dict[str, Any]) -> None:
    """Whatever kind of result it is."""
    out = show.console()

    def write(text: str = "", style: str | None = None) -> None:
        out.print(text, style=style, highlight=False, markup=False)

    kind = result["bench"]
    if kind == "set":
        for number, each in enumerate(result["results"]):
            if number:
                write()
            print_result(each)
        return
    write(result["about"])
    if kind == "run" or kind == "sweep":
        write(f"workload {result['workload']['name']}: {result['workload']['title']}")
    write(heading(result))
    write()
    if kind == "run":
        out.print(rich_table(tables.run(result)))
        write()
        for line in tables.remarks(result):
            write(line)
        _verdicts(write, tables.verdicts(result))
    elif kind == "sweep":
        out.print(rich_table(tables.sweep(result), 0))
        write()
        write(result["knee"])
        _verdicts(write, [tables.data_verdict([result["check"]])])
    elif kind == "compare":
        out.print(rich_table(tables.compare(result)))
        write()
        _verdicts(write, [(not result["worse"], result["sentence"])])
    elif kind == "peers":
        out.print(rich_table(tables.peers(result), 3))
        write()
        for store in result["stores"]:
            write(f"{store['label']}: {store['promise']}")
        for text in result["missing"]:
            write(f"not measured: {text}", "yellow")
        _verdicts(write, [(check["good"], check["text"]) for check in result["verdicts"]])


def _verdicts(write: Any, lines: list[tuple[bool, str]]) -> None:
    for good, text in lines:
        write(text, "green" if good else "bold red")


@contextmanager
def progress(silent: bool) -> Iterator[Report]:
    """A bar on a terminal; in a pipe a line whenever something else begins."""
    if silent:
        yield lambda what, share: None
    elif show.lively(sys.stderr):
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (BarColumn(bar_width=30), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=show.console(stderr=True), transient=True) as bar:
            task = bar.add_task("starting", total=1.0)
            yield lambda what, share: bar.update(
                task, description=show.escaped(what), completed=share
            )
    else:
        said = ""

        def line(what: str, share: float) -> None:
            nonlocal said
            if what != said:
                said = what
                print(f"[{share:4.0%}] {what}", file=sys.stderr, flush=True)

        yield line
