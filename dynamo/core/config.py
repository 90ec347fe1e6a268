"""Every knob of the core: its unit, its default, and what gets worse each way.

The first block decides what the ring promises and must be equal on all members; the second is
local timing and limits. `Config` is checked once, when it is built; the core trusts it afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Config:
    # --- What the ring promises: equal on every member -------------------------------------
    # Replicas of a key. Fewer members than `n` give as many replicas as there are members.
    n: int = 3
    # Owners that must answer a read, and acknowledge a write, when a request does not say.
    # 0 means a quorum of n. r + w > n makes a strict read see the last acknowledged write.
    r: int = 0
    w: int = 0
    # Equal arcs of the hash ring, a power of two, fixed for the life of a cluster. Balance is
    # within 3.4 % while partitions * n / members >= 30.
    partitions: int = 1024

    # --- Limits: what one request may ask for ------------------------------------------------
    key_bytes_max: int = 1024
    value_bytes_max: int = 4 << 20
    # Concurrent values of one key at which blind puts are refused. Nothing is ever dropped to
    # meet it: merges from peers may exceed it.
    siblings_max: int = 100
    # The longest deadline a request may carry. Put ids are remembered for twice this long, so
    # it also bounds the memory a busy node spends on them.
    timeout_ms_max: int = 10_000
    # Operations that this node coordinates at once, in number and in bytes of values. Past
    # either the answer is OVERLOADED, at once.
    pending_ops_max: int = 20_000
    pending_bytes_max: int = 256 << 20
    # Put ids remembered at most, whatever their age; about 200 bytes each. While a peer is away
    # they are kept beyond their time, up to this number.
    ids_max: int = 500_000

    # --- Timing of requests --------------------------------------------------------------------
    # Silence from an owner before its write goes to a stand-in. Lower: hints pile up during
    # ordinary pauses. Higher: a longer put tail while a node is down. Keep above the p99 of a
    # commit and two hops, and below half the usual client timeout.
    replica_timeout_ms: int = 150
    # A read asks one more owner after min(observed p99, this cap).
    hedge_ms_max: int = 50
    # Repairs, hints and exchange objects expire after this long on the wire, so that a node
    # which was paused cannot spread the past.
    background_timeout_ms: int = 10_000

    # --- Liveness ----------------------------------------------------------------------------
    # A peer is probed this often, must answer within `probe_timeout_ms`, is SUSPECT from then
    # on, and DOWN after `suspicion_ms` without any sign of life. Suspicion must exceed the
    # longest pause that should be tolerated; a lower one reacts faster and flaps more.
    probe_ms: int = 1_000
    probe_timeout_ms: int = 300
    suspicion_ms: int = 8_000
    # How many others are asked to probe a peer that has not answered.
    probe_helpers: int = 3

    # --- Membership ----------------------------------------------------------------------------
    # How often this node compares what it knows of the ring with one other node. News reach 100
    # nodes in about six rounds.
    gossip_ms: int = 1_000
    # Arcs that this node takes in at once, and how much it copies for that. Lower: a ring change
    # takes longer (a small arc is ten message delays and some syncs of the disk: 614 arcs of a busy
    # two-core machine took 14 s at 8, 4 s at 32), and is felt less: writes to these arcs go to one
    # node more.
    transfer_arcs: int = 32
    transfer_bytes_per_s: int = 32 << 20

    # --- Hints ---------------------------------------------------------------------------------
    # New hints that a write does not need are refused once the oldest undelivered hint for the
    # same home is this old, or once its hints take this many bytes. Needed ones are always kept.
    hint_window_ms: int = 3 * 3600 * 1000
    hint_bytes_max: int = 1 << 30
    # Hints on the wire to one home at once, in number and in bytes: the delivery rate is this
    # per round trip.
    hint_batch: int = 64
    hint_batch_bytes: int = 1 << 20

    # --- Exchange (replicas of an arc compare and repair each other) ---------------------------
    # How often arc roots are compared with each peer.
    exchange_ms: int = 10_000
    # Rows compared per message, and differing arcs walked at once with one peer.
    exchange_rows: int = 256
    exchange_arcs: int = 4

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int:
                raise ValueError(f"{field.name} must be a whole number, not {value!r}")
            if value < (0 if field.name in ("r", "w") else 1):
                raise ValueError(f"{field.name} must be at least 1, not {value}")
        if self.partitions & (self.partitions - 1) or self.partitions > 1 << 16:
            raise ValueError(
                f"partitions must be a power of two up to 65536, not {self.partitions}"
            )
        for name in ("r", "w"):
            if getattr(self, name) > self.n:
                raise ValueError(
                    f"{name}={getattr(self, name)} can never be met with n={self.n}: "
                    f"choose 1 to {self.n}"
                )
        if self.probe_timeout_ms >= self.suspicion_ms:
            raise ValueError(
                f"probe_timeout_ms ({self.probe_timeout_ms}) must be below "
                f"suspicion_ms ({self.suspicion_ms})"
            )

    @property
    def id_memory_ms(self) -> int:
        """How long a put id is remembered: twice the longest deadline, so every retry finds it."""
        return 2 * self.timeout_ms_max


def quorum(n: int) -> int:
    """The smallest number of `n` of which any two sets share a member."""
    return n // 2 + 1
