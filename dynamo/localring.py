"""A whole ring on this machine: `with dynamo.local(nodes=3) as ring: ...`

Every node is a real process on loopback ports of its own, with its configuration, log and data
under `path/<name>`, so that what is tried here is what runs elsewhere: kill -9, SIGSTOP, restarts
from disk. Partitions are made by the nodes themselves, which drop each other's frames, and need no
root.

No process stays behind. Each child holds the reading end of a pipe from this process as its stdin,
and stops when that ends, however this process went; leaving the block stops and reaps them all.

The ring may grow and shrink: `add_node` starts one more process, `change` gives it arcs, `leave`
and `remove` take them away again.

Timing is quicker than a node's defaults, so that tests and demonstrations need not wait;
`localshape.LOCAL` has the values. They leave room for a busy machine with two cores, where a
process may not run for a few hundred milliseconds.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dynamo import localshape
from dynamo.convergence import wait_converged
from dynamo.localshape import Place
from dynamo.processes import (
    NodeFailed,
    NodeProcess,
    PortTaken,
    are_free,
    free_ports,
    reap_at_exit,
)
from dynamo.ringchange import Changing
from dynamo.server.admin import Admin
from dynamo.server.config import Address

if TYPE_CHECKING:
    from dynamo.client.aio import AsyncClient
    from dynamo.client.blocking import Client

HOST = "127.0.0.1"
START_TRIES = 5
READY_S = 60.0
# With a peer away some arcs may be unable to sync; then serving is as ready as it gets.
READY_ALONE_S = 3.0
ASK_S = 5.0
CHANGE_S = 120.0


def local(
    nodes: int = 3,
    path: str | Path | None = None,
    durability: str = "fsync",
    zones: Sequence[str] = (),
    **node_options: Any,
) -> Ring:
    """A ring of `nodes` processes named n1, n2, ...; ready to serve when the block is entered.

    `path`: where everything is kept, to be opened again later; None: a temporary directory,
    removed in the end. `durability`: "fsync", "interval" or "memory". `zones`: those of the nodes,
    in turn. `node_options`: any knob of `dynamo.core.config.Config` (n, r, w, partitions,
    value_bytes_max, ...), and interval_ms, log, log_level. Raises ConfigurationError for what
    cannot work, NodeFailed if a node does not start.
    """
    return Ring(nodes, path, durability, node_options, zones)


class Ring:
    """The nodes of one `local`. A context manager; every method returns when it is done."""

    def __init__(
        self,
        nodes: int,
        path: str | Path | None,
        durability: str,
        options: dict[str, Any],
        zones: Sequence[str] = (),
    ) -> None:
        localshape.check(nodes, durability, options)
        self._count = nodes
        self._zones = list(zones)
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._options = localshape.with_defaults(options)
        self._durability = durability
        self._given_path = None if path is None else Path(path).resolve()
        self._path: Path | None = None
        self._admin: Admin | None = None
        self._reaper: weakref.finalize[..., Any] | None = None
        # Of every node that was started, members or not (any more).
        self._processes: dict[str, NodeProcess] = {}
        self._places: dict[str, Place] = {}
        self._sides: dict[str, int] = {}  # of a partition; who is not named is on side -1
        self._cut = False

    # --- the whole ring ---------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._path is not None:
            raise RuntimeError("this ring is open already")
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> None:
        self._path = self._given_path or Path(tempfile.mkdtemp(prefix="dynamo-"))
        self._path.mkdir(parents=True, exist_ok=True)
        places = localshape.founders(self._count, self._zones)
        if self._durability != "memory":
            places = localshape.recall(self._path, places, self._options)
        self._places = {place.name: place for place in places}
        self.nodes = list(self._places)
        self._admin = Admin()
        temporary = self._path if self._given_path is None else None
        self._reaper = reap_at_exit(self, self._processes, temporary)
        for attempt in range(1, START_TRIES + 1):
            try:
                self._launch_all()
                break
            except PortTaken:
                # Another program took a port between the probe and the node's bind.
                self._kill_all()
                self._places = {name: x._replace(client_port=0) for name, x in self._places.items()}
                if attempt == START_TRIES:
                    raise
        self._remember()
        self._await_ready(self.nodes)

    def _launch_all(self) -> None:
        self._processes.clear()
        ports = [port for place in self._places.values() for port in place[3:]]
        if not all(ports) or not are_free(ports):
            ports = free_ports(2 * len(self._places))
        for place in list(self._places.values()):
            client_port, peer_port, *ports = ports
            self._add_process(place._replace(client_port=client_port, peer_port=peer_port))
        for process in self._processes.values():
            process.launch(self._config_of(process.name))
        for process in self._processes.values():
            process.await_serving()

    def _add_process(self, place: Place) -> NodeProcess:
        client, peer = Address(HOST, place.client_port), Address(HOST, place.peer_port)
        self._places[place.name] = place
        made = NodeProcess(place.name, self.path / place.name, client, peer)
        self._processes[place.name] = made
        return made

    def _config_of(self, name: str) -> dict[str, Any]:
        """The sections of a node's file: a founder lists all founders, others join."""
        found: dict[str, Any] = localshape.sections(self._durability, self._options)
        others = [self._processes[other] for other in self.nodes if other != name]
        if self._places[name].founder:
            found["members"] = {
                place.name: {
                    "client": f"{HOST}:{place.client_port}",
                    "peer": f"{HOST}:{place.peer_port}",
                    "zone": place.zone,
                }
                for place in self._places.values()
                if place.founder
            }
        else:
            found["node"]["zone"] = self._places[name].zone
            found["cluster"]["seeds"] = [str(process.peer) for process in others]
        return found

    def _remember(self) -> None:
        if self._durability != "memory":
            inside = [self._places[name] for name in self.nodes]
            localshape.remember(self.path, inside, self._options)

    def close(self) -> None:
        """Stop all nodes and reap them; remove what was temporary. Again: nothing happens."""
        if self._path is None:
            return
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.await_end()
        self._admin = None
        if self._given_path is None:
            shutil.rmtree(self._path, ignore_errors=True)
        if self._reaper is not None:
            self._reaper.detach()
        self._processes.clear()
        self._sides, self._cut = {}, False
        self._path = None

    def _kill_all(self) -> None:
        for process in self._processes.values():
            process.kill()

    @property
    def path(self) -> Path:
        """Where the ring is kept."""
        if self._path is None:
            raise RuntimeError("this ring is not open: use it in a with block")
        return self._path

    # --- addresses and clients --------------------------------------------------------------------

    @property
    def url(self) -> str:
        """All nodes, as `dynamo.connect` takes them."""
        addresses = [str(self._process(name).client) for name in self.nodes]
        return f"dynamo://{','.join(addresses)}"

    def url_of(self, name: str) -> str:
        """One node, as a seed."""
        return f"dynamo://{self._process(name).client}"

    def client(self, via: str | None = None, **options: Any) -> Client:
        """A blocking client; with `via` it talks to that node only."""
        from dynamo.client.blocking import connect

        return connect(self._client_url(via, options), **options)

    def async_client(self, via: str | None = None, **options: Any) -> AsyncClient:
        """An asyncio client; with `via` it talks to that node only."""
        from dynamo.client.aio import connect_async

        return connect_async(self._client_url(via, options), **options)

    def _client_url(self, via: str | None, options: dict[str, Any]) -> str:
        if via is None:
            return self.url
        options["via"] = str(self._process(via).client)
        return self.url_of(via)

    # --- one node ---------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """kill -9. Nothing happens if it is not running."""
        self._process(name).kill()

    def stop(self, name: str) -> None:
        """SIGTERM; returns once it has ended cleanly, raises NodeFailed if it did not."""
        process = self._process(name)
        if process.running:
            process.terminate()
            process.await_end()
            if process.exit_code != 0:
                raise NodeFailed(f"{name} ended with exit code {process.exit_code}", process)

    def start(self, name: str) -> None:
        """Start a node that was killed or stopped; a paused one is resumed."""
        process = self._process(name)
        if process.running:
            return self.resume(name)
        process.launch(self._config_of(name))
        process.await_serving()
        self._apply_faults([name])
        return self._await_ready([name])

    def pause(self, name: str) -> None:
        """SIGSTOP: it keeps its connections and does nothing."""
        self._running(name).pause()

    def resume(self, name: str) -> None:
        """SIGCONT. Nothing else happens if it was not paused."""
        process = self._running(name)
        if process.paused:
            process.resume()
            self._apply_faults([name])
            self._await_ready([name])

    def _process(self, name: str) -> NodeProcess:
        if self._path is None:
            raise RuntimeError("this ring is not open: use it in a with block")
        if name not in self._processes:
            raise ValueError(f"no node {name!r}; this ring has {', '.join(self.nodes)}")
        return self._processes[name]

    def _running(self, name: str) -> NodeProcess:
        process = self._process(name)
        if not process.running:
            raise NodeFailed(f"{name} is not running: start it first", process)
        return process

    def _reachable(self) -> list[str]:
        """Those that can answer, nodes that are out of the ring for good among them."""
        return [name for name, process in self._processes.items() if process.answers]

    def _await_ready(self, names: list[str]) -> None:
        """Until `names` are synced and see, and are seen by, all they can reach.

        Bounded: with a peer away an arc may be unable to sync, and a large copy takes its time.
        """
        names = [name for name in names if name in self.nodes]
        others = [name for name in self._reachable() if name in self.nodes]
        whole = len(others) == len(self.nodes) and not self._cut
        deadline = time.monotonic() + (READY_S if whole else READY_ALONE_S)
        while not self._are_ready(names, others):
            for name in names:
                self._process(name).check_alive()
            if time.monotonic() > deadline:
                if whole and len(names) == len(self.nodes):
                    raise NodeFailed(f"the ring was not ready within {READY_S:g} s")
                return
            time.sleep(0.02)

    def _are_ready(self, names: list[str], others: list[str]) -> bool:
        answers = self._ask_status(others, 1.0)
        for name in names:
            mine = answers.get(name)
            if mine is None or not mine["ready"]:
                return False
            for other in others:
                if other == name or other in self._blocked_at(name):
                    continue
                theirs = answers.get(other, {"peers": {}})
                if not mine["peers"].get(other) == theirs["peers"].get(name) == "up":
                    return False
        return True

    # --- partitions -------------------------------------------------------------------------------

    def partition(self, *sets: Iterable[str]) -> None:
        """Cut the ring into `sets`: no message passes between them from now on.

        Nodes that are not named form one further group. Replaces an earlier partition. Nodes that
        are down or paused are cut off when they come back.
        """
        side_of: dict[str, int] = {}
        for number, names in enumerate(sets):
            for name in [names] if isinstance(names, str) else names:
                self._process(name)
                if side_of.setdefault(name, number) != number:
                    raise ValueError(f"{name} is in two sets of the partition")
        self._sides, self._cut = side_of, True
        self._apply_faults(self._reachable())

    def heal(self) -> None:
        """End the partition."""
        self._sides, self._cut = {}, False
        self._apply_faults(self._reachable())

    def _blocked_at(self, name: str) -> list[str]:
        """Whom a node is to be cut off from."""
        side = self._sides.get
        return [other for other in self._processes if side(other, -1) != side(name, -1)]

    def _apply_faults(self, names: list[str]) -> None:
        blocked = {name: self._blocked_at(name) for name in names}
        done = self._asking.faults(blocked, self._addresses(names), ASK_S)
        for name in names:
            if name not in done:
                raise NodeFailed(f"{name} did not confirm the partition within {ASK_S:g} s")

    # --- the ring grows and shrinks ---------------------------------------------------------------

    def add_node(self, name: str | None = None, zone: str = "") -> str:
        """Start one more process, known to the ring and owning nothing yet; its name.

        `change([{"verb": "join", "node": name}])` gives it its share.
        """
        taken = [*self._processes, *self.nodes]
        name = name or next(x for x in map("n{}".format, range(1, 10_000)) if x not in taken)
        if name in taken:
            raise ValueError(f"there is a node {name!r} already")
        for attempt in range(1, START_TRIES + 1):
            process = self._add_process(Place(name, zone, False, *free_ports(2)))
            process.launch(self._config_of(name))
            try:
                process.await_serving()
                break
            except PortTaken:
                if attempt == START_TRIES:
                    raise
        self.nodes.append(name)
        self._apply_faults(self._reachable() if self._cut else [])
        self._remember()
        self._await_ready([name])
        return name

    def change(
        self, changes: Iterable[Mapping[str, Any]], timeout: float = CHANGE_S
    ) -> dict[str, Any]:
        """Stage, plan and commit `changes`, and wait until they are carried out; the plan.

        A change is what `dynamo cluster` stages: {"verb": "join", "node": "n4"}, and "leave",
        "remove", "replace", "reweight" with what belongs to them. Raises ChangeFailed.
        """
        listed = list(changes)
        removed = [change["node"] for change in listed if change["verb"] == "remove"]
        deciding = self._addresses(self._deciding(removed))
        changing = Changing(self._asking, deciding, timeout)
        task, plan = changing.commit(listed)
        changing.await_done(task)
        return plan

    def leave(self, *names: str, timeout: float = CHANGE_S) -> None:
        """Let live nodes hand over what they own, and stop them."""
        self.change([{"verb": "leave", "node": name} for name in names], timeout)
        for name in names:
            self._let_go(name)
            self.stop(name)

    def remove(
        self, *names: str, force: bool = False, discard: bool = False, timeout: float = CHANGE_S
    ) -> None:
        """Give up dead nodes; the others make new copies of what they owned.

        They can be started again, to be told that they are out.
        """
        how = {"force": force, "discard": discard}
        self.change([{"verb": "remove", "node": name, **how} for name in names], timeout)
        for name in names:
            self._let_go(name)

    def _let_go(self, name: str) -> None:
        self.nodes.remove(name)
        self._remember()

    def _deciding(self, without: Iterable[str]) -> list[str]:
        """Whom to tell of a change: of a ring that is cut, the largest side that answers."""
        found = [name for name in self._reachable() if name in self.nodes and name not in without]
        sides = Counter(self._sides.get(name, -1) for name in found)
        largest = max(sides, key=lambda side: sides[side], default=-1)
        return [name for name in found if self._sides.get(name, -1) == largest]

    # --- what is going on -------------------------------------------------------------------------

    def wait_converged(self, timeout: float = 30.0) -> None:
        """Until all hints are delivered and all owners of every arc hold equal clocks.

        Covers what was acknowledged before the call. Raises `dynamo.NotConverged` with the arcs
        and nodes that kept it from ending, nodes that are down or paused among them.
        """
        wait_converged(self._asking, self._addresses(self.nodes), timeout)

    def status(self) -> dict[str, Any]:
        """{"cluster", "nodes": [{"name", "address", "state"}], "hints", "ring": {...}}.

        A node's state is what most of the nodes that answer say of it: up, suspect or down.
        """
        answers = self._ask_status(self._reachable(), 1.0)
        first = next(iter(answers.values()), None)
        return {
            "cluster": first["cluster"] if first else "local",
            "nodes": [
                {
                    "name": name,
                    "address": str(self._process(name).client),
                    "state": _opinion(name, answers),
                }
                for name in self.nodes
            ],
            "hints": sum(sum(answer["hints"].values()) for answer in answers.values()),
            "ring": first["ring"] if first else {},
        }

    @property
    def _asking(self) -> Admin:
        if self._admin is None:
            raise RuntimeError("this ring is not open: use it in a with block")
        return self._admin

    def _addresses(self, names: Iterable[str]) -> dict[str, Address]:
        return {name: self._process(name).client for name in names}

    def _ask_status(self, names: list[str], timeout: float) -> dict[str, dict[str, Any]]:
        return self._asking.status(self._addresses(names), "status", timeout)

    def __repr__(self) -> str:
        return f"<Ring {', '.join(self.nodes)}{'' if self._path else ' (closed)'}>"


def _opinion(name: str, answers: dict[str, dict[str, Any]]) -> str:
    votes = Counter(answer["peers"][name] for answer in answers.values() if name in answer["peers"])
    if not votes:
        return "up" if name in answers else "down"
    return max(("up", "suspect", "down"), key=lambda state: votes[state])
