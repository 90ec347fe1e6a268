"""What calls mean: contexts, conflicts, merges, batches.

Flows are run by hand: each operation they yield is answered from a list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import dynamo
from dynamo.client import merge
from dynamo.client.codec import Coder
from dynamo.client.memory import Memory
from dynamo.client.op import Op
from dynamo.client.options import Options
from dynamo.client.surface import Surface
from dynamo.core import messages as m
from dynamo.core.messages import Message

N = None
CODER = Coder()


def stored(*values: Any) -> list[list[Any]]:
    """Values as the wire has them, newest first."""
    return [[100 - i, CODER.encode("k", value)] for i, value in enumerate(values)]


def found(context: bytes, *values: Any) -> Message:
    return (m.GET_OK, 1, context, stored(*values), ["n1", "n2"])


def written(context: bytes, *siblings: Any) -> Message:
    return (m.PUT_OK, 1, context, stored(*siblings), ["n1", "n4"], [["n4", "n2"]])


def conflict(context: bytes, *siblings: Any) -> Message:
    return (m.CONFLICT, 1, context, stored(*siblings))


class Core:
    def __init__(self) -> None:
        self.memory = Memory()


class Hand(Surface[Any]):
    """A surface whose operations are answered from a list; `ops` are those it sent."""

    def __init__(self, merge: Any = None, **options: Any) -> None:
        super().__init__(Core(), Options(**options), Coder(), merge, "default")
        self.ops: list[Op] = []

    __slots__ = ("ops",)

    def run(self, flow: Any, *answers: Message | Exception) -> Any:
        pending = list(answers)
        try:
            op = next(flow)
            while True:
                self.ops.append(op)
                given = pending.pop(0)
                if isinstance(given, Exception):
                    op.error = given  # type: ignore[assignment]
                else:
                    op.answer = given
                op.done = True
                op = flow.send(op)
        except StopIteration as stop:
            assert pending == [], "answers that nobody asked for"
            return stop.value

    def put(self, value: Any, *answers: Message, context: Any = dynamo.AUTO, key: Any = "k") -> Any:
        return self.run(self._put(key, value, context, N, N, N, N, N, N), *answers)

    def delete(self, *answers: Message, context: Any = dynamo.AUTO) -> Any:
        return self.run(self._delete("k", context, N, N, N, N, N), *answers)

    def get(self, *answers: Message, default: Any = None, merge: Any = None) -> Any:
        return self.run(self._get("k", default, N, N, N, N, merge), *answers)

    def read(self, *answers: Message) -> Any:
        return self.run(self._read("k", N, N, N, N), *answers)

    def modify(self, fn: Callable[[Any], Any], *answers: Message, default: Any = None) -> Any:
        return self.run(self._modify("k", fn, default, N, N, N), *answers)

    def _write(self, key: Any, value: Any, context: Any) -> Any:
        return self.put(value, written(b"resolved"), context=context, key=key)

    @property
    def last(self) -> tuple[int, bytes, Any]:
        """Mode, context and value of the last put."""
        op = self.ops[-1]
        payload = op.tail[4]
        return op.mode, op.context, CODER.decode("k", payload) if payload else None


# --- the three ways to write ------------------------------------------------------------------


def test_a_put_of_a_key_never_seen_leaves_it_to_the_coordinator() -> None:
    hand = Hand()
    hand.put(1, written(b"c1"))
    assert hand.last == (m.AUTO, b"", 1)


def test_a_put_after_a_get_covers_what_was_got() -> None:
    hand = Hand()
    assert hand.get(found(b"c1", "old")) == "old"
    hand.put("new", written(b"c2"))
    assert hand.last == (m.CAUSAL, b"c1", "new")


def test_a_put_after_reading_absence_covers_that_absence() -> None:
    hand = Hand()
    assert hand.get(found(b"c0"), default="none") == "none"
    hand.put(1, written(b"c1"))
    assert hand.last == (m.CAUSAL, b"c0", 1)


def test_a_put_after_an_own_put_covers_that_put() -> None:
    hand = Hand()
    result = hand.put(1, written(b"c1"))
    assert bytes(result.context) == b"c1"
    assert (result.acked_by, result.stand_ins, result.siblings) == (["n1", "n4"], {"n4": "n2"}, [])
    hand.put(2, written(b"c2"))
    assert hand.last == (m.CAUSAL, b"c1", 2)


def test_an_explicit_context_is_used_whatever_was_seen_since() -> None:
    hand = Hand()
    entry = hand.read(found(b"c1", "a"))
    hand.get(found(b"c2", "b"))
    hand.put("mine", written(b"c3"), context=entry.context)
    assert hand.last == (m.CAUSAL, b"c1", "mine")


def test_a_blind_put_covers_nothing_even_of_what_was_seen() -> None:
    hand = Hand()
    hand.get(found(b"c1", "a"))
    hand.put("mine", written(b"c2", "mine", "a"), context=None)
    assert hand.last == (m.BLIND, b"", "mine")


def test_str_and_bytes_of_one_key_share_what_was_seen() -> None:
    hand = Hand()
    hand.put(1, written(b"c1"), key=b"k")
    hand.put(2, written(b"c2"), key="k")
    assert hand.last[:2] == (m.CAUSAL, b"c1")


def test_a_delete_covers_and_is_remembered_like_a_put() -> None:
    hand = Hand()
    hand.get(found(b"c1", "a"))
    hand.delete(written(b"c2"))
    assert hand.last == (m.CAUSAL, b"c1", None)
    assert hand.ops[-1].flags & m.DELETE
    hand.put("again", written(b"c3"))
    assert hand.last == (m.CAUSAL, b"c2", "again")


# --- conflicts in reads -----------------------------------------------------------------------


def test_get_of_several_values_raises_and_the_error_can_resolve_them() -> None:
    hand = Hand()
    with pytest.raises(dynamo.ConflictError) as caught:
        hand.get(found(b"c2", "a", "b"))
    assert caught.value.siblings == ["a", "b"]
    assert bytes(caught.value.context) == b"c2"
    caught.value.resolve("ab")
    assert hand.last == (m.CAUSAL, b"c2", "ab")


def test_siblings_delivered_by_an_error_of_get_count_as_seen() -> None:
    hand = Hand()
    with pytest.raises(dynamo.ConflictError):
        hand.get(found(b"c2", "a", "b"))
    hand.put("mine", written(b"c3"))
    assert hand.last == (m.CAUSAL, b"c2", "mine")


def test_an_entry_shows_all_values_and_its_value_raises() -> None:
    entry = Hand().read(found(b"c2", "a", "b"))
    assert (entry.exists, entry.conflict, entry.siblings) == (True, True, ["a", "b"])
    assert entry.stamps == [0.1, 0.099]
    with pytest.raises(dynamo.ConflictError):
        _ = entry.value


def test_an_entry_of_an_absent_key() -> None:
    entry = Hand().read(found(b"c0"))
    assert (entry.exists, entry.value, entry.siblings, entry.conflict) == (False, None, [], False)
    assert bytes(entry.context) == b"c0"
    assert entry.trace.answered == ["n1", "n2"]


def test_a_merge_of_the_bucket_answers_get_and_is_written_back() -> None:
    hand = Hand(merge.union)
    assert hand.get(found(b"c2", ["b"], ["a"]), written(b"c3")) == ["a", "b"]
    assert hand.last == (m.CAUSAL, b"c2", ["a", "b"])
    hand.put([], written(b"c4"))
    assert hand.last[:2] == (m.CAUSAL, b"c3")


def test_a_merge_of_one_call_is_not_written_back_unless_asked() -> None:
    hand = Hand()
    assert hand.get(found(b"c2", 1, 2), merge=max) == 2
    assert len(hand.ops) == 1
    eager = Hand(write_back=True)
    assert eager.get(found(b"c2", 1, 2), written(b"c3"), merge=max) == 2
    assert eager.last == (m.CAUSAL, b"c2", 2)


def test_a_failed_write_back_does_not_fail_the_get() -> None:
    hand = Hand(max)
    assert hand.get(found(b"c2", 1, 2), dynamo.QuorumTimeout("late")) == 2  # type: ignore[arg-type]
    hand.put(3, written(b"c3"))
    assert hand.last == (m.CAUSAL, b"c2", 3)


def test_the_most_specific_merge_decides() -> None:
    hand = Hand(min)
    assert hand.get(found(b"c2", 1, 2), merge=max) == 2
    with pytest.raises(dynamo.ConflictError):
        hand.get(found(b"c2", 1, 2), merge=merge.raise_)


# --- siblings beside a put --------------------------------------------------------------------


def test_siblings_beside_a_put_are_not_seen_and_stop_the_next_auto_put() -> None:
    """A puts 1; B blind-puts 2; A puts 3: were that answer's context used, 2 would be erased."""
    hand = Hand()
    result = hand.put(3, written(b"c3", 3, 2))
    assert result.context is None
    assert result.siblings == [3, 2]
    sent = len(hand.ops)
    for _ in range(2):  # and saying it again does not make it seen
        with pytest.raises(dynamo.ConflictError) as caught:
            hand.put(4)
        assert caught.value.siblings == [3, 2]
        assert not caught.value.maybe_applied
    assert len(hand.ops) == sent, "nothing is sent"
    caught.value.resolve(5)
    assert hand.last == (m.CAUSAL, b"c3", 5)
    hand.put(6, written(b"c6"))
    assert hand.last == (m.CAUSAL, b"resolved", 6)


