"""The server's loop on real sockets: what arrives, what leaves, and what must not stop it.

Most tests turn a `Server` by hand around a stub node that records what it is given and sends what
it is told to, so that nothing runs in the background. The last part starts real node processes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from dynamo.core import messages as m
from dynamo.core.items import IN, REMOVED
from dynamo.core.roster import Roster
from dynamo.processes import free_ports
from dynamo.server import loop, outlets
from dynamo.server import peers as visiting
from dynamo.server.config import Settings, load
from dynamo.server.loop import Server, StartError
from dynamo.server.outlets import batches
from dynamo.server.tidings import SENTENCES
from dynamo.storage import MemoryStore

pytestmark = pytest.mark.net

STATUS = (m.STATUS, 7, 1000, "status")
PING = (m.PING, 1)
PATIENCE_S = 10.0


class StubNode:
    """Records its inbox, answers STATUS, and sends what a test has put into `outbox`.

    Its roster is a real one, which the test changes as news from elsewhere would.
    """

    def __init__(self, settings: Settings) -> None:
        self.boot = 3
        self.events: list[tuple[Any, ...]] = []
        self.stats: Counter[str] = Counter()
        self.seen: list[tuple[Any, m.Message, int]] = []
        self.steps: list[int] = []
        self.outbox: list[tuple[Any, m.Message]] = []
        self.gone: list[str] = []
        self.now_ms = 0
        self.roster = Roster(
            settings.config, settings.me, settings.members, MemoryStore(), self.events, self.stats
        )

    def step(
        self, now_ms: int, inbox: list[tuple[Any, m.Message, int]], wall_ms: int
    ) -> list[tuple[Any, m.Message]]:
        self.now_ms = now_ms
        self.seen += inbox
        self.steps.append(len(inbox))
        outbox, self.outbox = self.outbox, []
        for sender, message, _ in inbox:
            if message[0] == m.STATUS:
                outbox.append((sender, (m.STATUS_IS, message[1], b"{}")))
        return outbox

    def next_due_ms(self) -> int:
        return self.now_ms + 10_000

    def lost(self, peer: str) -> None:
        self.gone.append(peer)


class Rig:
    """A server named n1 around a stub, its peer n2 played by the test, and clients."""

    def __init__(self, tmp_path: Path, faults: bool = False, tuning: str = "") -> None:
        self.ports = free_ports(4)
        self.settings = write_settings(tmp_path, self.ports, faults, tuning)
        self.tag = self.settings.cluster.tag
        self.node = StubNode(self.settings)
        self.server = Server(self.settings, self.node)
        self.server.open()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sockets: list[zmq.Socket[bytes]] = []

    def close(self) -> None:
        self.server.close()
        for opened in self.sockets:
            opened.close(linger=0)
        self.context.term()

    def socket(self, kind: int) -> zmq.Socket[bytes]:
        self.sockets.append(self.context.socket(kind))
        return self.sockets[-1]

    def client(self, **options: int) -> zmq.Socket[bytes]:
        found = self.socket(zmq.DEALER)
        for name, value in options.items():
            found.setsockopt(getattr(zmq, name), value)
        found.connect(f"tcp://127.0.0.1:{self.ports[0]}")
        return found

    def peer_out(self) -> zmq.Socket[bytes]:
        found = self.socket(zmq.PUSH)
        found.connect(f"tcp://127.0.0.1:{self.ports[1]}")
        return found

    def peer_in(self) -> zmq.Socket[bytes]:
        found = self.socket(zmq.PULL)
        found.bind(f"tcp://127.0.0.1:{self.ports[3]}")
        return found

    def turn_until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, "nothing happened"
            self.server.turn(10)

    def receive(self, source: zmq.Socket[bytes]) -> m.Frame:
        """The next frame at one of the test's own sockets."""
        self.turn_until(lambda: source.poll(0))
        return m.decode_frame(source.recv(), self.tag, m.SHAPES)

    def answers(self) -> bool:
        """Whether a client gets its STATUS answered."""
        client = self.client()
        client.send(from_client(STATUS))
        return self.receive(client)[3] == [(m.STATUS_IS, 7, b"{}")]

    def connected(self) -> zmq.Socket[bytes]:
        """The receiving end of n2, once n1 has found it."""
        pull = self.peer_in()
        self.turn_until(lambda: self.send_peer(PING) or pull.poll(10))
        while pull.poll(20):
            pull.recv()
        self.node.gone.clear()
        return pull

    def send_peer(self, *messages: m.Message) -> None:
        self.node.outbox += [("n2", message) for message in messages]
        self.server.turn(0)


