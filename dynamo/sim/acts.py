"""What simulated applications do, one generator each (see `workload`).

read      look
modify    read, then write over what was read (now and then over an older read)
blind     write beside whatever is there
auto      write over what this client has seen; if nothing, over what it is then told is there
remove    read, then delete what was read
cold      write a key once and never come back: only repairs can complete it
churn     create, delete and create again, a few keys only: whoever forgets a tombstone is found
pile      write blindly to one key until it is refused, and now and then clear it up
chain     modify one key after another, then read them in the other order, all strictly
burst     many keys at once
borrow    write with a context that another client has handed over as a token; now and then with one
          that was damaged on the way, or was given for another key
set       add an element to a set that lives in siblings, merged as `dynamo.merge.union` does
quit      the process of the application ends in the middle of it all, and another one begins
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from dynamo.client.context import Context
from dynamo.client.merge import union
from dynamo.client.op import Op
from dynamo.core import messages as m
from dynamo.core import ring
from dynamo.sim.history import INFO, OK
from dynamo.sim.inspector import inspector_of
from dynamo.sim.scans import scan
from dynamo.sim.workload import BLANK, Client, Known, Lane, Put, strict

BUCKET = b"sim"
SET_PREFIX = ring.full_key(BUCKET, b"set")
BORROWED_MAX = 32
MERGES_MAX = 4
SCANNED_ARCS_MAX = 64  # a scan asks every owner of every arc: beyond that it drowns the rest

Act = Callable[[Client], Lane]


def full(name: str) -> bytes:
    return ring.full_key(BUCKET, name.encode())


def shared(client: Client) -> bytes:
    """A key that other clients use as well; a loner's own."""
    habit, rng = client.habit, client.rng
    if habit.loner:
        return full(f"own-{client.name}")
    if habit.hot and rng.random() < habit.hot:
        return full("k0")
    return full(f"k{rng.randrange(habit.keys)}")


def read(client: Client) -> Lane:
    key = shared(client)
    known = yield from client.get(key)
    if known is not None and not client.habit.loner and client.rng.random() < 0.2:
        lend(client, key)


def modify(client: Client) -> Lane:
    key = shared(client)
    kept = client.kept(key)
    if kept and client.rng.random() < client.habit.stale:
        client.world.mark("stale context used")
        known: Known | None = kept[client.rng.randrange(len(kept))]
    else:
        known = yield from client.get(key)
    if known is None:
        return
    put = yield from client.put(key, known)
    if put.status == INFO and not client.habit.loner and client.rng.random() < 0.2:
        client.world.mark("written again under another id")
        yield from client.put(key, known)


def blind(client: Client) -> Lane:
    yield from client.put(shared(client), BLANK, m.BLIND)


def auto(client: Client) -> Lane:
    """As `Surface._send_put`: over what was seen, siblings that nobody has read merged in."""
    key = shared(client)
    seen = client.remembered(key)
    delete = client.rng.random() < 0.1
    if seen is not None:
        if seen.unread is not None:
            client.world.mark("unread siblings merged")
        known = Known(seen.context, client.covers(key, seen.context), [])
        yield from client.put(key, known, delete=delete)
        return
    put = yield from client.put(key, None, m.AUTO, delete=delete)
    if put.conflict and client.rng.random() < 0.8:
        # One value is replaced; of several an application with a merge function makes one.
        yield from client.put(key, put.known)


def remove(client: Client) -> Lane:
    key = shared(client)
    known = yield from client.get(key)
    if known is not None:
        yield from client.put(key, known, delete=True)


def cold(client: Client) -> Lane:
    yield from client.put(
        full(f"cold-{client.name}-{client.rng.randrange(1 << 30)}"), BLANK, m.BLIND
    )


def churn(client: Client) -> Lane:
    key = full(f"churn{client.rng.randrange(2)}")
    known = yield from client.get(key)
    for delete in (False, True, False) if client.rng.random() < 0.5 else (True,):
        if known is None:
            return
        put = yield from client.put(key, known, delete=delete)
        if delete:
            client.world.mark("deleted")
        known = put.known


def pile(client: Client) -> Lane:
    key = full("pile")
    if client.rng.random() < 0.05:
        known = yield from client.get(key)
        if known is not None:
            yield from client.put(key, known)
        return
    yield from client.put(key, BLANK, m.BLIND)


def chain(client: Client) -> Lane:
    config = client.world.config
    levels = strict(config, min(config.n, len(client.world.hosts)))
    names = [full(f"chain{i}") for i in range(client.rng.randrange(2, 4))]
    for key in names:
        known = yield from client.get(key, levels)
        if known is None:
            return
        yield from client.put(key, known, levels=levels)
    for key in reversed(names):
        yield from client.get(key, levels)
    client.world.mark("chain of keys completed")