def test_a_read_makes_such_siblings_seen() -> None:
    hand = Hand()
    hand.put(3, written(b"c3", 3, 2))
    hand.read(found(b"c4", 3, 2))
    hand.put(4, written(b"c5"))
    assert hand.last == (m.CAUSAL, b"c4", 4)


def test_with_a_merge_the_next_auto_put_merges_such_siblings() -> None:
    hand = Hand(lambda values: sorted({x for value in values for x in value}))
    hand.put([3], written(b"c3", [3], [2]))
    hand.put([4], written(b"c4"))
    assert hand.last == (m.CAUSAL, b"c3", [2, 3, 4])


def test_newest_means_the_value_being_put() -> None:
    hand = Hand(merge.newest)
    hand.put(3, written(b"c3", 2, 3))
    hand.put(4, written(b"c4"))
    assert hand.last == (m.CAUSAL, b"c3", 4)


def test_a_delete_beside_unread_siblings_refuses_without_a_merge() -> None:
    hand = Hand()
    hand.put(3, written(b"c3", 3, 2))
    with pytest.raises(dynamo.ConflictError):
        hand.delete()


def test_an_auto_put_that_meets_several_values_raises_having_done_nothing() -> None:
    hand = Hand()
    with pytest.raises(dynamo.ConflictError) as caught:
        hand.put(1, conflict(b"c2", "a", "b"))
    assert caught.value.siblings == ["a", "b"]
    assert not caught.value.maybe_applied
    hand.put(1, written(b"c3"))  # a refusal shows nothing to be covered later
    assert hand.last[0] == m.AUTO


