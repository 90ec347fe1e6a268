"""The oracle itself: histories made by hand, each of which breaks one promise.

A check that cannot fail proves nothing, so each invariant has here a history that it must report
by its number, and a neighbour that it must leave alone.
"""

from __future__ import annotations

from dynamo.sim.oracle import FAIL, INFO, OK, Oracle

K = b"\x03simk"


class Tale:
    """An oracle, and clients whose calls take no more than a line."""

    def __init__(self, cuts: bool = True) -> None:
        self.oracle = Oracle(cuts)
        self.now_ms = 0

    def put(self, uid: str, seen: int | None = 0, status: str = OK, **how: bool) -> int:
        """A put or delete that begins and ends; what its writer has then seen."""
        write = self.begin(uid, seen, **how)
        return self.end(uid, status) if status != "open" else write

    def begin(self, uid: str, seen: int | None = 0, delete: bool = False, key: bytes = K) -> int:
        self.now_ms += 10
        write = self.oracle.begin_write(key, uid, seen, self.now_ms, delete)
        return write.bit | write.past

    def end(self, uid: str, status: str = OK) -> int:
        self.now_ms += 10
        write = self.oracle.writes[uid]
        self.oracle.end_write(write, status, self.now_ms)
        return write.bit | write.past

    def retried(self, uid: str) -> None:
        self.oracle.writes[uid].attempts = 2

    def strict(self, uid: str) -> None:
        self.oracle.of(K).note_strict(self.oracle.writes[uid])

    def read(self, *uids: str) -> int:
        self.now_ms += 10
        return self.oracle.shown(K, uids, self.now_ms)

    def strict_read(self, *uids: str, begun_ms: int | None = None) -> None:
        begun_ms = self.now_ms + 1 if begun_ms is None else begun_ms
        self.now_ms += 10
        self.oracle.strict_read(K, uids, begun_ms, self.now_ms)

    def rest(self, *uids: str, held: tuple[str, ...] = ()) -> list[str]:
        """The verdict when all nodes show these, as the numbers of what is broken."""
        self.oracle.at_rest(K, {"n1": list(uids), "n2": list(uids)}, [*uids, *held])
        return self.numbers()

    def numbers(self) -> list[str]:
        return [violation.number for violation in self.oracle.violations]


def test_a_clean_history_passes():
    tale = Tale()
    tale.put("a1")
    tale.put("b1")
    tale.put("a2", tale.read("a1", "b1"))
    tale.put("c1")
    tale.strict_read("a2", "c1")
    assert tale.rest("a2", "c1") == []


# --- I1 ---------------------------------------------------------------------------------------


def test_an_acknowledged_write_that_nothing_covers_is_lost():
    tale = Tale()
    tale.put("a1")
    tale.put("b1")
    assert tale.rest("b1") == ["I1"]


def test_a_write_that_a_later_one_covers_is_not_lost():
    tale = Tale()
    tale.put("b1", tale.put("a1"))
    assert tale.rest("b1") == []


def test_coverage_is_transitive():
    tale = Tale()
    tale.put("a1")
    tale.put("b1", tale.read("a1"))
    tale.put("c1", tale.read("b1"))
    assert tale.rest("c1") == []


def test_an_unknown_write_need_not_be_there():
    tale = Tale()
    tale.put("a1")
    tale.put("b1", tale.read("a1"), INFO)
    assert tale.rest("a1") == []


def test_an_unknown_write_that_is_there_covers_what_it_saw():
    tale = Tale()
    tale.put("a1")
    tale.put("b1", tale.read("a1"), INFO)
    assert tale.rest("b1") == []


def test_an_unknown_write_that_is_not_there_excuses_nothing():
    tale = Tale()
    tale.put("a1")
    tale.put("b1", tale.read("a1"), INFO)
    tale.put("c1")
    assert tale.rest("c1") == ["I1"]


def test_a_deleted_value_is_not_lost():
    tale = Tale()
    tale.put("a1")
    tale.put("d", tale.read("a1"), delete=True)
    assert tale.rest(held=("d",)) == []


def test_a_delete_excuses_nothing_that_it_did_not_see():
    tale = Tale()
    tale.put("a1")
    seen = tale.read("a1")
    tale.put("b1")
    tale.put("d", seen, delete=True)
    assert tale.rest(held=("d",)) == ["I1"]


def test_a_put_that_had_seen_nothing_covers_nothing():
    tale = Tale()
    tale.put("a1")
    tale.put("b1", None)
    assert tale.rest("b1") == ["I1"]


def test_an_unknown_write_that_a_disk_has_committed_stays_where_no_disk_lost_anything():
    tale = Tale()
    tale.put("a1", status=INFO)
    tale.oracle.committed(tale.oracle.writes["a1"])
    assert tale.rest() == ["I1"]


