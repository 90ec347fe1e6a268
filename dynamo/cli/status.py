"""`dynamo status` and `dynamo hints`: the ring on one screen, and what is owed to whom."""

from __future__ import annotations

import time
from typing import Any

from dynamo.cli import show
from dynamo.cli.changing import words
from dynamo.cli.membership import GONE, Membership, membership
from dynamo.cli.membership import as_json as membership_json
from dynamo.cli.shared import Shell, command
from dynamo.cli.survey import (
    STATE_STYLES,
    STYLES,
    Answers,
    Survey,
    Verdict,
    ask_those,
    survey,
    verdict,
)


@command(
    examples="""
    dynamo status
    dynamo status --url dynamo://127.0.0.1:7002
    dynamo status --json | jq '.nodes[] | select(.state != "up")'
    """
)
def status(shell: Shell) -> None:
    """Show all nodes, what they hold, and whether anything is wrong.

    The exit code is 0 whatever the state: for scripts there is `dynamo health`.
    """
    found = survey(shell)
    known = membership(shell, found)
    judged = verdict(found, known.changes(), known.closed())
    if shell.json:
        shell.emit(as_json(found, known, judged))
        return
    _print_head(shell, found, known)
    shell.print(_node_table(found, known))
    shell.print()
    if known.staged:
        staged = "; ".join(map(words, known.staged))
        shell.print(show.text(("Staged", "bold"), f", and not committed: {staged}."))
        shell.print()
    print_verdict(shell, judged, _next_step(found, known, judged))


def as_json(found: Survey, known: Membership, judged: Verdict) -> dict[str, Any]:
    """What `status` and `health` give to scripts."""
    ring, shares = found.ring, found.shares()
    nodes = []
    for name, address in ring.nodes.items():
        answer = found.answers.get(name, {})
        node: dict[str, Any] = {
            "name": name,
            "address": str(address),
            "state": found.state(name),
            "wish": known.wish(name),
            "answers": name in found.answers,
            "silent_s": found.silent_s(name),
        }
        kept = ("ready", "up_ms", "durability", "keys", "pending", "hints", "hint_bytes", "corrupt")
        node |= {field: answer.get(field) for field in kept}
        nodes.append(node | dict(zip(("primary", "replica"), shares[name], strict=True)))
    return {
        "cluster": ring.cluster,
        "nodes": nodes,
        "hints": sum(found.hints_for().values()),
        "ring": {
            "version": ring.version,
            "partitions": ring.partitions,
            "n": ring.n,
            "r": found.r,
            "w": found.w,
        },
        "changes": membership_json(known),
        "verdict": judged.level,
        "message": judged.sentence,
        "problems": judged.problems,
    }


def _print_head(shell: Shell, found: Survey, known: Membership) -> None:
    ring = found.ring
    up = sum(state == "up" for state in found.states().values())
    agree = _agreement(found, known)
    shell.print(
        show.text(
            ("Cluster ", ""),
            (ring.cluster, "bold"),
            f"   {show.plural(len(ring.nodes), 'node')}, {up} up   N={ring.n} R={found.r} "
            f"W={found.w}   ring v{ring.version}{agree}   {ring.partitions:,} arcs",
        )
    )
    shell.print()


def _agreement(found: Survey, known: Membership) -> str:
    """Whether all that answered know the same ring."""
    sides = known.sides()
    if sides:
        if len(sides) == 1:
            return " (all agree)"
        if known.moving:  # every arc that moves is news to somebody
            return f" ({len(sides)} views)"
        return f" (not all agree: {show.split(sides)})"
    versions = {answer["ring"]["version"] for answer in found.answers.values()}
    return "" if len(versions) < 2 else f" (not all agree: {sorted(versions)})"


def _node_table(found: Survey, known: Membership) -> Any:
    rows = [_member(found, known, name, part) for name, part in found.shares().items()]
    rows += [
        _outsider(known.members[name]) for name in known.outside if name not in found.ring.nodes
    ]
    columns = ["NODE", "ADDRESS", "STATE", ">UP FOR", ">KEYS", ">PRIMARY", ">REPLICA", "HINTS HELD"]
    # While there is more to say of states, 80 columns hold no more.
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    if sum(widths) + 2 * len(widths) > show.columns():
        columns = [*columns[:3], *columns[4:]]
        rows = [(*row[:3], *row[4:]) for row in rows]
    return show.table(columns, rows)


def _member(
    found: Survey, known: Membership, name: str, shares: tuple[float, float]
) -> tuple[Any, ...]:
    answer = found.answers.get(name)
    state = found.state(name)
    shown = state.upper() if state == "down" else state
    silent_s = found.silent_s(name)
    if state != "up" and silent_s is not None:
        shown += f" {show.span(silent_s)}"
    if answer is not None and state == "up" and not answer["ready"]:
        shown += ", comparing"
    if answer is not None and answer.get("draining"):
        shown += ", drained"
    return (
        name,
        str(found.ring.nodes[name]),
        show.text((shown, STATE_STYLES[state]), *_wish_of(known, name)),
        show.span(answer["up_ms"] / 1000) if answer and "up_ms" in answer else "–",
        f"{answer['keys']:,}" if answer else "–",
        *(f"{100 * share:.1f} %" for share in shares),
        _held(answer) if answer else "–",
    )


