"""The settings of one node: a TOML file, overridden by the environment, checked whole.

    [node]      name data_dir client peer zone durability interval_ms faults log log_level
    [cluster]   name secret_file seeds n r w partitions
    [tuning]    every other knob of `dynamo.core.config.Config`, by its own name
    [[members]] name client peer zone weight; every founder of a new ring, this node included

A node either founds a ring together with the members that its file lists, or joins one that runs,
of which it knows some peer addresses, the seeds. Both matter only as long as its store holds no
ring: what belongs to a ring is decided by `dynamo cluster`, and no file changes it.

`DYNAMO_<SECTION>_<KEY>`, such as DYNAMO_NODE_DURABILITY=interval, beats the file; members are read
from the file alone, and a list is written with commas. Relative paths are relative to the file. A
key that does not exist is refused, in the file and in the environment of these sections, with a
suggestion: a misspelt limit that is silently ignored is found out on the day it was needed.

Everything wrong raises `ConfigError` with one sentence that says what is allowed.

The secret file is made by the first founder that finds none, readable by its owner alone, and must
be the same for all members, so a node that joins has to be given it: it holds the cluster's random
id and the key that seals contexts. It is in no log and in no repr.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dynamo.core.config import Config
from dynamo.core.node import Cluster
from dynamo.core.ring import Member
from dynamo.storage import DURABILITIES

LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
MEMBERS_MAX = 1_000
SECRET_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ConfigError(Exception):
    """A setting that cannot work; the text says which, and what is allowed."""


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class NodeSection(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""
    # Where the store lives; by default a directory of the node's name beside the file.
    data_dir: str = ""
    client: str = "127.0.0.1:7001"
    peer: str = "127.0.0.1:7101"
    # Replicas of a key go to different zones where they can. (How much a node that joins takes is
    # no setting of the node: `dynamo cluster join --weight`.)
    zone: str = ""
    # "fsync": on disk before anything is acknowledged. "interval": synced every interval_ms, a
    # power cut may take that much from this copy. "memory": gone with the process.
    durability: str = "fsync"
    interval_ms: int = 1_000
    # Whether a client may cut this node off from its peers (`ring.partition` of `local`).
    faults: bool = False
    log: str = "text"
    log_level: str = "info"


class ClusterSection(msgspec.Struct, forbid_unknown_fields=True):
    name: str = "dynamo"
    secret_file: str = "cluster.secret"
    # Peer addresses, host:port, of nodes of the ring to join; one that answers is enough.
    seeds: list[str] = []
    n: int = 3
    r: int = 0
    w: int = 0
    partitions: int = 1024


class MemberSection(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    client: str
    peer: str
    zone: str = ""
    weight: int = 1


_KNOBS = {item.name: item.default for item in fields(Config)}
_IN_CLUSTER = ("n", "r", "w", "partitions")
TuningSection = msgspec.defstruct(
    "TuningSection",
    [(name, int, default) for name, default in _KNOBS.items() if name not in _IN_CLUSTER],
    forbid_unknown_fields=True,
)
_SECTIONS: dict[str, Any] = {
    "node": NodeSection,
    "cluster": ClusterSection,
    "tuning": TuningSection,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What `load` made of the file; nothing in it needs checking again."""

    name: str
    data_dir: Path
    client: Address
    peer: Address
    durability: str
    interval_ms: int
    faults: bool
    log: str
    log_level: str
    # This node as it introduces itself, the founders of its ring (none: it joins one), and peer
    # addresses of others.
    me: Member
    members: list[Member]
    seeds: list[str]
    config: Config
    cluster: Cluster
    # Name, id and partitions: what a data directory must agree with, as all three decide where
    # a key lies.
    label: str = field(repr=False)


