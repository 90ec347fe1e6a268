"""`dynamo scan`, `dynamo export` and `dynamo import`: many keys at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from dynamo.cli import exits, show
from dynamo.cli.exits import Refused
from dynamo.cli.shared import BUCKET, Shell, command

if TYPE_CHECKING:
    from dynamo.cli.importing import Load
    from dynamo.client.results import Entry
    from dynamo.client.scans import Scan

STDIO = "-"


# --- scan -------------------------------------------------------------------------------------


@command(
    examples="""
    dynamo scan                        all keys of the bucket, one a line
    dynamo scan user: --values         keys that begin with user:, and their values
    dynamo scan --limit 1000           the first thousand, and how to go on
    dynamo scan --json | jq '.keys | length'
    """
)
@click.argument("prefix", type=show.KeyText(), default="", metavar="[PREFIX]")
@BUCKET
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N keys.")
@click.option("--after", metavar="CURSOR", help="Go on where another scan has stopped.")
@click.option("--values", is_flag=True, help="Print the values, too.")
def scan(
    shell: Shell,
    prefix: str | bytes,
    bucket: str | None,
    limit: int | None,
    after: str | None,
    values: bool,
) -> None:
    """List the keys that begin with PREFIX, in the order of the ring.

    The order has nothing to do with the alphabet. Keys that existed before the scan began are all
    listed; those written or deleted meanwhile may be. If owners are missing it ends with an error
    and a cursor.
    """
    from dynamo.client.errors import DynamoError, ScanUnavailable

    kv = shell.bucket(bucket)
    listing = _Listing(shell, values)
    walk = kv.scan(prefix, after=after)
    try:
        for entry in walk:
            listing.add(entry)
            if limit is not None and listing.count >= limit:
                break
    except (DynamoError, KeyboardInterrupt) as error:
        if listing.count or isinstance(error, ScanUnavailable):
            _end_scan(shell, listing, walk, prefix, kv.name, bucket)
        if isinstance(error, ScanUnavailable):
            error.hint = None  # it speaks of Python; the command to go on was just given
        raise
    _end_scan(shell, listing, walk, prefix, kv.name, bucket)


class _Listing:
    """What `scan` prints or collects."""

    def __init__(self, shell: Shell, values: bool) -> None:
        self._shell = shell
        self._values = values
        self.count = 0
        self.keys: list[Any] = []
        self.entries: list[dict[str, Any]] = []

    def add(self, entry: Entry[Any]) -> None:
        self.count += 1
        if not self._shell.json:
            self._shell.print(self._line(entry))
            return
        key = show.key_json(entry.key)
        self.keys.append(key)
        if self._values:
            siblings = [show.value_json(value) for value in entry.siblings]
            self.entries.append({"key": key, "siblings": siblings})

    def _line(self, entry: Entry[Any]) -> str:
        key = show.key_text(entry.key)
        if not self._values:
            return key
        if entry.conflict:
            found = " | ".join(show.value_text(value) for value in entry.siblings)
            return f"{key}  {len(entry.siblings)} values: {found}"
        return f"{key}  {show.value_text(entry.siblings[0])}"

    def as_json(self) -> dict[str, Any]:
        return {"keys": self.keys, **({"entries": self.entries} if self._values else {})}


def _end_scan(
    shell: Shell,
    listing: _Listing,
    walk: Scan[Any],
    prefix: str | bytes,
    name: str,
    bucket: str | None,
) -> None:
    complete = walk.complete
    if shell.json:
        shell.emit(
            {
                "bucket": name,
                "prefix": show.key_json(prefix),
                **listing.as_json(),
                "cursor": None if complete else walk.cursor,
                "complete": complete,
            }
        )
    elif complete:
        shell.say(f"{show.plural(listing.count, 'key')}, and no more.")
    else:
        words = ["dynamo scan", *([show.shell_word(show.key_arg(prefix))] if prefix else [])]
        words += [f"--bucket {show.shell_word(bucket)}"] if bucket is not None else []
        _command(
            shell,
            f"{show.plural(listing.count, 'key')}, and there may be more. To go on:",
            f"{' '.join(words)} --after {walk.cursor}",
        )


def _command(shell: Shell, text: str, line: str) -> None:
    """Talk that ends with a command, unbroken, so that it can be copied."""
    shell.say(text)
    if not shell.json:
        print(f"  {line}", file=sys.stderr, flush=True)


# --- export -----------------------------------------------------------------------------------


@command(
    examples="""
    dynamo export shop.jsonl                 everything, all buckets
    dynamo export users.jsonl --bucket shop --prefix user:
    dynamo export | gzip > shop.jsonl.gz
    """
)
@click.argument("file", default=STDIO, metavar="[FILE]")
@click.option("-b", "--bucket", metavar="NAME", help="Only this bucket. Default: all of them.")
@click.option(
    "--prefix",
    type=show.KeyText(),
    metavar="KEY",
    help="Only keys that begin so, of --bucket or else the URL's bucket.",
)
@click.option("--restart", is_flag=True, help="Begin anew where FILE.partial is left over.")
def export(
    shell: Shell, file: str, bucket: str | None, prefix: str | bytes | None, restart: bool
) -> int:
    """Write every key as a line of JSON: bucket, key, siblings, context.

    Without FILE, or with -, to stdout. FILE appears when it is whole; until then it is
    FILE.partial, and the same command goes on where that ends. Nothing is lost: values that JSON
    cannot say are wrapped ({"b64": ...} for bytes, {"raw": ...} for the rest). Expiry times are
    not exported.
    """
    from dynamo.cli.exporting import Counts, Subject, Target

    ring = shell.ring()
    match = _match(shell, bucket, prefix)
    subject, counts = Subject(ring.cluster, ring.partitions, match), Counts()
    if file == STDIO:
        if restart:
            raise click.UsageError("--restart is for a FILE; stdout always begins anew")
        _pour(shell, match, None, sys.stdout.buffer.write, counts)
        sys.stdout.buffer.flush()
        _end_export(shell, counts, "")
        return exits.OK
    if Path(file).is_dir():
        raise click.UsageError(f"{show.escaped(file)} is a directory: name a file")
    target = Target(Path(file), subject, counts)
    position = target.open(restart)
    if counts.kept:
        shell.say(f"{target.partial} has {show.plural(counts.kept, 'key')} already; going on.")
    try:
        _pour(shell, match, position, target.write, counts)
    except BaseException as error:
        target.close()
        shell.say(
            f"{show.plural(counts.keys, 'key')} so far, in {target.partial}. "
            "The same command goes on there."
        )
        if isinstance(error, KeyboardInterrupt):
            return exits.INTERRUPTED
        raise
    target.finish()
    _end_export(shell, counts, file)
    return exits.OK


def _match(shell: Shell, bucket: str | None, prefix: str | bytes | None) -> bytes:
    """What the full keys of an export begin with."""
    from dynamo.client.options import bucket_name
    from dynamo.core.ring import full_key

    if bucket is None and not prefix:
        return b""
    name = shell.options().bucket if bucket is None else bucket_name("--bucket", bucket)
    raw = prefix.encode() if isinstance(prefix, str) else prefix or b""
    return full_key(name.encode(), raw)


def _pour(shell: Shell, match: bytes, position: Any, write: Any, counts: Any) -> None:
    from dynamo.cli.exporting import pour
    from dynamo.client.raw import Raw

    raw = Raw(shell.client(timeout=shell.timeout or 5.0, tries=6))
    walk = raw.walk(match, position)
    with shell.progress(None, "exported keys") as bar:

        def told(keys: int) -> None:
            bar.rename(f"exported {walk.share:.0%} of the ring, keys")
            bar.advance(keys)

        pour(raw, walk, write, counts, told)


def _end_export(shell: Shell, counts: Any, file: str) -> None:
    if shell.json:
        import json

        summary = {
            "file": file or None,
            "keys": counts.keys,
            "siblings": counts.siblings,
            "bytes": counts.bytes,
            "resumed": counts.kept,
            "skipped": {},
        }
        if file:
            shell.emit(summary)
        else:
            print(json.dumps(summary), file=sys.stderr)
        return
    siblings = f" with {counts.siblings:,} values" if counts.siblings != counts.keys else ""
    where = f" in {show.escaped(file)}" if file else ""
    shell.say(f"{show.plural(counts.keys, 'key')}{siblings}, {show.size(counts.bytes)}{where}.")


# --- import -----------------------------------------------------------------------------------


@command(
    "import",
    examples="""
    dynamo import shop.jsonl                 what `dynamo export` has written
    zcat shop.jsonl.gz | dynamo import -
    echo '{"key": "user:1", "value": {"name": "Ada"}}' | dynamo import -
    """,
)
@click.argument("file", metavar="FILE")
@click.option("-b", "--bucket", metavar="NAME", help="Of lines that name none. Default: the URL's.")
@click.option(
    "--from-line",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Leave out the lines before this one.",
)
def import_(shell: Shell, file: str, bucket: str | None, from_line: int) -> int:
    """Store the keys of FILE (- for stdin): lines of `dynamo export`, or {"key", "value"}.

    Lines whose values are in the ring already are left alone, so an import that was interrupted is
    simply run again. In the cluster that they were exported from, lines replace what they had seen
    and nothing newer; elsewhere their values are put beside whatever is there.

    Exit code 1 if any line could not be taken; it says which, and why.
    """
    from dynamo.cli.importing import CALL_S, CALL_TRIES, Load, Stuck, numbered
    from dynamo.client.options import bucket_name
    from dynamo.client.raw import Raw

    name = shell.options().bucket if bucket is None else bucket_name("--bucket", bucket)
    shell.ring()  # one that is not there at all is not waited for
    with _source(file) as (source, total):
        raw = Raw(shell.client(timeout=shell.timeout or CALL_S, tries=CALL_TRIES))
        left = None if total is None else max(total - from_line + 1, 0)
        with shell.progress(left, "imported lines") as bar:
            load = Load(raw, name.encode(), bar.advance)
            try:
                load.run(numbered(source, from_line))
            except KeyboardInterrupt:
                code = exits.INTERRUPTED
                stopped = "Interrupted"
            except Stuck as error:
                code = exits.FAILED
                stopped = str(error)
            else:
                code = exits.FAILED if load.skips.counts else exits.OK
                stopped = ""
    _end_import(shell, load, file, stopped)
    return code


@contextmanager
def _source(file: str) -> Iterator[tuple[IO[bytes], int | None]]:
    """The file and the number of its lines, None where that cannot be known."""
    from dynamo.cli.importing import count_lines

    if file == STDIO:
        if sys.stdin.isatty():
            raise Refused("nothing is piped into stdin: name a FILE, or pipe lines into -")
        yield sys.stdin.buffer, None
        return
    with Path(file).open("rb") as opened:
        regular = os.path.isfile(file)
        yield opened, count_lines(opened) if regular else None


def _end_import(shell: Shell, load: Load, file: str, stopped: str) -> None:
    from dynamo.cli.importing import THERE, WRITTEN

    written, there = load.outcomes[WRITTEN], load.outcomes[THERE]
    if shell.json:
        shell.emit(
            {
                "file": None if file == STDIO else file,
                "lines": load.lines,
                "written": written,
                "already_there": there,
                "skipped": load.skips.as_json(),
                "stopped": stopped or None,
                "next_line": load.next_line,
            }
        )
        return
    skipped = sum(load.skips.counts.values())
    counted = f"{show.plural(load.lines, 'line')}{' read' if stopped else ''}"
    became = f"{written:,} written, {there:,} there already"
    shell.say(f"{counted}: {became}{f', {skipped:,} skipped' if skipped else ''}.")
    for reason, lines in load.skips.reasons.items():
        count = load.skips.counts[reason]
        named = ", ".join(f"{line:,}" for line in lines) + (", ..." if count > len(lines) else "")
        shell.say(f"  {reason}: {count:,} (line {named})")
    if load.home is False:
        shell.say("They are of another cluster: values were put beside whatever was there.")
    if stopped:
        again = f"dynamo import {show.shell_word(file)} --from-line {load.next_line or 1}"
        stop = "" if stopped.endswith((".", "?", "!")) else "."
        text = f"{stopped}{stop} Lines that are done are left alone when it goes on:"
        _command(shell, text, again)
