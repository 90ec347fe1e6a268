"""Items of the ring: their fields, what is allowed in them, and which of two is the later one.

    n/NAME   Record    who it is and where; written by the node itself     higher incarnation
    w/NAME   Wish      whether it belongs to the ring; written by people   out of the ring, ver
    s/NAME   Staged    what people intend with it, until they commit       ver
    t/NUMBER Task      a committed change                                  state
    r/ARC    Register  the owners of an arc now                            (ver, phase, tie)
    g/ARC    Goal      the owners it shall have                            (ver, tie)

See `roster` for how they merge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import mmh3

from dynamo.core import ring
from dynamo.core.planner import tie_of
from dynamo.core.ring import Register

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
JUMP_MAX = 1 << 20  # by which a counter may exceed the one known here
COUNTER_MAX = 1 << 48
NODES_MAX = 4_096  # names, of whatever state
TASKS_MAX = 32  # the latest ones are kept
TASK_BYTES_MAX = 256 << 10  # a change of all the nodes there may be
ARGS_MAX = 8

BUCKET_ARCS = 32
OTHERS = 1 << 16  # buckets from here on hold what is not of an arc
OTHER_BUCKETS = 16

# Wish.status
OUT, IN, LEAVING, LEFT, REMOVED = range(5)
STATUS_NAMES = ("out", "in", "leaving", "left", "removed")
# Wish.flags
FORCED = 1  # its copies are given up: it counts for no quorum of a ring change any more
DISCARD = 2  # should it come back, its rows are not wanted

RUNNING, ABORTED = range(2)  # Task.state


class Record(NamedTuple):
    """Who and where a node is, in its own words."""

    incarnation: int
    host: str
    client_port: int
    peer_port: int
    zone: str


class Wish(NamedTuple):
    """What people want of a node: in the ring or not, with which weight."""

    ver: int
    status: int
    weight: int
    flags: int


class Staged(NamedTuple):
    """A change that waits for its commit; verb "" for one that was taken back."""

    ver: int
    verb: str
    args: tuple[str, ...]


class Task(NamedTuple):
    """A committed change: what it consists of, as (verb, node, args...), and what it replaced."""

    state: int
    started_wall_ms: int
    verbs: tuple[tuple[str, ...], ...]
    before: tuple[tuple[Any, ...], ...]  # (name, status, weight) of each wish that it changed


class Goal(NamedTuple):
    """The owners an arc shall have; `ver` is the number of the task that wants it."""

    ver: int
    tie: int
    owners: tuple[str, ...]


NO_GOAL = Goal(0, 0, ())
UNKNOWN = Register(0, 0, 0, (), ())  # of an arc, before anything was heard of the ring
Item = tuple[Any, ...]


def bucket_of(key: str) -> int:
    """Which bucket an item is compared in."""
    if key[0] in "rg":
        return int(key[2:]) // BUCKET_ARCS
    return OTHERS + mmh3.hash(key, signed=False) % OTHER_BUCKETS


class Kind(NamedTuple):
    """How items of one kind are read and ordered."""

    parse: Callable[[Item], Any]
    order: Callable[[Any], Any]
    counter: Callable[[Any], int]
    of_arc: bool = False


def _int(value: Any, least: int = 0, most: int = COUNTER_MAX) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(value)
    return value


def _text(value: Any, most: int = 256) -> str:
    if type(value) is not str or len(value) > most or not value.isprintable():
        raise ValueError(value)
    return value


def _names(value: Any) -> tuple[str, ...]:
    names = tuple(value)
    if len(names) > 255 or len(dict.fromkeys(names)) != len(names):
        raise ValueError(value)
    if not all(type(name) is str and NAME.fullmatch(name) for name in names):
        raise ValueError(value)
    return names


def _record(item: Item) -> Record:
    incarnation, host, client_port, peer_port, zone = item
    ports = _int(client_port, 1, 65_535), _int(peer_port, 1, 65_535)
    return Record(_int(incarnation), _text(host), *ports, _text(zone, 64))


def _wish(item: Item) -> Wish:
    ver, status, weight, flags = item
    return Wish(_int(ver, 1), _int(status, OUT, REMOVED), _int(weight, 1, 1 << 20), _int(flags))


def _staged(item: Item) -> Staged:
    ver, verb, args = item
    if len(args) > ARGS_MAX:
        raise ValueError(args)
    return Staged(_int(ver, 1), _text(verb, 16), tuple(_text(arg) for arg in args))


def _task(item: Item) -> Task:
    state, started_wall_ms, verbs, before = item
    if len(verbs) > NODES_MAX or len(before) > NODES_MAX:
        raise ValueError(item)
    return Task(
        _int(state, RUNNING, ABORTED),
        _int(started_wall_ms),
        tuple(tuple(_text(part) for part in verb[:ARGS_MAX]) for verb in verbs),
        tuple((_text(n), _int(status, OUT, REMOVED), _int(w)) for n, status, w in before),
    )


def read_register(item: Iterable[Any]) -> Register:
    """A register from outside. Raises ValueError or TypeError for anything that is none."""
    ver, phase, tie, cur, coming = item
    register = Register(
        _int(ver, 1), _int(phase, ring.STABLE, ring.DONE), _int(tie, 0, 1 << 63), _names(cur),
        _names(coming),
    )  # fmt: skip
    moving = register.phase in (ring.COPYING, ring.SWITCHED)
    if not register.cur or moving != bool(register.next):
        raise ValueError("no owners, or owners to be without a move")
    if register.tie != tie_of(register.cur, register.next):
        raise ValueError("a tie that is not of these owners")
    # A version is a ballot of these lists alone; of phase DONE the lists are no longer known.
    ballot = register.ver ^ register.tie
    if register.round and register.phase != ring.DONE and ballot & (1 << ring.BALLOT_BITS) - 1:
        raise ValueError("a version that is not of these owners")
    return register


def _goal(item: Item) -> Goal:
    ver, tie, owners = item
    goal = Goal(_int(ver, 1), _int(tie, 0, 1 << 63), _names(owners))
    if not goal.owners or goal.tie != tie_of(goal.owners, ()):
        raise ValueError("no owners, or a tie that is not theirs")
    return goal


def _nothing(item: Any) -> int:
    return 0


KINDS: dict[str, Kind] = {
    "n": Kind(_record, lambda x: x, lambda x: x.incarnation),
    "w": Kind(_wish, lambda x: (x.status >= LEFT, x), lambda x: x.ver),
    "s": Kind(_staged, lambda x: x, lambda x: x.ver),
    "t": Kind(_task, lambda x: x, _nothing),
    "r": Kind(read_register, lambda x: x[:3], lambda x: x.round, of_arc=True),
    "g": Kind(_goal, lambda x: x, lambda x: x.ver >> ring.BALLOT_BITS, of_arc=True),
}
