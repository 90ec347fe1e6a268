"""A plan on one screen: who owns how much before and after, what travels, and what it risks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dynamo.cli import show
from dynamo.cli.changing import print_staged
from dynamo.cli.shared import Shell
from dynamo.cli.survey import STATE_STYLES

KINDS = (
    ("risks", "risk", "yellow"),
    ("warnings", "warn", "yellow"),
    ("violations", "broken", "bold red"),
)
FATES = {
    "join": "joins",
    "leave": "leaves",
    "remove": "removed",
    "reweight": "reweighted",
    "replace": "replaced",
}


def draw(shell: Shell, plan: Mapping[str, Any]) -> None:
    """Everything about a plan but what to type next."""
    print_staged(shell, plan["staged"])
    shell.print()
    shell.print(_node_table(plan))
    shell.print()
    shell.print(show.text(_moves(plan)))
    shell.print(show.notes(_notes(plan)))


def _notes(plan: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], str]]:
    """(mark and its style, sentence) of all that a plan has to say."""
    found = [
        ((mark, style), str(sentence))
        for kind, mark, style in KINDS
        for sentence in plan.get(kind, ())
    ]
    yield from found
    if plan.get("loss"):
        yield ("LOSS", "bold red"), str(plan["loss"])
    elif not found:
        yield ("ok", "green"), "The failure of any one node meanwhile costs no quorum."


def _node_table(plan: Mapping[str, Any]) -> Any:
    nodes = plan["nodes"]
    zones = any(node["zone"] for node in nodes)
    weights = any(node["weight"] != 1 for node in nodes)
    fates = _fates(plan["staged"])
    rows = []
    for node in nodes:
        cells: list[Any] = [node["node"]]
        cells += [node["zone"] or "–"] if zones else []
        cells += [str(node["weight"])] if weights else []
        shown = node["state"].upper() if node["state"] == "down" else node["state"]
        fate = fates.get(node["node"], "")
        state = (shown, STATE_STYLES.get(node["state"], ""))
        cells.append(show.text(state, (f", {fate}" if fate else "", "bold")))
        cells += [
            _change(node[f"{what}_now"], node[f"{what}_after"], plan["partitions"])
            for what in ("primary", "replicas")
        ]
        rows.append(cells)
    columns = ["NODE", *(["ZONE"] if zones else []), *([">WEIGHT"] if weights else []), "STATE"]
    return show.table([*columns, ">PRIMARY now → after", ">REPLICA now → after"], rows)


def _fates(staged: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    fates = {}
    for change in staged:
        fates[change["node"]] = FATES.get(change["verb"], change["verb"])
        if change["verb"] == "replace" and change.get("by"):
            fates[change["by"]] = "joins"
    return fates


def _change(now: int, after: int, partitions: int) -> Any:
    """20.3 % → 25.0 %, the second in the colour of its direction."""
    style = "green" if after > now else "yellow" if after < now else "dim"
    before, behind = (f"{100 * count / partitions:5.1f} %" for count in (now, after))
    return show.text((before, "dim" if now == after else ""), (" → ", "dim"), (behind, style))


def _moves(plan: Mapping[str, Any]) -> str:
    moves, arcs = plan["moves"], plan["arcs"]
    if not arcs:
        return (
            "No replica moves: this changes who belongs to the ring, and nothing of who owns what."
        )
    total = max(1, sum(node["replicas_after"] for node in plan["nodes"]))
    text = (
        f"Moves {moves:,} of {total:,} replicas ({100 * moves / total:.0f} %), in {arcs:,} of "
        f"{plan['partitions']:,} arcs"
    )
    if not moves:
        return f"{text}: only the order of owners changes, or copies are dropped."
    if not plan["bytes"]:
        return f"{text}; there is nothing in them yet."
    limit = plan.get("limit_bytes_per_s")
    at = f" of {show.size(limit)}/s a node" if limit else " of each node"
    took = f"about {show.span(plan['seconds'])}" if plan["seconds"] >= 1 else "less than 1 s"
    return (
        f"{text}: about {show.size(plan['bytes'])}, {took} of copying at the limit{at}; the steps "
        "of each arc come on top."
    )
