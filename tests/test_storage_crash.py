"""Real processes on a real disk, killed at the worst moment.

The writer below puts numbered rows in batches and prints a number once its commit returned. What
was printed must be there afterwards; of a batch that was cut off, all rows or none.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dynamo.core.spaces import HINTS, OBJECTS
from dynamo.storage import StoreDamaged, StoreLocked, open_store

BATCH_ROWS = 7

WRITER = f"""
import sys, time
from pathlib import Path
from dynamo.storage import StoreFailed, open_store

path, durability, act = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
store = open_store(path, durability, "ring", "n1", monotonic=time.monotonic)
first = 1 + max((int(key) for key, _ in store.scan(1)), default=-1)
if act == "hold":
    print("held", flush=True)
    sys.stdin.read()
if act == "limited":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for number in range(first, first + 100_000):
    for row in range({BATCH_ROWS}):
        store.put(0, b"%08d-%d" % (number, row), b"%d" % number * 50)
    store.put(1, b"%08d" % number, b"")
    if act == "stop-before" and number == first + 5:
        print("open", flush=True)
        sys.stdin.read()
    try:
        store.commit()
    except StoreFailed as error:
        print("failed:", error, flush=True)
        sys.exit(3)
    print(number, flush=True)
    if act == "stop-after" and number == first + 5:
        sys.stdin.read()
"""


def start(path: Path, durability: str, act: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), durability, act],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> list[str]:
    """End `process` by SIGKILL; what it had printed and nobody has read yet."""
    process.send_signal(signal.SIGKILL)
    return process.communicate()[0].splitlines()


def read_until(process: subprocess.Popen[str], last: str) -> list[str]:
    assert process.stdout is not None
    printed: list[str] = []
    while not printed or printed[-1] != last:
        line = process.stdout.readline()
        assert line, f"the writer ended early: {printed[-3:]}"
        printed.append(line.strip())
    return printed


def check_rows(store: Any, confirmed: list[int]) -> set[int]:
    """Every confirmed batch is there, every batch is whole; the numbers found."""
    found: dict[int, int] = {}
    for key, value in store.scan(OBJECTS):
        number = int(key.split(b"-")[0])
        assert value == b"%d" % number * 50
        found[number] = found.get(number, 0) + 1
    assert set(found.values()) <= {BATCH_ROWS}, "half a batch"
    assert set(found) == {int(key) for key, _ in store.scan(HINTS)}
    assert set(confirmed) <= set(found), "a confirmed batch is missing"
    return set(found)


@pytest.mark.parametrize("durability", ["fsync", "interval"])
def test_killed_between_put_and_commit_the_batch_is_gone(tmp_path: Path, durability: str) -> None:
    process = start(tmp_path / "n1", durability, "stop-before")
    confirmed = [int(line) for line in read_until(process, "open")[:-1]]
    assert kill(process) == []
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    assert check_rows(store, confirmed) == set(range(5))
    assert (store.fresh, store.unclean) == (False, durability == "interval")
    store.close()


@pytest.mark.parametrize("durability", ["fsync", "interval"])
def test_killed_after_a_commit_the_batch_is_there(tmp_path: Path, durability: str) -> None:
    process = start(tmp_path / "n1", durability, "stop-after")
    confirmed = [int(line) for line in read_until(process, "5")]
    assert kill(process) == []
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    assert check_rows(store, confirmed) == set(range(6))
    store.close()


def test_killed_at_any_moment_again_and_again_nothing_confirmed_is_lost(tmp_path: Path) -> None:
    rng, confirmed = random.Random(3), []
    for _ in range(4):
        process = start(tmp_path / "n1", "fsync", "run")
        until = len(confirmed) + rng.randrange(1, 200)
        first = int(read_until_any(process))
        confirmed += [first, *(int(n) for n in read_until(process, str(first + until)))]
        confirmed += [int(line) for line in kill(process) if line]
        store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
        check_rows(store, confirmed)
        store.close(clean=False)


def read_until_any(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_disk_that_refuses_the_log_stops_the_store_and_keeps_what_was_confirmed(
    tmp_path: Path,
) -> None:
    process = start(tmp_path / "n1", "fsync", "limited")
    lines = process.communicate()[0].splitlines()
    assert process.returncode == 3
    assert "File too large" in lines[-1]
    confirmed = [int(line) for line in lines[:-1]]
    assert len(confirmed) > 10
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    check_rows(store, confirmed)
    store.close()


def test_a_second_process_is_refused_and_told_which_one_is_in_the_way(tmp_path: Path) -> None:
    process = start(tmp_path / "n1", "fsync", "hold")
    read_until(process, "held")
    with pytest.raises(StoreLocked, match=f"process {process.pid}"):
        open_store(tmp_path / "n1", "fsync", "ring", "n1")
    kill(process)
    open_store(tmp_path / "n1", "fsync", "ring", "n1").close()


# --- The log after a power cut -------------------------------------------------------------------


def killed_log(path: Path) -> Path:
    """The log of a store whose process died with six batches in it."""
    process = start(path, "fsync", "stop-after")
    read_until(process, "5")
    kill(process)
    (log,) = path.glob("*.log")
    return log


def test_a_torn_last_batch_is_dropped_whole(tmp_path: Path) -> None:
    log = killed_log(tmp_path / "n1")
    with open(log, "r+b") as handle:
        handle.truncate(log.stat().st_size - 100)
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    assert check_rows(store, []) == set(range(5))
    store.close()


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_flipped_bit_within_the_log_makes_the_disk_suspect(tmp_path: Path, share: float) -> None:
    log = killed_log(tmp_path / "n1")
    content = bytearray(log.read_bytes())
    content[int(len(content) * share)] ^= 1
    log.write_bytes(content)
    with pytest.raises(StoreDamaged, match="the other replicas refill it"):
        open_store(tmp_path / "n1", "fsync", "ring", "n1")
