"""Whether a run read and kept what was written: what is wrong fails the run, however fast it was.

All values are unique, and every write has its begin, its end and its outcome in a log. Once the
run is over and all replicas agree, every key that was written is read at r=all, and held against
the logs:

    V1  Phantom: a value was read, then or at the end, that nobody wrote under this key, whose
        write failed for certain, or whose write began after the read had ended.
    V2  Lost: an acknowledged write is neither there nor could any other have replaced it. A write
        can be replaced by one that ended after it began, and that one again; what is there at the
        end is where such a chain must start. So the last of several writes in a row must be there,
        and of writes at the same time one of them.
    V3  False sibling: two values stand beside each other although the writer of the later one had
        seen the earlier: the last thing its process did to that key, alone, before it wrote, was
        to read it or to write it itself.
    V4  Carts and counters only grow: every field that was acknowledged is there with at least that
        count, and none with a count that nobody began to write.

Writes that may have been applied count as applied wherever that is the more lenient reading. The
checks are sound, so no correct store fails them; they are not complete.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.values import ACKED, FAILED, NOBODY, Corrupt, Reads, Tag, Writes, tag_of

EXAMPLES_MAX = 10
# The client remembers what it has seen of so many keys; a writer that did as many other things in
# between may rightly have forgotten. Half of `dynamo.client.memory.KEYS_MAX`, for reads and writes.
MEMORY_OPS = 5_000
ENDLESS = float("inf")


@dataclass
class Verdict:
    """What was checked, and everything that was wrong."""

    keys: int = 0
    writes: int = 0
    reads: int = 0
    lost: list[str] = field(default_factory=list)
    phantoms: list[str] = field(default_factory=list)
    false_siblings: list[str] = field(default_factory=list)
    siblings_left: int = 0
    note: str = ""

    @property
    def good(self) -> bool:
        return not (self.lost or self.phantoms or self.false_siblings)

    def to_json(self) -> dict[str, Any]:
        kinds = ("lost", "phantoms", "false_siblings")
        return {
            "good": self.good,
            "keys": self.keys,
            "writes": self.writes,
            "reads": self.reads,
            "siblings_left": self.siblings_left,
            **{kind: len(getattr(self, kind)) for kind in kinds},
            "examples": [text for kind in kinds for text in getattr(self, kind)[:EXAMPLES_MAX]],
            "note": self.note,
        }


class Logs:
    """Writes and reads of all workers, with the ways into them that the checks need."""

    def __init__(self, writes: Mapping[int, Writes], reads: Mapping[int, Reads]) -> None:
        self.writes = writes
        self.reads = reads
        self._extras = {writer: dict(log.extras) for writer, log in reads.items()}

    def written_keys(self) -> set[int]:
        return {key for log in self.writes.values() for key in log.key}

    def end_of(self, tag: Tag) -> float:
        """When a write was over; never, where that is not known."""
        log = self.writes[tag[0]]
        return log.ended[tag[1]] if log.state[tag[1]] == ACKED else ENDLESS

    def shown(self, writer: int, index: int) -> list[Tag]:
        return self.reads[writer].tags(index, self._extras[writer])

    def by_key(self) -> dict[int, list[Tag]]:
        found: dict[int, list[Tag]] = defaultdict(list)
        for writer, log in self.writes.items():
            for seq, key in enumerate(log.key):
                if log.state[seq] != FAILED:
                    found[key].append((writer, seq))
        return found

    def doings(self, writer: int, keys: set[int]) -> dict[int, list[tuple[float, float, str, int]]]:
        """What one worker did to each of these keys: begun, ended, "read" or "write", index."""
        found: dict[int, list[tuple[float, float, str, int]]] = defaultdict(list)
        writes, reads = self.writes[writer], self.reads[writer]
        for seq, key in enumerate(writes.key):
            if key in keys:
                found[key].append((writes.begun[seq], self.end_of((writer, seq)), "write", seq))
        for index, key in enumerate(reads.key):
            if key in keys:
                found[key].append((reads.begun[index], reads.ended[index], "read", index))
        for doings in found.values():
            doings.sort()
        return found


def verify(logs: Logs, final: Mapping[int, list[Tag]]) -> Verdict:
    """`final`: what each written key held at the end, as read from all replicas."""
    verdict = Verdict(
        keys=len(final),
        writes=sum(map(len, logs.writes.values())),
        reads=sum(map(len, logs.reads.values())),
        siblings_left=sum(len(tags) > 1 for tags in final.values()),
    )
    _phantoms(logs, final, verdict)
    by_key = logs.by_key()
    for key, tags in final.items():
        verdict.lost += lost_of_key(logs, key, tags, by_key.get(key, []))
    together = [(key, tags, ENDLESS) for key, tags in final.items() if len(tags) > 1]
    for writer, log in logs.reads.items():
        for index, _ in log.extras:
            together.append((log.key[index], logs.shown(writer, index), log.ended[index]))
    verdict.false_siblings += _false_siblings(logs, together)
    return verdict


# --- V1 ---------------------------------------------------------------------------------------


def _phantoms(logs: Logs, final: Mapping[int, list[Tag]], verdict: Verdict) -> None:
    for key, tags in final.items():
        for tag in tags:
            if why := _phantom(logs, key, tag, ENDLESS):
                verdict.phantoms.append(f"at the end key {key} held {tag}: {why}")
    for writer, log in logs.reads.items():
        seen: set[tuple[int, Tag]] = set()
        for index, key in enumerate(log.key):
            for tag in logs.shown(writer, index):
                # The first time is the hardest for a value: the write must have begun by then.
                if (key, tag) not in seen:
                    seen.add((key, tag))
                    if why := _phantom(logs, key, tag, log.ended[index]):
                        verdict.phantoms.append(f"a read of key {key} showed {tag}: {why}")


def _phantom(logs: Logs, key: int, tag: Tag, ended: float) -> str:
    """What is wrong with a value that was read, or ""."""
    writer, seq = tag
    log = logs.writes.get(writer)
    if log is None or not 0 <= seq < len(log):
        return "nobody wrote it"
    if log.key[seq] != key:
        return f"it was written to key {log.key[seq]}"
    if log.state[seq] == FAILED:
        return "its write had failed for certain"
    if log.begun[seq] > ended:
        return "its write began after the read had ended"
    return ""


# --- V2 ---------------------------------------------------------------------------------------


def lost_of_key(logs: Logs, key: int, there: list[Tag], written: list[Tag]) -> list[str]:
    """Acknowledged writes that are not there, and that nothing there can have replaced."""
    # A phantom among them explains nothing.
    present = set(there) & set(written)
    replacing = present
    if not there:
        replacing = {tag for tag in written if logs.writes[tag[0]].gone[tag[1]]}
    reach = max(map(logs.end_of, replacing), default=-ENDLESS)
    # Each write that is explained may explain those that began before its end.
    rest = list(written)
    explained = True
    while explained and rest:
        explained = False
        left = []
        for tag in rest:
            if tag in present or logs.writes[tag[0]].begun[tag[1]] < reach:
                reach = max(reach, logs.end_of(tag))
                explained = True
            else:
                left.append(tag)
        rest = left
    return [
        f"key {key} lost the acknowledged write {tag}"
        for tag in rest
        if logs.writes[tag[0]].state[tag[1]] == ACKED
    ]


# --- V3 ---------------------------------------------------------------------------------------


def _false_siblings(logs: Logs, together: list[tuple[int, list[Tag], float]]) -> list[str]:
    keys = {key for key, _, _ in together}
    if not keys:
        return []
    doings = {writer: logs.doings(writer, keys) for writer in logs.writes}
    orders = {writer: _order(logs, writer) for writer in logs.writes}
    found: dict[tuple[Tag, Tag], str] = {}
    for key, tags, _ in together:
        for later in tags:
            covered = _covered(logs, key, later, doings, orders)
            for earlier in tags:
                if earlier in covered and earlier != later:
                    found[earlier, later] = (
                        f"key {key} held {earlier} beside {later}, whose writer had seen it"
                    )
    return list(found.values())


def _order(logs: Logs, writer: int) -> list[float]:
    """When this worker's operations began, ascending: how much it did between two times."""
    return sorted([*logs.writes[writer].begun, *logs.reads[writer].begun])


