"""A scene as a screen of text: 80 by 24 is enough; a larger one shows more events, and the ring
beside the nodes.

Colours are the terminal's own sixteen without white, black, yellow and blue, so that the screen
reads on a light background as on a dark one; what a colour says is also said in a word.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from dynamo.demo import scene as sc
from dynamo.demo.scene import Event, NodeScene, Scene, advice
from dynamo.demo.traffic import Rate

WIDE = 140  # from here on nodes and ring stand side by side
TALL = 30  # from here on there are blank lines between the parts
TALLER = 34  # ... and the words are explained
LABEL = 10
NODES_WIDTH = 65

GOOD, BAD, QUIET, STRONG = "green", "bold red", "dim", "bold"
HINT, KEY, MARK = "magenta", "bold reverse", "cyan"
MOODS = {sc.PLAIN: "", sc.GOOD: GOOD, sc.BAD: BAD}
STATES = {
    sc.UP: ("●", GOOD),
    sc.STARTING: ("◌", MARK),
    sc.BEHIND: ("◐", MARK),
    sc.SILENT: ("?", BAD),
    sc.KILLED: ("✗", BAD),
}
SIDES = ("A", "B")
SIDE_STYLES = (MARK, HINT)
WORDS = (
    ("hint", "a write that a node keeps for another that is away, and delivers when it is back"),
    ("siblings", "values written without knowing of each other; both stay until someone decides"),
    ("arc", "a slice of all keys, the same for ever; each arc has 3 nodes that own its keys"),
)
KEYS = (
    ("k", "kill"),
    ("r", "revive"),
    ("p", "partition"),
    ("h", "heal"),
    ("w", "load"),
    ("s", "siblings"),
    ("q", "quit"),
)


class View:
    """A scene to be rendered; it takes the whole height that it is given."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or options.max_height
        for line in lines(self.scene, options.max_width, height):
            line.no_wrap, line.overflow = True, "ellipsis"
            yield line


def lines(scene: Scene, width: int, height: int) -> list[Text]:
    """The screen, line by line. What does not fit is left out, what to press last of all."""
    gap = [Text()] if height >= TALL else []
    top = [_title(scene, width), *gap]
    nodes, ring = _nodes(scene), _ring(scene)
    if width >= WIDE:
        top += _beside(nodes, NODES_WIDTH, ring)
    else:
        top += [*nodes, *gap, *ring]
    top += [*gap, *_load(scene, width), _cart(scene), Text()]
    words = [*_words(), Text()] if height >= TALLER and width >= 110 else []
    bottom = [*gap, *words, *_advice(scene, width), *gap, _keys(width), *_connect(scene)]
    room = height - len(top) - len(bottom)
    if room < 1:
        return [*top[: max(0, height - len(bottom))], *bottom][-height:]
    return [*top, *_events(scene.events, room), *bottom]


def _beside(left: list[Text], width: int, right: list[Text]) -> list[Text]:
    joined = []
    for at in range(max(len(left), len(right))):
        line = left[at].copy() if at < len(left) else Text()
        line.truncate(width - 1, overflow="ellipsis")
        line.pad_right(width - len(line))
        joined.append(line.append_text(right[at]) if at < len(right) else line)
    return joined


def _clock(at_s: float) -> str:
    minutes, seconds = divmod(int(at_s), 60)
    return f"{minutes}:{seconds:02}"


def _label(name: str) -> Text:
    return Text().append(f" {name:{LABEL}}", STRONG)


# --- nodes and ring ---------------------------------------------------------------------------


def _title(scene: Scene, width: int) -> Text:
    text = Text().append(" dynamo demo", STRONG)
    text.append("   5 nodes; each key on 3; a write counts once 2 have it")
    return text.append(_clock(scene.elapsed_s).rjust(width - len(text) - 1), QUIET)


def _nodes(scene: Scene) -> list[Text]:
    head = f" {'node':6}{'state':13}{'keys':>8}  {'hints for it':>12}   keeps hints for"
    return [Text().append(head, QUIET), *(_node(node) for node in scene.nodes)]


def _node(node: NodeScene) -> Text:
    symbol, style = STATES[node.state]
    state = node.state
    if node.for_s is not None:
        state = f"{state} {node.for_s:.0f} s"
    elif node.side >= 0:
        state = f"{state}, side {SIDES[node.side]}"
    text = Text().append(f" {node.name:4}", STRONG)
    text.append(f"{symbol} {state:13}", SIDE_STYLES[node.side] if node.side >= 0 else style)
    text.append(f"{'–' if node.keys is None else format(node.keys, ','):>8}")
    text.append(f"  {node.owed or '–':>12,}" if node.owed else f"  {'–':>12}", _hint(node.owed))
    kept = " ".join(f"{home} {count:,}" for home, count in sorted(node.keeps.items()) if count)
    return text.append(f"   {kept or '–'}", _hint(bool(kept)))


def _hint(any_left: int) -> str:
    return HINT if any_left else QUIET


