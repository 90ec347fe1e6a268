"""`dynamo transfers` and `dynamo gossip`: what moves between nodes, and who knows what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dynamo.cli import show
from dynamo.cli.membership import Membership, membership
from dynamo.cli.shared import Shell, command
from dynamo.cli.survey import STATE_STYLES, Answers, Survey, ask_those, survey

PHASES = ("stable", "copying", "switched", "done")
# Rows of the table of transfers; each node takes in a few arcs at once, and --json has all.
ROWS_MAX = 20
# Reasons to wait, and arcs named for each.
WAITS_MAX, ARCS_MAX = 8, 4
# Peers whose last talk is shown per node, on a terminal that is wide and on one that is not.
PEERS_MAX, PEERS_MIN, WIDE = 4, 2, 100


@command(
    examples="""
    dynamo transfers
    dynamo transfers --json | jq '.nodes[].transfers[] | select(.why != "")'
    """
)
def transfers(shell: Shell) -> None:
    """Show the arcs that are on their way from owner to owner, how far, and why one waits."""
    found = survey(shell)
    answers = ask_those(shell, found, "transfers")
    known = membership(shell, found)
    if shell.json:
        left = len(known.moving)
        shell.emit({"arcs_left": left, "nodes": list(answers.values()), "silent": found.silent})
        return
    rows = list(_transfer_rows(answers))
    if rows:
        columns = ("WHAT", ">ARC", "FROM → TO", "PHASE", ">ROWS", ">COPIED", ">FOR")
        shell.print(show.table(columns, rows[:ROWS_MAX]))
        if len(rows) > ROWS_MAX:
            shell.print(f"and {len(rows) - ROWS_MAX:,} more: see --json")
        shell.print()
        if waits := _waits(answers):
            shell.print(show.notes(waits))
        for line in _rates(answers):
            shell.print(line)
    shell.print(_transfer_summary(found, known, bool(rows)))
    if known.running:
        shell.say(f"\nNext: dynamo tasks {known.running[0]['task']} --wait")


def _transfer_rows(answers: Answers) -> Iterator[tuple[Any, ...]]:
    """Copies first: they are what takes the time."""
    items = [item for answer in answers.values() for item in answer.get("transfers", ())]
    for item in sorted(items, key=lambda item: (item["what"], item["arc"])):
        sources = ", ".join(source for source in item["from"] if source != item["to"])
        yield (
            item["what"],
            f"{item['arc']:,}",
            f"{sources or '–'} → {item['to'] or '–'}",
            PHASES[item["phase"]] if 0 <= item["phase"] < len(PHASES) else str(item["phase"]),
            f"{item['rows']:,}" if item["rows"] else "–",
            show.size(item["bytes"]) if item["bytes"] else "–",
            show.span(item["since_ms"] / 1000),
        )


def _waits(answers: Answers) -> list[tuple[tuple[str, str], str]]:
    """Why something waits, each reason once, with its first arcs and the next try."""
    arcs: dict[tuple[str, str], list[int]] = {}
    again_ms: dict[tuple[str, str], int] = {}
    for name, answer in answers.items():
        for item in answer.get("transfers", ()):
            if item.get("why"):
                key = (name, str(item["why"]))
                arcs.setdefault(key, []).append(item["arc"])
                again_ms[key] = min(item["retry_ms"], again_ms.get(key, item["retry_ms"]))
    found = []
    for (name, why), which in list(arcs.items())[:WAITS_MAX]:
        named = [f"{arc:,}" for arc in which[:ARCS_MAX]]
        if len(which) > ARCS_MAX:
            named.append(f"{len(which) - ARCS_MAX:,} more")
        text = f"{name}, arc{'s' if len(which) > 1 else ''} {show.listed(named)}: {why}"
        if again_ms[name, why]:
            text += f"; tries again in {show.span(again_ms[name, why] / 1000)}"
        found.append((("waits", "yellow"), text))
    return found


def _rates(answers: Answers) -> Iterator[str]:
    for name, answer in answers.items():
        rate, limit = answer.get("rate_bytes_per_s", 0), answer.get("limit_bytes_per_s", 0)
        if not rate:
            continue
        of = f" of at most {show.size(int(limit))}/s" if limit else ""
        yield f"{show.escaped(name)} takes in {show.size(int(rate))}/s{of}."


def _transfer_summary(found: Survey, known: Membership, some: bool) -> str:
    text = known.change_text()
    if text:
        text = f"{text}."
    elif not some:
        text = "Nothing moves: every arc is with the owners it shall have."
    if found.silent:
        text += f" Not asked: {show.listed(found.silent)}, which did not answer."
    return text


# --- gossip ---------------------------------------------------------------------------------------


@command(
    examples="""
    dynamo gossip
    dynamo gossip --json
    """
)
def gossip(shell: Shell) -> None:
    """Show what each node knows of the ring, whether that is the same, and with whom it talked.

    VIEW is a hash of all it knows: equal views, equal rings.
    """
    found = survey(shell)
    answers = ask_those(shell, found, "gossip")
    known = membership(shell, found)
    if shell.json:
        views = known.sides()
        shell.emit({"views": views, "nodes": list(answers.values()), "silent": found.silent})
        return
    sides = known.sides()
    rows = list(_gossip_rows(found, answers, sides))
    columns = ("NODE", "STATE", "VIEW", ">ROUNDS", ">TAKEN", ">REFUSED", "LAST TALKS")
    shell.print(show.table(columns, rows))
    shell.print()
    shell.print(show.text(*_gossip_summary(found, answers, sides)))
    if len(sides) > 1:
        shell.say("\nNext: dynamo gossip once more in a second or two, or dynamo status")


def _gossip_rows(
    found: Survey, answers: Answers, sides: list[list[str]]
) -> Iterator[tuple[Any, ...]]:
    largest = sides[0] if sides else []
    for name in found.ring.nodes:
        state = found.state(name)
        shown = show.text((state.upper() if state == "down" else state, STATE_STYLES[state]))
        answer = answers.get(name)
        if not answer or "hash" not in answer:
            yield (name, shown, *("–" for _ in range(5)))
            continue
        view = (str(answer["hash"])[:8], "green" if name in largest else "yellow")
        yield (
            name,
            shown,
            show.text(view),
            f"{answer['rounds']:,}",
            f"{answer['items_taken']:,}",
            f"{answer['items_refused']:,}",
            _talks(answer["peers"]),
        )


def _talks(peers: dict[str, dict[str, Any]]) -> Any:
    """The latest first: n2 0.4 s, n5 1.2 s; those that knew otherwise in yellow."""
    most = PEERS_MAX if show.columns() >= WIDE else PEERS_MIN
    latest = sorted(peers.items(), key=lambda peer: (peer[1]["ago_ms"], peer[0]))[:most]
    parts: list[str | tuple[str, str]] = []
    for name, talk in latest:
        text = f"{', ' if parts else ''}{name} {show.span(talk['ago_ms'] / 1000)}"
        parts.append((text, "" if talk["same"] else "yellow"))
    return show.text(*parts) if parts else "–"


def _gossip_summary(
    found: Survey, answers: Answers, sides: list[list[str]]
) -> list[str | tuple[str, str]]:
    count = sum(map(len, sides))
    if len(sides) > 1:
        text = f": there are {len(sides)} views of the ring: {show.split(sides)}."
        return [("NOT YET EQUAL", "bold yellow"), text]
    if not count:
        return ["No node tells what it knows of the ring."]
    who = "The node knows" if count == 1 else f"All {count} nodes that answered know"
    refused = sum(answer.get("items_refused", 0) for answer in answers.values())
    text = f": {who[0].lower()}{who[1:]} the same of the ring."
    if refused:
        text += (
            f" Refused since they started: {show.plural(refused, 'item')}, malformed or foreign."
        )
    if found.silent:
        text += f" Not asked: {show.listed(found.silent)}, which did not answer."
    return [("EQUAL", "bold green"), text]