def _covered(
    logs: Logs,
    key: int,
    later: Tag,
    doings: Mapping[int, Mapping[int, list[tuple[float, float, str, int]]]],
    orders: Mapping[int, list[float]],
) -> set[Tag]:
    """What the writer of `later` had certainly seen of the key when it wrote."""
    writer, seq = later
    if writer not in logs.writes or not 0 <= seq < len(logs.writes[writer]):
        return set()
    begun = logs.writes[writer].begun[seq]
    mine = [
        doing
        for doing in doings[writer].get(key, [])
        if doing[0] <= begun and not (doing[2] == "write" and doing[3] == seq)
    ]
    if not mine:
        return set()
    last = mine[-1]
    # Alone: nothing else of this worker on this key was under way from the begin of the last.
    if any(other[1] > last[0] for other in mine[:-1]) or last[1] > begun:
        return set()
    order = orders[writer]
    if bisect_left(order, begun) - bisect_left(order, last[0]) > MEMORY_OPS:
        return set()
    if last[2] == "write":
        return {(writer, last[3])}
    return set(logs.shown(writer, last[3]))


# --- V4 ---------------------------------------------------------------------------------------


def verify_fields(
    writes: Mapping[int, Writes], final: Mapping[int, Mapping[str, int]], adds: str
) -> Verdict:
    """Carts and counters: `final` are the fields of each key at the end."""
    acked: dict[int, dict[str, int]] = defaultdict(dict)
    begun: dict[int, dict[str, int]] = defaultdict(dict)
    for writer, log in writes.items():
        for seq, key in enumerate(log.key):
            name = f"{writer}.{seq}" if adds == "item" else f"w{writer}"
            count = log.count[seq]
            if log.state[seq] == ACKED:
                acked[key][name] = max(count, acked[key].get(name, 0))
            if log.state[seq] != FAILED or adds == "count":
                begun[key][name] = max(count, begun[key].get(name, 0))
    verdict = Verdict(keys=len(final), writes=sum(map(len, writes.values())))
    for key, fields in final.items():
        for name, count in acked.get(key, {}).items():
            if fields.get(name, 0) < count:
                verdict.lost.append(
                    f"key {key} has {name}={fields.get(name, 0)}, acknowledged was {count}"
                )
        for name, count in fields.items():
            if count > begun.get(key, {}).get(name, 0):
                verdict.phantoms.append(f"key {key} has {name}={count}, which nobody wrote")
    return verdict


def final_tags(key: int, values: Iterable[Any]) -> list[Tag]:
    """The tags of what a key held; NOBODY for a value that is not one of this harness."""
    tags = []
    for value in values:
        try:
            tags.append(tag_of(key, value))
        except Corrupt:
            tags.append((NOBODY, NOBODY))
    return tags
