"""The check at the end of a run: what a correct store may show, and each wrong answer caught."""

from __future__ import annotations

import pytest

from bench import records, verify
from bench.values import ACKED, FAILED, MAYBE, Corrupt, Reads, Tag, Writes, tag_of, value_of


class Story:
    """Writes and reads of some workers, told with times."""

    def __init__(self, workers: int = 2) -> None:
        self.writes = {writer: Writes() for writer in range(workers)}
        self.reads = {writer: Reads() for writer in range(workers)}

    def write(
        self, who: int, begun: float, ended: float, state: int = ACKED, key: int = 1, gone: int = 0
    ) -> Tag:
        log = self.writes[who]
        seq = log.begin(key, begun, gone)
        log.end(seq, ended, state)
        return who, seq

    def read(self, who: int, begun: float, ended: float, *tags: Tag, key: int = 1) -> None:
        values = [value_of(key, writer, seq, 60) for writer, seq in tags]
        self.reads[who].note(key, begun, ended, values)

    def logs(self) -> verify.Logs:
        return verify.Logs(self.writes, self.reads)

    def verdict(self, *there: Tag, key: int = 1) -> verify.Verdict:
        return verify.verify(self.logs(), {key: list(there)})


# --- Values -----------------------------------------------------------------------------------


def test_a_value_names_its_write_and_any_damage_shows() -> None:
    value = value_of(17, 2, 345, 100)
    assert len(value) == 100
    assert tag_of(17, value) == (2, 345)
    damaged = value[:50] + b"?" + value[51:]
    for key, found in ((18, value), (17, damaged), (17, b"hello"), (17, value[1:]), (17, None)):
        with pytest.raises(Corrupt, match=f"key {key} holds"):
            tag_of(key, found)


# --- Lost -------------------------------------------------------------------------------------


def test_the_last_of_writes_in_a_row_must_be_there() -> None:
    story = Story()
    first, last = story.write(0, 1, 2), story.write(1, 3, 4)
    assert story.verdict(last).good
    assert story.verdict(first).lost == [f"key 1 lost the acknowledged write {last}"]
    assert len(story.verdict().lost) == 2


def test_of_writes_at_the_same_time_one_or_all_may_be_there() -> None:
    story = Story()
    one, other = story.write(0, 1, 3), story.write(1, 2, 4)
    assert story.verdict(one).good
    assert story.verdict(other).good
    assert story.verdict(one, other).good
    assert len(story.verdict().lost) == 2


def test_a_chain_of_overlaps_explains_a_write_that_began_before() -> None:
    story = Story(3)
    story.write(0, 1, 2)
    story.write(1, 1.5, 9)  # a slow one, which may have replaced the first and been replaced
    last = story.write(2, 8, 10)
    assert story.verdict(last).good


def test_what_may_have_been_applied_may_be_missing_and_may_have_replaced() -> None:
    story = Story()
    story.write(0, 1, 2)
    maybe = story.write(1, 1.2, 1.4, MAYBE)
    assert story.verdict(maybe).good  # it may have been applied at any time later
    assert not story.verdict().good
    only = Story()
    only.write(0, 1, 2, MAYBE)
    assert only.verdict().good


def test_a_delete_explains_an_empty_key_and_only_what_began_before_its_end() -> None:
    story = Story()
    story.write(0, 1, 2)
    story.write(1, 3, 4, gone=1)
    assert story.verdict().good
    back = story.write(0, 5, 6)
    assert story.verdict().lost == [f"key 1 lost the acknowledged write {back}"]


# --- Phantoms ---------------------------------------------------------------------------------


def test_a_value_that_nobody_wrote_there_is_a_phantom() -> None:
    story = Story()
    here = story.write(0, 1, 2)
    elsewhere = story.write(0, 1, 2, key=2)
    failed = story.write(1, 1, 2, FAILED)
    for tag, words in (
        ((7, 0), "nobody wrote"),
        ((0, 99), "nobody wrote"),
        (elsewhere, "to key 2"),
        (failed, "failed for certain"),
    ):
        assert words in story.verdict(here, tag).phantoms[0]


def test_a_read_that_showed_a_phantom_or_the_future_is_found() -> None:
    story = Story()
    tag = story.write(0, 5, 6)
    story.read(1, 5.5, 5.8, tag)
    assert story.verdict(tag).good
    story = Story()
    tag = story.write(0, 5, 6)
    story.read(1, 1, 2, tag)
    assert "began after the read" in story.verdict(tag).phantoms[0]


