"""For the unit tests of applications: merge functions and retries, without a ring or with one.

    FakeClient       a dictionary with the whole interface of `dynamo.Client`, which can be told to
                     conflict, to time out and to fail: microseconds a call
    FakeAsyncClient  the same for asyncio
    Ring             `dynamo.sim.Ring`: real nodes under virtual time, faults drawn from a seed
    seeds            the seeds to try, or the one that a failure named

Pytest finds the fixtures dynamo_fake, dynamo_sim, dynamo_seed, dynamo_ring and dynamo_kv by itself
(see `dynamo.testing.plugin`). Names are loaded when first used, so that tests which need none of
this do not pay for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo.testing.fake import Call, FakeAsyncClient, FakeClient
    from dynamo.testing.seeding import seeds
    from dynamo.testing.simring import Ring

__all__ = ["Call", "FakeAsyncClient", "FakeClient", "Ring", "seeds"]

_HOMES = {
    "Call": "dynamo.testing.fake",
    "FakeAsyncClient": "dynamo.testing.fake",
    "FakeClient": "dynamo.testing.fake",
    "Ring": "dynamo.testing.simring",
    "seeds": "dynamo.testing.seeding",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dynamo.testing' has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
