"""Which proposal follows a register, and whether it switches: the rules, and a search for holes.

The search plays the rules of `ballots` without nodes: owners, proposers and messages that are lost,
doubled and reordered by a seeded generator. After each step V1 must hold. Each rule is also taken
away once, and the search must find the history that it prevents.
"""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from dynamo.core import ballots, planner, ring
from dynamo.core.ballots import AHEAD, BEHIND, NO, NOTHING, YES, Attempt, Held
from dynamo.core.config import Config
from dynamo.core.ring import COPYING, DONE, STABLE, SWITCHED, Register

CUR = ("a", "b", "c")


def stable(cur: tuple[str, ...] = CUR, ver: int = 1) -> Register:
    return Register(ver, STABLE, planner.tie_of(cur, ()), cur, ())


def nobody(name: str) -> bool:
    return False


# --- counting -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "r", "w", "fence", "need"),
    [(3, 2, 2, 2, 2), (3, 1, 3, 3, 1), (3, 3, 1, 3, 3), (5, 3, 3, 3, 3), (5, 2, 4, 4, 2)],
)
def test_fences_and_copies_meet_every_read_and_every_write(n, r, w, fence, need):
    """V1, V8, and the fences between phases (algorithms §1.5)."""
    config = Config(n=n, r=r, w=w)
    cur = tuple("abcde"[:n])
    assert ballots.fence(config, cur, nobody) == fence
    assert 2 * fence > n
    assert fence + r > n
    assert fence + w > n
    assert ballots.need(config, cur, nobody, "g") == need
    assert need + w > n
    assert ballots.need(config, cur, nobody, "a") == need - 1, "an owner is evidence itself"


def test_owners_that_were_given_up_decide_nothing():
    config = Config()
    gone = ("b", "c").__contains__
    assert ballots.electors(CUR, gone) == ["a"]
    assert ballots.fence(config, CUR, gone) == 1
    assert ballots.need(config, CUR, gone, "g") == 1
    everybody = CUR.__contains__
    assert ballots.fence(config, CUR, everybody) == ballots.need(config, CUR, everybody, "g") == 0


def test_a_goal_is_reached_one_replica_at_a_time():
    def way(cur, goal, gone=()):
        found = [tuple(cur)]
        while after := ballots.step(found[-1], goal, gone.__contains__):
            found.append(after)
        for one, other in pairwise(found):
            assert len({*other} - {*one}) <= 1, "one gains"
            assert len({*one} - {*other}) <= 1, "one loses"
        return ["".join(owners) for owners in found]

    assert way("abc", "abc") == ["abc"]
    assert way("abc", "cab") == ["abc"], "the same owners in another order are no work"
    assert way("abc", "adc") == ["abc", "adc"]
    assert way("abc", "dea") == ["abc", "adc", "dea"], "the last step takes the goal's order"
    assert way("abc", "ade", gone="c") == ["abc", "abd", "ade"], "who is gone is replaced first"
    assert way("ab", "abc") == ["ab", "abc"]
    assert way("abc", "ad") == ["abc", "adc", "ad"]
    assert way("a", "bcd") == ["a", "b", "bc", "bcd"]


# --- what an owner answers ------------------------------------------------------------------------


def test_an_owner_promises_only_about_the_register_it_holds():
    base = stable(ver=5)
    assert ballots.on_promise(NOTHING, base, 9, 4, STABLE)[0] == AHEAD
    assert ballots.on_promise(NOTHING, base, 9, 6, STABLE)[0] == BEHIND
    assert ballots.on_promise(NOTHING, base, 9, 5, COPYING)[0] == BEHIND
    assert ballots.on_promise(NOTHING, base, 9, 5, STABLE) == (YES, Held(promised=9))


def test_a_promise_is_given_once_and_binds():
    """V2: equal ballots of two proposers are one too many."""
    base = stable(ver=5)
    held = ballots.on_promise(NOTHING, base, 9, 5, STABLE)[1]
    assert ballots.on_promise(held, base, 9, 5, STABLE) == (NO, held)
    assert ballots.on_promise(held, base, 8, 5, STABLE) == (NO, held)
    moving = ring.proposal(1, COPYING, CUR, ("a", "b", "d"))
    held = Held(promised=moving.ver + 1)
    assert ballots.on_vote(held, moving, moving.ver, moving.ver, 0) == (NO, held)
    code, held = ballots.on_vote(held, moving, moving.ver, moving.ver + 1, 0)
    assert (code, held) == (YES, Held(moving.ver + 1, moving.ver, moving.ver + 1, 0))
    assert ballots.on_vote(held, moving, moving.ver, moving.ver + 1, 1)[0] == NO, "one per ballot"


