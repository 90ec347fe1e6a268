"""Mistakes with who belongs to the ring: records, wishes, gossip, and what is owed to whom."""

from __future__ import annotations

from typing import Any

from dynamo.core.gossip import Gossip
from dynamo.core.handoff import Handoff
from dynamo.core.items import IN, LEFT, Record
from dynamo.core.ring import Register
from dynamo.core.roster import Roster
from dynamo.sim.world import WALL_ORIGIN_MS, World
from dynamo.sim.zoo.entry import Plant, Shelf

mistake = Shelf("membership")


# --- What is known of the ring --------------------------------------------------------------------


@mistake("DESIGN §8; Demers et al. 1987: rumours alone leave some out", "I10", "I5", "I11")
def news_never_compared(plant: Plant) -> None:
    """What changes is told once to a few. Nobody ever compares what it knows with others."""

    def rest(self: Gossip, now_ms: int) -> None:
        self._due_ms = now_ms + self._config.gossip_ms

    plant.set(Gossip, "_round", rest)


@mistake("G1, R3", "N0", "I10", "I6", "I11")
def register_adopted_and_not_written_down(plant: Plant) -> None:
    """A register that others tell is known to the process, and its disk has the one before."""
    real = Roster.adopt

    def adopt(self: Roster, arc: int, register: Register) -> bool:
        put = Roster._set
        try:
            Roster._set = lambda s, key, item: put(s, key, item, stored=True)  # type: ignore
            return real(self, arc, register)
        finally:
            Roster._set = put  # type: ignore

    plant.set(Roster, "adopt", adopt)


@mistake("G4, Das et al.: SWIM", "I10")
def own_record_not_refuted(plant: Plant) -> None:
    """A node that hears a claim of itself as new as its own record lets it be."""
    plant.set(Roster, "_refute", lambda self, claimed: False)


@mistake("Cassandra: generations from the wall clock, CASSANDRA-10969", "I11")
def incarnation_from_the_clock(plant: Plant) -> None:
    """The incarnation of a node is when it was started, by its wall clock."""
    start, introduce = World.start, Roster._introduce
    at_ms = [0]

    def started(self: World, name: str) -> None:
        at_ms[0] = max(1, self.now_ms + self.hosts[name].wall_ms - WALL_ORIGIN_MS + 10_000)
        start(self, name)

    def introduced(self: Roster) -> None:
        me = self.me
        record = Record(at_ms[0], me.host, me.client_port, me.peer_port, me.zone)
        if self.name not in self.records:
            introduce(self)
        self._set("n/" + self.name, record)

    plant.set(World, "start", started)
    plant.set(Roster, "_introduce", introduced)


@mistake("G2; SWIM: a node refutes that it is dead", "I11", "I10")
def removed_node_admitted_again(plant: Plant) -> None:
    """A node that hears that it is out of the ring says, under a higher number, that it is not."""
    real = Roster._take

    def take(self: Roster, key: Any, item: Any) -> bool:
        news = real(self, key, item)
        wish = self.wishes.get(self.name)
        if news and key == "w/" + self.name and wish is not None and wish.status >= LEFT:
            self._set(key, wish._replace(ver=wish.ver + 1, status=IN))
        return news

    plant.set(Roster, "_take", take)


# --- What is owed to whom -------------------------------------------------------------------------


@mistake("H5, CASSANDRA-21217", "I9")
def hints_of_a_moved_home_dropped(plant: Plant) -> None:
    """A hint for a home that owns nothing of it any more is erased."""
    plant.set(Handoff, "_targets", lambda self, arc: [])


@mistake("H5, riak_core#154", "I9")
def hints_of_a_removed_home_kept_for_it(plant: Plant) -> None:
    """A hint stays owed to its home although that one is out of the ring for good."""
    real = Handoff._wrong

    def wrong(self: Handoff, home: str, arc: int) -> bool:
        return not self._roster.gone(home) and real(self, home, arc)

    plant.set(Handoff, "_wrong", wrong)
