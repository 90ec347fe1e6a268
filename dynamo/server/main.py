"""One node process, from its configuration file to its exit code.

Exit codes: 0 stopped as asked (SIGTERM, SIGINT, SIGHUP) · 1 the store failed, or a bug · 2 it could
not start: configuration, a port in use, a data directory that is locked, damaged or another's.

Stdout carries one line, once both ports are bound and the first step has run:

    {"ready": true, "node": "n1", "client": "127.0.0.1:7001", "peer": "127.0.0.1:7101", "pid": 4711}

It means that the node answers. It may still be comparing arcs with its peers, and does not count
toward R for those until it has; or it may not belong to a ring yet, and refuses clients. STATUS
tells ("ready" and "closed" there).

After a failed commit memory is ahead of the disk, so the process ends at once: no frame leaves, no
destructor runs, and the next start reads what the disk really holds.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dynamo.core.node import Node
from dynamo.server import logs
from dynamo.server.config import ConfigError, Settings, load
from dynamo.server.loop import Server, StartError, monotonic_ms
from dynamo.storage import Store, StoreError, StoreFailed, open_store

log = logging.getLogger("dynamo.server")

STOPPED, FAILED, REFUSED = 0, 1, 2
# Answers of the last step get this long to leave.
LINGER_MS = 100
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def start(path: Path, exit_with_stdin: bool = False, join: Sequence[str] = ()) -> int:
    """Run the node until it is told to stop; return the exit code.

    `join`: peer addresses of a ring to join, in place of the seeds in the file.
    `exit_with_stdin`: stop when stdin ends, that is, when the process that holds its other end is
    gone, however it went.
    """
    if not __debug__:
        return _refuse("a node does not run under python -O: its assertions guard the data")
    wake = _catch_signals()
    try:
        settings = load(path, os.environ, join=join)
        logs.setup(settings.name, settings.log, settings.log_level)
        return _run(settings, wake, exit_with_stdin)
    except StoreFailed as error:
        _die("the store failed; nothing of the last step was sent", error)
    except (ConfigError, StartError, StoreError) as error:
        return _refuse(str(error))
    except Exception as error:
        _die("a bug: the node ends rather than go on in an unknown state", error)


def _run(settings: Settings, wake: int, exit_with_stdin: bool) -> int:
    _raise_descriptor_limit()
    store = open_store(
        settings.data_dir,
        settings.durability,
        settings.label,
        settings.name,
        interval_ms=settings.interval_ms,
        monotonic=time.monotonic,
    )
    server: Server | None = None
    watch: dict[int, Callable[[], None]] = {wake: lambda: _stop(server, wake)}
    if exit_with_stdin:
        watch[0] = lambda: _stop(server, 0)
    node = _make_node(settings, store)
    server = Server(settings, node, watch)
    try:
        server.open()
    except StartError:
        server.close()
        node.close()
        store.close(clean=True)
        raise
    _settle_memory()
    server.turn(0)
    _announce(settings)
    server.run()
    log.info("stopping")
    server.close(LINGER_MS)
    node.close()
    store.close(clean=True)
    return STOPPED


def _make_node(settings: Settings, store: Store) -> Node:
    rng = random.Random(os.urandom(16))
    return Node(
        settings.config,
        settings.me,
        settings.members,
        settings.cluster,
        store,
        rng,
        monotonic_ms(),
        settings.seeds,
    )


def _announce(settings: Settings) -> None:
    addresses = {"client": str(settings.client), "peer": str(settings.peer)}
    line = {"ready": True, "node": settings.name, **addresses, "pid": os.getpid()}
    with suppress(OSError):  # nobody listens any more: not a reason to stop serving
        print(json.dumps(line), flush=True)
    log.info("serving", extra={"data": {**addresses, "durability": settings.durability}})


def _catch_signals() -> int:
    """A descriptor that becomes readable with the first stop signal.

    A byte, not a flag: a flag set between its test and the poll would be seen a poll later.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        signal.signal(number, _noted)
    return reader


def _noted(number: int, frame: FrameType | None) -> None:
    """The byte in the pipe says it all."""


def _stop(server: Server | None, descriptor: int) -> None:
    with suppress(BlockingIOError):
        told = os.read(descriptor, 4096)
        # Text on stdin is none of our business; its end is.
        if server is not None and (descriptor != 0 or not told):
            server.stop()


def _settle_memory() -> None:
    """Keep the collector away from what lives as long as the process.

    A request makes about as many containers as it frees, so few collections find anything, and a
    full one walks every table of the ring.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _raise_descriptor_limit() -> None:
    """The usual soft limit, 1024, means fewer clients than that: the store has files open too."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _refuse(sentence: str) -> int:
    print(f"dynamo: {sentence}", file=sys.stderr, flush=True)
    return REFUSED


def _die(sentence: str, error: BaseException) -> NoReturn:
    log.critical(sentence, exc_info=error)
    sys.stderr.flush()
    os._exit(FAILED)