def _ring(scene: Scene) -> list[Text]:
    """A column per arc, with the numbers of the nodes that keep it; a mark over the cart's."""
    owners = scene.owners
    found = [_ring_head(scene)]
    labels = ("the ring", f"{len(owners)} arcs,", "3 copies")
    nodes = {node.name: node for node in scene.nodes}
    for row, label in enumerate(labels):
        text = Text().append(f" {label:{LABEL}}", QUIET)
        for arc, names in enumerate(owners):
            node = nodes.get(names[row]) if row < len(names) else None
            text.append(*_cell(node, arc == scene.cart_arc))
        found.append(text)
    return found


def _ring_head(scene: Scene) -> Text:
    """What the columns are, beside the mark over the cart's: on the side that has the room."""
    text = Text().append(" " * (LABEL + 1))
    told, arc = "columns: who keeps a slice", scene.cart_arc
    mark = "cart:7 ▼"
    if arc < 0:
        return text.append(told, QUIET)
    if arc > len(told) + len(mark):
        return text.append(told, QUIET).append(mark.rjust(arc + 1 - len(told)), STRONG)
    shown = mark.rjust(arc + 1) if arc + 1 >= len(mark) else " " * arc + "▼ cart:7"
    return text.append(shown, STRONG).append(f"  {told}", QUIET)


def _cell(node: NodeScene | None, marked: bool) -> tuple[str, str]:
    """The number of a node, "✗" where it is dead."""
    if node is None:
        return " ", ""
    if node.state in (sc.KILLED, sc.SILENT):
        return "✗", BAD
    style = SIDE_STYLES[node.side] if node.side >= 0 else ""
    return node.name.removeprefix("n")[-1:], f"{style} {KEY if marked else ''}".strip()


# --- load and cart ----------------------------------------------------------------------------


def _load(scene: Scene, width: int) -> list[Text]:
    if scene.loaded < scene.records:
        return [_bar(scene, width), Text()]
    first = _label("load")
    if scene.load_on:
        first.append_text(_rate("writes", scene.writes)).append("    ")
        first.append_text(_rate("reads", scene.reads))
    else:
        first.append("paused", MARK)
    counts = scene.counts
    second = _label("")
    second.append(f"{counts.writes:,} writes acknowledged, ")
    second.append(f"{counts.failed:,} calls failed", BAD if counts.failed else "")
    if counts.wrong:
        second.append(f", {counts.wrong:,} WRONG", BAD)
    if scene.checked:
        second.append(", ").append(scene.checked, GOOD)
    return [first, second]


def _bar(scene: Scene, width: int) -> Text:
    cells = max(10, min(50, width - 42))
    full = scene.loaded * cells // max(1, scene.records)
    text = _label("loading").append("━" * full, GOOD).append("─" * (cells - full), QUIET)
    return text.append(f"  {scene.loaded:,} of {scene.records:,} cities")


def _rate(what: str, rate: Rate) -> Text:
    text = Text(f"{what} ").append(f"{rate.per_s:,.0f}/s", STRONG)
    if rate.p50_ms is not None and rate.p99_ms is not None:
        text.append(f"  p50 {rate.p50_ms:.1f} p99 {rate.p99_ms:,.0f} ms", QUIET)
    return text


def _cart(scene: Scene) -> Text:
    text = _label("cart:7")
    for number, value in enumerate(scene.cart):
        text.append("   |   " if number else "", QUIET)
        text.append(value, SIDE_STYLES[number % 2] if len(scene.cart) > 1 else "")
    return text.append(f"   ({scene.cart_note})" if scene.cart_note else "", QUIET)


# --- the lower half ---------------------------------------------------------------------------


def _events(events: Sequence[Event], room: int) -> list[Text]:
    """The latest, oldest first, in exactly `room` lines."""
    found = []
    for event in events[-room:]:
        text = Text().append(f" {_clock(event.at_s):>{LABEL - 1}} ", QUIET)
        found.append(text.append(event.text, MOODS[event.mood]))
    return found + [Text()] * (room - len(found))


def _words() -> list[Text]:
    return [
        _label("words" if number == 0 else "").append(f"{word:10}").append(meaning, QUIET)
        for number, (word, meaning) in enumerate(WORDS)
    ]


def _advice(scene: Scene, width: int) -> list[Text]:
    """Two lines, always, so that nothing jumps."""
    told = advice(scene)
    head = Text().append(" next ", KEY if told.key else QUIET).append(" " * (LABEL - 5))
    if told.key:
        head.append("press ").append(f" {told.key} ", KEY).append("  ")
    indent = " " * len(head)
    rows = textwrap.wrap(told.text, max(20, width - len(head) - 1))[:2]
    second = Text(indent).append(rows[1], STRONG) if len(rows) > 1 else Text()
    return [head.append(rows[0], STRONG), second]


def _keys(width: int) -> Text:
    text = _label("keys")
    for key, what in KEYS:
        text.append(f" {key} " if width >= 100 else key, KEY).append(f" {what}  ")
    return text


def _connect(scene: Scene) -> list[Text]:
    python = f'import dynamo; dynamo.connect("{scene.url}")["cart:7"]'
    shell = f"{scene.program} explain cart:7 --url {scene.url}"
    return [_label("Python").append(python, MARK), _label("shell").append(shell, MARK)]
