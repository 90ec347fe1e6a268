"""The planner against the true optimum: a linear program over the same shares and zone caps.

Each replica of each arc is a variable between 0 and 1 for every member, and costs 1 where that
member did not hold the arc before. Lists have their length, loads lie between floor and ceil of
the share, zones below their cap. Its minimum is a lower bound for any planner; the program is a
flow, so some plan reaches it. The figures to hold: all moves together within 2 % of the bound,
and no single change of five moves or more beyond 20 % where the ring has the 30 replicas per node
that its rule asks for (below that one in 2,000 is: 11 moves for 9).

Moving a node to another zone is left out: no command does it, and it is the one change where the
planner, which settles zones before loads, now and then moves a third more than it must.
"""

from __future__ import annotations

import random

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix, vstack

from dynamo.core.planner import Members, Owners, Quota, plan

Ring = dict[str, tuple[str, int]]


def moved(before: list[Owners], after: list[Owners]) -> int:
    return sum(len(set(new) - set(old)) for old, new in zip(before, after, strict=True))


def least_moves(before: list[Owners], members: Members, n: int) -> int:
    """The optimum of the program."""
    quota = Quota(members, n, len(before))
    names, arcs = quota.names, len(before)
    zones = sorted(set(quota.zone.values()))
    columns = np.arange(arcs * len(names))
    arc, node = columns // len(names), columns % len(names)
    zone = np.array([zones.index(quota.zone[name]) for name in names])[node]

    def sums(rows: np.ndarray, count: int) -> coo_matrix:
        return coo_matrix((np.ones(len(columns)), (rows, columns)), shape=(count, len(columns)))

    loads = sums(node, len(names))
    solved = linprog(
        [float(name not in owners) for owners in before for name in names],
        A_ub=vstack([loads, -loads, sums(arc * len(zones) + zone, arcs * len(zones))]).tocsr(),
        b_ub=[
            *(quota.high[name] for name in names),
            *(-quota.low[name] for name in names),
            *[quota.zone_cap] * (arcs * len(zones)),
        ],
        A_eq=sums(arc, arcs).tocsr(),
        b_eq=[quota.length] * arcs,
        bounds=(0, 1),
        method="highs",
    )
    assert solved.success, solved.message
    return round(solved.fun)


def change(rng: random.Random, members: Ring, zones: int) -> None:
    """What an operator commits at once: joins, leaves, a replacement, another weight."""
    zone, weight = f"z{rng.randrange(zones)}", rng.choice([1, 1, 1, 2, 5])
    what = rng.choice(["join", "two join", "leave", "replace", "reweight"])
    if what in ("leave", "replace") and len(members) > 1:
        zone, weight = members.pop(rng.choice(sorted(members)))
    if what == "reweight":
        name = rng.choice(sorted(members))
        members[name] = (members[name][0], weight)
    for _ in range({"join": 1, "replace": 1, "two join": 2}.get(what, 0)):
        members[f"n{rng.randrange(10**6)}"] = (zone, weight)


def test_random_changes_move_hardly_more_than_the_optimum() -> None:
    total = bound = exact = cases = 0
    for seed in range(80):
        rng = random.Random(seed)
        zones, arcs, n = rng.randint(1, 5), rng.choice([64, 64, 256]), rng.choice([2, 3, 3, 3, 5])
        members: Ring = {
            f"m{i}": (f"z{i % zones}", rng.choice([1, 1, 1, 2])) for i in range(rng.randint(1, 24))
        }
        table = plan([()] * arcs, members, n)
        for _ in range(5):
            change(rng, members, zones)
            after = plan(table, members, n)
            moves, least = moved(table, after), least_moves(table, members, n)
            wide = arcs * n >= 30 * len(members)
            assert moves <= 1.2 * least or least < 5 or not wide, (seed, moves, least)
            total, bound, cases = total + moves, bound + least, cases + 1
            exact += moves == least
            table = after
    assert total <= 1.02 * bound
    assert exact >= 0.9 * cases
