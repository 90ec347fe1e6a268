"""Node processes as a parent sees them: launch, signals, ports, and nothing left behind."""

from __future__ import annotations

import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from dynamo.client.errors import DynamoError
from dynamo.server.config import Address

START_S = 60.0
STOP_S = 20.0
TAIL_BYTES = 2_000
# Ports that are tried: above what services use, below what the kernel hands out.
PORT_LOW = 10_000

_COMMAND = ("-m", "dynamo", "node", "start", "--exit-with-stdin")


class NodeFailed(DynamoError, RuntimeError):
    """A node process did not do what was asked of it; ends with the last lines of its log."""

    def __init__(self, sentence: str, process: NodeProcess | None = None) -> None:
        tail = process.tail() if process is not None else ""
        super().__init__(f"{sentence}\n{tail}" if tail else sentence)


class PortTaken(NodeFailed):
    """The node found a port in use."""


class NodeProcess:
    """One node: its directory, its addresses and, while it runs, its process."""

    def __init__(self, name: str, directory: Path, client: Address, peer: Address) -> None:
        self.name = name
        self.client = client
        self.peer = peer
        self.paused = False
        self.exit_code: int | None = None
        self._directory = directory
        self._log = directory / "node.log"
        self._popen: subprocess.Popen[bytes] | None = None

    # --- life -------------------------------------------------------------------------------------

    def launch(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the configuration and start the process; do not wait for it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        file = self._directory / "node.toml"
        file.write_text(self._toml(sections), "utf-8")
        self._close_pipes()
        self.paused, self.exit_code = False, None
        with open(self._log, "ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, *_COMMAND, "-c", str(file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                # Ctrl-C in a terminal goes to the foreground group: only this process gets it, and
                # decides what becomes of the ring.
                process_group=0,
            )

    def _toml(self, sections: Mapping[str, Mapping[str, Any]]) -> str:
        own = {"name": self.name, "data_dir": "data"}
        own |= {"client": str(self.client), "peer": str(self.peer)}
        lines = ["[node]", *_pairs(own), *_pairs(sections["node"])]
        for section in ("cluster", "tuning"):
            lines += ["", f"[{section}]", *_pairs(sections[section])]
        for name, addresses in sections.get("members", {}).items():
            lines += ["", "[[members]]", *_pairs({"name": name, **addresses})]
        return "\n".join(lines) + "\n"

    def await_serving(self) -> None:
        """Until the ready line; raises if the process ends or takes too long."""
        assert self._popen is not None
        assert self._popen.stdout is not None
        deadline = time.monotonic() + START_S
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not _readable(self._popen.stdout, left):
                self.kill()
                raise NodeFailed(f"{self.name} did not serve within {START_S:g} s", self)
            part = os.read(self._popen.stdout.fileno(), 4096)
            if not part:
                self.await_end()
                self._raise_ended()
            line += part

    def check_alive(self) -> None:
        """Raise if the process has ended by itself."""
        if not self.running:
            self._raise_ended()

    def _raise_ended(self) -> None:
        taken = self.exit_code == 2 and re.search(r"port \S+ is in use", self.tail())
        kind = PortTaken if taken else NodeFailed
        raise kind(f"{self.name} ended with exit code {self.exit_code}", self)

    @property
    def running(self) -> bool:
        if self._popen is None:
            return False
        self.exit_code = self._popen.poll()
        return self.exit_code is None

    @property
    def answers(self) -> bool:
        return self.running and not self.paused

    # --- signals ----------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL, and wait: the kernel has let go of its ports and files afterwards."""
        if self._popen is not None:
            self._popen.kill()
            self.exit_code = self._popen.wait()
            self.paused = False
            self._close_pipes()

    def terminate(self) -> None:
        """Ask it to stop; a paused one goes on, for it could not hear otherwise."""
        if self.running:
            assert self._popen is not None
            self._popen.terminate()
            if self.paused:
                self.resume()

    def await_end(self) -> None:
        """Wait for the end that was asked for; after too long a time, enforce it."""
        if self._popen is None:
            return
        try:
            self.exit_code = self._popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self.exit_code = self._popen.wait()
        self._close_pipes()

    def pause(self) -> None:
        assert self._popen is not None
        if not self.paused:
            self._popen.send_signal(signal.SIGSTOP)
            # A signal is sent before it is obeyed; WNOWAIT leaves the end, if any, to Popen.
            options = os.WSTOPPED | os.WEXITED | os.WNOWAIT
            os.waitid(os.P_PID, self._popen.pid, options)
            self.paused = True

    def resume(self) -> None:
        assert self._popen is not None
        self._popen.send_signal(signal.SIGCONT)
        self.paused = False

    # --- files ------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        return self._popen.pid if self._popen is not None else 0

    def tail(self) -> str:
        """The end of the node's log."""
        try:
            text = self._log.read_bytes()[-TAIL_BYTES:]
        except OSError:
            return ""
        return text.decode("utf-8", "replace").strip()

    def _close_pipes(self) -> None:
        if self._popen is not None:
            pipe: IO[bytes] | None
            for pipe in (self._popen.stdin, self._popen.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


def _readable(stream: IO[bytes], timeout: float) -> bool:
    poll = select.poll()  # select() refuses descriptors from 1024 on
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def _pairs(values: Mapping[str, Any]) -> list[str]:
    # JSON's texts, numbers and booleans are TOML's.
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


def _environment() -> dict[str, str]:
    """This process's environment, less what would change the node's settings.

    The child must run the code that this process runs, also from a checkout that is not installed.
    """
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DYNAMO_NODE_", "DYNAMO_CLUSTER_", "DYNAMO_TUNING_"))
        and name != "PYTHONOPTIMIZE"
    }
    root = Path(__file__).resolve().parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        paths = [str(root), *filter(None, [environ.get("PYTHONPATH")])]
        environ["PYTHONPATH"] = os.pathsep.join(paths)
    return environ


def reap_at_exit(
    owner: object, processes: Mapping[str, NodeProcess], temporary: Path | None
) -> weakref.finalize[..., Any]:
    """Kill and reap what still runs when `owner` is forgotten or the interpreter ends."""
    return weakref.finalize(owner, _reap, processes, temporary, os.getpid())


def _reap(processes: Mapping[str, NodeProcess], temporary: Path | None, parent: int) -> None:
    if os.getpid() != parent:
        return  # a fork of the parent: the nodes are not its children
    for process in processes.values():
        process.kill()
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, outside the range from which the kernel takes its own.

    Inside that range any outgoing connection may sit on the port of a node that is down for a
    moment, and the node cannot come back. (Nothing keeps another program from binding a port
    between this look and the node's; the caller tries again.)
    """
    low, high = _ephemeral_range()
    candidates = [*range(PORT_LOW, low)] if low - PORT_LOW > 2_000 else [*range(high + 1, 65_536)]
    if len(candidates) < 2_000:
        candidates = [*range(PORT_LOW, 65_536)]
    random.SystemRandom().shuffle(candidates)
    found: list[int] = []
    for port in candidates:
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise NodeFailed(f"found only {len(found)} free ports on this machine; {count} are needed")


def are_free(ports: list[int]) -> bool:
    """Whether nobody listens on any of these ports."""
    return all(_is_free(port) for port in ports)


def _ephemeral_range() -> tuple[int, int]:
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except (OSError, ValueError):
        return 49_152, 65_535
    return int(low), int(high)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