def test_with_a_merge_such_a_put_is_repeated_causally() -> None:
    hand = Hand(lambda values: "+".join(values))
    hand.put("c", conflict(b"c2", "a", "b"), written(b"c3"))
    assert hand.last == (m.CAUSAL, b"c2", "a+b+c")
    first, second = hand.ops
    assert first is not second, "another operation, so another put id"


# --- modify -----------------------------------------------------------------------------------


def test_modify_writes_over_exactly_what_it_read() -> None:
    hand = Hand()
    assert hand.modify(lambda x: x + 1, found(b"c1", 41), written(b"c2")) == 42
    assert hand.last == (m.CAUSAL, b"c1", 42)


def test_modify_of_an_absent_key_starts_from_the_default() -> None:
    hand = Hand()
    assert hand.modify(lambda x: [*x, 1], found(b"c0"), written(b"c1"), default=[]) == [1]


def test_modify_merges_siblings_before_and_after() -> None:
    hand = Hand(max)
    answers = (found(b"c1", 1, 5), written(b"c2", 6, 9), written(b"c3"))
    assert hand.modify(lambda x: x + 1, *answers) == 9
    assert [op.tail[4] for op in hand.ops[1:]] == [CODER.encode("k", v) for v in (6, 9)]
    assert hand.last == (m.CAUSAL, b"c2", 9)


