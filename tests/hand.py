"""A ring in the hand: real nodes, messages that a test delivers, holds or loses one by one.

No sockets, no sleeps, no randomness beyond each node's seeded generator. `run` moves virtual time
a millisecond at a turn and delivers everything that `lose` and `hold` let through.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from dynamo.core import dvv, ring
from dynamo.core import messages as m
from dynamo.core.config import Config
from dynamo.core.node import Cluster, Node
from dynamo.core.replica import CHECK_BYTES
from dynamo.core.spaces import HINTS, OBJECTS
from dynamo.storage.memory import MemoryStore

CLUSTER = Cluster("test", b"secret" * 6)
Rule = Callable[[str, str, m.Message], bool]


def never(src: str, dst: str, message: m.Message) -> bool:
    return False


def value_id(name: str) -> bytes:
    return name.encode().ljust(16, b".")


class Hand:
    def __init__(self, nodes: int = 3, **config) -> None:
        config = {"partitions": 8, "probe_ms": 100, "probe_timeout_ms": 40} | config
        self.config = Config(**{"suspicion_ms": 300, **config})
        self.names = [f"n{i + 1}" for i in range(nodes)]
        self.members = [ring.Member(name, "127.0.0.1", 1, 2) for name in self.names]
        self.stores = {name: MemoryStore() for name in self.names}
        self.nodes: dict[str, Node] = {}
        self.now = 0
        self.flying: list[tuple[str, str, m.Message]] = []
        self.held: list[tuple[str, str, m.Message]] = []
        self.sent: list[tuple[str, str, m.Message]] = []
        self.lose: Rule = never
        self.hold: Rule = never
        self.replies: list[m.Message] = []
        self._req = 0
        for name in self.names:
            self.start(name)
        self.run(40)
        assert all(node.ready for node in self.nodes.values())

    # --- nodes ----------------------------------------------------------------------------------

    def start(self, name: str) -> Node:
        """Start a node over the store it has; a store that was used before is a durable one."""
        seed = len(self.sent) * 100 + self.names.index(name)
        self.nodes[name] = Node(
            self.config, next(member for member in self.members if member.name == name),
            self.members, CLUSTER, self.stores[name], random.Random(seed), self.now,
        )  # fmt: skip
        return self.nodes[name]

    def kill(self, name: str) -> None:
        """Stop a node where it stands; what it had sent is still under way."""
        self.stores[name].crash()
        del self.nodes[name]

    def wipe(self, name: str) -> None:
        self.stores[name] = MemoryStore()

    def owners(self, key: str = "k") -> tuple[str, ...]:
        table = next(iter(self.nodes.values())).table
        return table.owners(self.arc(key))

    def arc(self, key: str = "k") -> int:
        return ring.arc_of(self.full(key), self.config.partitions)

    def full(self, key: str = "k") -> bytes:
        return ring.full_key(b"default", key.encode())

    def skey(self, key: str = "k") -> bytes:
        return ring.storage_key(self.full(key), self.config.partitions)

    # --- time and messages --------------------------------------------------------------------

    def run(self, ms: int = 12) -> None:
        for _ in range(ms):
            self.now += 1
            flying, self.flying = self.flying, []
            for name, node in list(self.nodes.items()):
                inbox = [(src, msg, self.now) for src, dst, msg in flying if dst == name]
                inbox = [
                    (b"client" if src == "client" else src, msg, born) for src, msg, born in inbox
                ]
                for dst, message in node.step(self.now, inbox, 1_000_000 + self.now):
                    self._send(name, dst, message)
                node.check()

    def _send(self, src: str, dst, message: m.Message) -> None:
        if isinstance(dst, bytes):
            self.replies.append(m.check(message))
            return
        message = m.check(m.decode_frame(m.encode_frame(b"t" * 8, src, 1, 0, [message]),
                                         b"t" * 8, m.FROM_PEER)[3][0])  # fmt: skip
        entry = (src, dst, message)
        self.sent.append(entry)
        if self.lose(*entry):
            return
        (self.held if self.hold(*entry) else self.flying).append(entry)

    def release(self) -> None:
        """Let everything that was held go on its way."""
        self.hold = never
        self.flying += self.held
        self.held = []

    def isolate(self, *names: str) -> None:
        """Lose whatever goes between these nodes and the others."""
        self.lose = lambda src, dst, message: (src in names) != (dst in names)

    def heal(self) -> None:
        self.lose = never

    def settle(self, ms: int = 900) -> None:
        """Heal, and give detectors, hints and exchanges their time."""
        self.heal()
        self.release()
        for node in self.nodes.values():
            node.exchange.hurry_all()
        self.run(ms)
        for node in self.nodes.values():
            node.check_rows()

    # --- clients ----------------------------------------------------------------------------------

    def put(
        self, via: str, value: str = "v", key: str = "k", mode: int = m.AUTO, context: bytes = b"",
        attempt: int = 0, put_id: str = "", w: int = 0, pw: int = 0, flags: int = m.SLOPPY,
        timeout_ms: int = 1000, ttl_ms: int = 0, ms: int = 12, again: bool = True,
    ) -> m.Message | None:  # fmt: skip
        """Send a PUT and run; the answer if one came. The value is also the put id.

        An auto put over one value is sent `again` over it, as the client does.
        """
        self._req += 1
        payload = b"" if flags & m.DELETE else value.encode()
        message = (
            m.PUT, self._req, timeout_ms, self.full(key), 1, 0, mode, context,
            value_id(put_id or value), attempt, w, pw, flags, ttl_ms, payload,
        )  # fmt: skip
        answer = self._ask(via, message, ms)
        if answer is None or answer[0] != m.CONFLICT or len(answer[3]) > 1 or not again:
            return answer
        return self.put(
            via, value, key, m.CAUSAL, answer[2], attempt, put_id, w, pw, flags, timeout_ms,
            ttl_ms, ms,
        )  # fmt: skip

    def delete(self, via: str, put_id: str, **options) -> m.Message | None:
        return self.put(via, put_id, flags=m.SLOPPY | m.DELETE, **options)

    def get(
        self, via: str, key: str = "k", r: int = 0, pr: int = 0, flags: int = m.SLOPPY,
        timeout_ms: int = 1000, ms: int = 12,
    ) -> m.Message | None:  # fmt: skip
        self._req += 1
        message = (m.GET, self._req, timeout_ms, self.full(key), 1, 0, r, pr, flags)
        return self._ask(via, message, ms)

    def _ask(self, via: str, message: m.Message, ms: int) -> m.Message | None:
        req = message[1]
        self.flying.append(("client", via, message))
        self.run(ms)
        return self.answer(req)

    def answer(self, req: int | None = None) -> m.Message | None:
        """The answer to a request, by default to the last one."""
        req = self._req if req is None else req
        found = [reply for reply in self.replies if reply[1] == req]
        assert len(found) <= 1, "C1: answered once"
        return found[0] if found else None

    # --- looking --------------------------------------------------------------------------------

    def row(self, name: str, key: str = "k") -> dvv.Clock:
        """The clock that a node's store holds for a key."""
        record = self.stores[name].get(OBJECTS, self.skey(key))
        return dvv.decode(record[CHECK_BYTES:]) if record else []

    def values(self, name: str, key: str = "k") -> list[str]:
        """The payloads in a node's row, both dots of a put shown."""
        return sorted(v[4].decode() for v in dvv.values_of(self.row(name, key)))

    def read(self, via: str, key: str = "k", **options) -> list[str]:
        """The values that a reader sees."""
        answer = self.get(via, key, **options)
        assert answer is not None, "no answer"
        assert answer[0] == m.GET_OK, answer
        return sorted(payload.decode() for _, payload in answer[3])

    def context(self, via: str, key: str = "k") -> bytes:
        answer = self.get(via, key)
        assert answer is not None
        assert answer[0] == m.GET_OK
        return answer[2]

    def hints(self, name: str) -> int:
        return len(list(self.stores[name].scan(HINTS)))

    def forget_row(self, name: str, key: str = "k", row: bytes | None = None) -> None:
        """The store of a node loses a row, or goes back to an earlier record, and says nothing."""
        node = self.nodes[name]
        old = self.stores[name].get(OBJECTS, self.skey(key))
        node.replica._toggle(self.skey(key), old)
        node.replica.keys -= 1
        if row is None:
            self.stores[name].delete(OBJECTS, self.skey(key))
        else:
            self.stores[name].put(OBJECTS, self.skey(key), row)
            node.replica._toggle(self.skey(key), row)
            node.replica.keys += 1
        self.stores[name].commit()

    def record(self, name: str, key: str = "k") -> bytes:
        record = self.stores[name].get(OBJECTS, self.skey(key))
        assert record is not None
        return record