def _wish_of(known: Membership, name: str) -> list[tuple[str, str]]:
    """What becomes of a node, and how many arcs it has yet to take in and to give away."""
    wish = known.wish(name)
    gains, loses = known.balance_of(name)
    parts = [(f", {wish}", "bold cyan")] if wish else []
    moves = " ".join([*([f"+{gains:,}"] if gains else []), *([f"−{loses:,}"] if loses else [])])
    if moves:
        parts.append((f" {moves}" if wish else f", {moves}", "cyan"))
    return parts


def _outsider(member: dict[str, Any]) -> tuple[Any, ...]:
    """A node that runs and knows the ring, and owns nothing."""
    state = member["state"]
    shown = show.text(
        (state.upper() if state == "down" else state, STATE_STYLES.get(state, "")),
        (", outside", "dim"),
    )
    return (member["node"], member["address"], shown, *("–" for _ in range(5)))


def _held(answer: dict[str, Any]) -> str:
    held = [f"{count:,} → {home}" for home, count in answer["hints"].items() if count]
    return ", ".join(held) or "–"


def print_verdict(shell: Shell, judged: Verdict, then: str = "") -> None:
    """The line that people came for, what it rests on, and what to type next."""
    shell.print(show.text((judged.level.upper(), STYLES[judged.level]), f": {judged.sentence}"))
    for problem in judged.problems:
        shell.print(f"  {show.escaped(problem)}")
    if then:
        shell.say(f"\nNext: {then}")


def _next_step(found: Survey, known: Membership, judged: Verdict) -> str:
    silent = [name for name in found.silent if known.wish(name) not in GONE]
    if silent:
        start = (
            f"dynamo node start -c FILE for {show.listed(silent)}, then dynamo health --wait 30s"
        )
        gone = f"or, if {_it(silent)} will not come back: dynamo cluster remove {silent[0]}"
        return f"{start}\n      {gone}"
    if len(found.sides()) > 1:
        return "mend the network, then dynamo health --wait 30s"
    drained = [name for name, answer in found.answers.items() if answer.get("draining")]
    if drained:
        return f"stop {drained[0]}, or dynamo node drain {drained[0]} --off"
    if known.running:
        return f"dynamo tasks {known.running[0]['task']} --wait, or dynamo transfers"
    if found.hints_for():
        return "dynamo hints"
    if known.staged:
        return "dynamo cluster plan"
    if known.outside and not judged.problems:
        return f"dynamo cluster join {known.outside[0]}"
    return "dynamo health --wait 30s" if judged.problems else ""


def _it(names: list[str]) -> str:
    return "it" if len(names) == 1 else "one"


# --- hints --------------------------------------------------------------------------------------


@command(
    examples="""
    dynamo hints
    dynamo hints --json
    """
)
def hints(shell: Shell) -> None:
    """Show the writes that nodes keep for others which were away.

    A hint is delivered when its home is back, and erased once its home has it on disk.
    """
    found = survey(shell)
    answers = ask_those(shell, found, "hints")
    total = sum(hint["count"] for answer in answers.values() for hint in answer["hints"])
    if shell.json:
        shell.emit({"hints": total, "nodes": list(answers.values()), "silent": found.silent})
        return
    rows = list(_hint_rows(found, answers))
    if rows:
        columns = ("HELD BY", "FOR", "SEEN AS", ">HINTS", ">BYTES", ">OLDEST")
        shell.print(show.table(columns, rows))
        shell.print()
    shell.print(_hint_summary(found, answers, total))


def _hint_rows(found: Survey, answers: Answers) -> Any:
    for name, answer in answers.items():
        for hint in answer["hints"]:
            # The holder's own view: that is what its delivery waits for.
            state = found.answers[name]["peers"].get(hint["home"], "down")
            since = hint.get("oldest_wall_ms")
            yield (
                name,
                hint["home"],
                show.text((state.upper() if state == "down" else state, STATE_STYLES[state])),
                f"{hint['count']:,}",
                show.size(hint["bytes"]),
                show.span(time.time() - since / 1000) if since else "–",
            )


def _hint_summary(found: Survey, answers: Answers, total: int) -> str:
    waiting = found.hints_for()
    if not total:
        text = "No hint waits: every write has reached all its owners or is on its way."
    else:
        homes = show.listed(waiting) if waiting else "their homes"
        text = f"{show.plural(total, 'hint waits', 'hints wait')} for {homes}."
    sums = {
        word: sum(answer.get(word, 0) for answer in answers.values())
        for word in ("created", "delivered", "refused")
    }
    text += f" Since the nodes started: {sums['created']:,} made, {sums['delivered']:,} delivered"
    text += f", {sums['refused']:,} refused." if sums["refused"] else "."
    if rerouted := sum(answer.get("rerouted", 0) for answer in answers.values()):
        text += f" {rerouted:,} went to new owners of what they were for."
    if found.silent:
        text += f" Not counted: {show.listed(found.silent)}, which did not answer."
    return text