def write_settings(tmp_path: Path, ports: list[int], faults: bool, tuning: str) -> Settings:
    member = '[[members]]\nname="n{}"\nclient="127.0.0.1:{}"\npeer="127.0.0.1:{}"\n'
    file = tmp_path / "n1.toml"
    file.write_text(
        f'[node]\nname="n1"\nclient="127.0.0.1:{ports[0]}"\npeer="127.0.0.1:{ports[1]}"\n'
        f"faults={'true' if faults else 'false'}\n"
        f"[cluster]\npartitions=8\n[tuning]\n{tuning}\n"
        + member.format(1, *ports[:2])
        + member.format(2, *ports[2:])
    )
    return load(file, {})


def from_client(*messages: m.Message, tag: bytes = bytes(8), sent_ms: int = 0) -> bytes:
    return m.encode_frame(tag, "someone", 0, sent_ms, list(messages))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, faults=True)
    yield made
    made.close()


# --- In ---------------------------------------------------------------------------------------


def garbage(tag: bytes, port: str) -> dict[str, bytes]:
    misshapen = (m.PING, "one") if port == "peer" else (m.STATUS, "one", 1, "")
    whole = m.encode_frame(tag, "n2", 1, 0, [PING])
    return {
        "empty": b"",
        "short": b"dy",
        "foreign": b"GET / HTTP/1.1\r\n\r\n",
        "version": whole[:2] + b"\x09" + whole[3:],
        "checksum": whole[:-1] + bytes([whole[-1] ^ 1]),
        "cluster": m.encode_frame(b"notours!", "n2", 1, 0, [PING]),
        "kind": m.encode_frame(tag, "n2", 1, 0, [(m.GET_OK, 1, b"", [], [])]),
        "shape": m.encode_frame(tag, "n2", 1, 0, [misshapen]),
        "noise": os.urandom(500),
    }


@pytest.mark.parametrize("port", ["client", "peer"])
def test_garbage_on_either_port_is_counted_by_reason_and_leaves_the_node_answering(
    rig: Rig, port: str
) -> None:
    sender = rig.client() if port == "client" else rig.peer_out()
    frames = garbage(rig.tag, port)
    for frame in frames.values():
        sender.send(frame)
    sender.send_multipart([b"a", b"b", b"c"])

    def refused() -> int:
        return sum(n for name, n in rig.node.stats.items() if name.startswith("refused_"))

    rig.turn_until(lambda: refused() == len(frames) + 1)
    for reason in ("short", "foreign", "version", "checksum", "cluster", "kind", "shape", "parts"):
        assert rig.node.stats[f"refused_{reason}"] >= 1, reason
    assert rig.node.seen == []
    assert rig.answers()


def test_a_stranger_that_speaks_no_zeromq_leaves_the_node_answering(rig: Rig) -> None:
    for port in rig.ports[:2]:
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(b"\x16\x03\x01" + bytes(4000))
    assert rig.answers()


def test_a_message_beyond_the_limit_ends_that_connection_only(tmp_path: Path) -> None:
    rig = Rig(tmp_path, tuning="value_bytes_max = 1024")
    try:
        bad = rig.client()
        bad.send(bytes(1024 + loop.CLIENT_FRAME_SPARE_BYTES + 1))
        assert rig.answers()
        assert not rig.node.stats
    finally:
        rig.close()


