"""`dynamo ring --svg FILE`: the ring as one picture that needs nothing but itself.

outermost ring   the first owner of each arc, clockwise from the top
further in       the second, third, ... owner
outside          a mark at each arc that is on its way to other owners
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from math import cos, pi, sin

from dynamo.cli import show
from dynamo.cli.ringpicture import Picture, Share

MIDDLE, OUTER, INNER = 330.0, 262.0, 118.0
WIDTH, HEIGHT_MIN, LEGEND_X, LEGEND_Y, LINE = 1_290, 660, 660, 150, 28
GAP = 5.0
RINGS_MAX = 6
# Arcs are set apart by thin lines up to so many; beyond, lines would be all that is seen.
LINED_MAX = 128
_STYLE = """\
<style>
  .card { fill: #ffffff } .ink { fill: #1f2933 } .soft { fill: #66727f }
  .rule { stroke: #d5dae0 } .gap { stroke: #ffffff } .move { fill: #0b84a5 }
  .bad { fill: #c62828 } .fair { fill: #2e7d32 } .odd { fill: #b26a00 }
  text { font-family: "DejaVu Sans", "Segoe UI", Helvetica, Arial, sans-serif; font-size: 14px }
  .title { font-size: 24px; font-weight: bold } .small { font-size: 12px }
  .head { font-size: 12px; font-weight: bold } .big { font-size: 20px; font-weight: bold }
  @media (prefers-color-scheme: dark) {
    .card { fill: #161b22 } .ink { fill: #e6edf3 } .soft { fill: #9aa7b4 }
    .rule { stroke: #38424d } .gap { stroke: #161b22 } .move { fill: #4fc3e0 }
    .bad { fill: #ff7b72 } .fair { fill: #7ee787 } .odd { fill: #f0b45b }
  }
</style>"""
# Right of the legend's left edge: texts begin there, figures end there.
_NODE, _ZONE, _STATE, _FIGURES = 34, 156, 244, (384, 468, 590)


def svg(made: Picture) -> str:
    """The whole file."""
    height = max(HEIGHT_MIN, LEGEND_Y + LINE * (len(made.nodes) + 4))
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>Ring of the cluster {escape(made.ring.cluster)}</title>",
        _STYLE,
        *_hatches(made),
        f'<rect class="card" width="{WIDTH}" height="{height}" rx="12"/>',
        *_rings(made),
        *_marks(made),
        *_scale(made),
        *_middle(made),
        *_legend(made),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


# --- the ring -------------------------------------------------------------------------------------


def _rings(made: Picture) -> Iterator[str]:
    depth = min(RINGS_MAX, max((len(owners) for owners in made.ring.owners), default=0))
    edge = OUTER
    for place, thick in enumerate(_thicknesses(depth)):
        lined = ' class="gap" stroke-width="1.2"' if len(made.cells) <= LINED_MAX else ""
        opacity = 1 - 0.12 * place
        yield f'<g fill-opacity="{opacity:.2f}"{lined}>'
        for name, path in _paths(made, place, edge, edge - thick).items():
            node = made.nodes[name]
            what = ("first", "second", "third")[place] if place < 3 else f"{place + 1}th"
            title = f"<title>{escape(name)}, {what} owner</title>"
            yield f'<path fill="{_fill(node)}" d="{path}">{title}</path>'
        yield "</g>"
        edge -= thick + GAP


def _thicknesses(depth: int) -> list[float]:
    """The first owner gets the widest ring, each further one less."""
    parts = [1.0 if not place else 0.45 for place in range(depth)]
    room = OUTER - INNER - GAP * (depth - 1)
    return [room * part / sum(parts) for part in parts]


def _paths(made: Picture, place: int, outer: float, inner: float) -> dict[str, str]:
    """Per owner, all its arcs at this place as one path."""
    count = len(made.cells)
    found: dict[str, list[str]] = {}
    for name, first, last in _runs(made, place, apart=count <= LINED_MAX):
        found.setdefault(name, []).append(_sector(first / count, last / count, outer, inner))
    return {name: "".join(parts) for name, parts in found.items()}


def _runs(made: Picture, place: int, apart: bool) -> Iterator[tuple[str, int, int]]:
    """(owner, first cell, cell behind the last) of neighbours with one owner; or one by one."""
    run: tuple[str, int, int] | None = None
    for at, arc in enumerate(made.cells):
        node = made.owner(arc, place)
        if run and node and not apart and run[0] == node.name and run[2] == at:
            run = (run[0], run[1], at + 1)
            continue
        if run:
            yield run
        run = (node.name, at, at + 1) if node else None
    if run:
        yield run


def _point(turn: float, radius: float) -> str:
    angle = 2 * pi * turn
    return f"{MIDDLE + radius * sin(angle):.2f} {MIDDLE - radius * cos(angle):.2f}"


def _sector(start: float, end: float, outer: float, inner: float) -> str:
    if end - start >= 1:  # a whole ring is two halves: an arc from a point to itself is nothing
        middle = (start + end) / 2
        return _sector(start, middle, outer, inner) + _sector(middle, end, outer, inner)
    large = int(end - start > 0.5)
    return (
        f"M{_point(start, outer)}A{outer:.1f} {outer:.1f} 0 {large} 1 {_point(end, outer)}"
        f"L{_point(end, inner)}A{inner:.1f} {inner:.1f} 0 {large} 0 {_point(start, inner)}Z"
    )


def _fill(node: Share) -> str:
    return f"url(#down-{node.sign}-{node.colour[1:]})" if node.state == "down" else node.colour


def _hatches(made: Picture) -> Iterator[str]:
    """What a node that is down owns is hatched."""
    down = [node for node in made.nodes.values() if node.state == "down"]
    if down:
        yield "<defs>"
    for node in down:
        yield (
            f'<pattern id="down-{node.sign}-{node.colour[1:]}" width="7" height="7" '
            'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            f'<rect class="card" width="7" height="7"/>'
            f'<rect width="3.5" height="7" fill="{node.colour}"/></pattern>'
        )
    if down:
        yield "</defs>"


def _marks(made: Picture) -> Iterator[str]:
    """Outside of the ring: arcs that are on their way."""
    count = len(made.cells)
    sectors = [
        _sector(cell / count, (cell + 1) / count, OUTER + 9, OUTER + 4)
        for cell in sorted(made.moving)
    ]
    if sectors:
        yield f'<path class="move" d="{"".join(sectors)}"/>'


def _scale(made: Picture) -> Iterator[str]:
    """Numbers of arcs around the ring."""
    arcs = len(made.ring.owners)
    steps = min(8, arcs)
    for step in range(steps):
        turn = step / steps
        inside, outside = _point(turn, OUTER + 12), _point(turn, OUTER + 18)
        yield f'<path class="rule" fill="none" d="M{inside}L{outside}"/>'
        x, y = _point(turn, OUTER + 32).split()
        text = f"{arcs * step // steps:,}"
        yield _text(float(x), float(y) + 4, text, "soft small", "middle")


def _middle(made: Picture) -> Iterator[str]:
    ring = made.ring
    lines = (
        (f"{ring.partitions:,} arcs", "ink big"),
        (f"N={ring.n}  R={made.r}  W={made.w}", "soft"),
        (f"ring v{ring.version}", "soft"),
    )
    for at, (text, style) in enumerate(lines):
        yield _text(MIDDLE, MIDDLE - 14 + 24 * at, text, style, "middle")


# --- the legend -----------------------------------------------------------------------------------


def _legend(made: Picture) -> Iterator[str]:
    yield _text(LEGEND_X, 72, made.ring.cluster, "ink title")
    up = sum(node.state == "up" for node in made.nodes.values())
    yield _text(LEGEND_X, 98, f"{show.plural(len(made.nodes), 'node')}, {up} up", "soft")
    zoned = any(node.zone for node in made.nodes.values())
    heads = [(_NODE, "NODE"), (_STATE, "STATE"), *([(_ZONE, "ZONE")] if zoned else [])]
    for x, title in heads:
        yield _text(LEGEND_X + x, LEGEND_Y - 14, title, "soft head")
    for x, title in zip(_FIGURES, ("PRIMARY", "REPLICA", "OF ITS SHARE"), strict=True):
        yield _text(LEGEND_X + x, LEGEND_Y - 14, title, "soft head", "end")
    end = LEGEND_X + _FIGURES[-1]
    yield f'<path class="rule" d="M{LEGEND_X} {LEGEND_Y - 5}H{end}" fill="none"/>'
    for at, node in enumerate(made.nodes.values()):
        yield from _entry(node, LEGEND_Y + 16 + LINE * at)
    y = LEGEND_Y + 16 + LINE * len(made.nodes) + 16
    for line in _notes(made):
        yield _text(LEGEND_X, y, line, "soft small")
        y += 19


def _entry(node: Share, y: float) -> Iterator[str]:
    yield (
        f'<rect x="{LEGEND_X}" y="{y - 13}" width="20" height="16" rx="3" fill="{_fill(node)}" '
        f'stroke="{node.colour}"/>'
    )
    yield _text(LEGEND_X + _NODE, y, _short(node.name, 13), "ink")
    yield _text(LEGEND_X + _ZONE, y, _short(node.zone, 9), "soft")
    state = node.state.upper() if node.state == "down" else node.state
    style = "bad" if node.state == "down" else "move" if node.wish else "soft"
    yield _text(LEGEND_X + _STATE, y, node.wish or state, style)
    figures: list[tuple[float | None, str]] = [(node.primary, ".1f"), (node.replica, ".1f")]
    figures.append((node.balance, ".0f"))
    for x, (part, form) in zip(_FIGURES, figures, strict=True):
        text = f"{100 * part:{form}} %" if part is not None else "–"
        even = form == ".1f" or part is None or 0.9 <= part <= 1.1
        yield _text(LEGEND_X + x, y, text, "ink" if even else "odd", "end")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _notes(made: Picture) -> Iterator[str]:
    yield "The outer ring shows the first owner of each arc, the inner ones the second, third, …"
    if made.per_cell > 1:
        yield f"One sector stands for {made.per_cell} arcs, by the owners of the first."
    if any(node.state == "down" for node in made.nodes.values()):
        yield "Hatched: the node is down."
    if made.moving:
        yield "Marked outside: on the way to other owners."


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    at = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}"{at}>{escape(text)}</text>'