# --- False siblings ---------------------------------------------------------------------------


def test_a_value_beside_the_one_that_its_writer_had_just_read_is_false() -> None:
    story = Story()
    old = story.write(0, 1, 2)
    story.read(1, 3, 4, old)
    new = story.write(1, 5, 6)
    assert story.verdict(new).good
    assert "beside" in story.verdict(old, new).false_siblings[0]


def test_a_writer_has_seen_its_own_last_write() -> None:
    story = Story()
    old, new = story.write(0, 1, 2), story.write(0, 3, 4)
    assert story.verdict(old, new).false_siblings


def test_a_false_sibling_in_a_read_during_the_run_is_found_too() -> None:
    story = Story()
    old, new = story.write(0, 1, 2), story.write(0, 3, 4)
    story.read(1, 5, 6, new, old)
    assert story.verdict(new).false_siblings


def test_what_a_writer_had_not_certainly_seen_may_stand_beside_its_value() -> None:
    others = Story()
    assert others.verdict(others.write(0, 1, 2), others.write(1, 3, 4)).good
    overlapping = Story()  # its own, but both were under way at once
    assert overlapping.verdict(overlapping.write(0, 1, 3), overlapping.write(0, 2, 4)).good
    unsure = Story()
    assert unsure.verdict(unsure.write(0, 1, 2, MAYBE), unsure.write(0, 3, 4)).good
    behind = Story()  # a later read that did not show it: the context is that of this read
    old = behind.write(1, 1, 2)
    behind.read(0, 3, 4, old)
    behind.read(0, 5, 6)
    assert behind.verdict(old, behind.write(0, 7, 8)).good


def test_a_writer_that_did_very_much_in_between_may_have_forgotten() -> None:
    story = Story()
    old = story.write(0, 1, 2)
    for number in range(verify.MEMORY_OPS + 1):
        story.read(0, 3 + number * 1e-4, 3 + number * 1e-4, key=9)
    assert story.verdict(old, story.write(0, 5, 6)).good


# --- Carts and counters -----------------------------------------------------------------------


def test_every_acknowledged_item_must_be_in_its_cart() -> None:
    story = Story(1)
    log = story.writes[0]
    for state in (ACKED, MAYBE, FAILED):
        log.end(log.begin(5, 1.0, count=1), 2.0, state)
    for fields in ({"0.0": 1}, {"0.0": 1, "0.1": 1}):
        assert verify.verify_fields(story.writes, {5: fields}, "item").good
    assert verify.verify_fields(story.writes, {5: {"0.1": 1}}, "item").lost
    assert verify.verify_fields(story.writes, {5: {"0.0": 1, "0.2": 1}}, "item").phantoms


def test_a_counter_is_at_least_what_was_acknowledged_and_at_most_what_was_begun() -> None:
    story = Story(1)
    log = story.writes[0]
    for count, state in ((1, ACKED), (2, ACKED), (3, MAYBE)):
        log.end(log.begin(5, 1.0, count=count), 2.0, state)
    verdicts = {
        count: verify.verify_fields(story.writes, {5: {"w0": count}}, "count").good
        for count in (1, 2, 3, 4)
    }
    assert verdicts == {1: False, 2: True, 3: True, 4: False}


# --- Staleness --------------------------------------------------------------------------------


def test_a_read_is_stale_if_it_misses_the_newest_write_acknowledged_before_it_began() -> None:
    story = Story()
    old, new = story.write(0, 1, 2), story.write(0, 3, 4)
    story.read(1, 4.015, 4.1, new)
    story.read(1, 4.015, 4.1, old)
    story.read(1, 4.015, 4.1)
    story.read(1, 3.5, 3.6, old)  # the new one was not acknowledged yet
    found = records.staleness(story.logs(), 0, 10)
    by_age = dict(zip([0, *found["ages_ms"]], zip(found["reads"], found["stale"], strict=True),
                      strict=True))  # fmt: skip
    assert by_age[10] == (3, 2)
    assert by_age[1_000] == (1, 0)
    assert found["share"] == 0.5


def test_a_read_that_shows_a_concurrent_or_unsure_write_instead_is_fresh() -> None:
    story = Story()
    story.write(0, 1, 3)
    story.read(1, 5, 6, story.write(1, 2, 2.5))
    story.read(1, 5, 6, story.write(1, 0, 0.5, MAYBE))
    assert records.staleness(story.logs(), 0, 10)["share"] == 0