def test_frames_of_nodes_reach_the_node_and_others_do_not(rig: Rig) -> None:
    push = rig.peer_out()
    for sender in ("n1", "", "n 9", "@127.0.0.1:1", "n2"):
        push.send(m.encode_frame(rig.tag, sender, 1, 0, [PING, (m.PONG, 2)]))
    rig.turn_until(lambda: rig.node.seen)
    assert [(s, message) for s, message, _ in rig.node.seen] == [("n2", PING), ("n2", (m.PONG, 2))]
    assert rig.node.stats["refused_stranger"] == 4


def test_a_client_may_speak_before_it_knows_the_ring_and_not_for_another_one(rig: Rig) -> None:
    client = rig.client()
    client.send(from_client(STATUS, tag=b"notours!"))
    client.send(from_client((m.RING, 8, 1000, 0), tag=bytes(8)))
    client.send(from_client((m.GET, 9, 1000, b"\1bk", 1, 0, 0, 0, 0), tag=rig.tag))
    rig.turn_until(lambda: len(rig.node.seen) == 2)
    assert [message[1] for _, message, _ in rig.node.seen] == [8, 9]
    assert rig.node.stats["refused_cluster"] == 1


def test_a_frame_of_an_earlier_life_is_a_ghost_until_the_later_one_is_silent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000_000]
    monkeypatch.setattr(loop, "monotonic_ms", lambda: clock[0])
    push = rig.peer_out()
    for boot, seq in ((5, 1), (4, 2), (5, 3), (6, 4), (5, 5)):
        life = boot << m.LIFE_BITS | 77
        push.send(m.encode_frame(rig.tag, "n2", life, 0, [(m.PING, seq)]))
    rig.turn_until(lambda: rig.node.stats["frames_of_ghosts"] == 2)
    assert [message[1] for _, message, _ in rig.node.seen] == [1, 3, 4]
    # n2 lost its disk and counts from 1 again: once life 6 is silent, life 1 is no ghost.
    clock[0] += rig.settings.config.suspicion_ms
    push.send(m.encode_frame(rig.tag, "n2", 1, 0, [(m.PING, 6)]))
    rig.turn_until(lambda: len(rig.node.seen) == 4)


def test_a_frame_that_was_long_under_way_is_as_old_as_it_is(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000_000]
    monkeypatch.setattr(loop, "monotonic_ms", lambda: clock[0])
    push = rig.peer_out()
    push.send(m.encode_frame(rig.tag, "n2", 1, 500, [PING]))
    rig.turn_until(lambda: rig.node.seen)
    clock[0] += 7_000  # this node was stopped
    push.send(m.encode_frame(rig.tag, "n2", 1, 600, [PING]))
    rig.turn_until(lambda: len(rig.node.seen) == 2)
    assert [born for _, _, born in rig.node.seen] == [1_000_000, 1_000_100]


def test_more_requests_than_a_step_should_take_wait_in_order(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "TURN_MESSAGES", 10)
    client = rig.client()
    client.send(from_client(*[(m.STATUS, number, 1000, "status") for number in range(25)]))
    client.send(from_client((m.STATUS, 25, 1000, "status")))
    rig.turn_until(lambda: len(rig.node.seen) == 26)
    assert [message[1] for _, message, _ in rig.node.seen] == list(range(26))
    assert max(rig.node.steps) == 10


# --- Out --------------------------------------------------------------------------------------


def test_a_step_sends_one_frame_per_receiver(rig: Rig) -> None:
    pull = rig.connected()
    client = rig.client()
    client.send(from_client(*[(m.STATUS, number, 1000, "status") for number in range(9)]))
    rig.turn_until(lambda: len(rig.node.seen) == 9)
    sender, boot, _, messages = rig.receive(client)
    assert (sender, boot, len(messages)) == ("n1", 3, 9)
    rig.send_peer(*[(m.PING, number) for number in range(20)])
    assert [message[1] for message in rig.receive(pull)[3]] == list(range(20))
    assert not pull.poll(50)


