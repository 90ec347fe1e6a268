"""What each call means, written once for both drivers.

A *flow* is a generator: it yields an `Op` for the driver to carry out, gets it back finished, and
returns the call's value. User code - codecs, merge functions, `modify` - runs inside the flow, so
in the caller's thread or task, never in somebody else's. `Batch` flows yield lists of operations
and get back those that have ended.

The three ways to write, and what the client adds to them:

    auto     the default: covers what this client has seen of the key. If it has seen nothing and
             there is a value, the node shows it and stores nothing; the one value is then replaced
             by a second round trip, siblings are merged, or the call raises ConflictError.
    causal   context=entry.context: replaces exactly what that read showed
    blind    context=None: keeps every concurrent value

The most specific merge function decides: call, then bucket, then client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from dynamo.client import merge as merges
from dynamo.client.batch import MISSING, BatchFlow, Flow, batch
from dynamo.client.codec import Codec, Coder
from dynamo.client.context import AUTO, Auto, Context
from dynamo.client.deadlines import until_ms
from dynamo.client.errors import (
    ConfigurationError,
    ConflictError,
    DynamoError,
    KeyInvalid,
    KeyMissing,
    WrongType,
)
from dynamo.client.merge import Merge
from dynamo.client.op import Op
from dynamo.client.options import Level, Options, bucket_name, for_view, level, seconds_ms
from dynamo.client.outcomes import shown_key
from dynamo.client.results import Entry, Trace, Written
from dynamo.client.scan import Found, Position, Walk
from dynamo.core import messages as m
from dynamo.core.messages import Message

T = TypeVar("T")
Key = str | bytes

# Puts of one `modify`. The first carries the change; a further one only writes over siblings that
# came in between, and while others do the same, makes new ones of them. (History: with 8 writers
# at once and 8 rounds, a modify took 4.9 puts, and one in four gave up, its change stored.)
MODIFY_PUTS_MAX = 2


class Surface(Generic[T]):
    """One bucket of one client with its options: everything but the carrying out."""

    __slots__ = ("_coder", "_core", "_merge", "_options", "_prefix", "name")

    def __init__(
        self, core: Any, options: Options, coder: Coder, merge: Merge | None, name: str
    ) -> None:
        self._core = core
        self._options = options
        self._coder = coder
        self._merge = merge
        self.name = name
        raw = bucket_name("bucket", name).encode()
        self._prefix = bytes([len(raw)]) + raw

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def _with_options(self, options: Mapping[str, Any]) -> Any:
        changed = for_view(self._options, options)
        return self._view()(self._core, changed, self._coder, self._merge, self.name)

    def _bucket(self, name: str, type_: Any, codec: str | Codec | None, merge: Merge | None) -> Any:
        coder = Coder(codec if codec is not None else self._options.codec, type_)
        chosen = merge if merge is not None else self._merge
        return self._view()(self._core, self._options, coder, checked_merge(chosen), name)

    def _view(self) -> Callable[..., Any]:
        raise AssertionError("each driver has its own")

    def _write(self, key: Key, value: Any, context: Context) -> Any:
        """`put` of the driver, for ConflictError.resolve."""
        raise AssertionError("each driver has its own")

    # --- checks -------------------------------------------------------------------------------

    def _full(self, key: Key) -> bytes:
        if type(key) is bytes:
            raw = key
        elif isinstance(key, str):
            try:
                raw = key.encode()
            except UnicodeEncodeError:
                raise KeyInvalid(f"the key {key!r} cannot be said in UTF-8", key=key) from None
        elif isinstance(key, bytes):
            raw = bytes(key)
        else:
            raise WrongType(f"keys are str or bytes, not {type(key).__name__}: {key!r:.40}")
        if not raw:
            raise KeyInvalid("a key has at least one byte; this one is empty", key=key)
        return self._prefix + raw

    def _until(self, timeout: float | None) -> int:
        if timeout is None:
            return until_ms(self._options.timeout_ms)
        return until_ms(seconds_ms("timeout", timeout))

    def _flags(self, sloppy: bool | None, durable: bool | None = None) -> int:
        options = self._options
        if sloppy is None:
            sloppy = options.sloppy
        elif type(sloppy) is not bool:
            raise ConfigurationError(f"sloppy must be True or False, not {sloppy!r}")
        if durable is None:
            durable = options.durable
        elif type(durable) is not bool:
            raise ConfigurationError(f"durable must be True or False, not {durable!r}")
        return (m.SLOPPY if sloppy else 0) | (m.DURABLE if durable else 0)

    def _merge_of(self, merge: Merge | None) -> Merge | None:
        chosen = self._merge if merge is None else checked_merge(merge)
        return None if chosen is merges.raise_ else chosen

    # --- pieces of flows ----------------------------------------------------------------------

    def _get_op(
        self, full: bytes, until: int, r: Level | None, pr: Level | None, sloppy: bool | None
    ) -> Op:
        options = self._options
        tail = (
            options.r if r is None else level("r", r),
            options.pr if pr is None else level("pr", pr),
            self._flags(sloppy, False),
        )
        return Op(m.GET, full, until, tail, tries=options.tries)

    def _put_tail(
        self,
        w: Level | None,
        pw: Level | None,
        sloppy: bool | None,
        durable: bool | None,
        ttl: float | None = None,
        more_flags: int = 0,
    ) -> tuple[int, int, int, int]:
        options = self._options
        return (
            options.w if w is None else level("w", w),
            options.pw if pw is None else level("pw", pw),
            self._flags(sloppy, durable) | more_flags,
            0 if ttl is None else seconds_ms("ttl", ttl),
        )

    def _decode_all(self, key: Key, values: list[Any]) -> list[Any]:
        return [self._coder.decode(key, payload) for _, payload in values]

    def _conflict(
        self, key: Key, siblings: list[Any], context: bytes, maybe_applied: bool = False
    ) -> ConflictError:
        seen = Context(context)
        return ConflictError(
            f"{key!r} has {len(siblings)} concurrent values",
            key=key,
            siblings=siblings,
            context=seen,
            resolve=lambda value: self._write(key, value, seen),
            hint="Look at .siblings, then .resolve(value); or give the bucket a merge function",
            maybe_applied=maybe_applied,
        )

    def _written(self, key: Key, full: bytes, began: int, answer: Message) -> Written:
        """Take in a PUT_OK."""
        _, _, context, values, acked_by, stand_ins = answer
        self._core.memory.put(full, began, context, values or None)
        homes = dict(stand_ins)
        if not values:
            return Written(Context(context), [], acked_by, homes)
        return Written(None, self._decode_all(key, values), acked_by, homes)

    # --- reads --------------------------------------------------------------------------------

    def _get(
        self,
        key: Key,
        default: Any,
        r: Level | None,
        pr: Level | None,
        sloppy: bool | None,
        timeout: float | None,
        merge: Merge | None,
    ) -> Flow[Any]:
        full = self._full(key)
        until = self._until(timeout)
        memory = self._core.memory
        began = memory.clock
        op = self._get_op(full, until, r, pr, sloppy)
        yield op
        _, _, context, values, _ = answered(op)
        if len(values) < 2:
            value = self._coder.decode(key, values[0][1]) if values else default
            memory.read(full, began, context)
            return value
        siblings = self._decode_all(key, values)
        memory.read(full, began, context)
        chosen = self._merge_of(merge)
        if chosen is None:
            raise self._conflict(key, siblings, context)
        merged = chosen(list(siblings))
        write_back = self._options.write_back
        if merge is None if write_back is None else write_back:
            yield from self._write_back(key, full, until, context, merged)
        return merged

    def _write_back(
        self, key: Key, full: bytes, until: int, context: bytes, merged: Any
    ) -> Flow[None]:
        """Replace siblings by their merge. The read has succeeded, so a failure is no error."""
        payload = self._coder.encode(key, merged)
        began = self._core.memory.clock
        tail = (*self._put_tail(None, None, None, None), payload)
        op = Op(m.PUT, full, until, tail, context=context, tries=self._options.tries)
        yield op
        if op.answer is not None:
            self._written(key, full, began, op.answer)

    def _read(
        self,
        key: Key,
        r: Level | None,
        pr: Level | None,
        sloppy: bool | None,
        timeout: float | None,
    ) -> Flow[Entry[T]]:
        full = self._full(key)
        began = self._core.memory.clock
        op = self._get_op(full, self._until(timeout), r, pr, sloppy)
        yield op
        return self._entry(key, full, began, op)

    def _entry(self, key: Key, full: bytes, began: int, op: Op) -> Entry[T]:
        """What a read found, about to be given to the user."""
        _, _, context, values, answered_by = answered(op)
        siblings = self._decode_all(key, values)
        self._core.memory.read(full, began, context)
        trace = Trace(
            op.coordinator,
            answered_by,
            [node.name or node.address for node in op.asked],
            (op.ended_ms - op.started_ms) / 1000,
        )
        return Entry(
            key,
            siblings,
            [stamp_ms / 1000 for stamp_ms, _ in values],
            Context(context),
            trace,
            lambda: self._conflict(key, siblings, context),
        )

    # --- scans --------------------------------------------------------------------------------

    def _walk(self, prefix: Key, after: str | None, r: Level | None) -> Walk:
        """A scan of this bucket's keys that begin with `prefix`."""
        if after is not None and not isinstance(after, str):
            raise WrongType(f"after= is a cursor, a str, not {type(after).__name__}")
        match = self._prefix if prefix in ("", b"") else self._full(prefix)
        return self._walk_from(match, after or None, r)

    def _walk_from(self, match: bytes, after: Position | str | None, r: Level | None) -> Walk:
        """A scan of all full keys that begin with `match`, whatever their bucket."""
        return Walk(
            match,
            after,
            self._options.r if r is None else level("r", r),
            self._options,
            until=self._until,
            get=lambda full: self._get_op(full, self._until(None), r, None, None),
            clock=lambda: self._core.memory.clock,
        )

    def _found(self, found: Found) -> Entry[T]:
        """A key that a scan has come to. Only now is it seen: what was read ahead is not."""
        return self._entry(shown_key(found.full), found.full, found.began, found.op)

    # --- single keys --------------------------------------------------------------------------

    def _item(self, key: Key) -> Flow[Any]:
        value = yield from self._get(key, MISSING, None, None, None, None, None)
        if value is MISSING:
            raise KeyMissing(f"{key!r} has no value", op="get", key=key)
        return value

    def _contains(self, key: Key) -> Flow[bool]:
        op = self._get_op(self._full(key), self._until(None), None, None, None)
        yield op
        return bool(answered(op)[3])

    # --- writes -------------------------------------------------------------------------------

    def _put(
        self,
        key: Key,
        value: Any,
        context: Context | Auto | None,
        w: Level | None,
        pw: Level | None,
        sloppy: bool | None,
        durable: bool | None,
        ttl: float | None,
        timeout: float | None,
    ) -> Flow[Written]:
        full = self._full(key)
        payload = self._coder.encode(key, value)
        tail = self._put_tail(w, pw, sloppy, durable, ttl)
        return self._send_put(key, full, value, payload, context, tail, self._until(timeout))

    def _delete(
        self,
        key: Key,
        context: Context | Auto | None,
        w: Level | None,
        pw: Level | None,
        sloppy: bool | None,
        durable: bool | None,
        timeout: float | None,
    ) -> Flow[Written]:
        full = self._full(key)
        tail = self._put_tail(w, pw, sloppy, durable, None, m.DELETE)
        return self._send_put(key, full, None, b"", context, tail, self._until(timeout))

    def _send_put(
        self,
        key: Key,
        full: bytes,
        value: Any,
        payload: bytes,
        context: Context | Auto | None,
        tail: tuple[int, int, int, int],
        until: int,
    ) -> Flow[Written]:
        """One put or delete in any mode, with the merges that auto may need."""
        memory = self._core.memory
        began = memory.clock
        mode, raw = m.CAUSAL, b""
        if context is AUTO:
            seen = memory.get(full)
            if seen is None:
                mode = m.AUTO
            else:
                raw = seen.context
                if seen.unread is not None:
                    payload = self._absorb(key, value, payload, seen.unread, raw, False)
        elif context is None:
            mode = m.BLIND
        elif isinstance(context, Context):
            raw = bytes(context)
        else:
            raise WrongType(
                f"context must be a Context, None or dynamo.AUTO, not {type(context).__name__}"
            )
        tries = self._options.tries
        op = Op(m.PUT, full, until, (*tail, payload), mode=mode, context=raw, tries=tries)
        yield op
        answer = answered(op)
        if answer[0] == m.CONFLICT:
            raw = answer[2]
            if len(answer[3]) > 1:  # one is simply replaced: that is what a plain put is for
                payload = self._absorb(key, value, payload, answer[3], raw, op.maybe_applied)
            op = Op(m.PUT, full, until, (*tail, payload), context=raw, tries=tries)
            yield op
            answer = answered(op)
        return self._written(key, full, began, answer)

    def _absorb(
        self,
        key: Key,
        value: Any,
        payload: bytes,
        unread: list[Any],
        context: bytes,
        maybe_applied: bool,
    ) -> bytes:
        """What to write over siblings that nobody has read: their merge with `value`.

        A delete under a merge function stays a delete: what it decides about is gone anyway.
        """
        siblings = self._decode_all(key, unread)
        chosen = self._merge_of(None)
        if chosen is None:
            raise self._conflict(key, siblings, context, maybe_applied)
        if not payload:
            return payload
        return self._coder.encode(key, merges.combine(chosen, siblings, value))

    def _modify(
        self,
        key: Key,
        fn: Callable[[Any], Any],
        default: Any,
        w: Level | None,
        timeout: float | None,
        merge: Merge | None,
    ) -> Flow[Any]:
        """Read, merge, apply, write causally; merge once more if others wrote at the same time."""
        full = self._full(key)
        until = self._until(timeout)
        chosen = self._merge_of(merge)
        memory = self._core.memory
        began = memory.clock
        op = self._get_op(full, until, None, None, None)
        yield op
        _, _, context, values, _ = answered(op)
        siblings = self._decode_all(key, values)
        memory.read(full, began, context)
        value = fn(self._one(key, siblings, context, chosen, default, False))
        tail = self._put_tail(w, None, None, None)
        for _ in range(MODIFY_PUTS_MAX):
            payload = self._coder.encode(key, value)
            began = memory.clock
            tries = self._options.tries
            op = Op(m.PUT, full, until, (*tail, payload), context=context, tries=tries)
            yield op
            answer = answered(op)
            written = self._written(key, full, began, answer)
            context = answer[2]
            siblings = written.siblings
            if not siblings:
                return value
            value = self._one(key, siblings, context, chosen, default, True)
        return value  # stored, beside others that the next one to come will merge

    def _one(
        self,
        key: Key,
        siblings: list[Any],
        context: bytes,
        chosen: Merge | None,
        default: Any,
        applied: bool,
    ) -> Any:
        if len(siblings) < 2:
            return siblings[0] if siblings else default
        if chosen is None:
            raise self._conflict(key, siblings, context, applied)
        return chosen(list(siblings))

    # --- many ---------------------------------------------------------------------------------

    def _get_many(
        self,
        keys: Iterable[Key],
        r: Level | None,
        pr: Level | None,
        sloppy: bool | None,
        timeout: float | None,
        merge: Merge | None,
        raise_on_error: bool,
    ) -> BatchFlow:
        if isinstance(keys, str | bytes):
            raise WrongType("get_many takes keys, not one key: use get")
        unique = dict.fromkeys(keys)
        flows = ((k, self._get(k, MISSING, r, pr, sloppy, timeout, merge)) for k in unique)
        return batch(flows, raise_on_error, self._options)

    def _put_many(
        self,
        items: Mapping[Key, Any],
        context: Context | Auto | None,
        w: Level | None,
        pw: Level | None,
        sloppy: bool | None,
        durable: bool | None,
        ttl: float | None,
        timeout: float | None,
        raise_on_error: bool,
    ) -> BatchFlow:
        if not isinstance(items, Mapping):
            raise WrongType(f"put_many takes a mapping, not {type(items).__name__}")

        def flow(key: Key, value: Any) -> Flow[Written]:
            # A generator, so that a bad key or value fails alone when its turn comes.
            written = yield from self._put(
                key, value, context, w, pw, sloppy, durable, ttl, timeout
            )
            return written

        flows = ((key, flow(key, value)) for key, value in items.items())
        return batch(flows, raise_on_error, self._options)


def answered(op: Op) -> Message:
    """The answer of an operation that has ended, or its error, raised."""
    if op.error is not None:
        raise op.error
    assert op.answer is not None, "flows are resumed when their operation has ended"
    return op.answer


def checked_merge(merge: Any) -> Merge | None:
    """A merge function as given by a user, or None."""
    if merge is not None and not callable(merge):
        raise ConfigurationError(f"merge must be a function of a list of values, not {merge!r}")
    chosen: Merge | None = merge
    return chosen


def refuse_scan(what: str) -> DynamoError:
    """The error for calls that would have to visit every key of the ring."""
    return WrongType(
        f"{what} would read the whole ring, which is spread over all nodes and changes meanwhile: "
        "go through the keys with scan(), which is lazy and can be resumed, or keep those you need "
        "in a value of their own"
    )