def load(
    path: Path, environ: Mapping[str, str], make: bool = True, join: Sequence[str] = ()
) -> Settings:
    """Read, override, check; make the secret file if there is none.

    `join`: seeds in place of those in the file. Without `make` nothing is written, and where there
    is no secret the cluster is one with an empty secret: enough to look at, not to run.
    """
    raw = _parse(path)
    sections = {name: raw.get(name, {}) for name in _SECTIONS}
    members = raw.get("members", [])
    _check_keys(raw, sections, members)
    _override(sections, environ)
    made = {name: _convert(name, sections[name], kind) for name, kind in _SECTIONS.items()}
    listed = [
        _convert(f"members[{at}]", entry, MemberSection) for at, entry in enumerate(members, 1)
    ]
    node, cluster = made["node"], made["cluster"]
    cluster.seeds = list(join) or cluster.seeds
    ring = _members(listed, cluster.seeds)
    client, peer = _own_addresses(node, ring)
    me = _check_node(node, client, peer, ring)
    config = _core_config(cluster, made["tuning"], len(ring))
    seeds = _seeds(cluster.seeds, ring, me)
    base = path.resolve().parent
    identity, label = _identity(cluster, base / cluster.secret_file, make and bool(ring))
    if make and not identity.secret:
        raise ConfigError(
            f"there is no secret file {base / cluster.secret_file}: copy the one of a node of the "
            "ring there, or name it in cluster.secret_file. A new one would be of another ring"
        )
    return Settings(
        name=node.name,
        data_dir=base / (node.data_dir or node.name),
        client=client,
        peer=peer,
        durability=node.durability,
        interval_ms=node.interval_ms,
        faults=node.faults,
        log=node.log,
        log_level=node.log_level,
        me=me,
        members=ring,
        seeds=seeds,
        config=config,
        cluster=identity,
        label=f"{label}, {config.partitions} partitions",
    )


# --- Reading -------------------------------------------------------------------------------------


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence about a name that does not exist, with the nearest that does."""
    known = list(known)
    close = get_close_matches(name, known, 1)
    guess = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}."
    return f"unknown {what} {name!r}; {guess}"


def _check_keys(raw: dict[str, Any], sections: dict[str, Any], members: Any) -> None:
    for name in raw:
        if name not in _SECTIONS and name != "members":
            raise ConfigError(unknown("section", name, [*_SECTIONS, "members"]))
    for name, values in sections.items():
        if not isinstance(values, dict):
            raise ConfigError(f"[{name}] must be a section, not {values!r}")
        _check_section(f"[{name}]", values, _SECTIONS[name])
    if not isinstance(members, list) or not all(isinstance(entry, dict) for entry in members):
        raise ConfigError("members must be written as [[members]] sections, one per node")
    for entry in members:
        _check_section("[[members]]", entry, MemberSection)


def _check_section(title: str, values: dict[str, Any], kind: Any) -> None:
    for key in values:
        if key not in kind.__struct_fields__:
            raise ConfigError(unknown(f"key in {title}", key, kind.__struct_fields__))


def _override(sections: dict[str, Any], environ: Mapping[str, str]) -> None:
    for variable, text in sorted(environ.items()):
        for section, kind in _SECTIONS.items():
            prefix = f"DYNAMO_{section.upper()}_"
            if variable.startswith(prefix):
                key = variable[len(prefix) :].lower()
                if key not in kind.__struct_fields__:
                    names = [prefix + known.upper() for known in kind.__struct_fields__]
                    raise ConfigError(unknown("environment variable", variable, names))
                sections[section][key] = _from_text(variable, text, kind, key)


def _from_text(variable: str, text: str, kind: Any, key: str) -> Any:
    wanted = {item.name: item.type for item in msgspec.structs.fields(kind)}[key]
    if wanted is int:
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{variable} must be a whole number, not {text!r}") from None
    if wanted is bool:
        if text not in ("true", "false"):
            raise ConfigError(f"{variable} must be true or false, not {text!r}")
        return text == "true"
    if wanted == list[str]:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


_WORDS = {
    "str": "text in quotes",
    "int": "a whole number",
    "bool": "true or false",
    "array": 'a list, such as ["127.0.0.1:7101"]',
}


def _convert(section: str, values: dict[str, Any], kind: Any) -> Any:
    try:
        return msgspec.convert(values, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(_sentence(section, values, str(error))) from None


def _sentence(section: str, values: dict[str, Any], found: str) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.n`", as a reader of the file would say it."""
    missing = re.search(r"missing required field `(\w+)`", found)
    if missing:
        return f"{section} lacks {missing[1]!r}"
    where = re.search(r"`\$\.(\w+)", found)
    wanted = re.match(r"Expected `(\w+)`", found)
    if not where or not wanted:
        return f"{section}: {found}"
    allowed = _WORDS.get(wanted[1], wanted[1])
    return f"{section}.{where[1]} must be {allowed}, not {values.get(where[1])!r}"