def test_modify_without_a_merge_raises_before_or_after_its_write() -> None:
    hand = Hand()
    with pytest.raises(dynamo.ConflictError) as before:
        hand.modify(lambda x: x, found(b"c1", 1, 2))
    assert not before.value.maybe_applied
    with pytest.raises(dynamo.ConflictError) as after:
        hand.modify(lambda x: x + 1, found(b"c1", 1), written(b"c2", 2, 7))
    assert after.value.maybe_applied


def test_modify_leaves_siblings_to_the_next_reader_once_its_change_is_stored() -> None:
    hand = Hand(max)
    assert hand.modify(lambda x: x + 1, found(b"c1", 1), *[written(b"c", 2, 5)] * 2) == 5
    assert hand.last == (m.CAUSAL, b"c", 5)


# --- overlapping calls ------------------------------------------------------------------------


def test_a_get_that_began_before_a_put_ended_does_not_make_the_client_forget_its_put() -> None:
    hand = Hand()
    slow = hand._get("k", None, N, N, N, N, N)
    op = next(slow)
    hand.put(1, written(b"c1"))
    op.answer, op.done = found(b"c0", "older"), True
    with pytest.raises(StopIteration):
        slow.send(op)
    hand.put(2, written(b"c2"))
    assert hand.last == (m.CAUSAL, b"c1", 2)


def test_siblings_of_one_of_two_puts_at_once_are_not_forgotten_for_the_other() -> None:
    memory = Memory()
    memory.put(b"k", 0, b"both", [[1, b"x"], [2, b"y"]])
    memory.put(b"k", 0, b"mine", None)
    assert memory.get(b"k").unread  # type: ignore[union-attr]
    memory.put(b"k", memory.clock, b"later", None)
    assert memory.get(b"k").context == b"later"  # type: ignore[union-attr]


def test_what_was_seen_is_bounded_and_the_least_recent_goes_first() -> None:
    memory = Memory(limit=3)
    for name in (b"a", b"b", b"c", b"a", b"d"):
        memory.read(name, memory.clock, b"ctx")
    assert len(memory) == 3
    assert memory.get(b"b") is None
    assert memory.get(b"a") is not None


# --- many -------------------------------------------------------------------------------------


def run_batch(flow: Any, answer: Callable[[Op], Any], together: list[int]) -> Any:
    """Answer every operation of a batch, the last one first; note how many came at a time."""
    held: list[Op] = []
    done: list[Op] | None = None
    try:
        while True:
            issued = next(flow) if done is None else flow.send(done)
            held += issued
            together.append(len(held))
            op = held.pop()
            given = answer(op)
            if isinstance(given, Exception):
                op.error = given  # type: ignore[assignment]
            else:
                op.answer = given
            done = [op]
    except StopIteration as stop:
        return stop.value


def test_get_many_sorts_keys_into_found_missing_and_failed() -> None:
    hand = Hand()
    keys = ["found", "missing", "broken", 7, ""]

    def answer(op: Op) -> Any:
        name = op.key[-5:]
        if name == b"roken":
            return dynamo.QuorumTimeout("too late")
        return found(b"c", "v") if name == b"found" else found(b"c")

    results = run_batch(hand._get_many(keys, N, N, N, N, N, False), answer, [])
    assert results.found == {"found": "v"}
    assert results.missing == ["missing"]
    assert {key: type(error) for key, error in results.failed.items()} == {
        "broken": dynamo.QuorumTimeout,
        7: dynamo.WrongType,
        "": dynamo.KeyInvalid,
    }


