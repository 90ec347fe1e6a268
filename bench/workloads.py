"""Workloads: which operations, on which keys, with how large values. TOML files, checked on entry.

    title = "YCSB A: update heavy"
    about = "..."
    [mix]              shares of operations; together 1
    read = 0.5
    update = 0.5
    [keys]
    count = 10_000     loaded before the run
    chooser = "scrambled"
    theta = 0.99       of zipf, scrambled and latest; hot_keys, hot_ops of hotspot
    [values]
    bytes = 100

A file that holds `not_offered = "why"` is one that this store cannot serve, and says so.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bench.generators import CHOOSERS, chooser

FOLDER = Path(__file__).parent / "workloads"

# read     all current values of a key
# update   a new value for a key that exists, without a look at the old one
# insert   a value for a new key
# modify   read, then write over exactly what was read
# delete   remove a key
# add      read, merge concurrent values, add one field of one's own, write: carts and counters
KINDS = ("read", "update", "insert", "modify", "delete", "add")
# What `add` adds: an item of its own, or the next count of its writer.
ADDS = ("item", "count")

KEYS_MAX = 10_000_000
VALUE_BYTES_MIN, VALUE_BYTES_MAX = 40, 1 << 20


class WorkloadError(ValueError):
    """A workload file that cannot be used: which, why, and what is allowed."""


@dataclass(frozen=True)
class Workload:
    """One of the files, with defaults filled in."""

    name: str
    title: str
    about: str
    mix: tuple[tuple[str, float], ...]
    count: int = 10_000
    chooser: str = "scrambled"
    theta: float = 0.99
    hot_keys: float = 0.2
    hot_ops: float = 0.8
    value_bytes: int = 100
    adds: str = ""
    not_offered: str = ""

    def choose(self, rng: random.Random, seed: int) -> Any:
        """A chooser of keys; processes of a run share `seed`, not `rng`."""
        return chooser(
            self.chooser,
            rng,
            self.count,
            theta=self.theta,
            hot_keys=self.hot_keys,
            hot_ops=self.hot_ops,
            seed=seed,
        )

    @property
    def writes(self) -> bool:
        """Whether anything but reads happens after the load."""
        return any(kind != "read" and share for kind, share in self.mix)

    def changed(self, count: int | None, value_bytes: int | None) -> Workload:
        """The same with another number of keys or size of values, for those not None."""
        return checked(
            replace(
                self,
                count=self.count if count is None else count,
                value_bytes=self.value_bytes if value_bytes is None else value_bytes,
            )
        )

    def describe(self) -> str:
        """In one line, for people."""
        mix = " + ".join(f"{share:.0%} {kind}" for kind, share in self.mix if share)
        theta = f" {self.theta:g}" if self.chooser in ("zipf", "scrambled", "latest") else ""
        return f"{mix}; {self.chooser}{theta} over {self.count:,} keys; {self.value_bytes:,} B"


def to_json(workload: Workload) -> dict[str, Any]:
    """As a result file and a worker process get it."""
    return asdict(workload) | {"mix": [list(part) for part in workload.mix]}


def from_json(data: Mapping[str, Any]) -> Workload:
    """The workload of a result file."""
    mix = tuple((kind, share) for kind, share in data["mix"])
    return checked(Workload(**(dict(data) | {"mix": mix})))


def names() -> list[str]:
    """The workloads that come with this harness, those not offered among them."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Workload:
    """A workload by its name, or by the path of a file of one's own."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        guess = get_close_matches(name, names(), 1)
        hint = f"; did you mean {guess[0]!r}?" if guess else ""
        raise WorkloadError(
            f"no workload {name!r}{hint} There are {', '.join(names())}, or give a .toml file"
        ) from None
    return parse(path.stem, text)


def parse(name: str, text: str) -> Workload:
    """The workload that a TOML text describes."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise WorkloadError(f"workload {name}: no TOML: {error}") from None
    mix, keys, values = (_section(name, data, part) for part in ("mix", "keys", "values"))
    fields = {
        "mix": tuple((kind, share) for kind, share in mix.items()),
        **{field: data[field] for field in ("title", "about", "not_offered", "adds")
           if field in data},
        **keys,
        **{f"value_{field}": value for field, value in values.items()},
    }  # fmt: skip
    _known(name, data, ("title", "about", "not_offered", "adds", "mix", "keys", "values"))
    _known(name, mix, KINDS)
    _known(name, keys, ("count", "chooser", "theta", "hot_keys", "hot_ops"))
    _known(name, values, ("bytes",))
    for needed in ("title", "about"):
        if not isinstance(data.get(needed), str) or not data[needed]:
            raise WorkloadError(f"workload {name}: {needed} is missing: say it in a sentence")
    return checked(Workload(name=name, **fields))


def _section(name: str, data: Mapping[str, Any], part: str) -> dict[str, Any]:
    found = data.get(part, {})
    if not isinstance(found, dict):
        raise WorkloadError(f"workload {name}: {part} must be a [{part}] section")
    return found


def _known(name: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for word in given:
        if word not in known:
            guess = get_close_matches(word, known, 1)
            hint = f"; did you mean {guess[0]!r}?" if guess else ""
            raise WorkloadError(
                f"workload {name}: unknown {word!r}{hint} There are {', '.join(known)}"
            )


def checked(workload: Workload) -> Workload:
    """The workload itself, once everything in it can be done."""

    def wrong(what: str) -> WorkloadError:
        return WorkloadError(f"workload {workload.name}: {what}")

    if workload.not_offered:
        return workload
    shares = [share for _, share in workload.mix]
    if not all(isinstance(share, int | float) and share >= 0 for share in shares):
        raise wrong("shares of the mix are numbers from 0 to 1")
    if abs(sum(shares) - 1) > 1e-6:
        raise wrong(f"the shares of the mix add up to {sum(shares):g}, not to 1")
    if type(workload.count) is not int or not 1 <= workload.count <= KEYS_MAX:
        raise wrong(f"keys.count is a whole number from 1 to {KEYS_MAX:,}, not {workload.count!r}")
    size = workload.value_bytes
    if type(size) is not int or not VALUE_BYTES_MIN <= size <= VALUE_BYTES_MAX:
        raise wrong(f"values.bytes is from {VALUE_BYTES_MIN} to {VALUE_BYTES_MAX:,}, not {size!r}")
    if workload.chooser not in CHOOSERS:
        raise wrong(f"keys.chooser is one of {', '.join(CHOOSERS)}, not {workload.chooser!r}")
    kinds = {kind for kind, share in workload.mix if share}
    if ("add" in kinds) != (workload.adds in ADDS):
        raise wrong(f"a mix with `add` needs adds = one of {', '.join(ADDS)}, and no other does")
    if "add" in kinds and not kinds <= {"add", "read"}:
        raise wrong("`add` goes with reads only: other writes would replace what was added")
    try:
        workload.choose(random.Random(0), 0)
    except (ValueError, TypeError) as error:
        raise wrong(str(error)) from None
    return workload
