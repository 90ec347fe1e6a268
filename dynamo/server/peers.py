"""Whom this node speaks with: outlets that follow the roster, and whose frames are taken in.

Nodes come, move to other addresses, and go while the loop runs. Every node of the roster that is
not gone for good has an outlet. Beyond those an outlet is opened when there is something to say,
and closed when it has not been used for `VISIT_MS`: to a seed, of which only the address is known,
and to a node that was removed and asks why nobody answers it.

Whoever has the tag of the cluster and a name may speak, member or not. What strangers may say, and
what those hear that were removed, the core decides message by message: a removed node under load
has a REPLICATE in every frame, and refused as a whole none of them would tell it of its removal.

  P1  Outlets beyond the roster are few, and so are the lives remembered of strangers: whoever has
      the secret can invent names, and must not be able to fill the memory with them.
  P2  Who is blocked is blocked under its name and under its address, before and after it joins.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

import zmq

from dynamo.core.items import NAME
from dynamo.core.messages import LIFE_BITS
from dynamo.core.roster import Roster
from dynamo.server.config import Address
from dynamo.server.outlets import Backlog, PeerOutlet

VISITS_MAX = 16
VISIT_MS = 10_000
STRANGERS_MAX = 256

PEER_BACKLOG_BYTES = 64 << 20
# How long a frame waits for a peer that cannot be reached. Long enough for a reconnect, shorter
# than a request's usual deadline.
PEER_HOLD_MS = 1_000

OUT = int(zmq.POLLOUT)
SEED = "@"  # before the address of an addressee of which only that is known


class _Life:
    """The life of a sender that was last heard."""

    __slots__ = ("boot", "heard_ms")

    def __init__(self) -> None:
        self.boot = 0
        self.heard_ms = 0

    def is_ghost(self, boot: int, now_ms: int, suspicion_ms: int) -> bool:
        """Whether a frame comes from a process before the one heard last.

        Only while that one is still heard: a node whose disk was lost counts from 1 again.
        """
        earlier = boot >> LIFE_BITS < self.boot >> LIFE_BITS
        return earlier and now_ms - self.heard_ms < suspicion_ms


class _Visit:
    """An outlet beyond the roster, and when it was last used."""

    __slots__ = ("outlet", "used_ms")

    def __init__(self, outlet: PeerOutlet) -> None:
        self.outlet = outlet
        self.used_ms = 0


class Peers:
    """Outlets by addressee, lives by sender."""

    def __init__(
        self,
        roster: Roster,
        connect: Callable[[Address], zmq.Socket[bytes]],
        stats: Counter[str],
        suspicion_ms: int,
    ) -> None:
        self._roster = roster
        self._connect = connect
        self._stats = stats
        self._suspicion_ms = suspicion_ms
        self._followed = -1  # the roster's count of changes that outlets and names are as of
        self._outlets: dict[str, PeerOutlet] = {}
        self._places: dict[str, Address] = {}  # of those
        self._names: dict[str, str] = {}  # "host:port" -> the node that is known to be there
        self._visits: OrderedDict[str, _Visit] = OrderedDict()
        self._lives: dict[str, _Life] = {}
        self._strangers: OrderedDict[str, _Life] = OrderedDict()
        self._waiting: dict[zmq.Socket[bytes], PeerOutlet] = {}  # those with a backlog
        self.blocked: frozenset[str] = frozenset()
        self.polled: list[tuple[zmq.Socket[bytes], int]] = []  # those sockets, for the poll
        self.follow()

    # --- outlets ----------------------------------------------------------------------------------

    def follow(self) -> None:
        """Make outlets and names those of the roster, if it has changed."""
        if self._followed == self._roster.people:
            return
        self._followed = self._roster.people
        wanted = self._addresses()
        for name in [name for name in self._outlets if name not in wanted]:
            self._close(self._outlets.pop(name))
            del self._places[name]
        for name, place in wanted.items():
            if self._places.get(name) != place:
                self._reach(name, place)
        self._names = {str(place): name for name, place in wanted.items()}
        # Of whoever comes or goes the last life stays known: a ghost is one under either title.
        for name in [name for name in self._lives if name not in wanted]:
            self._remember(name, self._lives.pop(name))
        for name in [name for name in self._strangers if name in wanted]:
            self._lives[name] = self._strangers.pop(name)

    def _addresses(self) -> dict[str, Address]:
        found = [self._roster.member(name) for name in self._roster.peers()]
        return {m.name: Address(m.host, m.peer_port) for m in found if m is not None}

    def _reach(self, name: str, place: Address) -> None:
        """Open the outlet of a node that came, or that moved: what waits for it moves along."""
        old = self._outlets.get(name)
        for key in (name, SEED + str(place)):
            visit = self._visits.pop(key, None)
            if visit is not None:
                self._close(visit.outlet)
        self._outlets[name] = fresh = self._open(name, place)
        self._places[name] = place
        if old is not None:
            fresh.backlog = old.backlog
            self._close(old)
            if fresh.backlog.frames:
                self.wait(fresh)

    def _open(self, name: str, place: Address) -> PeerOutlet:
        backlog = Backlog(PEER_BACKLOG_BYTES, PEER_HOLD_MS, self._stats)
        return PeerOutlet(name, self._connect(place), backlog)

    def _close(self, outlet: PeerOutlet) -> None:
        if self._waiting.pop(outlet.socket, None) is not None:
            self._poll_again()
        outlet.socket.close(linger=0)

    def outlet(self, addressee: str, now_ms: int) -> PeerOutlet | None:
        """The way to a node, by name, or to a seed, by "@host:port".

        None if it is blocked, or nobody knows where it is.
        """
        if addressee.startswith(SEED):
            addressee = self._names.get(addressee[len(SEED) :], addressee)
        if addressee in self.blocked:
            return None
        return self._outlets.get(addressee) or self._visit(addressee, now_ms)

    def _visit(self, addressee: str, now_ms: int) -> PeerOutlet | None:
        visit = self._visits.get(addressee)
        if visit is None:
            place = self._place_of(addressee)
            if place is None:
                return None
            visit = self._visits[addressee] = _Visit(self._open(addressee, place))
            if len(self._visits) > VISITS_MAX:  # P1
                self._close(self._visits.popitem(last=False)[1].outlet)
        self._visits.move_to_end(addressee)
        visit.used_ms = now_ms
        return visit.outlet

    def _place_of(self, addressee: str) -> Address | None:
        if addressee.startswith(SEED):
            host, _, port = addressee[len(SEED) :].rpartition(":")
            return Address(host, int(port))
        member = None if addressee == self._roster.name else self._roster.member(addressee)
        return Address(member.host, member.peer_port) if member is not None else None

    # --- what waits -------------------------------------------------------------------------------

    def wait(self, outlet: PeerOutlet) -> None:
        """A frame did not get through: the loop polls for when the next one may."""
        if outlet.socket not in self._waiting:
            self._waiting[outlet.socket] = outlet
            self._poll_again()

    def retry(self, socket: zmq.Socket[bytes], now_ms: int) -> None:
        """A polled socket takes frames again."""
        self._waiting[socket].retry(now_ms)

    def tidy(self, now_ms: int) -> None:
        """Forget frames that waited too long, and outlets that nobody has used for long."""
        for outlet in list(self._waiting.values()):
            outlet.backlog.expire(now_ms)
            if not outlet.backlog.frames:
                del self._waiting[outlet.socket]
                self._poll_again()
        while self._visits:
            visit = next(iter(self._visits.values()))  # the one unused for longest
            if now_ms - visit.used_ms < VISIT_MS:
                return
            self._close(self._visits.popitem(last=False)[1].outlet)

    def _poll_again(self) -> None:
        self.polled = [(socket, OUT) for socket in self._waiting]

    def block(self, names: frozenset[str]) -> None:
        """Nothing goes to these, and nothing of theirs is taken in, until told otherwise (P2)."""
        self.blocked = names
        for outlet in self._waiting.values():
            if outlet.name in names:
                outlet.backlog.clear()

    # --- senders ----------------------------------------------------------------------------------

    def may_speak(self, sender: str) -> bool:
        """Whether a sender can be another node at all."""
        return sender != self._roster.name and NAME.fullmatch(sender) is not None

    def is_ghost(self, sender: str, boot: int, now_ms: int) -> bool:
        """Note that a sender was heard, in this life; True for a frame of an earlier one."""
        life = self._lives.get(sender)
        if life is None:
            life = self._life_of(sender)
        if boot != life.boot:
            if life.is_ghost(boot, now_ms, self._suspicion_ms):
                return True
            life.boot = boot
        life.heard_ms = now_ms
        return False

    def _life_of(self, sender: str) -> _Life:
        if sender in self._outlets:
            return self._lives.setdefault(sender, _Life())
        return self._remember(sender, self._strangers.get(sender) or _Life())

    def _remember(self, stranger: str, life: _Life) -> _Life:
        self._strangers[stranger] = life
        self._strangers.move_to_end(stranger)
        if len(self._strangers) > STRANGERS_MAX:  # P1
            self._strangers.popitem(last=False)
        return life