def test_put_many_maps_keys_to_what_was_written_and_raises_only_if_asked() -> None:
    hand = Hand()
    items = {"a": 1, "b": object()}

    def answer(op: Op) -> Any:
        return written(b"c")

    results = run_batch(hand._put_many(items, dynamo.AUTO, N, N, N, N, N, N, False), answer, [])
    assert isinstance(results.found["a"], dynamo.Written)
    assert isinstance(results.failed["b"], dynamo.CodecError)
    flow = hand._put_many(items, dynamo.AUTO, N, N, N, N, N, N, True)
    with pytest.raises(dynamo.BatchError) as caught:
        run_batch(flow, answer, [])
    assert set(caught.value.failed) == {"b"}
    assert "1 of 2 keys failed" in str(caught.value)
    with pytest.raises(ExceptionGroup):
        raise caught.value
    matching, rest = caught.value.split(dynamo.CodecError)
    assert isinstance(matching, dynamo.BatchError)
    assert rest is None


def test_a_batch_keeps_a_bounded_number_of_operations_and_bytes_under_way() -> None:
    hand = Hand()
    together: list[int] = []
    keys = [f"k{i}" for i in range(2_000)]
    flow = hand._get_many(keys, N, N, N, N, N, False)
    results = run_batch(flow, lambda op: found(b"c", 1), together)
    assert len(results.found) == 2_000
    assert max(together) == 512
    big = {f"k{i}": b"x" * (4 << 20) for i in range(12)}
    together = []
    run_batch(
        hand._put_many(big, None, N, N, N, N, N, N, False), lambda op: written(b"c"), together
    )
    assert max(together) <= 5


# --- checks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [1, None, 1.5, ("a",), ["a"], bytearray(b"a")])
def test_keys_of_other_types_are_refused_and_never_coerced(key: Any) -> None:
    with pytest.raises(TypeError, match="keys are str or bytes") as caught:
        Hand().put(1, key=key)
    assert isinstance(caught.value, dynamo.DynamoError)


@pytest.mark.parametrize("key", ["", b"", "\ud800"])
def test_keys_that_cannot_be_keys_are_refused(key: Any) -> None:
    with pytest.raises(ValueError) as caught:
        Hand().put(1, key=key)
    assert isinstance(caught.value, dynamo.DynamoError)


@pytest.mark.parametrize("context", ["token", b"raw", 0])
def test_a_context_of_another_type_is_refused(context: Any) -> None:
    with pytest.raises(TypeError, match="AUTO"):
        Hand().put(1, context=context)


def test_a_merge_that_is_no_function_is_refused() -> None:
    with pytest.raises(dynamo.ConfigurationError, match="merge"):
        Hand().get(found(b"c", 1, 2), merge="newest")


# --- merge functions --------------------------------------------------------------------------


def test_union_of_lists_sets_and_dicts() -> None:
    assert merge.union([[3, 1], [1, 2]]) == [1, 2, 3]
    assert merge.union([{1}, {2}]) == {1, 2}
    assert merge.union([{"a": "new", "b": 1}, {"a": "old", "c": 2}]) == {"a": "new", "b": 1, "c": 2}
    with pytest.raises(TypeError, match="int, list"):
        merge.union([[1], 2])


def test_longest_and_newest() -> None:
    assert merge.longest(["ab", "abc", "abd"]) == merge.longest(["abd", "abc", "ab"]) == "abd"
    assert merge.newest(["new", "old"]) == "new"
    assert repr(merge.newest) == "dynamo.merge.newest"


def test_dict_union_on_a_put_prefers_the_value_being_put() -> None:
    hand = Hand(merge.union)
    hand.put({"a": 1}, written(b"c", {"a": 1}, {"a": 0}))
    hand.put({"a": 2}, written(b"d"))
    assert hand.last[2] == {"a": 2}