def test_large_batches_are_cut_so_that_a_probe_need_not_wait_for_them() -> None:
    big = (m.REPLICATE, 1, 9, b"k", 1, 0, "", 0, 0, b"", [], bytes(400_000))
    answer = (m.GET_OK, 1, b"", [[1, bytes(700_000)]], [])
    assert [len(batch) for batch in batches([big] * 5 + [PING] * 3)] == [2, 2, 4]
    assert [len(batch) for batch in batches([answer, answer, PING])] == [1, 2]
    assert [len(batch) for batch in batches([PING] * 1000)] == [1000]
    assert [len(batch) for batch in batches([(m.FORWARDED, 1, answer)] * 2)] == [1, 1]
    keys = (m.KEYS_ARE, 1, [b"k"], [[b"k", bytes(900_000)]], b"")
    assert [len(batch) for batch in batches([keys, (m.FORWARD, 1, list(big)), PING])] == [1, 2]


def test_what_an_absent_peer_is_owed_is_bounded_in_bytes_and_the_core_is_told_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlet = rig.server._peers._outlets["n2"]
    outlet.backlog.bytes_max = 3 << 20
    big = (m.REPLICATE, 1, 9, b"k", 1, 0, "", 0, 0, b"", [], bytes(900_000))
    for _ in range(10):
        rig.send_peer(big)
    assert outlet.backlog.bytes_held <= 3 << 20
    assert rig.node.stats["frames_dropped_full"] == 7
    assert rig.node.gone == ["n2"]
    assert rig.answers()
    # And in time: what it gets when it comes must not be the past.
    monkeypatch.setattr(outlet.backlog, "hold_ms", 0)
    rig.turn_until(lambda: outlet.backlog.bytes_held == 0)
    assert rig.node.stats["frames_dropped_late"] == 3


def test_a_peer_that_comes_late_gets_what_waited_in_order_and_may_be_lost_again(rig: Rig) -> None:
    for seq in range(3):
        rig.send_peer((m.PING, seq))
    pull = rig.peer_in()
    assert [rig.receive(pull)[3][0][1] for _ in range(3)] == [0, 1, 2]
    assert rig.node.gone == ["n2"]
    pull.close(linger=0)
    rig.turn_until(lambda: rig.send_peer(PING) or len(rig.node.gone) == 2)


def test_a_client_that_does_not_read_costs_a_bounded_amount_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CLIENT_BACKLOG_BYTES", 1 << 20)
    rig = Rig(tmp_path)
    try:
        deaf = rig.client(RCVHWM=1, RCVBUF=65_536)
        deaf.send(from_client(STATUS))
        rig.turn_until(lambda: rig.node.seen)
        token = rig.node.seen[0][0]
        answer = (m.STATUS_IS, 7, bytes(200_000))
        while not rig.node.stats["frames_dropped_full"]:
            assert len(rig.node.steps) < 1_000, "never bounded"
            rig.node.outbox.append((token, answer))
            rig.server.turn(0)
        assert rig.server._clients.bytes_held <= 1 << 20
        assert rig.answers()
        deaf.close(linger=0)
        rig.turn_until(lambda: not rig.server._clients.slow)
    finally:
        rig.close()


def test_an_answer_to_a_client_that_is_gone_is_dropped(rig: Rig) -> None:
    rig.node.outbox.append((b"\0gone", (m.STATUS_IS, 1, b"{}")))
    rig.server.turn(0)
    assert rig.node.stats["clients_gone"] == 1


def test_all_slow_clients_together_are_bounded() -> None:
    class Full:
        def send(self, part: bytes, flags: int) -> None:
            raise zmq.Again

    stats: Counter[str] = Counter()
    slow = outlets.ClientOutlets(
        Full(),  # type: ignore[arg-type]
        stats,
        bytes_max=100,
        total_bytes_max=250,
        hold_ms=1_000,
    )
    for number in range(5):
        slow.send(b"%d" % number, bytes(90), 0)
    assert slow.bytes_held == 180
    assert stats["frames_dropped_full"] == 3
    slow.retry(5_000)
    assert (slow.bytes_held, slow.slow) == (0, {})


