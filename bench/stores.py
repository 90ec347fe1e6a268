"""The stores that can be measured: how each is started here, on loopback, and ended again.

What a store promises stands beside its figure; a store that is not installed is named together
with the command that installs it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import dynamo
from bench.figures import descendants


@dataclass
class Running:
    """A store that is up. `spec` makes a driver of it; `final` one that sees all replicas."""

    spec: dict[str, Any]
    final: dict[str, Any]
    promise: str
    ring: Any = None  # of dynamo: the ring, for faults and for looks at its nodes
    pids: list[int] = field(default_factory=list)


class Store(Protocol):
    """One way to start one store."""

    name: str

    def missing(self) -> str:
        """ "", or what is not installed and how to install it."""

    def start(self, nodes: int, durability: str, options: dict[str, Any]) -> Any:
        """A context manager around `Running`."""


# Name -> module:object of its Store.
STORES = {
    "dynamo": "bench.stores:Dynamo",
    "etcd": "bench.peers.etcd:Etcd",
    "redis": "bench.peers.redis:Redis",
    "nats": "bench.peers.nats:Nats",
    "rocksdb": "bench.peers.floor:Rocks",
    "lmdb": "bench.peers.floor:Lmdb",
}


def store(name: str) -> Store:
    """The store of that name."""
    module, _, kind = STORES[name].partition(":")
    found: Store = getattr(import_module(module), kind)()
    return found


class Dynamo:
    """This store: node processes of a `dynamo.local` ring."""

    name = "dynamo"

    def missing(self) -> str:
        return ""

    @contextmanager
    def start(self, nodes: int, durability: str, options: dict[str, Any]) -> Iterator[Running]:
        levels = {name: options[name] for name in ("r", "w") if options.get(name)}
        knobs = options.get("knobs", {})
        with dynamo.local(nodes=nodes, durability=durability, **knobs) as ring:
            spec = {"driver": "dynamo", "url": ring.url, "timeout_s": options["timeout_s"]}
            yield Running(
                spec=spec | levels,
                final=spec | {"r": "all", "timeout_s": 5.0},
                promise=promise(nodes, durability, levels, knobs),
                ring=ring,
                pids=descendants(os.getpid()),
            )


def promise(nodes: int, durability: str, levels: dict[str, Any], knobs: dict[str, Any]) -> str:
    """What an acknowledged write of dynamo means under these settings."""
    n = min(nodes, knobs.get("n", 3))
    quorum = n // 2 + 1
    w, r = (levels.get(name) or knobs.get(name) or quorum for name in ("w", "r"))
    kept = {
        "fsync": "synced to disk before the answer",
        "interval": "written before the answer, synced within a second",
        "memory": "in memory before the answer",
    }[durability]
    return (
        f"{w} of {n} copies {kept}; reads ask {r}; "
        "takes writes while any node is up; concurrent writes are all kept"
    )