def test_an_unknown_write_may_go_with_a_disk():
    tale = Tale()
    tale.put("a1", status=INFO)
    tale.oracle.committed(tale.oracle.writes["a1"])
    tale.oracle.note_loss(tale.now_ms)
    assert tale.rest() == []


def test_a_write_that_asked_for_few_copies_may_go_with_a_disk_and_with_nothing_else():
    for lost, found in ((False, ["I1"]), (True, [])):
        tale = Tale()
        tale.begin("a1")
        tale.oracle.writes["a1"].frail = True
        tale.end("a1")
        if lost:
            tale.oracle.note_loss(tale.now_ms)
        assert tale.rest() == found


def test_a_disk_that_was_lost_before_a_frail_write_excuses_nothing():
    tale = Tale()
    tale.oracle.note_loss(tale.now_ms)
    tale.begin("a1")
    tale.oracle.writes["a1"].frail = True
    tale.end("a1")
    assert tale.rest() == ["I1"]


def test_what_expires_may_be_missing_and_so_may_what_it_covers():
    tale = Tale()
    tale.put("a1")
    tale.begin("b1", tale.read("a1"))
    tale.oracle.of(K).note_mortal(tale.oracle.writes["b1"])
    tale.end("b1")
    assert tale.rest() == []


def test_what_would_have_expired_and_failed_excuses_nothing():
    tale = Tale()
    tale.put("a1")
    tale.begin("b1", tale.read("a1"))
    tale.oracle.of(K).note_mortal(tale.oracle.writes["b1"])
    tale.end("b1", FAIL)
    assert tale.rest() == ["I1"]


# --- I2 ---------------------------------------------------------------------------------------


def test_a_value_that_nobody_wrote_is_a_phantom():
    tale = Tale()
    tale.read("x9")
    assert tale.numbers() == ["I2"]


def test_a_value_of_another_key_is_a_phantom():
    tale = Tale()
    tale.begin("o1", key=b"\x03simother")
    tale.end("o1")
    tale.read("o1")
    assert tale.numbers() == ["I2"]


def test_a_write_reported_as_failed_is_not_shown_afterwards():
    tale = Tale()
    tale.put("a1", status=FAIL)
    tale.read("a1")
    assert tale.numbers() == ["I2"]


def test_a_write_shown_before_it_is_reported_as_failed_is_a_lie_too():
    tale = Tale()
    tale.begin("a1")
    tale.read("a1")
    tale.end("a1", FAIL)
    assert tale.numbers() == ["I2"]


def test_a_failed_write_is_not_there_at_rest():
    tale = Tale()
    tale.put("a1", status=FAIL)
    assert "I2" in tale.rest("a1")


def test_a_failed_write_on_a_disk_is_found_though_no_reader_sees_it():
    tale = Tale()
    tale.put("a1")
    tale.put("d", tale.read("a1"), FAIL, delete=True)
    assert "I2" in tale.rest("a1", held=("d",))


def test_a_write_that_a_disk_committed_cannot_be_reported_as_failed():
    tale = Tale()
    tale.begin("a1")
    tale.oracle.committed(tale.oracle.writes["a1"])
    tale.end("a1", FAIL)
    assert tale.numbers() == ["I2"]


def test_a_write_reported_as_failed_cannot_be_committed_later():
    tale = Tale()
    tale.put("a1", status=FAIL)
    tale.oracle.committed(tale.oracle.writes["a1"])
    assert tale.numbers() == ["I2"]


# --- I14 --------------------------------------------------------------------------------------


def test_a_value_comes_back_byte_for_byte():
    tale = Tale()
    tale.put("a1")
    tale.oracle.writes["a1"].payload = b"\0a1\nfull"
    assert tale.oracle.payloads(K, [(0, b"\0a1\nfull")], "here") == ["a1"]
    assert tale.numbers() == []
    tale.oracle.payloads(K, [(0, b"\0a1\nfu1l")], "here")
    tale.oracle.payloads(K, [(0, b"\0a1\nful")], "here")
    assert tale.numbers() == ["I14", "I14"]


def test_a_value_whose_name_is_damaged_is_a_phantom():
    tale = Tale()
    tale.put("a1")
    tale.oracle.shown(K, tale.oracle.payloads(K, [(0, b"\0a\xb1")], "here"), 5)
    assert tale.numbers() == ["I2"]


# --- I3 ---------------------------------------------------------------------------------------


def test_a_deleted_value_that_is_back_at_rest_is_a_resurrection():
    tale = Tale()
    tale.put("a1")
    tale.put("d", tale.read("a1"), delete=True)
    assert tale.rest("a1", held=("d",)) == ["I3"]


