"""The stage: five nodes on this machine, and what the script and the keys do to them.

One thread at a time acts (the script, or the worker of the live view), another may load; the rest
only look, at attributes that are replaced and never changed in place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import dynamo
from dynamo.client.blocking import Client
from dynamo.client.errors import DynamoError
from dynamo.client.results import Written
from dynamo.convergence import unpack_owners
from dynamo.demo.records import Records, batches
from dynamo.demo.traffic import CITIES, Traffic
from dynamo.server.admin import Admin
from dynamo.server.config import Address

NODES = 5
# A write needs two disks, so the demo leaves two nodes alone.
LEFT_ALONE = 2
SIDES = (("n1", "n2"), ("n3", "n4", "n5"))
CART = "cart:7"
FIRST = ["tea"]
# What the two sides put into the cart, by turns; then it starts anew.
GOODS = (("milk", "jam"), ("bread", "honey"), ("rice", "figs"))
LOAD_BATCH = 250
LOAD_TRIES = 5
CALL_S = 5.0
ASK_S = 0.4
# Killed in this order: the first ones of either side of the partition stay longest.
ORDER = ("n3", "n2", "n5", "n4", "n1")

State = dict[str, Any]


class Cannot(DynamoError):
    """What was asked for makes no sense now; the text says what does."""


class Side(NamedTuple):
    """What one side of a partition was told, and who keeps it."""

    via: str
    value: list[str]
    acked_by: list[str]
    stand_ins: dict[str, str]


class Stage:
    """The ring, a client of it, and the load. A context manager; nothing is left behind."""

    def __init__(self, path: Path | None, records: Records) -> None:
        self.records = records
        self.ring = dynamo.local(nodes=NODES, path=path)
        self.down: tuple[str, ...] = ()  # in the order in which they died
        self.sides: tuple[tuple[str, ...], ...] = ()
        self.loaded = 0
        self._open = ExitStack()

    def __enter__(self) -> Self:
        # Closed in reverse: first the load, then the clients, and last the nodes.
        with ExitStack() as opened:
            opened.enter_context(self.ring)
            status = self.ring.status()
            self.addresses = {node["name"]: _address(node["address"]) for node in status["nodes"]}
            self._admin = Admin()
            self.owners = self._owners()
            self.kv: Client = opened.enter_context(self.ring.client(timeout=CALL_S))
            self.traffic = opened.enter_context(Traffic(self.ring, self.records.cities))
            self._open = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def _owners(self) -> list[tuple[str, ...]]:
        """The owners of every arc, which no failure changes."""
        for answer in self._admin.ring(self.addresses, 5.0).values():
            return unpack_owners(answer[9], [member[0] for member in answer[8]])
        return []

    # --- looking --------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """One node that answers, as a seed: short, and enough to find the others."""
        up = [name for name in self.addresses if name not in self.down]
        return f"dynamo://{self.addresses[up[0]]}"

    def ask(self, what: str = "status") -> dict[str, State]:
        """What each node says that should be running; those that are down are not waited for."""
        down = self.down
        asked = {name: at for name, at in self.addresses.items() if name not in down}
        return self._admin.status(asked, what, ASK_S)

    def hints_for(self, home: str) -> int:
        """How many writes wait for a node on the others."""
        return sum(state["hints"].get(home, 0) for state in self.ask().values())

    # --- acts -----------------------------------------------------------------------------------

    def load(self, told: Callable[[int], None]) -> None:
        """Store a first cart and all records; tells how many are in after each batch.

        Called again after an error it goes on where it was.
        """
        if not self.loaded:
            seen = self.kv.read(CART)
            self.kv.put(CART, FIRST, context=seen.context)
        cities = self.kv.bucket(CITIES)
        for batch in batches(self.records.cities, LOAD_BATCH, self.loaded):
            left = batch
            for _ in range(LOAD_TRIES):
                # Nodes may be killed meanwhile, and then the last calls to them fail.
                failed = cities.put_many(left).failed
                left = {key: batch[key] for key in failed}
                if not left:
                    break
            else:
                raise next(iter(failed.values()))
            self.loaded += len(batch)
            told(self.loaded)

    def verify_cities(self) -> int:
        """Read all records from all three owners; how many are as they were."""
        cities = self.kv.bucket(CITIES)
        equal = 0
        for batch in batches(self.records.cities, LOAD_BATCH):
            found = cities.get_many(list(batch), r="all", raise_on_error=True).found
            equal += sum(found.get(key) == city for key, city in batch.items())
        return equal

    def kill(self) -> str:
        """kill -9 a node; its name."""
        if NODES - len(self.down) <= LEFT_ALONE:
            raise Cannot("Two nodes are left, and a write needs two disks. Press r to revive.")
        name = next(name for name in ORDER if name not in self.down)
        self.down = (*self.down, name)
        self.ring.kill(name)
        return name

    def revive(self) -> tuple[str, ...]:
        """Start all nodes that are down; their names."""
        if not self.down:
            raise Cannot("All nodes are up.")
        names = self.down
        for name in names:
            self.ring.start(name)
            self.down = tuple(other for other in self.down if other != name)
        return names

    def split(self) -> list[Side]:
        """Cut the network in two, and write the cart on both sides; what each side keeps."""
        if self.sides:
            raise Cannot("The network is split already. Press h to heal it.")
        if len(self.down) > 1:
            raise Cannot("With several nodes down one side could take no writes. Press r first.")
        before = self._cart_before()
        self.sides = SIDES
        self.ring.partition(*SIDES)
        turn = len(before.siblings[0]) // 2 % len(GOODS)
        return [
            self._write_side(names, item, before)
            for names, item in zip(SIDES, GOODS[turn], strict=True)
        ]

    def _cart_before(self) -> Any:
        """The cart as both sides know it: one value, and not too long."""
        entry = self.kv.read(CART)
        wanted = entry.siblings[0] if len(entry.siblings) == 1 else FIRST
        if len(wanted) > 2 * len(GOODS):
            wanted = FIRST
        if entry.siblings == [wanted]:
            return entry
        self.kv.put(CART, wanted, context=entry.context)
        return self.kv.read(CART)

    def _write_side(self, names: tuple[str, ...], item: str, before: Any) -> Side:
        via = next(name for name in names if name not in self.down)
        value = [*before.siblings[0], item]
        with self.ring.client(via=via, timeout=CALL_S) as client:
            written: Written = client.put(CART, value, context=before.context)
        return Side(via, value, written.acked_by, written.stand_ins)

    def heal(self) -> None:
        """End the partition."""
        if not self.sides:
            raise Cannot("The network is whole.")
        self.ring.heal()
        self.sides = ()

    def wait_equal(self, timeout: float) -> float:
        """Until nobody owes a hint and all copies are equal; the seconds it took."""
        began = time.monotonic()
        self.ring.wait_converged(timeout)
        return time.monotonic() - began

    def cart(self, **options: Any) -> list[list[str]]:
        """All values of the cart."""
        values: list[list[str]] = self.kv.read(CART, **options).siblings
        return sorted(values)

    def resolve(self) -> list[str]:
        """One write that has seen all values of the cart, and keeps everything in them."""
        entry = self.kv.read(CART)
        if len(entry.siblings) < 2:
            raise Cannot(f"{CART} has one value: there is nothing to decide.")
        merged: list[str] = dynamo.merge.union(entry.siblings)
        self.kv.put(CART, merged, context=entry.context)
        return merged


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host, int(port))


def words(value: list[str]) -> str:
    """A cart for people: [tea, milk]"""
    return f"[{', '.join(map(str, value))}]"


def listed(names: tuple[str, ...] | list[str]) -> str:
    """n1, n2 and n3"""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
