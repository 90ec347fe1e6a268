"""Rare states that a campaign must reach, and what reaching each of them proves.

A run that breaks nothing because it never goes where things break is no evidence. Each name here is
a mark: counted by the world, by its clients, or by a node in `stats`. `missed` says which of them
no seed of a campaign has reached; see `tally` for how many it may miss.
"""

from __future__ import annotations

from collections.abc import Mapping

GROUPS: dict[str, dict[str, str]] = {
    "processes": {
        "died before commit": "nothing of a step remains, and nothing of it was sent (N1)",
        "died after commit": "rows are there of which nobody has heard",
        "died while sending": "some have heard of a step, and its sender knows nothing of that",
        "died of its disk": "a store that fails stops its node, and the node comes back",
        "frame of a ghost": "frames of an earlier life arrive in the next one and are dropped",
        "expired": "requests that were too long under way are not carried out",
        "frames_lost": "frames that could not be handed over count as silence",
        "client died": "nobody waits for what was asked, and the ring does not mind",
        "given up by its client": "an operation goes on after its client has stopped waiting",
    },
    "writing": {
        "acknowledged with stand-ins": "W is met by nodes that are no owners",
        "stood_in": "a stand-in coordinates and mints, as no owner can be reached",
        "owners_silent": "an owner answers late, and its write goes to a stand-in",
        "not_stored": "somebody refuses to keep a copy, and another one is found",
        "puts_taught": "an acknowledgement brings back what the coordinator did not hold",
        "superseded before acknowledged": "a write is covered before its writer has heard of it",
        "forwarded_again": "a node that forwards tries the next owner",
        "late_puts": "a first attempt arrives so late that it is treated as a further one",
        "ids_found": "a retry learns that its put was applied, and does not mint",
        "questions_unanswered": "nobody answers the question about an id, and the put goes on",
        "asked_again": "a question about an id is refused under an older register, and asked again",
        "ids_met_again": "a second dot of a superseded put arrives",
        "ids_hidden": "such a dot stands where its list cannot be cut, and is hidden",
        "ids_kept_for_a_row": "an id is due to be forgotten while a row still holds it",
        "written again under another id": "an application repeats a write that may have happened",
    },
    "conflicts": {
        "siblings seen": "concurrent values are kept and shown",
        "four siblings or more seen": "many of them are",
        "stale context used": "a write covers an older state than the last one seen",
        "context of another client used": "a context travels as text, and covers what it showed",
        "conflicts": "an auto put meets a value and is refused",
        "auto put refused": "its client hears of it, with what it met",
        "unread siblings merged": "an auto put merges what its client's last put met",
        "siblings_refused": "blind puts are refused at the limit",
        "set merged again": "two clients merge the same set at once",
        "deleted": "a key is deleted, and written again",
    },
    "reading": {
        "hedged": "a read asks one more owner, as one is slow",
        "asked_beyond": "a read asks again, and asks stand-ins, as owners are silent",
        "read_repairs": "a read finds an owner behind and repairs it",
        "read_repairs_own": "a read finds its coordinator behind",
        "repairs_awaited": "a read waits for its repairs before it shows siblings",
        "repairs_of_others": "these stay unanswered, and an owner not asked so far is brought in",
        "gets_overtaken": "a row moves on between a get's read and its answer",
    },
    "hints": {
        "hints_created": "a write is kept for an owner that is away",
        "hints_delivered": "it goes home",
        "hints_merged": "a second write joins a hint that is kept for the same home",
        "hints_shared": "one hint is owed to several homes",
        "hints_own": "an owner keeps the mark itself, as nobody is left to stand in",
        "hints_refused": "a hint that a write does not need is refused at a limit",
        "hints_unanswered": "a delivery is lost and repeated",
        "hints_outgrown": "a hint has grown while it was delivered, and is kept",
        "hints_corrupt": "a damaged hint is set aside and its arc compared",
    },
    "repair": {
        "differences": "an arc is found to differ, and looked at once more before it is walked",
        "exchange_pulled": "a walk brings in what was missing here",
        "exchange_pushed": "a walk brings what was missing there",
        "pages_lost": "a page of a walk is lost, and the arc is walked again",
        "arcs_synced": "an owner that may have missed writes has compared enough to count again",
        "records_corrupt": "a damaged row is set aside, and is not taken for absent",
    },
    "memory lost": {
        "fault wipe": "a disk is lost, within what W promises to survive",
        "fault torn": "a disk has lost its last while, and says so",
        "actors_retired": "a store stops counting under names that it can no longer trust",
        "amnesia": "a clock arrives that knows more of a store than the store itself",
        "loss withheld": "a disk would be lost beyond what is promised, and is spared",
    },
    "limits": {
        "overloaded": "a full table answers at once",
        "answered Overloaded": "its client hears that nothing was done",
        "answered QuorumUnavailable": "a refusal is certain to have done nothing",
        "answered QuorumTimeout": "a client hears that nobody knows",
        "answered ConnectionFailed": "nothing could be sent to anybody",
        "answered DiskFull": "a node short of space refuses puts",
        "answered TooManySiblings": "a client hears that it has to read first",
        "refused": "what cannot work is refused before anything is done",
        "stale_register": "a request under an older register is refused with the newer one",
        "malformed frame dropped": "a damaged frame is counted and dropped",
    },
    "load": {
        "all lanes busy": "work comes faster than it is done",
        "op took several attempts": "a client asks another node",
        "chain of keys completed": "several keys are written and read in turn, strictly",
        "burst of keys": "many keys are written at once",
        "large value put": "values take many times the space of their clocks",
    },
    "looking on": {
        "scan completed": "a walk over all keys ends while they are written to",
        "scan gave up": "it says so where too few owners answer",
        "asked about key": "an operator sees what a node holds of a key",
        "forged context used": "a context that nobody was given is refused",
        "served while somebody was down": "requests that must succeed beside a dead node do",
    },
    "a ring in part": {
        "the core came to rest without the others": "what is well agrees while the rest stays ill",
        "broken for ever: dead": "somebody never comes back",
        "broken for ever: paused": "somebody is there and never answers",
        "broken for ever: deaf": "somebody is heard and hears nobody",
        "broken for ever: mute": "somebody hears everybody and is not heard",
        "broken for ever: flapping": "somebody comes and goes",
    },
}

SOMETIMES: tuple[str, ...] = tuple(name for group in GROUPS.values() for name in group)


def missed(marks: Mapping[str, int]) -> list[str]:
    """The states that nobody has reached, in the order of `GROUPS`."""
    return [name for name in SOMETIMES if not marks.get(name)]
