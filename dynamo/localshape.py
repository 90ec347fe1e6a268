"""What a ring of `dynamo.local` is made of: checked options, and the shape that a path remembers.

`ring.json` in the ring's directory says how many nodes with which n and partitions it holds, so
that nobody opens it in a shape that would look for its keys in other places; and, node by node,
its name, zone and ports, and whether it was there when the ring was founded. Ports are kept because
the nodes remember one another by them; where one is taken meanwhile, fresh ones do as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from dynamo.client.errors import ConfigurationError
from dynamo.core.config import Config
from dynamo.server.config import unknown
from dynamo.storage import DURABILITIES

# What `local` sets differently from a node's defaults; options override it.
LOCAL = {
    "partitions": 64,
    "probe_ms": 200,
    "probe_timeout_ms": 400,
    "suspicion_ms": 1_500,
    "exchange_ms": 1_000,
    "gossip_ms": 200,
    # A hint or repair that is lost on the wire is sent again after this long.
    "background_timeout_ms": 2_000,
}
IN_CLUSTER = ("n", "r", "w", "partitions")
IN_NODE = ("interval_ms", "log", "log_level")
KNOBS = {item.name: item.default for item in fields(Config)}
NODES_MAX = 100


class Place(NamedTuple):
    """One node as the path remembers it; ports 0 for none yet."""

    name: str
    zone: str = ""
    founder: bool = True
    client_port: int = 0
    peer_port: int = 0


def check(nodes: object, durability: object, options: dict[str, Any]) -> None:
    """Raise ConfigurationError for what cannot work."""
    if type(nodes) is not int or not 1 <= nodes <= NODES_MAX:
        raise ConfigurationError(f"nodes must be 1 to {NODES_MAX}, not {nodes!r}")
    if durability not in DURABILITIES:
        raise ConfigurationError(
            f"durability must be one of {', '.join(DURABILITIES)}, not {durability!r}"
        )
    for name in options:
        if name not in KNOBS and name not in IN_NODE:
            raise ConfigurationError(unknown("option", name, [*KNOBS, *IN_NODE]))
    try:
        config = Config(**{k: v for k, v in with_defaults(options).items() if k in KNOBS})
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    for level in ("r", "w"):
        if getattr(config, level) > nodes:
            raise ConfigurationError(
                f"{level}={getattr(config, level)} can never be met by {nodes} nodes"
            )


def with_defaults(options: dict[str, Any]) -> dict[str, Any]:
    merged = LOCAL | options
    if "probe_timeout_ms" not in options and type(merged["suspicion_ms"]) is int:
        # An option that asks for quicker suspicion alone should not be refused for our default.
        merged["probe_timeout_ms"] = max(
            1, min(LOCAL["probe_timeout_ms"], merged["suspicion_ms"] // 2)
        )
    return merged


def sections(durability: str, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the configuration files of all nodes have in common."""
    knobs = {name: options[name] for name in KNOBS if name in options}
    return {
        "node": {
            "durability": durability,
            "faults": True,
            **{name: options[name] for name in IN_NODE if name in options},
        },
        "cluster": {
            "name": "local",
            "secret_file": "../cluster.secret",
            **{name: knobs.pop(name) for name in IN_CLUSTER if name in knobs},
        },
        "tuning": knobs,
    }


def founders(nodes: int, zones: Sequence[str]) -> list[Place]:
    """The nodes of a new ring."""
    numbers = range(nodes)
    return [Place(f"n{at + 1}", zones[at % len(zones)] if zones else "") for at in numbers]


def recall(path: Path, new: list[Place], options: dict[str, Any]) -> list[Place]:
    """The nodes of the ring at `path`; if there is none, those of a new one.

    Raises ConfigurationError if there is one of another shape.
    """
    file = path / "ring.json"
    if not file.exists():
        return new
    found = json.loads(file.read_text())
    places = [Place(*place) for place in found.pop("places", ())] or new
    shape = _shape(len(new), options)
    if found != shape:
        raise ConfigurationError(
            f"{path} holds a ring with {_words(found)}, not {_words(shape)}: open it as it is, or "
            "choose another path. A ring grows and shrinks while it runs: `add_node`, `change`"
        )
    return places


def remember(path: Path, places: Iterable[Place], options: dict[str, Any]) -> None:
    """Write down what `recall` will need."""
    listed = list(places)
    shape = _shape(len(listed), options) | {"places": listed}
    draft = path / "ring.json.new"
    draft.write_text(json.dumps(shape) + "\n")
    draft.replace(path / "ring.json")


def _shape(nodes: int, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "nodes": nodes,
        "n": options.get("n", KNOBS["n"]),
        "partitions": options["partitions"],
    }


def _words(shape: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in shape.items())
