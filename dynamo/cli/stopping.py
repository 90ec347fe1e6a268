"""`dynamo node stop`: find the process of a node, see whether it may go, and wait until it has.

The process is the one that holds the lock of the data directory; the kernel knows it, while a
file with its number would outlive it. A node that keeps nothing on disk has no lock, and is found
by its client port.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dynamo.cli import exits, show
from dynamo.cli.shared import Shell
from dynamo.cli.survey import Survey, survey

if TYPE_CHECKING:
    from dynamo.server.config import Address, Settings

WAIT_S, POLL_S, SAY_EVERY_S = 30.0, 0.02, 3.0
# struct flock of Linux on 64 bits: type, whence, start, length, process.
_FLOCK = "@hhqqi4x"
_LISTENING = "0A"  # of /proc/net/tcp


def stop(shell: Shell, config: Path, force: bool) -> int:
    """Stop the node of this file; the exit code."""
    from dynamo.server.config import load

    settings = load(config, os.environ, make=False)
    pid = process_of(settings)
    if pid is None:
        _tell(shell, settings.name, None)
        return exits.OK
    if not force:
        _check(shell, settings)
    shell.say(f"Stopping {settings.name} (process {pid}).")
    began = time.monotonic()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)  # a paused one could not hear it otherwise
    _await_end(shell, settings.name, pid, shell.timeout or WAIT_S)
    _tell(shell, settings.name, pid, time.monotonic() - began)
    return exits.OK


def _tell(shell: Shell, name: str, pid: int | None, took_s: float = 0.0) -> None:
    if shell.json:
        shell.emit({"node": name, "pid": pid, "was_running": pid is not None})
    elif pid is None:
        shell.print(f"{name} is not running.")
    else:
        shell.print(f"{name} has stopped, after {show.span(took_s)}.")


# --- whether it may go ----------------------------------------------------------------------------


def _check(shell: Shell, settings: Settings) -> None:
    """Refuse if some keys would be left with fewer live owners than a write needs.

    A ring of one node has no other to wait for. A node that does not serve, or a ring that nobody
    can ask, loses nothing by a stop.
    """
    if shell.url is None:
        listed = [f"{member.host}:{member.client_port}" for member in settings.members]
        # Itself first: who belongs to the ring by now is in no file.
        seeds = dict.fromkeys([str(settings.client), *listed])
        shell.url = f"dynamo://{','.join(seeds)}"
    try:
        found = survey(shell)
    except ConnectionError:
        return
    if len(found.ring.nodes) > 1 and settings.name in found.answers:
        refuse_if_needed(found, settings.name)


def refuse_if_needed(found: Survey, name: str) -> None:
    """Raise Refused if arcs would fall below W live owners without `name`."""
    before = set(found.arcs_below(found.w))
    fallen = [arc for arc in found.arcs_below(found.w, without=[name]) if arc not in before]
    if not fallen:
        return
    part = 100 * len(fallen) / len(found.ring.owners)
    away = [other for other in found.away if other != name]
    because = f", as {show.listed(away)} {'is' if len(away) == 1 else 'are'} away" if away else ""
    raise exits.Refused(
        f"stopping {name} now would leave {part:.0f} % of the keys with fewer than W={found.w} "
        f"live owners{because}",
        hint="Bring the others back first (dynamo status), or insist with --force",
    )


# --- the process ----------------------------------------------------------------------------------


def process_of(settings: Settings) -> int | None:
    """The process that runs the node of these settings, None if there is none."""
    return lock_holder(settings.data_dir / "LOCK") or listener(settings.client)


def lock_holder(file: Path) -> int | None:
    """The process that holds the lock on `file`. Asking takes no lock."""
    try:
        with open(file, "rb+") as opened:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(opened, fcntl.F_GETLK, asked)
    except OSError:
        return None
    kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None


def listener(address: Address) -> int | None:
    """The process of this user that listens on a TCP port."""
    inode = _listening_inode(address.port)
    if inode is None:
        return None
    for directory in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            for entry in directory.iterdir():
                if os.readlink(entry) == f"socket:[{inode}]":
                    return int(directory.parent.name)
    return None


def _listening_inode(port: int) -> str | None:
    try:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
            return fields[9]
    return None


def _ended(pid: int) -> bool:
    """Whether the process is gone, or has ended and only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _await_end(shell: Shell, name: str, pid: int, seconds: float) -> None:
    began = said = time.monotonic()
    while not _ended(pid):
        now = time.monotonic()
        if now - began > seconds:
            raise exits.Unfinished(
                f"{name} (process {pid}) was told to stop, and runs after {show.span(seconds)}",
                hint=f"Wait longer with --timeout, or end it with kill -9 {pid}: what it has "
                "acknowledged stays as durable as it is configured",
            )
        if now - said > SAY_EVERY_S:
            said = now
            shell.say(f"  still stopping, {show.span(now - began)}")
        time.sleep(POLL_S)
