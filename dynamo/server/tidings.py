"""What a node's log says of the ring: events of the core, and who came, moved and went.

The core notes what happens as plain tuples. What it is told by others it does not note one by one,
but keeps as the state of its roster; so here the roster is looked at after it has changed, and what
is other than before is said once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from dynamo.core.items import IN, LEAVING, LEFT, OUT, REMOVED
from dynamo.core.messages import NOT_A_MEMBER
from dynamo.core.roster import Roster

INFO, WARNING = logging.INFO, logging.WARNING

# event -> level, sentence, the name of what it is about
SENTENCES: dict[str, tuple[int, str, str]] = {
    "up": (INFO, "peer is up", "peer"),
    "suspect": (WARNING, "peer is suspect: it does not answer", "peer"),
    "down": (WARNING, "peer is down: its writes are kept as hints", "peer"),
    "ready": (INFO, "every own arc is synced", ""),
    "listed and no member": (
        WARNING,
        "a node in [[members]] is not in the ring, which that list only founded. To take it in: "
        "start it with seeds in place of [[members]], then dynamo cluster join, plan, commit",
        "node",
    ),
    "another ring: settings differ": (
        WARNING,
        "a node has other settings of what all must agree on, and nothing of it is taken: n, r, w "
        "and partitions must be the ring's",
        "node",
    ),
    "refused what a node tells of the ring": (
        WARNING,
        "a node told something about the ring that cannot be, and that was left out",
        "node",
    ),
    "ring change": (INFO, "a change of the ring was committed here", "task"),
    "left the ring": (INFO, "everything is handed over: this node has left the ring", "node"),
    "left": (INFO, "everything is handed over: this node has left the ring", ""),
    "arc dropped": (INFO, "an arc that others own was handed over, and is gone here", "arc"),
    "discarded": (WARNING, "removed with --discard: all rows of this node were erased", "rows"),
    "actor retired": (INFO, "a generation of dots was retired", "arc"),
    "hint corrupt": (WARNING, "a hint was damaged, and is gone", "key"),
}
_STATUSES = {
    OUT: "a node is known that does not belong to the ring",
    IN: "a node belongs to the ring",
    LEAVING: "a node is leaving the ring",
    LEFT: "a node has left the ring",
    REMOVED: "a node was removed from the ring",
}

Line = tuple[int, str, dict[str, Any]]  # level, sentence, fields


class Tidings:
    """Looks at the roster, and says what is new since it last did."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._people = -1
        self._closed: tuple[int, str] | None = None
        # name -> status and address, as they were said. At the start all is as it was.
        self._known = self._look()

    def _look(self) -> dict[str, tuple[int, str]]:
        roster = self._roster
        self._people = roster.people
        return {
            name: (roster.status(name), f"{record.host}:{record.peer_port}")
            for name, record in roster.records.items()
        }

    def news(self) -> Iterator[Line]:
        """Lines for the log."""
        if self._roster.closed is not self._closed:
            yield from self._open_or_closed()
        if self._roster.people == self._people:
            return
        known, self._known = self._known, self._look()
        for name, (status, place) in self._known.items():
            before = known.get(name)
            if before is None or before[0] != status:
                yield INFO, _STATUSES[status], {"node": name}
            elif before[1] != place:
                yield INFO, "a node has moved", {"node": name, "peer": place}

    def _open_or_closed(self) -> Iterator[Line]:
        before, self._closed = self._closed, self._roster.closed
        if self._closed is None:
            yield INFO, "requests of clients are served", {}
        elif before is None or before[1] != self._closed[1]:
            level = WARNING if self._closed[0] == NOT_A_MEMBER else INFO
            yield level, f"no requests of clients are served: {self._closed[1]}", {}
