"""dynamo behind the harness's interface, by its asyncio client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dynamo
from bench.drivers import ERROR, MAYBE, REFUSED, TIMEOUT, Fields


def merge_fields(siblings: list[Fields]) -> Fields:
    """The maximum of each field: commutative, associative, idempotent."""
    merged: Fields = {}
    for sibling in siblings:
        for field, count in sibling.items():
            merged[field] = max(count, merged.get(field, count))
    return merged


class DynamoDriver:
    """One asyncio client. `r`, `w`: levels for its calls, 0 or "" for the ring's own."""

    def __init__(
        self, url: str, r: int | str = 0, w: int | str = 0, timeout_s: float = 2.0, via: str = ""
    ) -> None:
        options: dict[str, Any] = {"timeout": timeout_s}
        options |= {name: level for name, level in (("r", r), ("w", w)) if level}
        options |= {"via": via} if via else {}
        self._client = dynamo.connect_async(url, wait=10.0, **options)
        self._fields = self._client.bucket("fields", merge=merge_fields)

    async def connect(self) -> None:
        await self._client.__aenter__()

    async def read(self, key: str) -> list[bytes]:
        return list((await self._client.read(key)).siblings)

    async def update(self, key: str, value: bytes) -> None:
        try:
            await self._client.put(key, value)
        except dynamo.ConflictError as conflict:
            # Concurrent values that this client has not read: it has now, and replaces them.
            await conflict.resolve(value)

    async def insert(self, key: str, value: bytes) -> None:
        await self.update(key, value)

    async def delete(self, key: str) -> None:
        try:
            await self._client.delete(key)
        except dynamo.ConflictError as conflict:
            await self._client.delete(key, context=conflict.context)

    async def modify(self, key: str, change: Callable[[list[bytes]], bytes]) -> None:
        entry = await self._client.read(key)
        await self._client.put(key, change(list(entry.siblings)), context=entry.context)

    async def add(self, key: str, fields: Fields) -> None:
        def added(value: Fields) -> Fields:
            return merge_fields([value, fields])

        await self._fields.modify(key, added, {})

    async def fields(self, key: str) -> Fields:
        return merge_fields((await self._fields.read(key)).siblings)

    async def close(self) -> None:
        await self._client.aclose()

    def outcome(self, error: Exception, writing: bool) -> str:
        if writing and getattr(error, "maybe_applied", False):
            return MAYBE
        if isinstance(error, dynamo.Overloaded):
            return REFUSED
        return TIMEOUT if getattr(error, "timeout", False) else ERROR
