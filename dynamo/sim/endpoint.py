"""A client as the world sees it: frames in, frames out, and when it wants to be woken."""

from __future__ import annotations

from typing import Protocol

from dynamo.core.messages import Message
from dynamo.sim.network import Frame


class Endpoint(Protocol):
    """A client as the world sees it."""

    name: str

    def receive(self, now_ms: int, frame: Frame) -> None: ...

    def wake(self, now_ms: int) -> None: ...

    def next_due_ms(self) -> int: ...

    def take_outgoing(self) -> list[tuple[str, list[Message]]]: ...

    def unsent(self, now_ms: int, node: str, messages: list[Message]) -> None:
        """There is no connection to the node: nobody will ever see these."""

    def connection(self, now_ms: int, node: str, up: bool) -> None:
        """The connection to a node came up, or broke."""