# --- Faults -----------------------------------------------------------------------------------


def test_faults_are_refused_unless_the_configuration_allows_them(rig: Rig) -> None:
    client = rig.client()
    client.send(from_client((m.FAULTS, 5, 1000, ["n2"])))
    kind, req, code, text, *_ = rig.receive(client)[3][0]
    assert (kind, req, code) == (m.FAILED, 5, m.INVALID)
    assert "[node] faults = true" in text


def test_faults_cut_both_directions_until_they_end(faulty: Rig) -> None:
    rig = faulty
    pull, push, client = rig.connected(), rig.peer_out(), rig.client()

    def faults(*names: object) -> None:
        client.send(from_client((m.FAULTS, 5, 1000, list(names))))
        assert rig.receive(client)[3] == [(m.STATUS_IS, 5, b"{}")]

    faults("n2", 7, None)
    push.send(m.encode_frame(rig.tag, "n2", 1, 0, [PING]))
    rig.send_peer(PING)
    rig.turn_until(lambda: rig.node.stats["frames_blocked"] == 2)
    assert rig.node.seen == []
    assert rig.node.gone == [], "silence, as on a cut wire"
    assert not pull.poll(50)
    faults()
    push.send(m.encode_frame(rig.tag, "n2", 1, 0, [(m.PING, 2)]))
    rig.send_peer((m.PING, 3))
    rig.turn_until(lambda: rig.node.seen)
    assert rig.receive(pull)[3] == [(m.PING, 3)]


# --- Nodes come and go ------------------------------------------------------------------------

GOSSIP = (m.GOSSIP, [3, 2, 2, 8], 5, 77)


def record(port: int, incarnation: int = 1) -> tuple[Any, ...]:
    return (incarnation, "127.0.0.1", port + 1, port, "")