def test_a_value_written_beside_a_delete_may_stay():
    tale = Tale()
    tale.put("a1")
    seen = tale.read("a1")
    tale.put("b1")
    tale.put("d", seen, delete=True)
    assert tale.rest("b1", held=("d",)) == []


def test_a_delete_of_unknown_outcome_that_did_not_happen_forbids_nothing():
    tale = Tale()
    tale.put("a1")
    tale.put("d", tale.read("a1"), INFO, delete=True)
    assert tale.rest("a1") == []


# --- I4 ---------------------------------------------------------------------------------------


def test_a_value_shown_beside_what_covers_it_is_a_false_conflict():
    tale = Tale()
    tale.put("b1", tale.put("a1"))
    tale.read("a1", "b1")
    assert tale.numbers() == ["I4"]


def test_concurrent_values_are_a_true_conflict():
    tale = Tale()
    tale.put("a1")
    tale.put("b1")
    tale.read("a1", "b1")
    assert tale.numbers() == []


def test_a_stale_read_alone_is_allowed():
    tale = Tale()
    tale.put("b1", tale.put("a1"))
    tale.read("a1")
    assert tale.numbers() == []


def test_a_covered_value_is_not_there_at_rest():
    tale = Tale()
    tale.put("b1", tale.put("a1"))
    assert tale.rest("a1", "b1") == ["I4"]


def test_one_value_shown_twice_is_a_false_conflict():
    tale = Tale()
    tale.put("a1")
    tale.read("a1", "a1")
    assert tale.numbers() == ["I4"]


def test_the_second_copy_of_a_retried_put_is_counted_and_not_judged():
    tale = Tale()
    tale.put("b1", tale.put("a1"))
    tale.retried("a1")
    tale.read("a1", "b1")
    assert tale.numbers() == []
    assert tale.oracle.retry_siblings == 1


def test_a_retry_excuses_nothing_where_no_message_is_lost():
    tale = Tale(cuts=False)
    tale.put("b1", tale.put("a1"))
    tale.retried("a1")
    tale.read("a1", "b1")
    assert tale.numbers() == ["I4"]


def test_a_lone_writer_sees_its_last_write_alone():
    tale = Tale()
    tale.put("a2", tale.put("a1"))
    tale.oracle.lone_read(K, ["a2"], "a2", tale.now_ms)
    assert tale.numbers() == []
    tale.oracle.lone_read(K, ["a1", "a2"], "a2", tale.now_ms)
    assert tale.numbers() == ["I4"]


def test_a_lone_writer_may_meet_its_own_unknown_write():
    tale = Tale()
    tale.put("a1", status=INFO)
    tale.put("a2")
    tale.oracle.lone_read(K, ["a1", "a2"], "a2", tale.now_ms)
    assert tale.numbers() == []


# --- I5, I9 -----------------------------------------------------------------------------------


def test_nodes_that_answer_differently_have_not_converged():
    tale = Tale()
    tale.put("a1")
    tale.put("b1")
    tale.oracle.at_rest(K, {"n1": ["a1", "b1"], "n2": ["b1"]}, ["a1", "b1"])
    assert tale.numbers() == ["I5"]


def test_the_order_of_siblings_does_not_matter():
    tale = Tale()
    tale.put("a1")
    tale.put("b1")
    tale.oracle.at_rest(K, {"n1": ["a1", "b1"], "n2": ["b1", "a1"]}, ["a1", "b1"])
    assert tale.numbers() == []


def test_owners_hold_equal_bytes():
    tale = Tale()
    rows = {"n1": {K: b"row"}, "n2": {K: b"row"}, "n3": {K: b"other"}}
    tale.oracle.rows_at_rest({"7": rows})
    assert tale.numbers() == ["I5"]


def test_a_row_that_one_owner_lacks_is_a_difference():
    tale = Tale()
    tale.oracle.rows_at_rest({"7": {"n1": {}, "n2": {K: b"row"}}})
    assert tale.numbers() == ["I5"]


def test_equal_owners_pass():
    tale = Tale()
    tale.oracle.rows_at_rest({"7": {"n1": {K: b"row"}, "n2": {K: b"row"}}})
    assert tale.numbers() == []


def test_a_row_away_from_its_owners_is_a_stray():
    tale = Tale()
    tale.oracle.strays_at_rest({"n4": [K]})
    assert tale.numbers() == ["I5"]


def test_a_hint_that_stays_is_reported():
    tale = Tale()
    tale.oracle.hints_at_rest({"n1": 0, "n2": 3})
    assert tale.numbers() == ["I9"]


# --- I6 ---------------------------------------------------------------------------------------


def test_a_strict_read_shows_what_was_acknowledged_before_it():
    tale = Tale()
    tale.put("a1")
    tale.strict("a1")
    tale.strict_read()
    assert tale.numbers() == ["I6"]


