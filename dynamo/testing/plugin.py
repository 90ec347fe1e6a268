"""Pytest fixtures, found by pytest itself where dynamo is installed. PYTEST_DONT_REWRITE

    dynamo_fake   a fresh `FakeClient`
    dynamo_sim    a fresh simulated ring, `dynamo.sim.Ring`, open; nodes and faults by a marker:
                  @pytest.mark.dynamo_sim(nodes=5, faults="storm")
    dynamo_seed   the seed of `dynamo_sim`: --dynamo-seed N, or else made from the test's name;
                  @pytest.mark.parametrize("dynamo_seed", dynamo.sim.seeds(50)) tries many
    dynamo_ring   three real nodes on loopback, `dynamo.local`, started once for the whole run
    dynamo_kv     a client of that ring in a bucket that no other test has; the ring is whole

A test that fails with `dynamo_sim` shows its seed and the story of the key.

This module is imported in every pytest run of everybody who has dynamo installed, so it imports
nothing: no sockets, no nodes, not even the client, until a test asks for a fixture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

if TYPE_CHECKING:
    from dynamo.client.blocking import Client
    from dynamo.localring import Ring as LocalRing
    from dynamo.testing.fake import FakeClient
    from dynamo.testing.simring import Ring as SimRing

# `dynamo.testing.seeding` reads it; said twice, as that module brings the client's errors along.
VARIABLE = "DYNAMO_SEED"
_RING = pytest.StashKey[Any]()
_BUCKETS = pytest.StashKey[int]()
BUCKET_CHARS = 60


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dynamo")
    group.addoption(
        "--dynamo-seed",
        metavar="N",
        type=int,
        help="the only seed that dynamo_sim and dynamo.sim.seeds() use, to see a failure again",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "dynamo_sim(nodes=3, faults='mild', ...): what ring the fixture dynamo_sim makes"
    )
    seed = config.getoption("--dynamo-seed")
    if seed is not None:
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(seed)  # for processes of pytest-xdist, too
        config.add_cleanup(lambda: _put_back(before))


def _put_back(before: str | None) -> None:
    if before is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = before


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    """Add the story to a failure, before others make a report of it."""
    if call.excinfo is None or isinstance(call.excinfo.value, pytest.skip.Exception):
        return
    ring = item.stash.get(_RING, None)
    if ring is not None:
        ring.explain(call.excinfo.value)


@pytest.fixture
def dynamo_fake() -> FakeClient:
    """An in-memory client that can be told to conflict, to time out and to fail."""
    from dynamo.testing.fake import FakeClient

    return FakeClient()


@pytest.fixture
def dynamo_seed(request: pytest.FixtureRequest) -> int:
    """The seed of `dynamo_sim`. The same for a test in every run, until --dynamo-seed says else."""
    from dynamo.testing.seeding import chosen

    one = chosen()
    return crc32(request.node.nodeid.encode()) if one is None else one


@pytest.fixture
def dynamo_sim(request: pytest.FixtureRequest, dynamo_seed: int) -> Iterator[SimRing]:
    """A simulated ring of three nodes under mild faults, or as the marker says."""
    from dynamo.testing.simring import Ring

    marker = request.node.get_closest_marker("dynamo_sim")
    options = {"faults": "mild", **(marker.kwargs if marker is not None else {})}
    with Ring(seed=dynamo_seed, **options) as ring:
        request.node.stash[_RING] = ring
        yield ring


@pytest.fixture(scope="session")
def dynamo_ring() -> Iterator[LocalRing]:
    """Three real nodes, in memory. A test that breaks it need not mend it for `dynamo_kv`."""
    from dynamo.localring import local

    with local(nodes=3, durability="memory") as ring:
        yield ring


@pytest.fixture
def dynamo_kv(request: pytest.FixtureRequest, dynamo_ring: LocalRing) -> Iterator[Client]:
    """A client whose bucket is this test's own, so that tests do not see each other's keys."""
    dynamo_ring.heal()
    for name in dynamo_ring.nodes:
        dynamo_ring.start(name)
    stash = request.config.stash
    number = stash[_BUCKETS] = stash.get(_BUCKETS, 0) + 1
    name = request.node.name.encode("ascii", "replace").decode()[:BUCKET_CHARS]
    with dynamo_ring.client(bucket=f"{name}-{number}") as kv:
        yield kv