class Place:
    """Where another node listens."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.port = free_ports(1)[0]
        self.socket = rig.socket(zmq.PULL)
        self.socket.bind(f"tcp://127.0.0.1:{self.port}")

    def hears(self, addressee: str, message: m.Message) -> bool:
        """Whether what is sent to an addressee arrives here."""
        self.rig.node.outbox.append((addressee, message))
        deadline = time.monotonic() + 2
        while not self.socket.poll(10):
            if time.monotonic() > deadline:
                return False
            self.rig.server.turn(10)
        return m.decode_frame(self.socket.recv(), self.rig.tag, m.SHAPES)[3] == [message]


def test_a_node_that_becomes_known_gets_an_outlet_and_one_that_moves_another(rig: Rig) -> None:
    roster, peers = rig.node.roster, rig.server._peers
    old, new = Place(rig), Place(rig)
    rig.node.outbox.append(("n3", PING))
    rig.server.turn(0)
    assert rig.node.stats["frames_blocked"] == 1, "nobody knows n3"
    roster.take("n/n3", record(old.port))
    assert old.hears("n3", (m.PING, 2))
    first = peers._outlets["n3"].socket
    roster.take("n/n3", record(new.port, 2))
    assert new.hears("n3", (m.PING, 3))
    assert first.closed
    assert sorted(peers._outlets) == ["n2", "n3"]


def test_what_waits_for_a_node_that_moves_waits_for_it_at_its_new_place(rig: Rig) -> None:
    roster, new = rig.node.roster, Place(rig)
    roster.take("n/n3", record(free_ports(1)[0]))
    for seq in range(3):
        rig.node.outbox.append(("n3", (m.PING, seq)))
        rig.server.turn(0)
    roster.take("n/n3", record(new.port, 2))
    assert [rig.receive(new.socket)[3] for _ in range(3)] == [[(m.PING, seq)] for seq in range(3)]


def test_a_node_that_is_gone_for_good_is_answered_and_then_let_go(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000_000]
    monkeypatch.setattr(loop, "monotonic_ms", lambda: clock[0])
    roster, peers, place = rig.node.roster, rig.server._peers, Place(rig)
    roster.take("n/n3", record(place.port))
    assert place.hears("n3", (m.PING, 1))
    rig.send_peer(PING)  # to n2, where nobody listens: it waits
    assert len(peers.polled) == 1
    roster.take("w/n3", (1, REMOVED, 1, 0))
    roster.take("w/n2", (2, REMOVED, 1, 0))
    rig.server.turn(0)
    assert (peers._outlets, peers.polled) == ({}, [])
    assert place.hears("n3", (m.PING, 2))
    assert list(peers._visits) == ["n3"]
    clock[0] += visiting.VISIT_MS
    rig.server.turn(0)
    assert not peers._visits


def test_a_seed_is_reached_by_its_address_until_its_name_is_known(rig: Rig) -> None:
    peers, place = rig.server._peers, Place(rig)
    seed = f"@127.0.0.1:{place.port}"
    assert place.hears(seed, GOSSIP)
    assert (list(peers._visits), sorted(peers._outlets)) == ([seed], ["n2"])
    rig.node.roster.take("n/n3", record(place.port))
    assert place.hears(seed, GOSSIP)
    assert (list(peers._visits), sorted(peers._outlets)) == ([], ["n2", "n3"])


@pytest.mark.parametrize("host", ["", "not a host", "a:b:c", "*"])
def test_an_address_that_is_none_does_no_harm(rig: Rig, host: str) -> None:
    rig.node.roster.take("n/n3", (1, host, 7001, 7101, ""))
    rig.node.outbox += [("n3", PING), (f"@{host}:7101", GOSSIP)]
    rig.server.turn(0)
    assert rig.answers()


def test_outlets_beyond_the_roster_are_few(rig: Rig) -> None:
    """P1."""
    for port in range(40_000, 40_000 + 3 * visiting.VISITS_MAX):
        rig.node.outbox.append((f"@127.0.0.1:{port}", GOSSIP))
    rig.server.turn(0)
    peers = rig.server._peers
    assert len(peers._visits) == visiting.VISITS_MAX
    assert len(peers.polled) <= visiting.VISITS_MAX + 1
    assert rig.answers()


def test_a_stranger_with_the_tag_is_heard_and_one_without_is_not(rig: Rig) -> None:
    """Member or not, the core decides what it may say: here is only told who can be a node."""
    push = rig.peer_out()
    push.send(m.encode_frame(b"notours!", "n3", 1, 0, [GOSSIP]))
    push.send(m.encode_frame(rig.tag, "n3", 1, 0, [GOSSIP, PING]))
    rig.turn_until(lambda: len(rig.node.seen) == 2)
    assert [(sender, message) for sender, message, _ in rig.node.seen] == [
        ("n3", GOSSIP),
        ("n3", PING),
    ]
    assert rig.node.stats["refused_cluster"] == 1


def test_ghosts_are_told_through_joining_and_leaving(rig: Rig) -> None:
    """P1. A life that was heard as a stranger's is an earlier one of the member's, too."""
    push, roster = rig.peer_out(), rig.node.roster

    def say(boot: int, seq: int, sender: str = "n3") -> None:
        life = boot << m.LIFE_BITS
        push.send(m.encode_frame(rig.tag, sender, life, 0, [(m.PING, seq)]))

    def ghosts(count: int) -> None:
        rig.turn_until(lambda: rig.node.stats["frames_of_ghosts"] == count)

    say(5, 1)
    say(4, 2)
    ghosts(1)
    roster.take("n/n3", record(free_ports(1)[0]))
    roster.take("w/n3", (1, IN, 1, 0))
    rig.server.turn(0)
    say(4, 3)
    ghosts(2)
    roster.take("w/n3", (2, REMOVED, 1, 0))
    rig.server.turn(0)
    say(4, 4)
    ghosts(3)
    for number in range(visiting.STRANGERS_MAX + 50):
        say(1, number, f"x{number}")
    rig.turn_until(lambda: len(rig.node.seen) == visiting.STRANGERS_MAX + 51)
    assert len(rig.server._peers._strangers) == visiting.STRANGERS_MAX


def test_who_is_blocked_is_blocked_before_and_after_it_joins(faulty: Rig) -> None:
    """P2."""
    rig, place, push = faulty, Place(faulty), faulty.peer_out()
    client = rig.client()
    client.send(from_client((m.FAULTS, 5, 1000, ["n3"])))
    rig.receive(client)
    push.send(m.encode_frame(rig.tag, "n3", 1, 0, [PING]))
    rig.turn_until(lambda: rig.node.stats["frames_blocked"] == 1)
    rig.node.roster.take("n/n3", record(place.port))
    rig.node.outbox += [("n3", PING), (f"@127.0.0.1:{place.port}", GOSSIP)]
    rig.server.turn(0)
    rig.server.turn(0)
    assert rig.node.stats["frames_blocked"] == 3
    assert (rig.node.seen, rig.node.gone) == ([], [])


def test_the_log_says_once_who_came_moved_and_went_and_whether_clients_are_served(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dynamo.server")
    roster = rig.node.roster

    def said(*items: tuple[str, tuple[Any, ...]]) -> list[str]:
        caplog.clear()
        for key, item in items:
            roster.take(key, item)
        rig.server.turn(0)
        rig.server.turn(0)
        return [record.getMessage() for record in caplog.records]

    assert said() == ["no requests of clients are served: n1 has not heard from another node of "
                      "its ring yet"]  # fmt: skip
    roster.confirm()
    assert said() == ["requests of clients are served"]
    assert said(("n/n3", record(7101))) == ["a node is known that does not belong to the ring"]
    assert said(("w/n3", (1, IN, 1, 0))) == ["a node belongs to the ring"]
    assert said(("n/n3", record(7201, 2))) == ["a node has moved"]
    assert said(("n/n3", record(7201, 3))) == []
    assert said(("w/n3", (2, REMOVED, 1, 0))) == ["a node was removed from the ring"]
    assert said(("w/n1", (2, REMOVED, 1, 0))) == [
        "no requests of clients are served: n1 was removed from the ring: ask another node",
        "a node was removed from the ring",
    ]


def test_every_event_of_the_core_has_a_sentence() -> None:
    core = Path(loop.__file__).parent.parent / "core"
    noted = set()
    for file in core.glob("*.py"):
        noted |= set(re.findall(r'events\.append\(\s*\(\s*"([^"]+)"', file.read_text("utf-8")))
    assert "up" in noted
    assert noted - {"malformed"} <= SENTENCES.keys()


# --- Start and end ----------------------------------------------------------------------------


def test_a_port_in_use_is_named_with_what_to_do(rig: Rig) -> None:
    second = Server(rig.settings, StubNode(rig.settings))
    try:
        with pytest.raises(StartError, match=r"client port 127\.0\.0\.1:\d+ is in use"):
            second.open()
    finally:
        second.close()


def test_a_watched_descriptor_wakes_the_loop(rig: Rig) -> None:
    reader, writer = os.pipe()
    server = Server(rig.settings, rig.node, {reader: lambda: server.stop()})
    try:
        os.write(writer, b"x")
        server.run()  # would wait for 10 s otherwise, and then go on
    finally:
        server.close()
        os.close(reader)
        os.close(writer)


COMMAND = [sys.executable, "-m", "dynamo", "node", "start"]


class Process:
    """`node start` with its configuration in a directory."""

    def __init__(self, tmp_path: Path, *arguments: str, command: list[str] | None = None) -> None:
        self.popen = subprocess.Popen(
            [*(command or COMMAND), "-c", str(tmp_path / "n1.toml"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> dict[str, Any]:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, self.end()
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> tuple[int, str, str]:
        """Exit code and what was left on stdout and stderr."""
        out, err = self.popen.communicate(timeout=PATIENCE_S)
        return self.popen.returncode, out, err

    def stop(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start nodes; the configuration is there for the test to change."""
    made: list[Process] = []
    ports = free_ports(2)
    text = (
        f'[node]\nname="n1"\nclient="127.0.0.1:{ports[0]}"\npeer="127.0.0.1:{ports[1]}"\n'
        f'[cluster]\npartitions=8\n[[members]]\nname="n1"\nclient="127.0.0.1:{ports[0]}"\n'
        f'peer="127.0.0.1:{ports[1]}"\n'
    )
    (tmp_path / "n1.toml").write_text(text)

    def start_one(*arguments: str, command: list[str] | None = None) -> Process:
        made.append(Process(tmp_path, *arguments, command=command))
        return made[-1]

    yield start_one
    for process in made:
        process.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_node_says_that_it_serves_in_one_line_and_stops_cleanly(
    start: Callable[..., Process], number: signal.Signals
) -> None:
    process = start()
    line = process.ready()
    assert (line["ready"], line["node"], line["pid"]) == (True, "n1", process.popen.pid)
    host, port = line["client"].split(":")
    socket.create_connection((host, int(port))).close()
    process.popen.send_signal(number)
    code, out, err = process.end()
    assert (code, out) == (0, "")
    assert "serving" in err
    assert "stopping" in err


