"""`dynamo node drain`: before a stop, a node takes no more requests and delivers what it owes."""

from __future__ import annotations

import time
from typing import Any

from dynamo.cli import exits, show
from dynamo.cli.changing import Contact, change
from dynamo.cli.shared import Shell
from dynamo.cli.survey import Survey, survey

WAIT_S, POLL_S, SAY_EVERY_S = 60.0, 0.1, 3.0


def drain(shell: Shell, node: str, off: bool, dry_run: bool) -> int:
    """Drain one node and wait until it owes nothing; the exit code."""
    found = survey(shell)
    if node not in found.ring.nodes:
        known = show.listed(found.ring.nodes)
        raise exits.Refused(f"there is no member {node!r}; there are: {known}")
    if node not in found.answers:
        raise exits.Refused(
            f"{node} does not answer, so it can hand nothing over", then="dynamo status"
        )
    owed = sum(found.answers[node]["hints"].values())
    if dry_run:
        what = "take requests again" if off else f"refuse requests and deliver {_hints(owed)}"
        _tell(shell, {"node": node, "would_drain": not off}, f"{node} would {what}.", "")
        return exits.OK
    at = Contact(node, found.ring.nodes[node], {})
    change(shell, at, "drain", {"node": node, **({"off": True} if off else {})})
    if off:
        _tell(shell, {"node": node, "draining": False}, f"{node} takes requests again.", "")
        return exits.OK
    shell.say(f"{node} takes no more requests; clients go to the others.")
    left = _await(shell, found, node)
    stuck = {home: count for home, count in left.items() if count}
    text = f"{node} is drained: it takes no requests and owes nothing."
    if stuck:
        text = (
            f"{node} takes no requests. {_hints(sum(stuck.values()))} for {show.listed(stuck)} "
            "stay on its disk until those are back."
        )
    told = {"node": node, "draining": True, "hints": sum(stuck.values())}
    _tell(
        shell, told, text, f"dynamo node stop -c FILE for {node}, or dynamo node drain {node} --off"
    )
    return exits.OK


def _hints(count: int) -> str:
    return show.plural(count, "hint") if count else "no hint"


def _tell(shell: Shell, told: dict[str, Any], text: str, then: str) -> None:
    if shell.json:
        shell.emit(told)
        return
    shell.print(text)
    if then:
        shell.say(f"\nNext: {then}")


def _await(shell: Shell, found: Survey, node: str) -> dict[str, int]:
    """Wait until the node owes hints only to nodes that are down; what it owes then."""
    began = said = time.monotonic()
    address = {node: found.ring.nodes[node]}
    while True:
        answer = shell.admin.status(address, "status", shell.ask_s).get(node)
        now = time.monotonic()
        if answer is not None:
            hints: dict[str, int] = answer["hints"]
            if not any(
                count and answer["peers"].get(home) != "down" for home, count in hints.items()
            ):
                return hints
        if now - began > (shell.timeout or WAIT_S):
            raise exits.Unfinished(
                f"{node} takes no requests, and after {show.span(now - began)} still owes hints",
                hint="It goes on delivering: see dynamo hints",
            )
        if now - said > SAY_EVERY_S and answer is not None:
            said = now
            shell.say(f"  still delivering {_hints(sum(answer['hints'].values()))}")
        time.sleep(POLL_S)
