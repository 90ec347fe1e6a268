"""Which nodes own which arc: a pure plan from the table that was and the members there are.

    plan([()] * 64, {"n1": ("", 1), "n2": ("", 1), "n3": ("", 1), "n4": ("", 1)}, n=3)

Placement is a stored table, not a function of the member set. Functions of the set alone (tokens,
rendezvous hashing, bounded loads) were measured: they either leave some node with 1.3 times its
share, or move 1.3 to 2.5 times as many replicas as needed on a join. A plan that knows the table
it starts from gives every node its share to within one replica and moves what it must.

    1  shares   exact rationals: replicas per node by weight, within what zones and N allow
    2  keep     drop owners that left, doubles, and those past the zone cap or the list length
    3  fill     holes go to the node furthest below its share whose zone has room
    4  level    shift replicas along shortest paths until every load is its share, rounded
    5  order    survivors keep their position, newcomers take the gaps

Step 4 is an augmenting path in the flow network node - (arc, zone) - arc. There is always one,
because giving every arc the same fraction of every node is a legal flow of exactly these shares;
and a shortest one stays legal while it is applied, since two of its edges that got in each
other's way at one arc would be joined by a shorter edge.

Invariants, held for any table and members, and tested on random histories of changes
  P1  Lists hold min(n, members) distinct members, and of one zone at most its cap.
  P2  Every load is floor or ceil of the node's share.
  P3  Same arguments, in whatever order of members: same plan. Nothing depends on hash() or sets.
  P4  A plan of a planned table changes nothing.

Ties go to whoever shares least with the other owners, then by a hash of (node, its load), never
by name. (History: broken by name, loads were perfect, but 9 nodes shared their data in only 3
distinct owner lists, so that each had 2 peers to rebuild from and a leave had to move 1.23 times
the leaver's load.)

Sources: Dynamo §6.2, strategy 3; Oulamara and Auvolat 2022 (Garage), placement as a flow.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from heapq import heapify, heappop, heappush

import mmh3

Owners = tuple[str, ...]
Table = Sequence[Sequence[str]]
Members = Mapping[str, tuple[str, int]]  # name -> (zone, weight)


def plan(table: Table, members: Members, n: int) -> list[Owners]:
    """The owners each arc should have, first choice first.

    `table` has one owner list per arc, all empty to bootstrap. `members` maps name to (zone,
    weight); what is not in it loses its arcs. Lists are shorter than `n` only while there are
    fewer members. Raises ValueError if there is no member, `n` is below 1 or a weight is.

    Cost, Python 3.11: about 10 us per replica placed and up to 0.1 ms per replica moved on a join.
    """
    quota = Quota(members, n, len(table))
    order = sorted(range(len(table)), key=_scatter)
    layout = _Layout([tuple(table[arc]) for arc in order], quota)
    _Filler(layout).fill()
    _level(quota, layout.load, layout.can_shift, layout.shift)
    planned: list[Owners] = [()] * len(table)
    for arc, owners in zip(order, _ordered(layout), strict=True):
        planned[arc] = owners
    return planned


def tie_of(cur: Sequence[str], nxt: Sequence[str]) -> int:
    """A 63-bit number for two owner lists: equal lists, equal number, on every node.

    It orders registers that two sides of a split wrote under the same version.
    """
    # Lengths first, so that no two pairs of lists spell the same bytes.
    names = [name.encode() for name in (*cur, *nxt)]
    head = ",".join(map(str, (len(cur), len(nxt), *map(len, names))))
    return mmh3.hash64(head.encode() + b";" + b"".join(names), signed=False)[0] >> 1


class Quota:
    """How many replicas each member should hold: exact, by weight, within zones and arcs.

    `share` is scaled by `scale`, a common denominator, so that comparing loads with shares is
    integer arithmetic. Zones come first: `zone_cap` replicas of an arc at most lie in one zone,
    the least number that lets every arc find its owners.
    """

    __slots__ = ("high", "length", "low", "names", "scale", "share", "zone", "zone_cap")

    def __init__(self, members: Members, n: int, arcs: int) -> None:
        _check(members, n)
        self.names = sorted(members)
        self.zone = {name: members[name][0] for name in self.names}
        self.length = min(n, len(members))
        zones: dict[str, dict[str, int]] = {}
        for name in self.names:
            zones.setdefault(self.zone[name], {})[name] = members[name][1]
        sizes = [len(nodes) for nodes in zones.values()]
        self.zone_cap = -(-self.length // min(len(zones), self.length))
        while sum(min(self.zone_cap, size) for size in sizes) < self.length:
            self.zone_cap += 1
        totals = _split(
            Fraction(self.length * arcs),
            {zone: sum(nodes.values()) for zone, nodes in zones.items()},
            {zone: min(self.zone_cap, len(nodes)) * arcs for zone, nodes in zones.items()},
        )
        exact: dict[str, Fraction] = {}
        for zone, nodes in zones.items():
            exact |= _split(totals[zone], nodes, dict.fromkeys(nodes, arcs))
        self.scale = math.lcm(*(share.denominator for share in exact.values()))
        self.share = {name: int(share * self.scale) for name, share in exact.items()}
        self.low = {name: math.floor(share) for name, share in exact.items()}
        self.high = {name: math.ceil(share) for name, share in exact.items()}

    def of_first(self) -> Quota:
        """The same for the first position of the lists: one of `length` replicas."""
        first = Quota.__new__(Quota)
        first.names, first.zone, first.zone_cap = self.names, self.zone, self.zone_cap
        first.length, first.share, first.scale = 1, self.share, self.scale * self.length
        first.low = {name: self.share[name] // first.scale for name in self.names}
        first.high = {name: -(-self.share[name] // first.scale) for name in self.names}
        return first

    def excess(self, name: str, load: int) -> int:
        """By how much a load is above the share, scaled; below 0 if it is under."""
        return load * self.scale - self.share[name]

    def key(self, name: str, load: int) -> tuple[int, int, str]:
        """Sorts nodes from most under their share to most over; ties by hash, not by name."""
        return self.excess(name, load), mmh3.hash(f"{name} {load}"), name


def _check(members: Members, n: int) -> None:
    if not members:
        raise ValueError("a ring needs at least one member")
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    for name, (_, weight) in members.items():
        if weight < 1:
            raise ValueError(f"the weight of {name} must be at least 1, not {weight}")


def _split(
    total: Fraction, weights: Mapping[str, int], caps: Mapping[str, int]
) -> dict[str, Fraction]:
    """Divide `total` by weight; what exceeds a cap goes to the others."""
    shares: dict[str, Fraction] = {}
    rest = dict(weights)
    while rest:
        unit = total / sum(rest.values())
        full = [name for name, weight in rest.items() if unit * weight >= caps[name]]
        if not full:
            shares |= {name: unit * weight for name, weight in rest.items()}
            break
        for name in full:
            shares[name] = Fraction(caps[name])
            total -= caps[name]
            del rest[name]
    return shares


def _scatter(arc: int) -> int:
    """A fixed shuffle of the arcs, so that work spreads over the ring."""
    return arc * 0x9E3779B1 % (1 << 32)


class _Layout:
    """Owner lists under change. Arcs are numbered in scattered order, so ties go by index."""

    __slots__ = ("held", "load", "moved", "old", "owners", "quota")

    def __init__(self, old: list[Owners], quota: Quota) -> None:
        self.quota = quota
        self.old = old
        self.owners = [self._kept(owners) for owners in old]
        self.moved = [0] * len(old)  # newcomers per arc: data that this plan makes travel
        self.held: dict[str, list[int]] = {name: [] for name in quota.names}  # ascending arcs
        for arc, owners in enumerate(self.owners):
            for name in owners:
                self.held[name].append(arc)
        self.load = {name: len(arcs) for name, arcs in self.held.items()}

    def _kept(self, owners: Owners) -> list[str]:
        kept: list[str] = []
        for name in owners:
            if name in self.quota.zone and name not in kept and self.room(kept, name):
                kept.append(name)
        return kept[: self.quota.length]

    def room(self, owners: Iterable[str], name: str) -> bool:
        """Whether the zone of `name` may hold one more of these owners."""
        zone = self.quota.zone
        return sum(zone[owner] == zone[name] for owner in owners) < self.quota.zone_cap

    def give(self, arc: int, name: str) -> None:
        self.owners[arc].append(name)
        self.moved[arc] += name not in self.old[arc]
        insort(self.held[name], arc)
        self.load[name] += 1

    def _take(self, arc: int, name: str) -> None:
        self.owners[arc].remove(name)
        self.moved[arc] -= name not in self.old[arc]
        held = self.held[name]
        del held[bisect_left(held, arc)]
        self.load[name] -= 1

    def _legal(self, arc: int, src: str, dst: str) -> bool:
        owners, zone = self.owners[arc], self.quota.zone
        if dst in owners:
            return False
        return zone[src] == zone[dst] or self.room(owners, dst)

    def can_shift(self, src: str, dst: str) -> bool:
        """Whether some arc of `src` may go to `dst`."""
        return any(self._legal(arc, src, dst) for arc in self.held[src])

    def shift(self, src: str, dst: str) -> None:
        """Hand one arc from `src` to `dst`: one that costs no transfer, else the least moved."""
        best, best_moved = -1, self.quota.length + 1
        for arc in self.held[src]:
            old, moved = self.old[arc], self.moved[arc]
            free = (moved > 0 and src not in old) or dst in old
            if (free or moved < best_moved) and self._legal(arc, src, dst):
                best, best_moved = arc, moved
                if free:
                    break
        assert best >= 0, "a shortest path stays legal while it is applied"
        self._take(best, src)
        self.give(best, dst)


class _Filler:
    """Gives holes to the nodes furthest below their share, arcs with fewest owners first.

    One heap per zone: an arc passes over a full zone with one look, and over its own owners, of
    which a zone holds less than its cap. (One heap for all took 11 s for 1,000 nodes.)

    Among the first `LOOK` nodes that are equally far below, the one that met the owners of this
    arc least gets it: everyone shares data with as many peers as possible. (Chance alone gave
    some of 100 nodes 40 peers where 61 were possible.)
    """

    LOOK = 8

    __slots__ = ("heaps", "layout", "met", "quota")

    def __init__(self, layout: _Layout) -> None:
        self.layout = layout
        self.quota = layout.quota
        self.heaps: dict[str, list[tuple[int, int, str]]] = {}
        for name in self.quota.names:
            key = self.quota.key(name, layout.load[name])
            self.heaps.setdefault(self.quota.zone[name], []).append(key)
        for heap in self.heaps.values():
            heapify(heap)
        # How many arcs a node shares with each other node.
        self.met: dict[str, dict[str, int]] = {name: {} for name in self.quota.names}

    def fill(self) -> None:
        for owners in self.layout.owners:
            for i, name in enumerate(owners):
                self._meet(name, owners[:i])
        for count in range(self.quota.length):
            for arc, owners in enumerate(self.layout.owners):
                if len(owners) == count:
                    self._fill_one(arc, owners)

    def _meet(self, name: str, owners: list[str]) -> None:
        for owner in owners:
            for a, b in ((name, owner), (owner, name)):
                self.met[a][b] = self.met[a].get(b, 0) + 1

    def _fill_one(self, arc: int, owners: list[str]) -> None:
        popped = self._neediest(owners)
        free = [entry for entry in popped if entry[2] not in owners]
        # Below `length` owners, some zone is below both its cap and its size.
        assert free, "P1"
        best = min(free, key=lambda entry: (self._meetings(entry[2], owners), entry))
        name = best[2]
        self._meet(name, owners)
        self.layout.give(arc, name)
        for entry in popped:
            back = entry if entry is not best else self.quota.key(name, self.layout.load[name])
            heappush(self.heaps[self.quota.zone[back[2]]], back)

    def _meetings(self, name: str, owners: list[str]) -> int:
        met = self.met[name]
        return sum(met.get(owner, 0) for owner in owners)

    def _neediest(self, owners: list[str]) -> list[tuple[int, int, str]]:
        """Take nodes off the heaps of zones with room: up to `LOOK` equally needy, owners besides.

        The caller puts them back.
        """
        popped: list[tuple[int, int, str]] = []
        found: list[tuple[int, int, str]] = []
        look = self.LOOK if owners else 1
        inside = [self.quota.zone[owner] for owner in owners]
        cap = self.quota.zone_cap
        tops = [heap[0] for zone, heap in self.heaps.items() if heap and inside.count(zone) < cap]
        heapify(tops)
        while tops and len(found) < look and (not found or tops[0][0] == found[0][0]):
            entry = heappop(tops)
            heap = self.heaps[self.quota.zone[entry[2]]]
            popped.append(heappop(heap))
            if entry[2] not in owners:
                found.append(entry)
            if heap:
                heappush(tops, heap[0])
        return popped


def _level(
    quota: Quota,
    load: dict[str, int],
    can_shift: Callable[[str, str], bool],
    shift: Callable[[str, str], None],
) -> None:
    """Shift units until every load is floor or ceil of its share, or no path is left.

    Loads above their ceiling push first, then those below their floor pull. Each path ends where
    it mends most: at a node past the other bound if one can be reached, else at one with slack.
    """
    for forward in (True, False):
        wanting = _beyond(quota, load, forward)
        while wanting:
            start = wanting[0]
            path = _path(start, _beyond(quota, load, not forward), load, quota, can_shift, forward)
            path = path or _path(
                start, _slack(quota, load, forward), load, quota, can_shift, forward
            )
            for src, dst in path:
                shift(src, dst)
            # Without a path this one stays as it is (only first positions can get stuck).
            stuck = wanting[1:]
            wanting = _beyond(quota, load, forward) if path else stuck


def _beyond(quota: Quota, load: Mapping[str, int], above: bool) -> list[str]:
    """Nodes outside their bounds on one side, worst first."""
    if above:
        names = [name for name in quota.names if load[name] > quota.high[name]]
    else:
        names = [name for name in quota.names if load[name] < quota.low[name]]
    return sorted(names, key=lambda name: quota.key(name, load[name]), reverse=above)


def _slack(quota: Quota, load: Mapping[str, int], forward: bool) -> list[str]:
    """Nodes that can take a unit (forward) or give one and stay within their bounds."""
    if forward:
        return [name for name in quota.names if load[name] < quota.high[name]]
    return [name for name in quota.names if load[name] > quota.low[name]]


def _path(
    start: str,
    goals: Sequence[str],
    load: Mapping[str, int],
    quota: Quota,
    can_shift: Callable[[str, str], bool],
    forward: bool,
) -> list[tuple[str, str]]:
    """The shortest chain of shifts between `start` and a goal, in the order to apply them.

    Forward, units leave `start`; backward, they come to it. Breadth first over the nodes, the
    most needy first, so a direct shift is found at once. The end nearest the receiving side
    comes first: each node has given before it gets.
    """
    if not goals:
        return []
    wanted = dict.fromkeys(goals)
    unseen = sorted(
        (name for name in quota.names if name != start),
        key=lambda name: quota.key(name, load[name]),
        reverse=not forward,
    )
    came: dict[str, str] = {}
    queue = [start]
    for node in queue:
        for name in unseen:
            if can_shift(node, name) if forward else can_shift(name, node):
                came[name] = node
                queue.append(name)
                if name in wanted:
                    return _steps(name, came, forward)
        unseen = [name for name in unseen if name not in came]
    return []


def _steps(end: str, came: Mapping[str, str], forward: bool) -> list[tuple[str, str]]:
    steps: list[tuple[str, str]] = []
    while end in came:
        steps.append((came[end], end) if forward else (end, came[end]))
        end = came[end]
    return steps if forward else steps[::-1]


def _ordered(layout: _Layout) -> list[Owners]:
    """Owner lists in order: survivors where they were, newcomers in the gaps."""
    length = layout.quota.length
    seats: list[list[str]] = []
    late: list[list[str]] = []
    for arc, (old, owners) in enumerate(zip(layout.old, layout.owners, strict=True)):
        row = [name if name in owners else "" for name in dict.fromkeys(old)][:length]
        row += [""] * (length - len(row))
        seats.append(row)
        news = [name for name in owners if name not in row]
        late.append(
            [name for _, name in sorted((mmh3.hash(f"{name} {arc}"), name) for name in news)]
        )
    _Firsts(seats, late, layout.quota).level()
    planned: list[Owners] = []
    for row, news in zip(seats, late, strict=True):
        queue = iter(news)
        planned.append(tuple(name or next(queue) for name in row))
    return planned


class _Firsts:
    """Who comes first, where the first seat is free and several newcomers may take it.

    Clients send to the first owner, so at bootstrap, where every list is open, each node is first
    in its share of the lists.
    """

    __slots__ = ("held", "late", "load", "open", "quota")

    def __init__(self, seats: list[list[str]], late: list[list[str]], quota: Quota) -> None:
        self.quota = quota.of_first()
        self.late = late
        self.load = dict.fromkeys(quota.names, 0)
        self.held: dict[str, list[int]] = {name: [] for name in quota.names}
        for row, news in zip(seats, late, strict=True):
            if row[0] or len(news) == 1:
                self.load[row[0] or news[0]] += 1
        self.open = [arc for arc, row in enumerate(seats) if not row[0] and len(late[arc]) > 1]

    def level(self) -> None:
        for arc in self.open:
            first = min(self.late[arc], key=lambda name: self.quota.key(name, self.load[name]))
            self._put_first(arc, first)
        if self.open:
            _level(self.quota, self.load, self._can_shift, self._shift)

    def _put_first(self, arc: int, name: str) -> None:
        self.late[arc].remove(name)
        self.late[arc].insert(0, name)
        self.held[name].append(arc)
        self.load[name] += 1

    def _can_shift(self, src: str, dst: str) -> bool:
        return any(dst in self.late[arc] for arc in self.held[src])

    def _shift(self, src: str, dst: str) -> None:
        arc = next(arc for arc in self.held[src] if dst in self.late[arc])
        self.held[src].remove(arc)
        self.load[src] -= 1
        self._put_first(arc, dst)
