"""The files that `dynamo config init` writes: a ring on this machine, or nodes to join one."""

from __future__ import annotations

import json
import os
import re
import socket
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynamo.cli import exits, show
from dynamo.cli.shared import Shell

if TYPE_CHECKING:
    from dynamo.server.config import Settings

HOST = "127.0.0.1"
COPIES = 3
DEFAULT_PORT, DEFAULT_PEER_PORT = 7001, 7101

SEEDS = 5

_HEAD = """\
# Node {name} {what} the ring {cluster!r}; written by `dynamo config init`.
# Every key can be overridden from the environment: DYNAMO_NODE_DURABILITY=interval, ...
# All settings, with the values in force: dynamo config show -c {file}

[node]
name = "{name}"
data_dir = "{name}"  # beside this file
client = "{client}"
peer = "{peer}"
# When a write counts as stored. fsync: on disk; interval: on disk within a second; memory: at once.
durability = "{durability}"
{zone}
[cluster]
name = "{cluster}"
"""
_FOUNDER = """\
secret_file = "cluster.secret"  # made by the first node that starts, and the same for all
n = {n}  # copies of every key
r = 0  # answers that a read waits for; 0 is a quorum
w = 0  # copies that a write waits for; 0 is a quorum

# The nodes that found the ring, the same list in every file. Later ones join it while it runs:
# dynamo config init --join {file}
{members}"""
_JOINER = """\
secret_file = {secret}  # the ring's own: without it no other node understands this one
# Peer addresses of nodes that are asked for the ring; one that answers is enough.
seeds = {seeds}
# These must be the ring's own.
n = {n}
r = {r}
w = {w}
partitions = {partitions}
{tuning}"""
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
    client_port: int | None,
    peer_port: int | None,
) -> None:
    """Write the files of a new ring, check them as a node would, and say how to go on."""
    client_port, peer_port = client_port or DEFAULT_PORT, peer_port or DEFAULT_PEER_PORT
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
        text = _HEAD + _FOUNDER
        text = text.format(
            **member,
            what="of",
            file=file.name,
            cluster=name,
            durability=durability,
            zone="",
            n=min(nodes, COPIES),
            members=listed,
        )
        file.write_text(text, "utf-8")
    _check(directory, list(files))
    _tell(shell, list(files), [member["client"] for member in members])
    _warn_of_ports(shell, [port + at for port in (client_port, peer_port) for at in range(nodes)])


# --- nodes that join ------------------------------------------------------------------------------


def write_joiners(
    shell: Shell,
    directory: Path | None,
    join: Path,
    force: bool,
    nodes: int,
    durability: str,
    client_port: int | None,
    peer_port: int | None,
    zone: str,
) -> None:
    """Write files of nodes that join the ring of the node whose file is `join`."""
    from dynamo.server.config import load

    known = load(join, {}, make=False)
    directory = directory or join.parent
    names, clients, peers = _taken(known, {join.parent, directory})
    number = 1 + max((int(x[1:]) for x in names if re.fullmatch(r"n[0-9]{1,6}", x)), default=0)
    client_port = client_port or max(clients) + 1
    peer_port = peer_port or max(peers) + 1
    members = [
        {
            "name": f"n{number + at}",
            "client": f"{HOST}:{client_port + at}",
            "peer": f"{HOST}:{peer_port + at}",
        }
        for at in range(nodes)
    ]
    files = {directory / f"{member['name']}.toml": member for member in members}
    _refuse_existing(list(files), force)
    directory.mkdir(parents=True, exist_ok=True)
    for file, member in files.items():
        text = _HEAD + _JOINER
        text = text.format(
            **member,
            what="that joins",
            file=file.name,
            cluster=known.cluster.name,
            durability=durability,
            zone=f"zone = {json.dumps(zone)}  # replicas go to different ones where they can\n",
            **_of_ring(known, join, directory),
        )
        file.write_text(text, "utf-8")
    _check(directory, list(files))
    _tell_joiners(shell, list(files), [member["name"] for member in members])
    _warn_of_ports(shell, [port + at for port in (client_port, peer_port) for at in range(nodes)])


def _taken(known: Settings, directories: set[Path]) -> tuple[list[str], list[int], list[int]]:
    """Names, client ports and peer ports of the ring's files, as far as they are to be seen."""
    found = [known.me, *known.members]
    sections = [
        {"name": x.name, "client": f":{x.client_port}", "peer": f":{x.peer_port}"} for x in found
    ]
    for file in sorted(file for directory in directories for file in directory.glob("*.toml")):
        with suppress(OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
            section = tomllib.loads(file.read_text("utf-8")).get("node")
            if isinstance(section, dict):
                sections.append(section)
    names = [str(section.get("name", "")) for section in sections]
    ports = [
        [int(text) for section in sections if (text := _port(section.get(key))).isdecimal()]
        for key in ("client", "peer")
    ]
    return names, ports[0], ports[1]


def _port(address: object) -> str:
    return str(address).rpartition(":")[2][:5]


def _of_ring(known: Settings, join: Path, directory: Path) -> dict[str, Any]:
    """What the file of a joiner takes over from that of another node."""
    raw = tomllib.loads(join.read_text("utf-8"))
    secret = join.parent / raw.get("cluster", {}).get("secret_file", "cluster.secret")
    pairs = [f"{key} = {value}" for key, value in raw.get("tuning", {}).items()]
    peers = [f"{known.peer}", *known.seeds][:SEEDS]
    return {
        "secret": json.dumps(os.path.relpath(secret, directory)),
        "seeds": json.dumps(peers),
        "n": known.config.n,
        "r": known.config.r,
        "w": known.config.w,
        "partitions": known.config.partitions,
        "tuning": "\n".join(["", "[tuning]", *pairs, ""]) if pairs else "",
    }


def _tell_joiners(shell: Shell, files: list[Path], names: list[str]) -> None:
    commands = [*_starts(files)]
    commands += [f"dynamo cluster join {name}" for name in names]
    commands += ["dynamo cluster plan", "dynamo cluster commit"]
    if shell.json:
        shell.emit({"files": [str(file) for file in files], "next": commands})
        return
    shell.print(f"Wrote {show.listed(str(file) for file in files)}.")
    shell.print("\nNext, with the ring running:")
    for line in commands:
        shell.print(f"  {line}")


# --- both -----------------------------------------------------------------------------------------


def _refuse_existing(files: list[Path], force: bool) -> None:
    there = [str(file) for file in files if file.exists()]
    if there and not force:
        verb = "exists" if len(there) == 1 else "exist"
        raise exits.Refused(
            f"{show.listed(there)} {verb} already, and may be what a node with data starts from",
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


def _starts(files: list[Path]) -> Iterator[str]:
    for file in files:
        option = "" if str(file) == "dynamo.toml" else f" -c {show.shell_word(str(file))}"
        log = show.shell_word(str(file.with_suffix(".log")))
        yield f"dynamo node start{option} 2> {log} &"


def _commands(files: list[Path], clients: list[str]) -> Iterator[str]:
    yield from _starts(files)
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
