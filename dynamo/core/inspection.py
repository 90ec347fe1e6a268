"""What people and their tools ask a node: the ring, how it fares, what it holds of one key.

Answers are plain JSON values of this node's own view; nothing is asked of others, nothing changes
(riak#754: polling the status of vnodes kept them from handing off). STATUS.what is one of

    "status"     state in a few figures: peers, hints by home, keys, counters
    "roots"      what `wait_converged` compares: hints owed, and the root of each arc with rows
    "hints"      per home: how many, how many bytes, since when
    "key HEX"    the full key's arc, owners, and this node's row and hint of it, dot by dot
    "members"    every node, whatever its status, and what is staged
    "tasks"      the changes that were committed, how far they are, what they wait for
    "table"      all registers and goals
    "transfers"  what this node drives: arcs that come and go, and why they wait
    "gossip"     with whom this node compared what it knows of the ring, and when
    "exchange"   not a question: compare with all peers now; answers {}

anything else is answered {}.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import msgspec

from dynamo.core import dvv, ring
from dynamo.core.changes import Changes
from dynamo.core.config import Config
from dynamo.core.exchange import Exchange
from dynamo.core.handoff import Handoff
from dynamo.core.messages import RING_IS, STATUS_IS, Message
from dynamo.core.replica import CHECK_BYTES, HINT_ARC, intact, seal_record
from dynamo.core.requests import Requests
from dynamo.core.ringview import RingView
from dynamo.core.roster import Roster
from dynamo.core.spaces import OBJECTS, QUARANTINE

PAYLOAD_BYTES_MAX = 4096  # of a value, as far as an answer shows it


class Inspection:
    """Answers RING and STATUS of one node."""

    def __init__(
        self,
        name: str,
        cluster: str,
        config: Config,
        roster: Roster,
        store: Any,
        requests: Requests,
        handoff: Handoff,
        exchange: Exchange,
        changes: Changes,
        now_ms: int,
    ) -> None:
        self._name = name
        self._cluster = cluster
        self._config = config
        self._roster = roster
        self._table = roster.table
        self._store = store
        self._requests = requests
        self._replica = requests.replica
        self._handoff = handoff
        self._exchange = exchange
        self._began_ms = now_ms
        ringview = RingView(config, roster, changes.state)
        # Filled by whoever moves rows between nodes: what it drives, and bytes in the last second.
        self.movers: list[Callable[[], list[dict[str, Any]]]] = []
        self.rates: list[Callable[[], int]] = []
        self.gossip_view: Callable[[], dict[str, Any]] = dict
        # Clients ask once a second each: as of which change of the table, names, and owners.
        self._packed: tuple[int, list[str], bytes] = (-1, [], b"")
        self._answers: dict[str, Callable[[], dict[str, Any]]] = {
            "status": self.status,
            "roots": self.roots,
            "hints": self.hints,
            "members": ringview.members,
            "tasks": ringview.tasks,
            "table": ringview.table,
            "transfers": self.transfers,
            "gossip": self.gossip,
            "exchange": self._compare_now,
        }

    def on_ring(self, client: bytes, message: Message, born_ms: int) -> None:
        config, table = self._config, self._table
        if self._packed[0] != table.changes:
            self._packed = (table.changes, *table.packed_owners())
        _, names, owners = self._packed
        found = [self._roster.member(name) for name in names]
        # A name that owns arcs, and of which nothing is known, still has its place in the list.
        members = [
            [name, m.host if m else "", m.client_port if m else 0]
            for name, m in zip(names, found, strict=True)
        ]
        limits = [config.key_bytes_max, config.value_bytes_max, config.timeout_ms_max]
        if message[3] >= table.version:
            owners = b""  # as the client knows them, and they are most of the answer
        self._requests.outbox.append(
            (
                client,
                (RING_IS, message[1], self._cluster, table.version, table.n, table.partitions,
                 config.r, config.w, members, owners, limits),
            )
        )  # fmt: skip

    def on_status(self, client: bytes, message: Message, born_ms: int) -> None:
        what = message[3]
        if what.startswith("key "):
            answer = self._named_key(what[4:])
        else:
            answer = self._answers.get(what, dict)()
        self._requests.outbox.append((client, (STATUS_IS, message[1], msgspec.json.encode(answer))))

    # --- the answers ----------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What an operator sees of this node."""
        replica = self._replica
        return {
            "node": self._name,
            "cluster": self._cluster,
            "ready": self._exchange.ready,
            "draining": self._roster.draining,
            "boot": replica.boot,
            "up_ms": self._requests.now_ms - self._began_ms,
            "durability": self._store.durability,
            "ring": {
                "version": self._table.version,
                "partitions": self._table.partitions,
                "n": self._table.n,
            },
            "peers": self._requests.liveness.states(),
            "silent_ms": self._requests.liveness.silent_ms(self._requests.now_ms),
            "hints": self._handoff.counts(),
            "hint_bytes": self._handoff.sizes(),
            "keys": replica.keys,
            "pending": len(self._requests.pending),
            "corrupt": replica.stats["records_corrupt"] + replica.stats["hints_corrupt"],
            "stats": dict(sorted(replica.stats.items())),
        }

    def roots(self) -> dict[str, Any]:
        """Hints left, and the root of each arc that has rows."""
        owed = self._handoff.counts()
        roots = sorted(self._replica.roots.items())
        return {
            "node": self._name,
            "ready": self._exchange.ready,
            "hints": sum(owed.values()),
            "owed": owed,
            "roots": {str(arc): f"{root:016x}" for arc, root in roots if root},
        }

    def hints(self) -> dict[str, Any]:
        """Per home what is owed to it, and what became of hints in this life of the node."""
        counts, sizes = self._handoff.counts(), self._handoff.sizes()
        since = self._handoff.oldest()
        stats = self._replica.stats
        return {
            "node": self._name,
            "hints": [
                {
                    "home": home,
                    "count": count,
                    "bytes": sizes[home],
                    "oldest_wall_ms": since[home],
                }
                for home, count in counts.items()
            ],
            "created": stats["hints_created"],
            "delivered": stats["hints_delivered"],
            "refused": stats["hints_refused"],
            "rerouted": stats["hints_rerouted"],
        }

    def transfers(self) -> dict[str, Any]:
        """What this node drives, whoever in it does the driving."""
        return {
            "node": self._name,
            "transfers": [line for view in self.movers for line in view()],
            "rate_bytes_per_s": sum(rate() for rate in self.rates),
            "limit_bytes_per_s": self._config.transfer_bytes_per_s,
        }

    def gossip(self) -> dict[str, Any]:
        """How this node's view of the ring compares with those of others."""
        return {"node": self._name, "hash": f"{self._roster.hash:016x}", **self.gossip_view()}

    def _compare_now(self) -> dict[str, Any]:
        self._exchange.hurry_all()
        return {}

    # --- one key ----------------------------------------------------------------------------------

    def _named_key(self, text: str) -> dict[str, Any]:
        try:
            full = bytes.fromhex(text)
            ring.split_key(full)
        except ValueError as error:
            return {"error": f"{text[:40]!r} is not the hex of a full key: {error}"}
        return self.key(full)

    def key(self, full: bytes) -> dict[str, Any]:
        """Where a key lies, and what this node holds of it, as owner and as stand-in."""
        skey = ring.storage_key(full, self._config.partitions)
        arc = int.from_bytes(skey[:2], "big")
        register = self._table.registers[arc]
        record: bytes = self._store.get(OBJECTS, skey) or b""
        # Looked at and left alone: setting a corrupt record aside is for those who serve it.
        corrupt = bool(record) and not intact(skey, record)
        return {
            "node": self._name,
            "arc": arc,
            "ver": register.ver,
            "phase": register.phase,
            "owners": list(register.cur),
            "fallbacks": self._table.fallbacks(arc, lambda name: True),
            "owner": self._name in register.cur,
            "synced": self._name in register.cur and self._replica.synced(arc),
            "corrupt": corrupt or self._store.get(QUARANTINE, skey) is not None,
            "row": self._object(skey, record[CHECK_BYTES:]) if record and not corrupt else None,
            "hint": self._hint(skey),
        }

    def _hint(self, skey: bytes) -> dict[str, Any] | None:
        row = self._handoff.row(skey)
        if row is None:
            return None
        homes, since_wall_ms, obj, _ = row
        shown = self._object(skey, obj) if obj else None  # None: its own row is what is owed
        return {"homes": homes, "since_wall_ms": since_wall_ms, "obj": shown}

    def _object(self, skey: bytes, obj: bytes) -> dict[str, Any]:
        arc = int.from_bytes(skey[:2], "big")
        return {
            "digest": seal_record(skey, obj)[:CHECK_BYTES].hex(),
            "entries": [
                {
                    "actor": actor.hex(),
                    "n": n,
                    "minted_here": self._is_own(arc, actor),
                    "values": [_value(n - i, value) for i, value in enumerate(values)],
                }
                for actor, n, values in dvv.decode(obj)
            ],
        }

    def _is_own(self, arc: int, actor: bytes) -> bool:
        replica = self._replica
        return replica.is_own(arc, actor) or replica.is_own(HINT_ARC, actor)


def _value(n: int, value: dvv.Value) -> dict[str, Any]:
    put_id, flags, stamp_ms, expires_ms, payload = value
    return {
        "n": n,
        "put_id": put_id.hex(),
        "stamp_ms": stamp_ms,
        "expires_ms": expires_ms,
        "tombstone": bool(flags & dvv.TOMBSTONE),
        "bytes": len(payload),
        "payload": b64encode(payload[:PAYLOAD_BYTES_MAX]).decode("ascii"),
    }
