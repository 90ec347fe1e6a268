"""The fence: requests are served under equal registers only, and whoever is behind is taught.

Every request between nodes carries the (ver, phase) of its arc. Where another one holds it is
answered REFUSED, with the register that holds there, and nothing is done. The asker takes a higher
register and turns its operation to the owners that it names; to a peer that knows less it teaches
its own (REGISTER), and asks again. So operations never wait for gossip: the first question to
somebody who knows better, or less, brings both level.

    a at phase 0                    b, c at phase 1, next = b, c, d
      a -> b, c    REPLICATE 0      would pass by d, which has begun to copy
      b, c -> a    REFUSED 1        a adopts it
      a -> b, c, d REPLICATE 1      and now W of cur and W of next count

Phases that follow on each other have quorums in common, phases two apart have not. Requests from
above are refused as well: a replica that served phase 2 while it stands at phase 0 would serve a
coordinator of phase 0 next, and both would succeed.

Invariants
  F1  A node never counts, stores or shows anything under another (ver, phase) than the asker's.
      Only what is merely merged may come at any phase: hints that are brought home, and rows that
      an exchange pushes.
  F2  What was acknowledged stays so when an operation is turned to other owners; it is a fact about
      a disk. What changes is which lists must be covered, and by how many.
  F3  An operation heeds REFUSALS_MAX refusals; after that, whoever refuses counts as silent.

Sources: algorithms §1.5; DESIGN §8.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dynamo.core.items import JUMP_MAX, UNKNOWN, read_register
from dynamo.core.messages import REGISTER, Malformed, Message
from dynamo.core.requests import Requests, as_fields
from dynamo.core.ring import Register

REFUSALS_MAX = 32  # every owner, old and new, at every phase of a move, with room to spare


class Fence:
    """What a node makes of refusals, and of registers that it is taught."""

    __slots__ = ("durable_due", "requests", "stats")

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.stats = requests.stats
        self.durable_due = False  # this step must end in a synced commit

    def on_refused(self, sender: str, message: Message, born_ms: int) -> None:
        """A peer holds another register: take it, or teach it this one, and ask again."""
        _, req, arc, ver, *rest = message
        requests = self.requests
        # Who has heard nothing of the arc yet refuses with a register that names nobody.
        theirs = self.learn(arc, (ver, *rest)) if ver else self._unknown(arc)
        held = requests.table.registers[arc]
        if theirs[:3] < held[:3]:
            self.stats["registers_taught"] += 1
            requests.outbox.append((sender, (REGISTER, 0, arc, *as_fields(held))))
        op = requests.pending.get(req)
        if op is None or op.arc != arc or sender not in op.waiting:
            return
        op.refusals += 1
        if op.refusals <= REFUSALS_MAX:
            op.again(sender)
        else:
            self.stats["refusals_ignored"] += 1  # F3

    def _unknown(self, arc: int) -> Register:
        if not 0 <= arc < self.requests.table.partitions:
            raise Malformed("a refusal for an arc that this ring has not")
        return UNKNOWN

    def learn(self, arc: int, fields: Iterable[Any]) -> Register:
        """Adopt a register from outside if it is above the one held; return it as it was sent.

        Raises `Malformed` for one that is none, or whose round is out of reach (G3).
        """
        requests = self.requests
        if not 0 <= arc < requests.table.partitions:
            raise Malformed("a register of an arc that this ring has not")
        try:
            register = read_register(fields)
        except (TypeError, ValueError):
            raise Malformed("a register of impossible owners or phases") from None
        if register.round - requests.table.registers[arc].round > JUMP_MAX:
            raise Malformed("a register whose round jumps too far")
        if requests.roster.adopt(arc, register):
            self.stats["registers_learnt"] += 1
            # Or power fails, the register is forgotten, and what was refused under it is served.
            self.durable_due = True
        return register