def test_what_has_switched_is_not_proposed_about_and_never_dead():
    moving = ring.advanced(ring.proposal(1, COPYING, CUR, ("a", "b", "d")))
    assert ballots.on_promise(NOTHING, moving, moving.ver + 9, *moving[:2])[0] == NO
    assert ballots.on_vote(NOTHING, moving, moving.ver, moving.ver + 9, 1)[0] == AHEAD
    assert ballots.on_vote(NOTHING, moving, moving.ver, moving.ver, 0)[0] == YES


def test_a_vote_that_was_found_binds_the_attempt():
    """V4: the one with the highest ballot, whatever it says."""
    base = ring.proposal(1, COPYING, CUR, ("a", "b", "d"))
    for votes, kill in (
        ([(0, 0), (0, 0)], 1),
        ([(base.ver, 0), (0, 0)], 0),
        ([(base.ver, 0), (base.ver + 5, 1)], 1),
        ([(base.ver + 7, 0), (base.ver + 5, 1)], 0),
    ):
        attempt = Attempt(base, ring.proposal(2, COPYING, CUR, ("a", "e", "c")))
        for name, vote in zip(CUR, votes, strict=False):
            attempt.promised(name, *vote)
        assert attempt.decide(), "V5: votes are needed"
        assert attempt.kill == kill
        attempt.votes.update(dict.fromkeys(CUR[:2]))
        assert attempt.result() == (attempt.target if kill else ring.advanced(base))


# --- the search -----------------------------------------------------------------------------------


class Broken(AssertionError):
    pass


