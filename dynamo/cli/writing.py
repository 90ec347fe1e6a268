"""`dynamo put`, `delete` and `resolve`: write one key.

Every run is a new client, which has seen nothing. So a put without --context replaces the one value
that the ring holds, and where the ring holds several it stops with exit code 6 and shows them: a
person, or a script, has to say which.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dynamo.cli import exits, show
from dynamo.cli.data import SLOPPY, say_absent, sibling_table, ways_out, words
from dynamo.cli.shared import BUCKET, DURATION, KEY, Level, Shell, command

if TYPE_CHECKING:
    from dynamo.client.errors import ConflictError
    from dynamo.client.results import Entry, Written

AS = click.option(
    "--as",
    "kind",
    type=click.Choice(["text", "json", "bytes"]),
    default="text",
    show_default=True,
    help="What VALUE is. As bytes, it goes in as it is.",
)
CONTEXT = click.option(
    "--context", "token", metavar="TOKEN", help="Replace exactly what a get or siblings showed."
)
W = click.option("--w", type=Level(), metavar="N", help="Copies to wait for: 1.., quorum, all.")
DURABLE = click.option(
    "--durable", is_flag=True, default=None, help="On disk and synced, whatever a node is set to."
)
Key = str | bytes


@command(
    examples="""
    dynamo put greeting hello
    dynamo put cart:7 '["tea"]' --as json
    dynamo put photo:9 - --as bytes < 9.jpg
    dynamo put cart:7 '["tea", "milk"]' --as json --context "$TOKEN"
    """
)
@KEY
@click.argument("value", metavar="VALUE|-")
@AS
@BUCKET
@CONTEXT
@click.option("--blind", is_flag=True, help="Replace nothing: stay beside all other values.")
@W
@SLOPPY
@DURABLE
@click.option("--ttl", type=DURATION, metavar="TIME", help="Gone after so long: 30s, 10m, 24h.")
def put(
    shell: Shell,
    key: str | bytes,
    value: str,
    kind: str,
    bucket: str | None,
    token: str | None,
    blind: bool,
    **levels: Any,
) -> int:
    """Store VALUE under KEY; with - it is read from stdin.

    Without --context the one value that the ring holds is replaced. If the ring holds several,
    nothing is written: they are shown, and the exit code is 6.
    """
    if blind and token is not None:
        raise click.UsageError("--blind replaces nothing, --context something: choose one")
    content = parse_value(value, kind)
    context = None if blind else _context(token)
    place = shell.bucket(bucket)
    return _write(shell, key, bucket, lambda: place.put(key, content, context=context, **levels))


@command(
    examples="""
    dynamo delete cart:7
    dynamo delete cart:7 --context "$TOKEN"
    """
)
@KEY
@BUCKET
@CONTEXT
@W
@SLOPPY
@DURABLE
def delete(
    shell: Shell, key: str | bytes, bucket: str | None, token: str | None, **levels: Any
) -> int:
    """Remove KEY. Removing one that is absent is no error.

    If the ring holds several concurrent values, nothing is removed: they are shown, and the exit
    code is 6. With --context exactly what was seen is removed.
    """
    context = _context(token)
    place = shell.bucket(bucket)
    return _write(shell, key, bucket, lambda: place.delete(key, context=context, **levels))


@command(
    examples="""
    dynamo resolve cart:7 --pick 2
    dynamo resolve cart:7 --value '["tea", "jam", "milk"]' --as json
    """
)
@KEY
@click.option("--pick", type=click.IntRange(min=1), metavar="N", help="Keep the N-th sibling.")
@click.option("--value", metavar="VALUE|-", help="Write this in place of all siblings.")
@AS
@BUCKET
@CONTEXT
@W
@DURABLE
def resolve(
    shell: Shell,
    key: str | bytes,
    pick: int | None,
    value: str | None,
    kind: str,
    bucket: str | None,
    token: str | None,
    **levels: Any,
) -> int:
    """Replace the concurrent values of KEY by one.

    Only values that this command has read are replaced; one that arrives meanwhile stays, and the
    exit code is then 6. With --context, only what that context covers; --pick then refuses, with
    exit code 8, if the siblings have changed since they were listed.
    """
    if (pick is None) == (value is None):
        raise click.UsageError("give either --pick N or --value VALUE")
    place = shell.bucket(bucket)
    context = None if token is None else _context(token)
    if pick is not None:
        entry = place.read(key)
        _check_pick(key, bucket, entry, pick, context)
        if len(entry.siblings) < 2:
            return _nothing_to_resolve(shell, key, bucket, entry)
        content, context = entry.siblings[pick - 1], entry.context
    else:
        content = parse_value(value or "", kind)
        context = context or place.read(key).context
    return _write(
        shell,
        key,
        bucket,
        lambda: place.put(key, content, context=context, **levels),
        beside=exits.CONFLICT,
    )


def _check_pick(key: Key, bucket: str | None, entry: Entry[Any], pick: int, context: Any) -> None:
    name = show.key_text(key)
    if context is not None and entry.context != context:
        raise exits.Refused(
            f"{name} has changed since that context was made: number {pick} may be another value",
            hint=f"Look again: dynamo siblings {words(key, bucket)}",
        )
    if entry.siblings and pick > len(entry.siblings):
        held = show.plural(len(entry.siblings), "value")
        raise click.BadParameter(f"{name} has only {held}", param_hint="'--pick'")


def _nothing_to_resolve(
    shell: Shell, key: str | bytes, bucket: str | None, entry: Entry[Any]
) -> int:
    if shell.json:
        shell.emit(_result(key, entry.context.to_token(), [], {}))
    elif entry.exists:
        shell.say(f"{show.key_text(key)} has one value: there is nothing to resolve.")
    else:
        say_absent(shell, key, bucket)
    return exits.OK if entry.exists else exits.ABSENT


# --- what was typed -------------------------------------------------------------------------------


def parse_value(text: str, kind: str) -> Any:
    """The value to store: `text`, or stdin for "-", read as `kind` says."""
    raw = sys.stdin.buffer.read() if text == "-" else os.fsencode(text)
    if kind == "bytes":
        return raw
    try:
        decoded = raw.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(
            f"the value is not UTF-8 (byte {error.start}): store it with --as bytes"
        ) from None
    if kind == "text":
        return decoded
    try:
        return json.loads(decoded, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(
            f"the value is not JSON: {error}. Text needs quotes inside: '\"tea\"'"
        ) from None


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not a JSON value")


def _context(token: str | None) -> Any:
    from dynamo.client.context import AUTO, Context

    if token is None:
        return AUTO
    try:
        return Context.from_token(token)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--context'") from None


# --- what came of it ------------------------------------------------------------------------------


def _write(
    shell: Shell,
    key: Key,
    bucket: str | None,
    write: Callable[[], Written],
    beside: int = exits.OK,
) -> int:
    """Carry out a write and tell; `beside`: the exit code when other values stand beside it."""
    from dynamo.client.errors import ConflictError

    try:
        written = write()
    except ConflictError as conflict:
        return _tell_conflict(shell, key, bucket, conflict)
    token = written.context.to_token() if written.context is not None else None
    if shell.json:
        siblings = [show.value_json(value) for value in written.siblings]
        shell.emit(
            _result(key, token, written.acked_by, written.stand_ins) | {"siblings": siblings}
        )
    else:
        shell.print(_where(written))
        if written.siblings:
            shell.say(
                f"{len(written.siblings)} values now stand side by side: "
                f"dynamo siblings {words(key, bucket)}"
            )
    return beside if written.siblings else exits.OK


def _result(
    key: Key, token: str | None, acked_by: list[str], stand_ins: dict[str, str]
) -> dict[str, Any]:
    return {
        "key": show.key_json(key),
        "context": token,
        "acked_by": acked_by,
        "stand_ins": stand_ins,
    }


def _where(written: Written) -> str:
    owners = [name for name in written.acked_by if name not in written.stand_ins]
    parts = [f"acknowledged by {show.listed(owners)}"] if owners else []
    parts += [f"{name} stands in for {home}" for name, home in written.stand_ins.items()]
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def _tell_conflict(shell: Shell, key: Key, bucket: str | None, conflict: ConflictError) -> int:
    """Nothing was written; show what is there, and what can be done."""
    code = exits.of_error(conflict)
    many = len(conflict.siblings)
    if shell.json:
        shell.fail(
            conflict,
            {
                "message": f"{many} concurrent values, which this command has not seen",
                "key": show.key_json(key),
                "siblings": [show.value_json(value) for value in conflict.siblings],
                "context": conflict.context.to_token(),
            },
        )
        return code
    done = "The first attempt may have been applied." if conflict.maybe_applied else ""
    shell.say(
        f"{show.key_text(key)} has {many} concurrent values, which this command has not seen. "
        f"{done or 'Nothing was written.'}\n"
    )
    shell.say(sibling_table(conflict.siblings, []))
    shell.say("\n" + ways_out(key, bucket))
    return code
