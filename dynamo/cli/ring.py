"""`dynamo ring`: who owns how much, and who owns a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from dynamo.cli import show
from dynamo.cli.shared import BUCKET, Ring, Shell, command
from dynamo.cli.survey import STATE_STYLES, Survey, survey

SIGNS = "123456789abcdefghijklmnopqrstuvwxyz"
COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red", "bright_cyan", "white")
ROW, CELLS_MAX = 64, 1024


@command(
    examples="""
    dynamo ring                        how much each node owns, and a picture
    dynamo ring --key cart:7           where a key lies
    """
)
@click.option("--key", type=show.KeyText(), metavar="KEY", help="Show where this key lies.")
@BUCKET
def ring(shell: Shell, key: str | bytes | None, bucket: str | None) -> None:
    """Show who owns what.

    PRIMARY is the part of all keys of which a node is the first owner; REPLICA the part of which
    it holds a copy.
    """
    found = survey(shell)
    if key is not None:
        _show_key(shell, found, place(found.ring, full_key(shell, key, bucket)))
    elif shell.json:
        shell.emit(_as_json(found))
    else:
        _show_ring(shell, found)


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


def _as_json(found: Survey) -> dict[str, Any]:
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
                "primary": shares[name][0],
                "replica": shares[name][1],
            }
            for name, address in ring.nodes.items()
        ],
        "owners": [list(names) for names in ring.owners],
    }


def _show_ring(shell: Shell, found: Survey) -> None:
    ring, shares = found.ring, found.shares()
    signs = {name: SIGNS[at % len(SIGNS)] for at, name in enumerate(ring.nodes)}
    styles = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(ring.nodes)}
    shell.print(
        f"Cluster {show.escaped(ring.cluster)}   N={ring.n}   ring v{ring.version}   "
        f"{ring.partitions:,} partitions\n"
    )
    largest = max(primary for primary, _ in shares.values()) or 1
    rows = []
    for name in ring.nodes:
        primary, replica = shares[name]
        state = found.state(name)
        bar = "█" * max(1, round(24 * primary / largest)) if primary else ""
        rows.append(
            (
                show.text((signs[name], styles[name])),
                name,
                show.text((state.upper() if state == "down" else state, STATE_STYLES[state])),
                f"{100 * primary:.1f} %",
                f"{100 * replica:.1f} %",
                show.text((bar, styles[name])),
            )
        )
    shell.print(show.table(("", "NODE", "STATE", ">PRIMARY", ">REPLICA", ""), rows))
    shell.print()
    _draw_arcs(shell, ring, signs, styles)


def _draw_arcs(shell: Shell, ring: Ring, signs: dict[str, str], styles: dict[str, str]) -> None:
    """The arcs in order, each as the sign of its first owner."""
    per_cell = -(-ring.partitions // CELLS_MAX)
    cells = [ring.owners[arc][0] for arc in range(0, ring.partitions, per_cell)]
    what = "an arc" if per_cell == 1 else f"{per_cell} arcs (the first is shown)"
    shell.print(f"Clockwise, one sign for {what}, by first owner:")
    for start in range(0, len(cells), ROW):
        row = cells[start : start + ROW]
        shell.print(
            show.text(
                (f"{start * per_cell:>6}  ", "dim"), *((signs[name], styles[name]) for name in row)
            )
        )
