"""The files that `dynamo config init` writes: a ring on this machine, with comments."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click

from dynamo.cli import exits, show
from dynamo.cli.shared import Shell

HOST = "127.0.0.1"
COPIES = 3
DEFAULT_PORT = 7001

_FILE = """\
# Node {name} of the ring {cluster!r}; written by `dynamo config init`.
# Every key can be overridden from the environment: DYNAMO_NODE_DURABILITY=interval, ...
# All settings, with the values in force: dynamo config show -c {file}

[node]
name = "{name}"
data_dir = "{name}"  # beside this file
client = "{client}"
peer = "{peer}"
# When a write counts as stored. fsync: on disk; interval: on disk within a second; memory: at once.
durability = "{durability}"

[cluster]
name = "{cluster}"
secret_file = "cluster.secret"  # made by the first node that starts, and the same for all
n = {n}  # copies of every key
r = 0  # answers that a read waits for; 0 is a quorum
w = 0  # copies that a write waits for; 0 is a quorum

# Every node of the ring, the same list in every file. It cannot change once there is data.
{members}"""
_MEMBER = """\
[[members]]
name = "{name}"
client = "{client}"
peer = "{peer}"
"""


def write(
    shell: Shell,
    directory: Path,
    force: bool,
    nodes: int,
    name: str,
    durability: str,
    client_port: int,
    peer_port: int,
) -> None:
    """Write the files, check them as a node would, and say how to go on."""
    if max(client_port, peer_port) - min(client_port, peer_port) < nodes:
        raise click.UsageError(
            f"{nodes} client ports from {client_port} on and {nodes} peer ports from {peer_port} "
            "on overlap: choose them further apart"
        )
    members = [
        {
            "name": f"n{at + 1}",
            "client": f"{HOST}:{client_port + at}",
            "peer": f"{HOST}:{peer_port + at}",
        }
        for at in range(nodes)
    ]
    files = {
        directory / ("dynamo.toml" if nodes == 1 else f"{member['name']}.toml"): member
        for member in members
    }
    _refuse_existing(list(files), force)
    directory.mkdir(parents=True, exist_ok=True)
    listed = "\n".join(_MEMBER.format(**member) for member in members)
    for file, member in files.items():
        text = _FILE.format(
            **member,
            file=file.name,
            cluster=name,
            durability=durability,
            n=min(nodes, COPIES),
            members=listed,
        )
        file.write_text(text, "utf-8")
    _check(directory, list(files))
    _tell(shell, list(files), [member["client"] for member in members])
    _warn_of_ports(shell, [port + at for port in (client_port, peer_port) for at in range(nodes)])


def _refuse_existing(files: list[Path], force: bool) -> None:
    there = [str(file) for file in files if file.exists()]
    if there and not force:
        verb = "exists" if len(there) == 1 else "exist"
        raise exits.Refused(
            f"{show.listed(there)} {verb} already, and a changed member list locks a node out of "
            "its data",
            hint="Choose another directory, or overwrite with --force",
        )


def _check(directory: Path, files: list[Path]) -> None:
    """A name that cannot be one, for example, is found here and not at the first start."""
    from dynamo.server.config import ConfigError, load

    try:
        for file in files:
            load(file, {}, make=False)
    except ConfigError:
        for file in files:
            file.unlink()
        with suppress(OSError):  # not empty: not ours
            directory.rmdir()
        raise


def _tell(shell: Shell, files: list[Path], clients: list[str]) -> None:
    commands = list(_commands(files, clients))
    if shell.json:
        url = f"dynamo://{','.join(clients)}"
        shell.emit({"files": [str(file) for file in files], "url": url, "next": commands})
        return
    shell.print(f"Wrote {show.listed(str(file) for file in files)}.")
    shell.print("\nNext:")
    for line in commands:
        shell.print(f"  {line}")


def _commands(files: list[Path], clients: list[str]) -> Iterator[str]:
    for file in files:
        option = "" if str(file) == "dynamo.toml" else f" -c {show.shell_word(str(file))}"
        log = show.shell_word(str(file.with_suffix(".log")))
        yield f"dynamo node start{option} 2> {log} &"
    if clients[0] != f"{HOST}:{DEFAULT_PORT}" or "DYNAMO_URL" in os.environ:
        yield f"export DYNAMO_URL=dynamo://{','.join(clients[:COPIES])}"
    yield "dynamo health --wait 30s"
    yield "dynamo put greeting hello"
    yield "dynamo explain greeting"


def _warn_of_ports(shell: Shell, ports: list[int]) -> None:
    taken = [port for port in ports if not _is_free(port)]
    if taken:
        several = len(taken) > 1
        shell.say(
            f"\nIn use at the moment: port{'s' if several else ''} "
            f"{show.listed(map(str, taken))}. Another ring? Then choose others with --client-port "
            "and --peer-port."
        )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
