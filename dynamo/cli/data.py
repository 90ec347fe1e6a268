"""`dynamo get` and `dynamo siblings`: what the ring answers for one key."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from dynamo.cli import exits, show
from dynamo.cli.shared import BUCKET, KEY, Level, Shell, command

if TYPE_CHECKING:
    from dynamo.client.results import Entry

R = click.option("--r", type=Level(), metavar="N", help="Owners to ask: 1.., quorum, all.")
SLOPPY = click.option(
    "--sloppy/--no-sloppy", default=None, help="Whether stand-ins may act for absent owners."
)


@command(
    examples="""
    dynamo get cart:7
    dynamo get cart:7 --r all          ask all owners
    dynamo get photo:9 --raw > 9.jpg   the bytes, as they were stored
    dynamo get cart:7 --json | jq .siblings
    """
)
@KEY
@BUCKET
@R
@SLOPPY
@click.option("--raw", is_flag=True, help="Text or bytes exactly as stored, nothing added.")
def get(shell: Shell, key: str | bytes, bucket: str | None, raw: bool, **levels: Any) -> int:
    """Print the value of KEY.

    Exit code 4 if it has none, 6 if it has several concurrent ones, which are then listed. A key
    that is not text is written b64:... with the base64 of its bytes.
    """
    entry = shell.bucket(bucket).read(key, **levels)
    if shell.json:
        shell.emit(_found(key, entry))
    elif entry.conflict:
        _list_siblings(shell, key, bucket, entry)
    elif entry.exists:
        _print_value(shell, key, entry.siblings[0], raw)
    else:
        say_absent(shell, key, bucket)
    if entry.conflict:
        return exits.CONFLICT
    return exits.OK if entry.exists else exits.ABSENT


@command(
    examples="""
    dynamo siblings cart:7
    dynamo siblings cart:7 --json
    """
)
@KEY
@BUCKET
@R
@SLOPPY
def siblings(shell: Shell, key: str | bytes, bucket: str | None, **levels: Any) -> int:
    """List all concurrent values of KEY, newest first, with the context to replace them.

    Exit code 4 if it has none.
    """
    entry = shell.bucket(bucket).read(key, **levels)
    if shell.json:
        shell.emit(_found(key, entry))
    elif entry.exists:
        _list_siblings(shell, key, bucket, entry)
    else:
        say_absent(shell, key, bucket)
    return exits.OK if entry.exists else exits.ABSENT


def _found(key: str | bytes, entry: Entry[Any]) -> dict[str, Any]:
    return {
        "key": show.key_json(key),
        "exists": entry.exists,
        "siblings": [show.value_json(value) for value in entry.siblings],
        "context": entry.context.to_token(),
        "stamps": entry.stamps,
    }


def _print_value(shell: Shell, key: str | bytes, value: Any, raw: bool) -> None:
    if not raw:
        shell.print(show.value_text(value, limit=sys.maxsize))
        return
    if not isinstance(value, str | bytes):
        raise click.UsageError(
            f"--raw is for text and bytes, and {show.key_text(key)} holds "
            f"{type(value).__name__}: leave it out, or use --json"
        )
    if sys.stdout.isatty():
        raise click.UsageError("--raw does not write to a terminal, which would obey the bytes")
    sys.stdout.flush()
    sys.stdout.buffer.write(value.encode() if isinstance(value, str) else value)


def say_absent(shell: Shell, key: str | bytes, bucket: str | None) -> None:
    """The line of a key without a value; it is talk, so that a pipe gets nothing."""
    where = f" in bucket {show.escaped(bucket)}" if bucket else ""
    shell.say(f"{show.key_text(key)} has no value{where}.")


def _list_siblings(shell: Shell, key: str | bytes, bucket: str | None, entry: Entry[Any]) -> None:
    name = show.key_text(key)
    if not entry.conflict:
        shell.print(show.text(("1 value", "bold"), f" of {name}, no conflict"))
    else:
        many = f"{len(entry.siblings)} concurrent values"
        shell.print(show.text((many, "bold yellow"), f" of {name}: written without each other"))
    shell.print()
    shell.print(sibling_table(entry.siblings, entry.stamps))
    shell.print()
    shell.print(show.text(("context ", "dim"), entry.context.to_token()))
    if entry.conflict:
        shell.say("\n" + ways_out(key, bucket))


def sibling_table(values: list[Any], stamps: list[float]) -> Any:
    """The values, numbered as --pick counts them."""
    now = time.time()
    columns = ["", "VALUE", "WRITTEN"] if stamps else ["", "VALUE"]
    rows = []
    for number, value in enumerate(values, 1):
        row = [str(number), show.value_text(value)]
        if stamps:
            stamp = stamps[number - 1]
            row.append(f"{show.clock(stamp)}, {show.span(now - stamp)} ago")
        rows.append(row)
    return show.table(columns, rows)


def ways_out(key: str | bytes, bucket: str | None) -> str:
    """The commands that end a conflict."""
    word = words(key, bucket)
    return (
        f"Keep one:      dynamo resolve {word} --pick 1\n"
        f"Write another: dynamo resolve {word} --value VALUE\n"
        f"See why:       dynamo explain {word}"
    )


def words(key: str | bytes, bucket: str | None) -> str:
    """Key and bucket as they stand on a command line."""
    word = show.shell_word(show.key_arg(key))
    return f"{word} -b {show.shell_word(bucket)}" if bucket else word
