"""An asyncio event loop whose time is that of a simulated ring.

`select` is where a loop waits; here it lets the ring's world run, until something has become ready
or the loop's next timer is due. Everything else is asyncio's own.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo.testing.simring import Ring

NEVER_MS = 1 << 60


class _Selector(selectors.SelectSelector):
    """Waits for virtual time, and for nothing else."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            self.loop.pass_time(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop of one `run_async`."""

    _ready: Sequence[Any]

    def __init__(self, ring: Ring) -> None:
        selector = _Selector()
        selector.loop = self
        self.ring = ring
        super().__init__(selector)

    def time(self) -> float:
        """Virtual seconds."""
        return self.ring.world.now_ms / 1000

    def pass_time(self, seconds: float | None) -> None:
        """Let the world run until a callback is ready, or for so long."""
        world = self.ring.world
        if seconds is None:
            while not self._ready:
                if not any(getattr(client, "busy", False) for client in world.clients.values()):
                    raise RuntimeError(
                        "every task waits for something that will never come: in a simulated ring "
                        "only its clients, asyncio.sleep and other tasks wake a task, no thread "
                        "and no socket"
                    )
                world.turn()
            return
        until_ms = world.now_ms + max(1, ceil(round(seconds * 1000, 6)))
        while not self._ready and world.tick_until(until_ms):
            pass


def run_all(ring: Ring, functions: list[tuple[str, Any]], options: dict[str, Any]) -> list[Any]:
    """Run coroutine functions of a client as tasks; the first failure cancels the others."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(ring)) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        ring.loop = loop
        try:
            return runner.run(_together(ring, functions, options))
        finally:
            ring.loop = None


async def _together(
    ring: Ring, functions: list[tuple[str, Any]], options: dict[str, Any]
) -> list[Any]:
    async def act(name: str, function: Any, pause: float) -> Any:
        await asyncio.sleep(pause)
        async with ring._async_client(name, None, options) as kv:
            return await function(kv)

    tasks = [
        asyncio.create_task(act(name, function, ring._rng.randrange(20) / 1000), name=name)
        for name, function in functions
    ]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
