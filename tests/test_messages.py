"""The frame and the shapes: whole and intact, or refused; and how old a frame is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo.core import context
from dynamo.core import messages as m

TAG = b"cluster1"
PING = (m.PING, 7)


def frame(*messages, tag: bytes = TAG) -> bytes:
    return m.encode_frame(tag, "n1", 3, 1234, list(messages))


def test_a_frame_comes_back_as_it_went():
    put = (m.PUT, 1, 1000, b"\x01bk", 1, 0, m.AUTO, b"", b"i" * 16, 0, 0, 0, 1, 0, b"\0v")
    assert m.decode_frame(frame(put), TAG, m.FROM_CLIENT) == ("n1", 3, 1234, [put])
    assert m.frame_tag(frame(PING)) == TAG


def test_every_kind_has_a_name_and_a_shape_that_begins_with_its_number():
    assert sorted(m.NAMES) == sorted(m.SHAPES)
    assert set(m.SHAPES) == m.FROM_CLIENT | m.TO_CLIENT | m.FROM_PEER
    assert all(shape[0] is int for shape in m.SHAPES.values())


def test_what_a_newer_sender_adds_is_passed_over():
    """DESIGN §10: unknown kinds are left out, unknown trailing fields are cut."""
    got = m.decode_frame(frame((200, "new"), (*PING, "more")), TAG, m.FROM_PEER)
    assert got[3] == [PING]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"short",
        b"xx" + frame(PING)[2:],
        b"dy\x09" + frame(PING)[3:],
        frame(PING)[:-1],
        frame(PING) + b"\0",
        frame(PING)[:-1] + b"\xff",
        frame(PING, tag=b"another!"),
        frame((m.PING, "seven")),
        frame((m.PING,)),
        frame((m.PUT, 1)),
        frame(()),
        frame(("x", 1)),
        frame((m.FAULTS, 1, 100, [])),
    ],
)
def test_a_malformed_frame_is_refused(bad):
    with pytest.raises(m.Malformed):
        m.decode_frame(bad, TAG, m.FROM_PEER)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_raise_malformed(raw):
    with pytest.raises(m.Malformed):
        m.decode_frame(raw, TAG, m.FROM_PEER)


@given(st.data())
def test_a_flipped_bit_is_found(data):
    """S3, 2008: one flipped bit in gossip without a checksum, and hours of outage."""
    good = frame(PING, (m.PONG, 3))
    at = data.draw(st.integers(0, len(good) - 1).filter(lambda i: i != 3))
    bad = bytearray(good)
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(m.Malformed):
        m.decode_frame(bytes(bad), TAG, m.FROM_PEER)


def test_a_name_that_is_no_utf8_is_malformed_and_ends_nobody():
    """Found by the zoo: msgspec raises something else than its DecodeError for such a name."""
    head = m._HEAD.size
    body = frame(PING)[head:].replace(b"n1", b"\xff\xfe")
    raw = m._HEAD.pack(m.MAGIC, m.VERSION, 0, m.crc32(body)) + body
    with pytest.raises(m.Malformed, match="undecodable"):
        m.decode_frame(raw, TAG, m.FROM_PEER)


def test_the_age_of_a_frame_is_what_it_took_beyond_the_fastest():
    ages = m.Ages()
    assert ages.age_ms("n1", 1, 500, 10_000) == 0
    assert ages.age_ms("n1", 1, 600, 10_100) == 0
    assert ages.age_ms("n1", 1, 700, 15_200) == 5_000, "it lay in a buffer"
    assert ages.age_ms("n1", 1, 800, 10_290) == 0, "a faster one lowers the base"
    assert ages.age_ms("n1", 1, 900, 10_400) == 10
    assert ages.age_ms("n1", 2, 0, 10_400) == 0, "another life of the sender starts anew"


def test_clocks_that_drift_apart_do_not_age_every_frame_for_ever():
    ages = m.Ages()
    ages.age_ms("n1", 1, 0, 0)
    hour = 3_600_000
    assert ages.age_ms("n1", 1, hour, hour + 360) <= 1


def test_a_sender_whose_clock_stood_still_is_believed_again_after_some_seconds():
    """A suspended machine: its monotonic clock missed a minute, and will not make up for it."""
    ages = m.Ages()
    for at in range(0, 10_000, 100):
        ages.age_ms("n1", 1, at, at)
    found = [ages.age_ms("n1", 1, at - 60_000, at) for at in range(70_000, 85_000, 100)]
    assert found[0] == pytest.approx(60_000, abs=10)
    assert max(found[60:]) < 60_000
    assert found[-1] == 0


def test_a_burst_of_frames_that_were_held_up_does_not_count_as_a_clock_that_stood_still():
    ages = m.Ages()
    for at in range(0, 10_000, 100):
        ages.age_ms("n1", 1, at, at)
    burst = [ages.age_ms("n1", 1, at, 40_000) for at in range(10_000, 39_000, 100)]
    assert burst[0] == pytest.approx(30_000, abs=10)
    assert burst[-1] >= 1_000
    assert ages.age_ms("n1", 1, 41_000, 50_000) >= 8_900, "nor does it raise what comes later"


def test_the_memory_of_ages_is_bounded():
    ages = m.Ages(limit=10)
    for i in range(1000):
        ages.age_ms(f"client{i}", 0, 0, i)
    assert len(ages._base) == 10


CLOCK = [(b"A" * 12, 3, []), (b"B" * 12, 1, [])]


def test_a_context_is_bound_to_its_key_and_its_cluster():
    """DESIGN §2: opaque, key-bound, MACed."""
    token = context.seal(b"secret", b"key", CLOCK)
    assert context.unseal(b"secret", b"key", token) == {b"A" * 12: 3, b"B" * 12: 1}
    assert context.unseal(b"secret", b"key", b"") == {}
    for secret, key in ((b"secret", b"ke"), (b"secret", b"keyy"), (b"other", b"key")):
        with pytest.raises(m.Malformed):
            context.unseal(secret, key, token)


@given(st.data())
def test_a_context_with_any_bit_changed_is_refused(data):
    token = bytearray(context.seal(b"secret", b"key", CLOCK))
    at = data.draw(st.integers(0, len(token) - 1))
    token[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(m.Malformed):
        context.unseal(b"secret", b"key", bytes(token))
