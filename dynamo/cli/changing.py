"""Changes of the ring, between a person and one node: who is asked, what a refusal becomes.

All that one command wants, and what the next command wants of it, goes to the same node: the first
by name that answers and serves. What it was told reaches the others by gossip, a moment later.
(`plan` right after `join` would else find nothing staged, now and then.)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dynamo.cli import exits, show
from dynamo.cli.shared import Shell
from dynamo.cli.survey import FIRST_ROUND_S

if TYPE_CHECKING:
    from dynamo.server.config import Address

# A plan for a large ring takes its node this long at most.
CHANGE_S = 10.0
# A node that was started a moment ago is waited for this long, and looked for this often.
HEARD_S, LOOK_S = 5.0, 0.2

DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
YES = click.option("--yes", is_flag=True, help="Do not ask: for scripts.")


class Contact(NamedTuple):
    """The node that is asked, and what it says of the members."""

    name: str
    address: Address
    view: dict[str, Any]

    @property
    def members(self) -> dict[str, dict[str, Any]]:
        return {member["node"]: member for member in self.view["members"]}

    @property
    def staged(self) -> list[dict[str, Any]]:
        return list(self.view["staged"])


def contact(shell: Shell) -> Contact:
    """The first member by name that answers and serves."""
    nodes = shell.nodes()
    answers: dict[str, dict[str, Any]] = {}
    for patience in (min(FIRST_ROUND_S, shell.ask_s), shell.ask_s):
        answers = shell.admin.status(nodes, "members", patience)
        for name, address in nodes.items():
            view = answers.get(name, {})
            if "members" in view and not view.get("closed"):
                return Contact(name, address, view)
    for view in answers.values():
        if view.get("closed"):
            raise exits.Refused(view["closed"])
    if answers:
        raise exits.Unhealthy("the nodes answer, but not about members: are they older than this?")
    raise exits.Unhealthy(f"{show.listed(nodes)} did not answer in {show.span(shell.ask_s)}")


def await_heard(shell: Shell, name: str) -> Contact:
    """Like `contact`, and wait for a newcomer that the ring has not heard of yet; "" for nobody.

    `node start &` and `join` are typed one after the other, or stand so in a script, and a process
    takes longer to start than a command to ask.
    """
    at = contact(shell)
    if not name or name in at.members:
        return at
    shell.say(f"Waiting to hear of {show.escaped(name)}.")
    patience = HEARD_S if shell.timeout is None else min(shell.timeout, HEARD_S)
    until = time.monotonic() + patience
    while name not in at.members and time.monotonic() < until:
        time.sleep(LOOK_S)
        at = contact(shell)
    return at  # still nothing: the node that is asked says so, and what to do


def change(shell: Shell, at: Contact, verb: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for a change; what the node made of it. Raises Refused with the node's own words."""
    seconds = shell.timeout or CHANGE_S
    answer = shell.admin.change(at.address, verb, body, seconds)
    if answer is None:
        error = exits.Unfinished(
            f"{at.name} was asked and is silent in {show.span(seconds)}: it may have done it",
            hint="See what it knows: dynamo cluster plan, or dynamo tasks",
        )
        error.maybe_applied = True
        raise error
    done, told = answer
    if not done:
        raise exits.Refused(str(told.get("error", "refused")), then=str(told.get("try", "")))
    return told


def confirm(shell: Shell, word: str, yes: bool, what: str) -> None:
    """Go on only if a person types `word`, or has said --yes."""
    if yes:
        return
    if shell.json or not sys.stdin.isatty():
        raise exits.Refused(
            f"{what}: that has to be confirmed, and nobody is there to type it", hint="Add --yes"
        )
    sys.stdout.flush()
    print(f"{what}. To go on, type {show.escaped(word)}: ", end="", file=sys.stderr, flush=True)
    typed = sys.stdin.readline()
    if typed.strip() != word:
        raise exits.Refused("that was something else: nothing is changed")


# --- changes in words ---------------------------------------------------------------------------


def words(staged: Mapping[str, Any]) -> str:
    """One change: join n4 · replace n2 by n6 · remove n4, giving its copies up."""
    verb, node = staged["verb"], staged["node"]
    weight = staged.get("weight") or 1
    text = f"{verb} {node}"
    if verb == "replace":
        text += f" by {staged.get('by', '?')}"
    elif verb == "reweight":
        text += f" to {weight}"
    elif verb == "join" and weight != 1:
        text += f" with weight {weight}"
    if staged.get("force"):
        text += ", giving its copies up"
    if staged.get("discard"):
        text += ", its rows unwanted"
    return text


def print_staged(shell: Shell, staged: Iterable[Mapping[str, Any]]) -> None:
    """All that waits for a commit, one change per line."""
    changes = [words(change) for change in staged]
    if not changes:
        shell.print("Nothing is staged.")
    for at, text in enumerate(changes):
        shell.print(show.text(("Staged  " if not at else "        ", "bold"), text))
