"""Server processes of peers: on loopback, in a scratch directory, ended by their handles."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dynamo.processes import free_ports

START_S = 30.0
STOP_S = 10.0
HOST = "127.0.0.1"
PLACES = (Path(sys.executable).parent, Path("/usr/sbin"), Path("/usr/local/sbin"))


class PeerFailed(ValueError):
    """A server of a peer did not start."""


def binary(name: str) -> str:
    """Where a program is, also beside this Python; "" if nowhere."""
    path = os.pathsep.join([*map(str, PLACES), os.environ.get("PATH", "")])
    return shutil.which(name, path=path) or ""


def absent(binaries: Sequence[tuple[str, str]], packages: Sequence[tuple[str, str]]) -> str:
    """ "" if all is there, else what to run: (program, command) and (module, package)."""
    commands = [command for name, command in binaries if not binary(name)]
    missing = [package for module, package in packages if importlib.util.find_spec(module) is None]
    if missing:
        commands.append(f"pip install {' '.join(missing)}")
    return "not installed: " + " && ".join(dict.fromkeys(commands)) if commands else ""


def versions() -> dict[str, str]:
    """What the servers that are installed say of themselves, and the clients' versions."""
    found = {}
    for name in ("etcd", "redis-server", "nats-server"):
        if path := binary(name):
            said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10)
            found[name] = said.stdout.partition("\n")[0].strip()[:80]
    for name in ("grpcio", "redis", "hiredis", "nats-py", "lmdb"):
        try:
            found[f"python {name}"] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Servers:
    """Some processes with one scratch directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._popens: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        return [popen.pid for popen in self._popens]

    def launch(self, name: str, command: Sequence[str]) -> None:
        """Start one; what it prints goes to a file beside its data."""
        with open(self.folder / f"{name}.log", "wb") as log:
            self._popens.append(
                subprocess.Popen(
                    command,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                )
            )

    def await_true(self, what: str, ready: Callable[[], bool]) -> None:
        """Until `ready`; raises PeerFailed if a process ends or time runs out."""
        deadline = time.monotonic() + START_S
        while not ready():
            ended = [popen for popen in self._popens if popen.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise PeerFailed(f"{what} did not start within {START_S:.0f} s: {self._tail()}")
            time.sleep(0.05)

    def _tail(self) -> str:
        texts = [path.read_text("utf-8", "replace") for path in sorted(self.folder.glob("*.log"))]
        return " / ".join(text[-300:].strip() for text in texts)

    def stop(self) -> None:
        """End them all; none outlives this."""
        for popen in self._popens:
            if popen.poll() is None:
                popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for popen in self._popens:
            try:
                popen.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()
        self._popens.clear()


@contextmanager
def servers(prefix: str) -> Iterator[Servers]:
    """Servers that end, and whose directory goes, with the block."""
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{prefix}-"))
    them = Servers(folder)
    try:
        yield them
    finally:
        them.stop()
        shutil.rmtree(folder, ignore_errors=True)


def ports(count: int) -> list[int]:
    """Free ports of this machine."""
    return free_ports(count)