class Model:
    """Owners, and whoever proposes and drives; one message or one act at a step."""

    def __init__(self, seed: int, without: str = "", n: int = 3) -> None:
        self.rng = random.Random(seed)
        self.without = without
        self.config = Config(n=n)
        names = "abcdefgh"
        self.base = stable(tuple(names[:n]))
        self.names = names[: n + 3]
        self.registers = dict.fromkeys(self.names, self.base)
        self.held = dict.fromkeys(self.names, NOTHING)
        self.bag: list[tuple] = []
        self.processes: list[dict] = []
        self.epoch = {self.base.ver: 0}  # version -> how often the owners had changed before it
        self.exists: set[Register] = {self.base}
        self.switched: dict[int, int] = {}  # epoch -> version

    def adopt(self, name: str, register: Register) -> None:
        if register[:3] > self.registers[name][:3]:
            self.registers[name] = register

    def create(self, name: str, base: Register, register: Register) -> None:
        if register not in self.exists:
            self.exists.add(register)
            # What follows a register that is done is about new owners.
            epoch = self.epoch[base.ver] + (base.phase == DONE)
            if register.ver != base.ver:
                self.epoch.setdefault(register.ver, epoch)
            if register.phase == SWITCHED:
                other = self.switched.setdefault(self.epoch[register.ver], register.ver)
                if other != register.ver:
                    raise Broken("V1: two versions of one stable register have switched")
            for epoch, winner in self.switched.items():
                if any(self.epoch[r.ver] == epoch and r.ver > winner for r in self.exists):
                    raise Broken("V1: a higher version beside the one that has switched")
        self.adopt(name, register)

    # A process is one attempt or one drive of one node; it dies with a chance.

    def begin(self) -> None:
        me = self.rng.choice(self.names)
        register = self.registers[me]
        if register.phase == SWITCHED or (register.phase == COPYING and self.rng.random() < 0.6):
            process = {"kind": "drive", "me": me, "register": register, "stage": "confirm"}
            process |= {"yes": set(), "asked": register.cur}
            self.send(process, ("register", register))
        else:
            gainer = self.rng.choice([n for n in self.names if n not in register.cur])
            nxt = (gainer, *register.cur[1:]) if self.rng.random() < 0.8 else ()
            if not nxt and register.phase != COPYING:
                return
            seen = max(self.held[me].promised >> ring.BALLOT_BITS, register.round)
            phase = COPYING if nxt else STABLE
            target = ring.proposal(seen + self.rng.randint(1, 2), phase, register.cur, nxt)
            attempt = Attempt(register, target)
            process = {"kind": "attempt", "me": me, "attempt": attempt, "asked": register.cur}
            self.send(process, ("promise", target.ver, *register[:2]))
        self.processes.append(process)

    def send(self, process: dict, message: tuple) -> None:
        for name in process["asked"]:
            self.bag.append((name, process, message))

    def step(self) -> None:
        chance = self.rng.random()
        if not self.bag or chance < 0.08:
            self.begin()
        elif chance < 0.16:  # what gossip brings
            one, other = self.rng.sample(self.names, 2)
            self.adopt(one, self.registers[other])
        else:
            at = self.rng.randrange(len(self.bag))
            fate = self.rng.random()
            receiver, process, message = self.bag[at] if fate < 0.1 else self.bag.pop(at)
            if fate < 0.9 and not process.get("dead"):
                self.deliver(receiver, process, message)
            if self.rng.random() < 0.01:
                process["dead"] = True
        if len(self.bag) > 60:
            self.bag = self.bag[-60:]

    def deliver(self, receiver: str, process: dict, message: tuple) -> None:
        kind, *fields = message
        if kind == "register":
            self.adopt(receiver, fields[0])
            held = self.registers[receiver]
            self.bag.append((process["me"], process, ("known", receiver, held,
                                                      self.held[receiver].promised)))  # fmt: skip
        elif kind == "promise":
            code, held = ballots.on_promise(self.held[receiver], self.registers[receiver], *fields)
            self.held[receiver] = held
            vote = (held.ballot, held.kill) if held.about == fields[1] else (0, 0)
            self.bag.append((process["me"], process, ("promised", receiver, code, vote)))
        elif kind == "vote":
            mine = self.held[receiver]
            if self.without == "V2":  # it has forgotten
                mine = NOTHING if self.rng.random() < 0.3 else mine
            code, self.held[receiver] = ballots.on_vote(mine, self.registers[receiver], *fields)
            self.bag.append((process["me"], process, ("voted", receiver, code)))
        elif process["kind"] == "attempt":
            self.answered(process, message)
        else:
            self.driven(process, message)

    def answered(self, process: dict, message: tuple) -> None:
        attempt: Attempt = process["attempt"]
        kind, name, code, *rest = message
        if code != YES or (kind == "voted") != attempt.voting:
            return
        if kind == "promised":
            attempt.promised(name, *rest[0])
        else:
            attempt.votes[name] = None
        if not attempt.enough(ballots.fence(self.config, attempt.base.cur, nobody)):
            return
        needs = attempt.decide()
        if self.without == "V4" and needs:
            attempt.kill = 1
        if needs and (self.without != "V5" or not attempt.kill):
            question = ("vote", attempt.base.ver, attempt.target.ver, attempt.kill)
            self.send(process, question)
        else:
            self.create(process["me"], attempt.base, attempt.result())

    def driven(self, process: dict, message: tuple) -> None:
        register: Register = process["register"]
        kind, name, what, *rest = message
        if kind == "known" and process["stage"] == "confirm":
            counts = register.phase == SWITCHED or rest[0] <= register.ver or self.without == "V6"
            if what[:2] != register[:2] or not counts:
                return
        elif kind != "voted" or process["stage"] != "votes" or what != YES:
            return
        process["yes"].add(name)
        if len(process["yes"]) < ballots.fence(self.config, register.cur, nobody):
            return
        if register.phase == SWITCHED or process["stage"] == "votes" or self.without == "V3":
            process["dead"] = True
            self.create(process["me"], register, ring.advanced(register))
        else:
            process["stage"], process["yes"] = "votes", set()
            self.send(process, ("vote", register.ver, register.ver, 0))


def search(seeds: range, without: str = "", steps: int = 700, n: int = 3) -> tuple[int, int]:
    """(seeds played, versions switched); the first may be fewer where `Broken` was found."""
    switched = 0
    for count, seed in enumerate(seeds):
        model = Model(seed, without, n)
        try:
            for _ in range(steps):
                model.step()
        except Broken:
            return count, switched
        switched += len(model.switched)
    return len(seeds), switched


@pytest.mark.parametrize(("n", "count"), [(3, 1500), (5, 400), (2, 300)])
def test_no_schedule_switches_two_versions_of_one_register(n, count):
    """V1, over schedules in which some thousand arcs move."""
    played, switched = search(range(count), n=n)
    assert played == count, f"V1 is broken by seed {played}"
    assert switched > count // 3, "the search does nothing"


@pytest.mark.parametrize("rule", ["V2", "V3", "V4", "V5", "V6"])
def test_without_one_of_the_rules_the_search_finds_its_history(rule):
    played, _ = search(range(3000), without=rule)
    assert played < 3000, f"nothing needs {rule}"
