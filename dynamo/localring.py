"""A whole ring on this machine: `with dynamo.local(nodes=3) as ring: ...`

Every node is a real process on loopback ports of its own, with its configuration, log and data
under `path/<name>`, so that what is tried here is what runs elsewhere: kill -9, SIGSTOP, restarts
from disk. Partitions are made by the nodes themselves, which drop each other's frames, and need no
root.

No process stays behind. Each child holds the reading end of a pipe from this process as its stdin,
and stops when that ends, however this process went; leaving the block stops and reaps them all.

Timing is quicker than a node's defaults, so that tests and demonstrations need not wait; `LOCAL`
has the values. They leave room for a busy machine with two cores, where a process may not run for
a few hundred milliseconds.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dynamo.client.errors import ConfigurationError
from dynamo.convergence import wait_converged
from dynamo.core.config import Config
from dynamo.processes import NodeFailed, NodeProcess, PortTaken, free_ports, reap_at_exit
from dynamo.server.admin import Admin
from dynamo.server.config import Address, unknown
from dynamo.storage import DURABILITIES

if TYPE_CHECKING:
    from dynamo.client.aio import AsyncClient
    from dynamo.client.blocking import Client

# What `local` sets differently from a node's defaults; options override it.
LOCAL = {
    "partitions": 64,
    "probe_ms": 200,
    "probe_timeout_ms": 400,
    "suspicion_ms": 1_500,
    "exchange_ms": 1_000,
    # A hint or repair that is lost on the wire is sent again after this long.
    "background_timeout_ms": 2_000,
}
_IN_CLUSTER = ("n", "r", "w", "partitions")
_IN_NODE = ("interval_ms", "log", "log_level")
_KNOBS = {item.name: item.default for item in fields(Config)}

HOST = "127.0.0.1"
NODES_MAX = 100
START_TRIES = 5
READY_S = 60.0
# With a peer away some arcs may be unable to sync; then serving is as ready as it gets.
READY_ALONE_S = 3.0
ASK_S = 5.0


def local(
    nodes: int = 3,
    path: str | Path | None = None,
    durability: str = "fsync",
    **node_options: Any,
) -> Ring:
    """A ring of `nodes` processes named n1, n2, ...; ready to serve when the block is entered.

    `path`: where everything is kept, to be opened again later; None: a temporary directory,
    removed in the end. `durability`: "fsync", "interval" or "memory". `node_options`: any knob of
    `dynamo.core.config.Config` (n, r, w, partitions, value_bytes_max, ...), and interval_ms, log,
    log_level. Raises ConfigurationError for what cannot work, NodeFailed if a node does not start.
    """
    return Ring(nodes, path, durability, node_options)


class Ring:
    """The nodes of one `local`. A context manager; every method returns when it is done."""

    def __init__(
        self, nodes: int, path: str | Path | None, durability: str, options: dict[str, Any]
    ) -> None:
        _check(nodes, durability, options)
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._options = _with_defaults(options)
        self._durability = durability
        self._given_path = None if path is None else Path(path).resolve()
        self._path: Path | None = None
        self._admin: Admin | None = None
        self._reaper: weakref.finalize[..., Any] | None = None
        self._processes: dict[str, NodeProcess] = {}
        self._blocked: dict[str, list[str]] = {}

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
        if self._durability != "memory":
            _check_shape(self._path, self.nodes, self._options)
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
                if attempt == START_TRIES:
                    raise
        self._await_ready(self.nodes)

    def _launch_all(self) -> None:
        ports = iter(free_ports(2 * len(self.nodes)))
        made = [
            NodeProcess(
                name, self.path / name, Address(HOST, next(ports)), Address(HOST, next(ports))
            )
            for name in self.nodes
        ]
        self._processes.clear()
        self._processes.update((process.name, process) for process in made)
        text = self._config_text()
        for process in made:
            process.launch(text)
        for process in made:
            process.await_serving()

    def _config_text(self) -> dict[str, dict[str, Any]]:
        """Every section that all nodes share."""
        options = self._options
        knobs = {name: options[name] for name in _KNOBS if name in options}
        return {
            "node": {
                "durability": self._durability,
                "faults": True,
                **{name: options[name] for name in _IN_NODE if name in options},
            },
            "cluster": {
                "name": "local",
                "secret_file": "../cluster.secret",
                **{name: knobs.pop(name) for name in _IN_CLUSTER if name in knobs},
            },
            "tuning": knobs,
            "members": {
                name: {"client": str(process.client), "peer": str(process.peer)}
                for name, process in self._processes.items()
            },
        }

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
        self._blocked = {}
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
        process.launch(self._config_text())
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
        return [name for name, process in self._processes.items() if process.answers]

    def _await_ready(self, names: list[str]) -> None:
        """Until `names` are synced and see, and are seen by, all they can reach.

        Bounded: with a peer away an arc may be unable to sync, and a large copy takes its time.
        """
        others = self._reachable()
        whole = len(others) == len(self.nodes) and not self._blocked
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
                if other == name or other in self._blocked.get(name, ()):
                    continue
                theirs = answers.get(other)
                if mine["peers"][other] != "up" or not theirs or theirs["peers"][name] != "up":
                    return False
        return True

    # --- partitions -------------------------------------------------------------------------------

    def partition(self, *sets: Iterable[str]) -> None:
        """Cut the ring into `sets`: no message passes between them from now on.

        Nodes that are not named form one further group. Replaces an earlier partition. Nodes that
        are down or paused are cut off when they come back.
        """
        group_of: dict[str, int] = {}
        for number, names in enumerate(sets):
            for name in [names] if isinstance(names, str) else names:
                self._process(name)
                if group_of.setdefault(name, number) != number:
                    raise ValueError(f"{name} is in two sets of the partition")
        groups = {name: group_of.get(name, -1) for name in self.nodes}
        blocked = {
            name: [other for other in self.nodes if groups[other] != groups[name]]
            for name in self.nodes
        }
        self._blocked = {name: others for name, others in blocked.items() if others}
        self._apply_faults(self._reachable())

    def heal(self) -> None:
        """End the partition."""
        self._blocked = {}
        self._apply_faults(self._reachable())

    def _apply_faults(self, names: list[str]) -> None:
        done = self._asking.faults(self._blocked, self._addresses(names), ASK_S)
        for name in names:
            if name not in done:
                raise NodeFailed(f"{name} did not confirm the partition within {ASK_S:g} s")

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


# --- checking -------------------------------------------------------------------------------------


def _check(nodes: object, durability: object, options: dict[str, Any]) -> None:
    if type(nodes) is not int or not 1 <= nodes <= NODES_MAX:
        raise ConfigurationError(f"nodes must be 1 to {NODES_MAX}, not {nodes!r}")
    if durability not in DURABILITIES:
        raise ConfigurationError(
            f"durability must be one of {', '.join(DURABILITIES)}, not {durability!r}"
        )
    for name in options:
        if name not in _KNOBS and name not in _IN_NODE:
            raise ConfigurationError(unknown("option", name, [*_KNOBS, *_IN_NODE]))
    try:
        config = Config(**{k: v for k, v in _with_defaults(options).items() if k in _KNOBS})
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    for level in ("r", "w"):
        if getattr(config, level) > nodes:
            raise ConfigurationError(
                f"{level}={getattr(config, level)} can never be met by {nodes} nodes"
            )


def _with_defaults(options: dict[str, Any]) -> dict[str, Any]:
    merged = LOCAL | options
    if "probe_timeout_ms" not in options and type(merged["suspicion_ms"]) is int:
        # An option that asks for quicker suspicion alone should not be refused for our default.
        merged["probe_timeout_ms"] = max(
            1, min(LOCAL["probe_timeout_ms"], merged["suspicion_ms"] // 2)
        )
    return merged


def _check_shape(path: Path, nodes: list[str], options: dict[str, Any]) -> None:
    """Refuse to open a ring in a shape that would look for its keys in other places."""
    shape = {
        "nodes": len(nodes),
        "n": options.get("n", _KNOBS["n"]),
        "partitions": options["partitions"],
    }
    file = path / "ring.json"
    if not file.exists():
        file.write_text(json.dumps(shape) + "\n")
        return
    found = json.loads(file.read_text())
    if found != shape:
        raise ConfigurationError(
            f"{path} holds a ring with {_words(found)}, not {_words(shape)}: open it as it is, or "
            "choose another path. Changing a ring that holds data is not supported yet"
        )


def _words(shape: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in shape.items())