# --- Checking ------------------------------------------------------------------------------------


def _check_node(node: NodeSection, client: Address, peer: Address, ring: list[Member]) -> Member:
    """This node, as the others are to know it."""
    choices = (
        ("durability", DURABILITIES),
        ("log", LOG_FORMATS),
        ("log_level", LOG_LEVELS),
    )
    for key, allowed in choices:
        value = getattr(node, key)
        if value not in allowed:
            raise ConfigError(f"node.{key} must be one of {', '.join(allowed)}, not {value!r}")
    if node.interval_ms < 1:
        raise ConfigError(f"node.interval_ms must be at least 1, not {node.interval_ms}")
    listed = next((member for member in ring if member.name == node.name), None)
    if listed is None:
        return Member(node.name, client.host, client.port, peer.port, node.zone)
    if node.zone not in ("", listed.zone):
        raise ConfigError(
            f"node.zone is {node.zone!r}, but [[members]] says {listed.zone!r} for {node.name}: "
            "write it in [[members]] alone"
        )
    return listed


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what} must be 1 to 64 letters, digits, '.', '_' or '-', not {name!r}"
            if name
            else f"{what} is missing: give the node the name by which the others know it"
        )


def parse_address(what: str, text: str) -> Address:
    """host:port on loopback; anything wider needs keys, which do not exist yet."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise ConfigError(f"{what} must be host:port, such as 127.0.0.1:7001, not {text!r}")
    if not 1 <= int(port) <= 65535:
        raise ConfigError(f"{what} needs a port from 1 to 65535, not {port}")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        parsed = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        parsed = None
    if parsed is None or parsed.version != 4 or not parsed.is_loopback:
        raise ConfigError(
            f"{what}={text!r} is not an IPv4 loopback address: traffic is neither encrypted nor "
            "authenticated yet, so a node listens on 127.0.0.1 only"
        )
    return Address(host, int(port))


def _members(listed: list[MemberSection], seeds: list[str]) -> list[Member]:
    if not listed and not seeds:
        raise ConfigError(
            "no [[members]] and no seeds: list every node of a new ring in [[members]], this one "
            "included, or name nodes of a ring that runs, to join it: "
            'cluster.seeds = ["host:peer-port"], or --join host:peer-port'
        )
    if listed and seeds:
        raise ConfigError(
            "both [[members]] and seeds: a node either founds a new ring with the members, or "
            "joins one that runs at the seeds. Take one of them out"
        )
    if len(listed) > MEMBERS_MAX:
        raise ConfigError(f"{len(listed)} members; at most {MEMBERS_MAX} are supported")
    members: list[Member] = []
    taken: dict[object, str] = {}
    for entry in listed:
        _check_name("members.name", entry.name)
        client = parse_address(f"client of member {entry.name}", entry.client)
        peer = parse_address(f"peer of member {entry.name}", entry.peer)
        if client.host != peer.host:
            raise ConfigError(f"client and peer of member {entry.name} must be on the same host")
        if entry.weight < 1:
            raise ConfigError(f"weight of member {entry.name} must be at least 1")
        for thing in (entry.name, client, peer):
            if thing in taken:
                raise ConfigError(
                    f"members {taken[thing]!r} and {entry.name!r} both claim {thing}: names and "
                    "addresses must differ"
                )
            taken[thing] = entry.name
        members.append(
            Member(entry.name, client.host, client.port, peer.port, entry.zone, entry.weight)
        )
    return members


def _own_addresses(node: NodeSection, members: list[Member]) -> tuple[Address, Address]:
    _check_name("node.name", node.name)
    client = parse_address("node.client", node.client)
    peer = parse_address("node.peer", node.peer)
    if not members:
        if client.host != peer.host or client == peer:
            raise ConfigError("node.client and node.peer must be two ports of the same host")
        return client, peer
    mine = next((member for member in members if member.name == node.name), None)
    if mine is None:
        names = [member.name for member in members]
        raise ConfigError(unknown("member in node.name", node.name, names))
    for key, here, port in (("client", client, mine.client_port), ("peer", peer, mine.peer_port)):
        if here != (mine.host, port):
            raise ConfigError(
                f"node.{key} is {here}, but [[members]] says {mine.host}:{port} for {node.name}: "
                "the other nodes would not find it"
            )
    return client, peer


def _seeds(given: list[str], members: list[Member], me: Member) -> list[str]:
    """Peer addresses to ask: those given, or those of the other founders."""
    found = [parse_address("a seed", text) for text in given]
    found += [Address(m.host, m.peer_port) for m in members if m.name != me.name]
    if len(found) > MEMBERS_MAX:
        raise ConfigError(f"{len(found)} seeds; at most {MEMBERS_MAX} are supported")
    mine = Address(me.host, me.peer_port)
    if given and found == [mine]:
        raise ConfigError(f"the only seed is this node itself, {mine}: name another node's peer")
    return [str(seed) for seed in dict.fromkeys(found) if seed != mine]


def _core_config(cluster: ClusterSection, tuning: Any, members: int) -> Config:
    knobs = {name: getattr(cluster, name) for name in _IN_CLUSTER}
    knobs |= {name: getattr(tuning, name) for name in tuning.__struct_fields__}
    try:
        config = Config(**knobs)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if config.n > 255:
        raise ConfigError(f"n must be at most 255, not {config.n}")
    for key in ("r", "w"):
        if getattr(config, key) > members > 0:
            raise ConfigError(
                f"{key}={getattr(config, key)} can never be met by {members} members: "
                f"choose 1 to {min(config.n, members)}, or 0 for a quorum"
            )
    return config


# --- The secret ----------------------------------------------------------------------------------


def _identity(cluster: ClusterSection, path: Path, make: bool) -> tuple[Cluster, str]:
    """The cluster's seal, and a label without the secret."""
    _check_name("cluster.name", cluster.name)
    if not path.exists():
        if not make:
            return Cluster(cluster.name, b""), cluster.name
        make_secret(path)
    ident, secret = _read_secret(path)
    # The id goes into the key, so that it is covered by the tag and by every sealed context.
    key = blake2b(ident.encode(), key=secret, digest_size=SECRET_BYTES).digest()
    return Cluster(cluster.name, key), f"{cluster.name}/{ident}"


