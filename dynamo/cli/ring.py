"""`dynamo ring`: who owns how much, and who owns a key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dynamo.cli import ringpicture, show
from dynamo.cli.membership import Membership, membership
from dynamo.cli.shared import BUCKET, Ring, Shell, command
from dynamo.cli.survey import STATE_STYLES, Survey, survey


@command(
    examples="""
    dynamo ring                        how much each node owns, and a picture
    dynamo ring --key cart:7           where a key lies
    dynamo ring --svg ring.svg         the picture as a file, for a browser
    """
)
@click.option("--key", type=show.KeyText(), metavar="KEY", help="Show where this key lies.")
@click.option("--svg", type=click.Path(path_type=Path), metavar="FILE", help="Draw it there.")
@BUCKET
def ring(shell: Shell, key: str | bytes | None, svg: Path | None, bucket: str | None) -> None:
    """Show who owns what.

    PRIMARY is the part of all keys of which a node is the first owner; REPLICA the part of which
    it holds a copy, which is so much OF ITS SHARE by weight and zones.
    """
    if key is not None and svg is not None:
        raise click.UsageError("--svg draws the whole ring: leave out --key")
    found = survey(shell)
    if key is not None:
        _show_key(shell, found, place(found.ring, full_key(shell, key, bucket)))
        return
    known = membership(shell, found)
    if svg is not None:
        from dynamo.cli.ringsvg import svg as drawn

        svg.write_text(drawn(ringpicture.picture(found, known)), "utf-8")
    if shell.json:
        shell.emit(_as_json(found, known) | ({"svg": str(svg)} if svg else {}))
    elif svg is not None:
        shell.print(f"Drawn: {show.escaped(str(svg))}")
    else:
        ringpicture.draw(shell, ringpicture.picture(found, known))


# --- a key ----------------------------------------------------------------------------------------


def full_key(shell: Shell, key: str | bytes, bucket: str | None) -> bytes:
    """Bucket and key as the ring has them."""
    from dynamo.client.errors import KeyInvalid
    from dynamo.client.options import bucket_name
    from dynamo.core.ring import full_key as join

    name = bucket if bucket is not None else shell.options().bucket
    try:
        raw = key.encode() if isinstance(key, str) else key
    except UnicodeEncodeError:
        raise KeyInvalid("the key is not UTF-8: write it b64:... in base64", key=key) from None
    if not raw:
        raise KeyInvalid("a key has at least one byte; this one is empty", key=key)
    return join(bucket_name("bucket", name).encode(), raw)


def place(ring: Ring, full: bytes) -> dict[str, Any]:
    """Hash, arc, owners, and the other nodes in the order in which they would stand in."""
    import mmh3

    from dynamo.core.ring import arc_of

    arc = arc_of(full, ring.partitions)
    owners = list(ring.owners[arc])
    walked = dict.fromkeys(owners)
    for step in range(1, ring.partitions):
        walked |= dict.fromkeys(ring.owners[(arc + step) % ring.partitions])
        if len(walked) == len(ring.nodes):
            break
    return {
        "hash": mmh3.mmh3_x64_128_digest(full).hex(),
        "partition": arc,
        "owners": owners,
        "fallbacks": list(walked)[len(owners) :],
    }


def _show_key(shell: Shell, found: Survey, where: dict[str, Any]) -> None:
    states = found.states()
    if shell.json:
        shell.emit(where | {"states": states})
        return
    shell.print(
        f"hash {where['hash'][:4]}…{where['hash'][-2:]}   "
        f"partition {where['partition']} of {found.ring.partitions:,}"
    )
    shell.print(show.text("owners     ", *_chain(where["owners"], states)))
    if where["fallbacks"]:
        shell.print(show.text("stand-ins  ", *_chain(where["fallbacks"], states)))


def _chain(names: Sequence[str], states: dict[str, str]) -> list[str | tuple[str, str]]:
    parts: list[str | tuple[str, str]] = []
    for number, name in enumerate(names, 1):
        state = states[name]
        parts += [f"{'   ' if parts else ''}{number} ", (name, "bold"), " "]
        parts.append((state.upper() if state == "down" else state, STATE_STYLES[state]))
    return parts


# --- all keys -------------------------------------------------------------------------------------


def _as_json(found: Survey, known: Membership) -> dict[str, Any]:
    ring, shares = found.ring, found.shares()
    return {
        "cluster": ring.cluster,
        "version": ring.version,
        "partitions": ring.partitions,
        "n": ring.n,
        "nodes": [
            {
                "name": name,
                "address": str(address),
                "state": found.state(name),
                "wish": known.wish(name),
                "primary": shares[name][0],
                "replica": shares[name][1],
            }
            for name, address in ring.nodes.items()
        ],
        "owners": [list(names) for names in ring.owners],
        "moving": known.moving,
    }
