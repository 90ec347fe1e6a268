"""`python -m dynamo`: a ring on this machine loses a node, splits in two, and loses nothing.

Plain lines, about ten seconds, nothing left behind; exit code 0 only if the story held.
"""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Iterator
from typing import Any

import dynamo

COUNT = 5_000
BATCH = 500


def main() -> int:
    """Tell the story; return the exit code."""
    try:
        with dynamo.local(nodes=5) as ring:
            say(f"Five nodes are up, three copies of every key.  {ring.url}")
            held = tell(ring)
    except KeyboardInterrupt:
        say("Interrupted; the nodes are stopped.")
        return 130
    say("The story held." if held else "THE STORY DID NOT HOLD: see the lines marked with '!'.")
    return 0 if held else 1


def say(line: str) -> None:
    print(line, flush=True)


def tell(ring: Any) -> bool:
    """Load, kill, read back, recover, split, heal; say whether everything was as promised."""
    characters = dict(records())
    with ring.client() as kv:
        half = len(characters) // 2
        items = list(characters.items())
        load(kv, dict(items[:half]))
        ring.kill("n3")
        say("n3 was killed (kill -9). Writes go on; those meant for n3 are kept as hints.")
        load(kv, dict(items[half:]))
        held = compare(kv, characters, "with n3 dead")
        ring.start("n3")
        started = time.perf_counter()
        ring.wait_converged(timeout=60)
        took = time.perf_counter() - started
        say(f"n3 is back, and every replica equal again after {took:.1f} s; no hints left.")
        held = compare(kv, characters, "asking all three owners", r="all") and held
        return split(ring, kv) and held


def records() -> Iterator[tuple[str, dict[str, str]]]:
    """Real records that every Python carries: the characters of Unicode."""
    found = 0
    for code in range(sys.maxunicode):
        name = unicodedata.name(chr(code), "")
        if name:
            yield f"U+{code:04X}", {"name": name, "category": unicodedata.category(chr(code))}
            found += 1
            if found == COUNT:
                return


def load(kv: Any, characters: dict[str, dict[str, str]]) -> None:
    """Store records in batches, counting every acknowledgement."""
    items = list(characters.items())
    started = time.perf_counter()
    for at in range(0, len(items), BATCH):
        kv.put_many(dict(items[at : at + BATCH]), raise_on_error=True)
    rate = len(items) / (time.perf_counter() - started)
    say(f"Stored {len(items):,} characters, each on two disks before it counted ({rate:,.0f}/s).")


def compare(kv: Any, characters: dict[str, dict[str, str]], how: str, **options: Any) -> bool:
    """Read everything back and compare."""
    keys = list(characters)
    equal = 0
    started = time.perf_counter()
    for at in range(0, len(keys), BATCH):
        found = kv.get_many(keys[at : at + BATCH], **options).found
        equal += sum(found.get(key) == characters[key] for key in keys[at : at + BATCH])
    rate = len(keys) / (time.perf_counter() - started)
    mark = " " if equal == len(keys) else "!"
    say(f"{mark}Read back {equal:,} of {len(keys):,} equal, {how} ({rate:,.0f}/s).".strip())
    return equal == len(keys)


def split(ring: Any, kv: Any) -> bool:
    """Two sides of a partition write the same key; both values survive, and are resolved."""
    kv.put("cart:7", ["tea"])
    seen = kv.read("cart:7").context
    ring.partition({"n1", "n2"}, {"n3", "n4", "n5"})
    with ring.client(via="n1") as left, ring.client(via="n4") as right:
        left.put("cart:7", ["tea", "milk"], context=seen)
        right.put("cart:7", ["tea", "jam"], context=seen)
    say("The network split: {n1 n2} and {n3 n4 n5}. Each side put something into cart:7.")
    ring.heal()
    ring.wait_converged(timeout=60)
    entry = kv.read("cart:7")
    siblings = sorted(map(str, entry.siblings))
    both = siblings == ["['tea', 'jam']", "['tea', 'milk']"]
    say(f"{' ' if both else '!'}Healed. Both are there: {' and '.join(siblings)}.".strip())
    kv.put("cart:7", ["tea", "milk", "jam"], context=entry.context)
    value = kv.get("cart:7", r="all")
    say(f"Resolved by one write that has seen both: {value}.")
    return both and value == ["tea", "milk", "jam"]