def burst(client: Client) -> Lane:
    count = client.rng.randrange(4, 13)
    first = client.rng.randrange(200)
    began = client.memory.clock
    prepared = [
        client.prepare(full(f"burst{first + i}"), BLANK, m.BLIND, False, None, None)
        for i in range(count)
    ]
    yield [op for op, _, _ in prepared]
    for op, write, is_strict in prepared:
        client.on_written(op, write, began, is_strict)
    client.world.mark("burst of keys")


def lend(client: Client, key: bytes) -> None:
    """Hand over what this client knows of a key, as text, to whoever takes it up."""
    kept = client.kept(key)
    board = client.world.board
    if kept and len(board) < BORROWED_MAX:
        board.append((key, Context(kept[-1].context).to_token(), kept[-1].seen))


def borrow(client: Client) -> Lane:
    board = client.world.board
    if client.rng.random() < 0.2:
        yield from forge(client)
        return
    if not board:
        yield from read(client)
        return
    key, token, seen = board.pop(client.rng.randrange(len(board)))
    known = Known(bytes(Context.from_token(token)), seen, [])
    client.lend(key, known)
    client.world.mark("context of another client used")
    yield from client.put(key, known, delete=client.rng.random() < 0.1)


def forge(client: Client) -> Lane:
    """Write with a context that nobody was given for this key: it must be refused (D4)."""
    key, other = shared(client), shared(client)
    kept = client.kept(other)
    if not kept:
        return
    context = kept[-1].context
    if other == key:
        at = client.rng.randrange(len(context))
        context = context[:at] + bytes([context[at] ^ 1]) + context[at + 1 :]
    client.world.mark("forged context used")
    put = yield from client.put(key, Known(context, 0, []))
    if put.status == OK:
        client.oracle.accuse(
            "D4", key, f"{put.write} was acknowledged with a context that was never given for it"
        )


def elements(payload: bytes) -> list[str]:
    """What a value of a set contains: its own write, and what its writer merged into it."""
    head, _, body = payload[1:].partition(b"\n")
    return [head.decode(errors="replace"), *filter(None, body.decode().split(","))]


def add(client: Client) -> Lane:
    """As `Surface._modify` with `merge=dynamo.merge.union`: merges again while others write."""
    key = full(f"set{client.rng.randrange(2)}")
    known = yield from client.get(key)
    for _ in range(MERGES_MAX):
        if known is None:
            return
        put = yield from _write_union(client, key, known)
        known = put.known
        if known is None or not known.payloads:
            return
        client.world.mark("set merged again")


def _write_union(client: Client, key: bytes, known: Known) -> Generator[list[Op], None, Put]:
    merged = union([elements(payload) for payload in known.payloads]) if known.payloads else []
    return (yield from client.put(key, known, body=",".join(merged).encode()))


def scan_(client: Client) -> Lane:
    if client.world.config.partitions > SCANNED_ARCS_MAX:
        yield 1
        return
    client.world.mark("scan begun")
    prefix = b"" if client.rng.random() < 0.3 else full(client.rng.choice(("k", "c", "set")))
    yield from scan(client, prefix)


def inspect(client: Client) -> Lane:
    world = client.world
    name = client.rng.choice(list(world.hosts))
    what = client.rng.choice(("status", "hints", "roots", "key", "key", "exchange", "nonsense"))
    if what == "key":
        what = f"key {shared(client).hex()}" if client.rng.random() < 0.9 else "key of nothing"
    inspector_of(world).ask(name, what)
    yield 1


def quit_(client: Client) -> Lane:
    """The application is gone with all that was under way; another process takes its place."""
    client.world.mark("client died")
    yield 1 + client.rng.randrange(20)
    succeed(client)


def succeed(client: Client) -> None:
    """End one client's process and start its successor, which knows nothing."""
    world = client.world
    if client.gone:  # two of its lanes ended it at once: it has one successor
        return
    stem, _, life = client.name.partition("'")
    client.quit()
    heir = Client(f"{stem}'{int(life or 1) + 1}", client.habit, world, client.rng, client.until_ms)
    heir.counts = client.counts
    heir.inherit(client)
    heir.begin(world.now_ms + 1, choose)


ACTS: dict[str, Act] = {
    "read": read, "modify": modify, "blind": blind, "auto": auto, "remove": remove, "cold": cold,
    "churn": churn, "pile": pile, "chain": chain, "burst": burst, "borrow": borrow, "set": add,
    "scan": scan_, "inspect": inspect, "quit": quit_,
}  # fmt: skip


def choose(client: Client) -> Lane:
    """What a lane does next."""
    name = client.rng.choices(client.names, cum_weights=client.limits)[0]
    client.world.mark(f"op {name}")
    return ACTS[name](client)