def test_a_strict_read_may_show_what_covers_it_instead():
    tale = Tale()
    tale.put("b1", tale.put("a1"))
    tale.strict("a1")
    tale.strict_read("b1")
    assert tale.numbers() == []


def test_a_strict_read_that_began_earlier_may_miss_it():
    tale = Tale()
    before_ms = tale.now_ms
    tale.put("a1")
    tale.strict("a1")
    tale.strict_read(begun_ms=before_ms)
    assert tale.numbers() == []


def test_a_sloppy_write_may_be_missed():
    tale = Tale()
    tale.put("a1")
    tale.strict_read()
    assert tale.numbers() == []


def test_a_delete_under_way_excuses_a_strict_read():
    tale = Tale()
    tale.put("a1")
    tale.strict("a1")
    tale.begin("d", tale.read("a1"), delete=True)
    tale.strict_read()
    assert tale.numbers() == []


def strictly_deleted() -> Tale:
    tale = Tale()
    tale.put("a1")
    tale.put("d", tale.read("a1"), delete=True)
    return tale


def test_a_strict_read_shows_nothing_that_a_strict_delete_covers():
    tale = strictly_deleted()
    tale.strict("d")
    tale.strict_read("a1")
    assert tale.numbers() == ["I3"]


def test_a_strict_read_shows_nothing_that_a_strict_put_covers():
    tale = Tale()
    tale.put("b1", tale.put("a1"))
    tale.strict("b1")
    tale.strict_read("a1")
    assert tale.numbers() == ["I6", "I6"], "one is missing, and one is there"


def test_a_sloppy_delete_may_be_missed_by_a_strict_read():
    tale = strictly_deleted()
    tale.strict_read("a1")
    assert tale.numbers() == []


def test_a_strict_read_that_began_before_the_delete_ended_may_miss_it():
    tale = strictly_deleted()
    tale.strict("d")
    tale.strict_read("a1", begun_ms=tale.now_ms - 5)
    assert tale.numbers() == []


def test_a_session_does_not_fall_behind_what_one_node_has_shown_it():
    tale = Tale()
    tale.put("a1")
    tale.put("b1")
    before = tale.read("a1", "b1")
    tale.oracle.session_read("c0", K, ["a1", "b1"], before, 99)
    assert tale.numbers() == []
    tale.oracle.session_read("c0", K, ["b1"], before, 99)
    assert tale.numbers() == ["I6"]


def test_a_session_may_see_what_covers_it_instead():
    tale = Tale()
    before = tale.put("a1")
    tale.put("b1", before)
    tale.oracle.session_read("c0", K, ["b1"], before, 99)
    assert tale.numbers() == []


def test_a_second_copy_may_disappear_from_a_session():
    tale = Tale()
    tale.put("a1")
    tale.retried("a1")
    tale.oracle.session_read("c0", K, [], tale.read("a1"), 99)
    assert tale.numbers() == []


# --- I8 -----------------------------------------------------------------------------------------


def test_no_acknowledged_element_of_a_set_is_missing():
    tale = Tale()
    tale.put("a1")
    tale.put("b1", status=INFO)
    tale.put("c1", status=FAIL)
    tale.oracle.set_read(K, ["a1"], tale.now_ms + 1, tale.now_ms)
    assert tale.numbers() == []
    tale.oracle.set_read(K, ["b1"], tale.now_ms + 1, tale.now_ms)
    assert tale.numbers() == ["I8"]


# --- I12, I13 -----------------------------------------------------------------------------------


def test_an_acknowledgement_without_enough_disks_is_reported():
    tale = Tale()
    tale.begin("a1")
    write = tale.oracle.writes["a1"]
    tale.oracle.on_disks(write, 2, ["n1", "n4"])
    assert tale.numbers() == []
    tale.oracle.on_disks(write, 2, ["n1"])
    assert tale.numbers() == ["I12"]


def test_a_disk_that_holds_what_covers_a_write_has_had_it():
    tale = Tale()
    tale.put("b1", tale.put("a1"))
    tale.put("c1")
    write = tale.oracle.writes["a1"]
    assert tale.oracle.covers(["b1"], write)
    assert not tale.oracle.covers(["c1"], write)
    assert not tale.oracle.covers([], write)


def test_an_operation_that_ends_after_its_deadline_is_reported():
    tale = Tale()
    tale.oracle.begin(("c0", 1), "get", 100)
    tale.oracle.end(("c0", 1), 100)
    assert tale.numbers() == []
    tale.oracle.begin(("c0", 2), "get", 100)
    tale.oracle.end(("c0", 2), 101)
    assert tale.numbers() == ["I13"]


def test_an_operation_that_never_ends_is_reported():
    tale = Tale()
    tale.oracle.begin(("c0", 1), "get", 100)
    tale.oracle.nothing_open(5_000)
    assert tale.numbers() == ["I13"]