def test_a_node_that_was_told_to_stops_when_its_stdin_ends(start: Callable[..., Process]) -> None:
    process = start("--exit-with-stdin")
    process.ready()
    assert process.popen.stdin is not None
    process.popen.stdin.write("text is ignored\n")
    process.popen.stdin.flush()
    assert process.end()[0] == 0  # communicate() closes stdin


def test_a_second_process_on_the_directory_or_the_port_is_refused(
    start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    start().ready()
    code, out, err = start().end()
    assert (code, out) == (2, "")
    assert "is in use by another node (process" in err
    monkeypatch.setenv("DYNAMO_NODE_DURABILITY", "memory")
    code, out, err = start().end()
    assert (code, out) == (2, "")
    assert "is in use by another process: stop that one, or choose another port" in err
    assert "Traceback" not in err


def test_the_directory_of_another_cluster_is_refused(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    first = start()
    first.ready()
    first.popen.terminate()
    assert first.end()[0] == 0
    (tmp_path / "cluster.secret").unlink()
    code, _, err = start().end()
    assert code == 2
    assert "belongs to cluster 'dynamo/" in err
    assert "Traceback" not in err


def test_a_mistake_in_the_configuration_ends_with_its_sentence(
    start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMO_NODE_DURABILITY", "sync")
    code, out, err = start().end()
    assert (code, out) == (2, "")
    assert err == "dynamo: node.durability must be one of fsync, interval, memory, not 'sync'\n"


def test_a_node_without_assertions_is_refused(start: Callable[..., Process]) -> None:
    code, _, err = start(command=[sys.executable, "-O", *COMMAND[1:]]).end()
    assert code == 2
    assert "does not run under python -O" in err


FAILING = """
import sys
from dynamo.server import main as server
from dynamo.storage import MemoryStore

store = MemoryStore()

def failing(*arguments, **options):
    return store

announce = server._announce
def then_fail(settings):
    announce(settings)
    store.disk_fails = True

server.open_store, server._announce = failing, then_fail
from dynamo.__main__ import main
sys.exit(main(["node", "start", *sys.argv[1:]]))
"""


def test_a_failed_commit_ends_the_process_at_once(start: Callable[..., Process]) -> None:
    process = start(command=[sys.executable, "-c", FAILING])
    line = process.ready()
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.connect(f"tcp://{line['client']}")
        put = (m.PUT, 1, 1000, b"\1bk", 1, 0, m.BLIND, b"", bytes(16), 0, 1, 0, 0, 0, b"\0v")
        client.send(from_client(put))
        code, _, err = process.end()
        assert code == 1
        assert "the store failed; nothing of the last step was sent" in err
        assert not client.poll(50)


def test_logs_are_json_where_asked_for(
    start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMO_NODE_LOG", "json")
    process = start()
    process.ready()
    process.popen.terminate()
    _, _, err = process.end()
    lines = [json.loads(line) for line in err.splitlines()]
    assert lines[0]["node"] == "n1"
    assert {line["message"] for line in lines} >= {"serving", "stopping"}
