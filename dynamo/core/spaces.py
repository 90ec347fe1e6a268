"""The named spaces of a node's store.

DO NOT RENUMBER: the numbers are the first byte of every key on disk.
"""

OBJECTS = 0  # storage key -> record of the object (see `replica`)
HINTS = 1  # storage key -> homes it is owed to, and the object (see `handoff`)
IDS = 2  # put id -> b"": ids of superseded puts, remembered for retries (see `replica`)
META = 3  # small facts about the store itself: identity, counters, which arcs are synced
QUARANTINE = 4  # storage key -> the corrupt bytes found there, kept for people, never served
RING = 5  # what the ring is, item by item (see `roster`), and promises made about it (`moves`)

ALL = (OBJECTS, HINTS, IDS, META, QUARANTINE, RING)