def make_secret(path: Path) -> None:
    """Write a new secret, unless another node is faster; never a half-written one.

    The file appears under its name by a link, which is atomic and fails if the name is taken. (Two
    nodes of a new ring start together: with a plain exclusive create, the second may read what the
    first has not yet written.)
    """
    text = json.dumps({"id": os.urandom(8).hex(), "secret": os.urandom(SECRET_BYTES).hex()})
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        finally:
            draft.unlink()
    except OSError as error:
        raise ConfigError(
            f"cannot create the secret file {path}: {error.strerror}. Choose a directory that "
            "this user may write, or copy the secret of the other members there."
        ) from None


def _read_secret(path: Path) -> tuple[str, bytes]:
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        raise ConfigError(f"cannot read the secret file {path}: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigError(
            f"the secret file {path} may be read or written by others (mode {mode & 0o777:o}): "
            f"run chmod 600 {path}"
        )
    try:
        found = json.loads(text)
        ident, secret = str(found["id"]), bytes.fromhex(found["secret"])
    except (ValueError, KeyError, TypeError):
        ident, secret = "", b""
    # The text itself must never appear in the message.
    if not re.fullmatch("[0-9a-f]{16}", ident) or len(secret) != SECRET_BYTES:
        raise ConfigError(
            f"{path} is not a secret file: copy the one of another member, or, for a new ring "
            "only, delete it and a new one is made"
        )
    return ident, secret
