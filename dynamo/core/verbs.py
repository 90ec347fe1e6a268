"""What people may want of a node of the ring, and when it makes no sense.

    join N [weight]          a node that is out becomes a member; one that is leaving stays
    leave N                  a member that answers gives its arcs away, and is gone for good
    remove N [force,discard] a node that does not answer is gone for good
    replace N by M [weight]  M takes exactly the places of N, which leaves or is removed
    reweight N weight        a member's share of the ring

`leave` and `remove` are two verbs because the copies of a node that answers are worth having, and
those of one that does not must be made from others. Each is refused where the other is meant.

Names are never used again (G2): a node that comes back under the name of a removed one could not be
told from it.

A verb waits in `Staged.args`, and stays in `Task.verbs`, as four texts: by, weight, flags, dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple

from dynamo.core.items import (
    DISCARD,
    FORCED,
    IN,
    LEAVING,
    LEFT,
    NODES_MAX,
    OUT,
    REMOVED,
    Wish,
)
from dynamo.core.liveness import UP
from dynamo.core.roster import Roster

VERBS = ("join", "leave", "remove", "replace", "reweight")
WEIGHT_MAX = 1 << 20
NAMES_SHOWN = 6

State = Callable[[str], str]


class Refusal(Exception):
    """Something that is not done: why, and the command that may be meant, or ""."""

    def __init__(self, error: str, advice: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.advice = advice


class Verb(NamedTuple):
    """One thing that people want of one node."""

    verb: str
    node: str
    by: str = ""  # replace: who comes
    weight: int = 0  # join, replace, reweight
    flags: int = 0  # remove, replace: FORCED, DISCARD
    dead: bool = False  # replace: `node` does not answer, so it is removed

    @property
    def parts(self) -> tuple[str, ...]:
        """As they are staged."""
        return self.by, str(self.weight), str(self.flags), "dead" if self.dead else ""

    @property
    def entry(self) -> tuple[str, ...]:
        """As a task has it."""
        return self.verb, self.node, *self.parts

    def shown(self) -> dict[str, Any]:
        """As plain values for people; what does not matter to a verb is left out."""
        said: dict[str, Any] = {"verb": self.verb, "node": self.node}
        if self.by:
            said["by"] = self.by
        if self.weight:
            said["weight"] = self.weight
        if self.verb in ("remove", "replace"):
            said["force"] = bool(self.flags & FORCED)
            said["discard"] = bool(self.flags & DISCARD)
        return said

    def sentence(self) -> str:
        """What happens, for people."""
        if self.verb == "join":
            return f"{self.node} joins with weight {self.weight}"
        if self.verb == "leave":
            return f"{self.node} leaves"
        if self.verb == "remove":
            return f"{self.node} is removed{_given_up(self.flags)}"
        if self.verb == "replace":
            goes = f"is removed{_given_up(self.flags)}" if self.dead else "leaves"
            return f"{self.by} takes the places of {self.node}, which {goes}"
        return f"{self.node} gets weight {self.weight}"


def _given_up(flags: int) -> str:
    words = ["its copies given up"] * bool(flags & FORCED)
    words += ["its rows unwanted should it come back"] * bool(flags & DISCARD)
    return f" ({', '.join(words)})" if words else ""


def read(verb: str, node: str, args: Iterable[str]) -> Verb | None:
    """A verb as it was staged or carried out; None for anything that is none."""
    try:
        by, weight, flags, dead = args
        if verb not in VERBS or not weight.isdecimal() or not flags.isdecimal():
            return None
        found = Verb(verb, node, by, int(weight), int(flags) & (FORCED | DISCARD), bool(dead))
    except ValueError:
        return None
    weighs = verb in ("join", "replace", "reweight")
    if weighs and not 1 <= found.weight <= WEIGHT_MAX:
        return None
    return found


def verb_of(entry: tuple[str, ...]) -> Verb | None:
    """The verb in an entry of a task, None for an entry that is none."""
    return read(entry[0], entry[1], entry[2:]) if len(entry) > 2 else None


def asked(body: dict[str, Any], roster: Roster, state: State) -> Verb:
    """The verb that a request to stage names. Raises `Refusal`."""
    verb, node, by = (body.get(field) or "" for field in ("verb", "node", "by"))
    weight = body.get("weight")
    if verb not in VERBS:
        raise Refusal(f"{verb!r} is no change of the ring: there are {', '.join(VERBS)}")
    if type(node) is not str or type(by) is not str:
        raise Refusal("a node is named by a text")
    flags = FORCED * bool(body.get("force")) | DISCARD * bool(body.get("discard"))
    if verb not in ("remove", "replace"):
        flags = 0
    held = roster.wishes.get(node)
    if verb in ("leave", "remove"):
        weight = 0
    elif weight is None or weight == 0:
        if verb == "reweight":
            raise Refusal(f"which weight is {node} to have? It is a whole number from 1 up")
        weight = held.weight if held else 1
    if type(weight) is not int or not (0 <= weight <= WEIGHT_MAX):
        raise Refusal(f"a weight is a whole number from 1 to {WEIGHT_MAX:,}, not {weight!r}")
    dead = verb == "replace" and state(node) != UP
    return Verb(
        verb=verb,
        node=node,
        by=by if verb == "replace" else "",
        weight=weight,
        flags=flags if verb == "remove" or dead else 0,
        dead=dead,
    )


# --- what makes no sense ------------------------------------------------------------------------


def _known(roster: Roster) -> dict[str, None]:
    return dict.fromkeys(sorted((*roster.records, *roster.wishes)))


def check(verb: Verb, roster: Roster, state: State | None = None) -> None:
    """Raise `Refusal` if the ring as it is has no use for this; with `state`, or those in it."""
    _check_known(verb.node, roster)
    _CHECKS[verb.verb](verb, roster)
    if state is not None:
        _check_state(verb, state)


def _check_known(name: str, roster: Roster) -> None:
    known = _known(roster)
    if name in known:
        return
    close = get_close_matches(name, list(known), 1)
    if close:
        raise Refusal(f"nothing was ever heard of {name!r}; did you mean {close[0]}?")
    shown = ", ".join(list(known)[:NAMES_SHOWN]) + ("..." if len(known) > NAMES_SHOWN else "")
    raise Refusal(
        f"nothing was ever heard of {name!r}; known are {shown}. If it runs, the logs of nodes "
        "that are known say what keeps it apart",
        "dynamo node start --join HOST:PORT",
    )


def _check_newcomer(name: str, roster: Roster) -> None:
    _check_known(name, roster)
    status = roster.status(name)
    if status in (LEFT, REMOVED):
        how = "left the ring" if status == LEFT else "was removed from the ring"
        raise Refusal(
            f"{name} {how}, and names are never used again: give the machine an empty directory "
            f"and a new name",
            "dynamo node start --join HOST:PORT",
        )
    if name not in roster.records:
        raise Refusal(f"nobody knows the address of {name}: it has never been heard of")


def _check_join(verb: Verb, roster: Roster) -> None:
    _check_newcomer(verb.node, roster)
    if roster.status(verb.node) == IN:
        raise Refusal(f"{verb.node} is a member already", f"dynamo cluster reweight {verb.node}")


def _check_leave(verb: Verb, roster: Roster) -> None:
    node, status = verb.node, roster.status(verb.node)
    if status == OUT:
        raise Refusal(f"{node} is no member, so it has nothing to leave: just stop it")
    if status == LEAVING:
        raise Refusal(f"{node} is leaving already", "dynamo tasks")
    if status in (LEFT, REMOVED):
        raise Refusal(f"{node} is not in the ring any more")


def _check_remove(verb: Verb, roster: Roster) -> None:
    node, status = verb.node, roster.status(verb.node)
    if status == LEFT:
        raise Refusal(f"{node} has left the ring already")
    # That the copies of a removed node are given up may turn out to be necessary later on.
    late = bool(verb.flags & FORCED) and not roster.forced(node)
    if status == REMOVED and not late:
        raise Refusal(f"{node} was removed already", f"dynamo cluster remove {node} --force")


def _check_replace(verb: Verb, roster: Roster) -> None:
    node, by = verb.node, verb.by
    if not by:
        raise Refusal(f"who is to replace {node}? Name a node that has started with --join")
    if by == node:
        raise Refusal(f"{node} cannot replace itself: start the new machine under a new name")
    _check_newcomer(by, roster)
    if roster.status(by) != OUT:
        raise Refusal(f"{by} is a member already; {node} is to be replaced by one that is not")
    if roster.status(node) == OUT:
        raise Refusal(f"{node} is no member, so it has no places", f"dynamo cluster join {by}")
    if roster.status(node) in (LEFT, REMOVED):
        raise Refusal(f"{node} is not in the ring any more", f"dynamo cluster join {by}")


def _check_reweight(verb: Verb, roster: Roster) -> None:
    if roster.status(verb.node) != IN:
        raise Refusal(f"{verb.node} is no member, or does not stay one: only those have a weight")


_CHECKS = {
    "join": _check_join, "leave": _check_leave, "remove": _check_remove,
    "replace": _check_replace, "reweight": _check_reweight,
}  # fmt: skip


def _check_state(verb: Verb, state: State) -> None:
    node = verb.node
    up = state(node) == UP
    if verb.verb == "leave" and not up:
        raise Refusal(
            f"{node} does not answer, so it cannot give its arcs away: if it will not come back, "
            f"remove it",
            f"dynamo cluster remove {node}",
        )
    if verb.verb == "remove" and up:
        raise Refusal(
            f"{node} answers: let it leave, so that its copies are of use; or stop it first",
            f"dynamo cluster leave {node}",
        )
    if verb.verb == "replace" and verb.dead == up:
        now = "answers" if up else "does not answer"
        raise Refusal(
            f"{node} {now}, which was not so when this was staged: stage it again",
            f"dynamo cluster replace {node} {verb.by}",
        )


# --- what is staged, and what it comes to -------------------------------------------------------


def staged(roster: Roster) -> tuple[list[Verb], list[str]]:
    """What waits for its commit, by node; and sentences on what waits and makes no sense now.

    (A change that two people staged on two sides of a split has been committed on one of them.)
    """
    good: list[Verb] = []
    stale: list[str] = []
    taken: dict[str, str] = {}  # newcomer -> whom it replaces
    for node, item in sorted(roster.staged.items()):
        if not item.verb:
            continue
        verb = read(item.verb, node, item.args)
        try:
            if verb is None:
                raise Refusal(f"{item.verb!r} is nothing that this version knows")
            check(verb, roster)
            if verb.by in taken:
                raise Refusal(f"{verb.by} is to replace {taken[verb.by]}")
        except Refusal as refusal:
            stale.append(f"{item.verb} {node} is left out: {refusal.error}")
            continue
        if verb.by:
            taken[verb.by] = node
        good.append(verb)
    rest = [verb for verb in good if verb.node not in taken]
    stale += [
        f"{verb.verb} {verb.node} is left out: it is to replace {taken[verb.node]}"
        for verb in good
        if verb.node in taken
    ]
    return rest, stale


def check_beside(verb: Verb, roster: Roster) -> None:
    """Raise `Refusal` if what is staged already stands in the way of one more."""
    if len(roster.staged) >= NODES_MAX:
        raise Refusal(
            f"{NODES_MAX:,} changes are staged: commit or clear them", "dynamo cluster plan"
        )
    others = [other for other in staged(roster)[0] if other.node != verb.node]
    for other in others:
        if other.by and other.by in (verb.node, verb.by):
            raise Refusal(
                f"{other.by} is to replace {other.node} already",
                f"dynamo cluster clear {other.node}",
            )
        if verb.by and other.node == verb.by:
            raise Refusal(
                f"{verb.by} is to {other.verb} already", f"dynamo cluster clear {verb.by}"
            )
    stay = {**roster.wishes, **wishes([*others, verb], roster)}
    if not any(wish.status == IN for wish in stay.values()):
        raise Refusal(f"without {verb.node} nobody would be left: the last member cannot go")


def wishes(verbs: Iterable[Verb], roster: Roster) -> dict[str, Wish]:
    """The wishes that these verbs write."""
    found: dict[str, Wish] = {}
    for verb in verbs:
        for name, status, weight, flags in _effects(verb):
            held = found.get(name) or roster.wishes.get(name) or Wish(0, OUT, 1, 0)
            found[name] = Wish(
                held.ver + 1, held.status if status is None else status, weight or held.weight,
                flags,
            )  # fmt: skip
    return found


def _effects(verb: Verb) -> list[tuple[str, int | None, int, int]]:
    """(name, status, weight, flags) of each wish; None and 0: as it was."""
    if verb.verb == "join":
        return [(verb.node, IN, verb.weight, 0)]
    if verb.verb == "leave":
        return [(verb.node, LEAVING, 0, 0)]
    if verb.verb == "remove":
        return [(verb.node, REMOVED, 0, verb.flags)]
    if verb.verb == "replace":
        status = REMOVED if verb.dead else LEAVING
        return [(verb.node, status, 0, verb.flags), (verb.by, IN, verb.weight, 0)]
    return [(verb.node, None, verb.weight, 0)]
