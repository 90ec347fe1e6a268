"""What happened to one key, in words, for somebody who has not seen the code.

    The key k1 belongs to n1, n2 and n3. What broke was seen at 700 ms.
      495  c3 to n1      puts c3.3 over c2.5
      496  n1 to n2, n3  has written c3.3 as A2, and sends: c3.3 (A2), c2.5 (B1)
      497  n2 to n1      has stored it
      545  n1            *** is killed

A and B are names under which nodes write: A2 is the second write of A to this key, and "past A1"
means that the first is known and has been replaced. A world keeps what a story needs only if it
was told to (`run(seed, logging=True)`): it is by far the slowest part of a run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dynamo.core import dvv, ring
from dynamo.core import messages as m
from dynamo.core.messages import Malformed, Message
from dynamo.sim.history import Write
from dynamo.sim.judges import hints_of, rows_of
from dynamo.sim.wording import Names, fault_in_words, listed, writes_in_words
from dynamo.sim.world import World

# Messages that carry a key; others belong to the story if they answer one that does.
_KEYED = (m.PUT, m.GET, m.REPLICATE, m.FETCH, m.ASK_ID)
_HIDDEN = ("node", "step", "client")

Line = tuple[int, str, list[str], str]  # when, who, to whom, what


def tell(world: World, key: bytes, last: int = 80) -> str:
    """The last so many events around a full key up to the first violation, oldest first."""
    teller = _Teller(world, key)
    lines = teller.lines()
    shown = lines[-last:]
    owners = world.table.owners(ring.arc_of(key, world.config.partitions))
    name = key[1 + key[0] :].decode(errors="replace") if key else ""
    when = f"at {teller.until_ms} ms" if teller.until_ms >= 0 else "at the end, at rest"
    head = [f"The key {name} belongs to {listed(owners)}. What broke was seen {when}."]
    if len(lines) > len(shown):
        head.append(f"  ... {len(lines) - len(shown)} earlier events are left out ...")
    return "\n".join([*head, *map(_laid_out, shown), *teller.broken(), *teller.end()])


def _laid_out(line: Line) -> str:
    now_ms, who, to, what = line
    parties = f"{who} to {', '.join(to)}" if to else who
    return f"{now_ms:7}  {parties:16} {what}"


class _Teller:
    """Goes through the log of a world once, and keeps what concerns one key."""

    def __init__(self, world: World, key: bytes) -> None:
        self.world = world
        self.key = key
        self.names = Names(world)
        self.until_ms = world.broken[0] if world.broken is not None else world.broke_ms
        self._client_asks: dict[tuple[str, int], None] = {}
        self._peer_asks: dict[int, str] = {}  # request -> the write it is about, "" for none
        self._lines: list[Line] = []
        self._met: dict[str, None] = {}  # writes that the story mentions

    # --- what happened --------------------------------------------------------------------------

    def lines(self) -> list[Line]:
        """Everything around the key up to the moment when something was seen to be broken."""
        for now_ms, what, *rest in self.world.log:
            if 0 <= self.until_ms < now_ms:
                break
            if what == "step":
                host, _, outbox = rest
                for target, message in outbox:
                    to = target.decode() if isinstance(target, bytes) else target
                    self._say(now_ms, host, to, self._message(host, to, message))
            elif what == "client":
                name, node, messages = rest
                for message in messages:
                    self._say(now_ms, name, node, self._message(name, node, message))
            else:
                who, words = fault_in_words(what, rest)
                self._lines.append((now_ms, who, [], f"*** {words}"))
        return self._lines

    def _say(self, now_ms: int, who: str, to: str, words: str) -> None:
        if not words:
            return
        for at_ms, other, others, said in reversed(self._lines[-4:]):
            if (at_ms, other, said) == (now_ms, who, words) and others and to not in others:
                others.append(to)
                return
        self._lines.append((now_ms, who, [to], words))

    def broken(self) -> list[str]:
        """What was seen to be broken, the first of it."""
        for number, key, text in self.world.oracle.violations:
            if key == self.key:
                return [f"{number} is broken: {self.names.in_words(text)}."]
        return []

    def end(self) -> list[str]:
        """Who held what at that moment, and what became of the writes that were mentioned."""
        skey = ring.storage_key(self.key, self.world.config.partitions) if self.key else b""
        lines = ["Then they held:"] if skey else []
        rows, hints = (rows_of(self.world, skey), hints_of(self.world, skey)) if skey else ({}, {})
        if self.world.broken is not None:
            _, rows, hints = self.world.broken
        for name, obj in rows.items() if skey else ():
            lines.append(f"         {name:16} {self._clock(obj)}")
        for name, (homes, obj) in hints.items() if skey else ():
            kept = self._clock(obj) if obj else "a mark that its own row is owed"
            lines.append(f"         {name:16} for {listed(homes)}: {kept}")
        writes = [self.world.oracle.writes[uid] for uid in self._met]
        lines += writes_in_words(self.world, sorted(writes, key=lambda write: write.begun_ms))
        return [*lines, *self.names.legend()]

    # --- messages in words ----------------------------------------------------------------------

    def _message(self, source: str, target: str, message: Message) -> str:
        """What a message says about the key; "" if nothing."""
        kind = message[0]
        if kind == m.FORWARD:
            words = self._request(source, target, message[2])
            if words:
                self._peer_asks[message[1]] = ""
            return f"passes on: {words}" if words else ""
        if kind == m.FORWARDED:
            inner = message[2]
            known = message[1] in self._peer_asks
            return f"passes back: {self._answer(inner)}" if known else ""
        if kind in (m.PUT, m.GET):
            words = self._request(source, target, message)
            if words:
                self._client_asks[source, message[1]] = None
            return words
        if kind in (m.PUT_OK, m.GET_OK, m.CONFLICT, m.FAILED):
            return self._answer(message) if (target, message[1]) in self._client_asks else ""
        if kind in (m.KEYS, m.KEYS_ARE):
            return self._page(message)
        return self._among_nodes(source, message)

    def _request(self, source: str, target: str, message: Any) -> str:
        if message[0] not in _KEYED or message[3] != self.key:
            return ""
        if message[0] == m.GET:
            return f"reads the key{_levels(r=message[6], pr=message[7])}"
        write = self.world.oracle.writes.get(self._uid(message[8]))
        again = f", attempt {message[9] + 1}" if message[9] else ""
        levels = _levels(w=message[10], pw=message[11])
        if write is None:
            return f"puts a value{again}{levels}"
        if write.delete:
            return f"deletes the key ({write.uid}) {self._over(write, message[6])}{again}{levels}"
        return f"puts {write.uid} {self._over(write, message[6])}{again}{levels}"

    def _over(self, write: Write, mode: int) -> str:
        if mode == m.AUTO:
            return "where there is no value yet"
        if mode == m.BLIND:
            return "beside whatever is there"
        if write.opaque:
            return "over what it had seen"
        covered = self.world.oracle.of(self.key).newest(write.past)
        return f"over {listed([other.uid for other in covered])}" if covered else "over nothing"

    def _answer(self, message: Any) -> str:
        kind = message[0]
        if kind == m.FAILED:
            certain = "it may have happened" if message[8] else "nothing was done"
            return f"says it failed, {certain}: {message[3]}"
        values = [self._payload(payload) for _, payload in message[3]]
        if kind == m.CONFLICT:
            return f"refuses, as it holds {listed(values)}"
        if kind == m.GET_OK:
            return f"shows {listed(values) or 'nothing'}, from {listed(message[4])}"
        beside = f"; it holds {listed(values)}" if values else ""
        kept = [f"{name} for {home}" for name, home in message[5]]
        stand_ins = f", of them {listed(kept)}" if kept else ""
        return f"says it is stored, by {listed(message[4])}{stand_ins}{beside}"

    def _among_nodes(self, source: str, message: Message) -> str:
        kind = message[0]
        if kind in _KEYED:
            return self._question(source, message) if message[3] == self.key else ""
        if type(message[1]) is not int or message[1] not in self._peer_asks:
            return ""
        about = self._peer_asks[message[1]]
        if kind == m.REPLICATE_OK:
            return self._stored(about, message)
        if kind == m.FETCHED:
            counts = "" if message[3] else ", which does not count"
            if message[2] == m.SAME:
                return f"holds the same{counts}"
            return f"holds {self._clock(message[4])}{counts}"
        if kind == m.ID_IS:
            knows = "knows" if message[2] else "does not know"
            return f"{knows} {about}, and holds {self._clock(message[3])}"
        return "refuses, as the arc has changed hands" if kind == m.REFUSED else ""

    def _question(self, source: str, message: Message) -> str:
        kind = message[0]
        if kind == m.FETCH:
            self._peer_asks[message[1]] = ""
            return "asks what it holds"
        if kind == m.ASK_ID:
            uid = self._peer_asks[message[1]] = self._uid(message[6])
            self._meet(uid)
            return f"asks whether it knows {uid}"
        home, actor, obj = message[6], message[9], message[11]
        keep = f", to be kept for {home}" if home else ""
        if actor:
            self.names.note(actor, source)
            uid, dot = self._newest(actor, obj)
            self._peer_asks[message[1]] = uid
            return f"has written {uid} as {dot}, and sends{keep}: {self._clock(obj)}"
        self._peer_asks[message[1]] = "it"
        return f"sends what it holds{keep}: {self._clock(obj)}"

    def _stored(self, about: str, message: Message) -> str:
        if message[2] != m.STORED:
            why = {m.HINT_REFUSED: "no room for a hint", m.NO_SPACE: "its disk is full"}
            return f"does not store {about}: {why.get(message[2], 'it keeps nothing')}"
        more = f", and holds more: {self._clock(message[4])}" if message[4] else ""
        if message[3]:
            return f"has known that dot, up to {message[3]}, for another write{more}"
        return f"has stored {about or 'it'}{more}"

    def _page(self, message: Message) -> str:
        skey = ring.storage_key(self.key, self.world.config.partitions)
        if message[0] == m.KEYS:
            inside = message[3] == ring.arc_of(self.key, self.world.config.partitions)
            inside = inside and message[4] <= skey < message[5]
            if inside:
                self._peer_asks[message[1]] = "it"
            return "compares the rows of the arc" if inside else ""
        if message[1] not in self._peer_asks:
            return ""
        brought = [obj for other, obj in message[3] if other == skey]
        if brought:
            return f"holds another row: {self._clock(brought[0])}"
        return "wants the row" if skey in message[2] else ""

    # --- values in words ------------------------------------------------------------------------

    def _uid(self, put_id: bytes) -> str:
        uid = self.world.uids.get(put_id, put_id.hex())
        self._meet(uid)
        return uid

    def _meet(self, uid: str) -> None:
        write = self.world.oracle.writes.get(uid)
        if write is not None and write.key == self.key:
            self._met[uid] = None

    def _payload(self, payload: bytes) -> str:
        said = payload[1:].split(b"\n", 1)[0].decode(errors="replace")
        uid = self.world.payloads.get(payload, said)
        self._meet(uid)
        return uid

    def _newest(self, actor: bytes, obj: bytes) -> tuple[str, str]:
        for other, n, values in _decoded(obj):
            if other == actor and values:
                return self._uid(values[0][0]), f"{self.names.of(actor)}{n}"
        return "a value", self.names.of(actor)

    def _clock(self, obj: bytes) -> str:
        """A clock: its values with their dots, and what is known beyond them."""
        if not obj:
            return "nothing"
        held, past = [], []
        for actor, n, values in _decoded(obj):
            name = self.names.of(actor)
            for i, value in enumerate(values):
                what = "delete " if value[1] & dvv.TOMBSTONE else ""
                held.append(f"{what}{self._uid(value[0])} ({name}{n - i})")
            if n > len(values):
                past.append(f"{name}{n - len(values)}")
        if not held and not past:
            return "what cannot be read"
        gone = f"past {' '.join(past)}" if past else ""
        return "; ".join(filter(None, [", ".join(held), gone]))


def _decoded(obj: bytes) -> dvv.Clock:
    try:
        return dvv.decode(obj)
    except Malformed:
        return []


def _levels(**levels: int) -> str:
    names = {m.QUORUM: "quorum", m.ALL: "all"}
    said: Iterable[str] = [f"{k}={names.get(v, v)}" for k, v in levels.items() if v]
    return f" with {', '.join(said)}" if said else ""
