"""Who owns what as a picture: what both forms of it show, and the one in the terminal.

Every node has a sign and a colour. Colours come back where there are more nodes than colours, and
a pipe has none, so the picture in a terminal says everything by signs, too.
"""

from __future__ import annotations

import shutil
import sys
from fractions import Fraction
from typing import Any, NamedTuple

from dynamo.cli import show
from dynamo.cli.membership import Membership
from dynamo.cli.shared import Ring, Shell
from dynamo.cli.survey import STATE_STYLES, Survey

SIGNS = "123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Bright enough for black signs on them, and apart from each other also with red-green blindness.
COLOURS = (
    *("#56a3d9", "#f2a541", "#5bb872", "#e06666", "#a98bdb", "#c9a27a"),
    *("#e891c3", "#d3d04f", "#4fc4c0", "#9aa5b1", "#7d8cf0", "#f08a5d"),
)
# How often the colours were used up -> by how much of what the next round differs.
_SHADES = (("", 0.0), ("#000000", 0.28), ("#ffffff", 0.45))
CELLS_MAX = 1024
LABEL_COLUMNS = 8


class Share(NamedTuple):
    """One node in the picture: parts of all keys, and how its copies compare with its share."""

    name: str
    zone: str
    state: str
    wish: str
    sign: str
    colour: str
    primary: float
    replica: float
    balance: float | None  # copies that it holds by copies that it should; None without a share


class Picture(NamedTuple):
    """The ring, its nodes, and cells that stand for `per_cell` arcs each."""

    ring: Ring
    r: int
    w: int
    nodes: dict[str, Share]
    per_cell: int
    moving: frozenset[int]  # cells with an arc on its way

    @property
    def cells(self) -> list[int]:
        """The first arc of each cell."""
        return list(range(0, len(self.ring.owners), self.per_cell))

    def owner(self, arc: int, place: int = 0) -> Share | None:
        owners = self.ring.owners[arc]
        return self.nodes.get(owners[place]) if place < len(owners) else None


def picture(found: Survey, known: Membership) -> Picture:
    """What there is to draw."""
    ring, shares, fair = found.ring, found.shares(), fair_shares(found.ring, known)
    nodes = {}
    for at, name in enumerate(ring.nodes):
        primary, replica = shares[name]
        should = fair.get(name)
        nodes[name] = Share(
            name,
            str(known.members.get(name, {}).get("zone", "")),
            found.state(name),
            known.wish(name),
            SIGNS[at % len(SIGNS)],
            colour(at),
            primary,
            replica,
            float(replica / should) if should else None,
        )
    per_cell = max(1, -(-len(ring.owners) // CELLS_MAX))
    moving = frozenset(arc // per_cell for arc in known.moving)
    return Picture(ring, found.r, found.w, nodes, per_cell, moving)


def colour(at: int) -> str:
    """The colour of the node at this place: a dozen, then the same darker, then lighter."""
    plain = COLOURS[at % len(COLOURS)]
    other, part = _SHADES[at // len(COLOURS) % len(_SHADES)]
    if not part:
        return plain
    pairs = ((int(plain[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(one + (two - one) * part):02x}" for one, two in pairs)


def fair_shares(ring: Ring, known: Membership) -> dict[str, Fraction]:
    """The part of all keys of which each node should hold a copy, by weight, zones and N."""
    from dynamo.core.planner import Quota

    inside = {
        name: (str(member["zone"]), int(member["weight"]))
        for name, member in known.members.items()
        if member["status"] == "in"
    }
    if not inside:
        inside = dict.fromkeys(ring.nodes, ("", 1))
    quota = Quota(inside, ring.n, 1)
    return {name: Fraction(share, quota.scale) for name, share in quota.share.items()}


# --- in the terminal ------------------------------------------------------------------------------


def draw(shell: Shell, made: Picture) -> None:
    """A line per node, then the arcs in order, each as the sign of its first owner."""
    shell.print(show.text(*_head(made)))
    shell.print()
    shell.print(_node_table(made))
    shell.print()
    _draw_arcs(shell, made)


def _head(made: Picture) -> list[str | tuple[str, str]]:
    ring = made.ring
    return [
        "Cluster ",
        (ring.cluster, "bold"),
        f"   {show.plural(len(made.nodes), 'node')}   N={ring.n} R={made.r} W={made.w}   "
        f"ring v{ring.version}   {ring.partitions:,} arcs",
    ]


def _node_table(made: Picture) -> Any:
    zones = any(node.zone for node in made.nodes.values())
    largest = max((node.replica for node in made.nodes.values()), default=0) or 1
    rows = []
    for node in made.nodes.values():
        state = node.state.upper() if node.state == "down" else node.state
        wish = (f", {node.wish}" if node.wish else "", "bold cyan")
        cells: list[Any] = [show.text((f" {node.sign} ", _on(node.colour))), node.name]
        cells += [node.zone or "–"] if zones else []
        cells += [
            show.text((state, STATE_STYLES[node.state]), wish),
            f"{100 * node.primary:.1f} %",
            f"{100 * node.replica:.1f} %",
            f"{100 * node.balance:.0f} %" if node.balance is not None else "–",
            show.text((_bar(node.replica / largest), node.colour)),
        ]
        rows.append(cells)
    columns = ["", "NODE", *(["ZONE"] if zones else []), "STATE", ">PRIMARY", ">REPLICA"]
    return show.table([*columns, ">OF ITS SHARE", ""], rows)


def _on(colour: str) -> str:
    return f"black on {colour}"


def _bar(part: float, columns: int = 16) -> str:
    """A bar in steps of half a column."""
    halves = max(1, round(2 * columns * part)) if part else 0
    return "█" * (halves // 2) + "▌" * (halves % 2)


def _draw_arcs(shell: Shell, made: Picture) -> None:
    cells = made.cells
    what = "an arc" if made.per_cell == 1 else f"{made.per_cell} arcs (the first is shown)"
    shell.print(f"Clockwise, one sign for {what}, by first owner:")
    row = _row_cells()
    for start in range(0, len(cells), row):
        parts: list[str | tuple[str, str]] = [(f"{cells[start]:>6,}  ", "dim")]
        for arc in cells[start : start + row]:
            node = made.owner(arc)
            parts.append((node.sign, _on(node.colour)) if node else ".")
        shell.print(show.text(*parts))
        marks = "".join(
            "^" if start + at in made.moving else " "
            for at in range(len(cells[start : start + row]))
        ).rstrip()
        if marks:
            shell.print(show.text(" " * LABEL_COLUMNS, (marks, "bold cyan")))
    if made.moving:
        shell.print(show.text(("^", "bold cyan"), " on its way to other owners: dynamo transfers"))


def _row_cells() -> int:
    """64 arcs to a row; 128 where a terminal has room for them."""
    if not sys.stdout.isatty():
        return 64
    return 128 if shutil.get_terminal_size().columns >= 128 + LABEL_COLUMNS else 64
