"""House rules that a reviewer would otherwise have to remember, read off the syntax trees.

Layers, imports point down only:

    local, __main__  ->  server, client, sim  ->  storage  ->  core

and nothing in the core can see the world: no clock, socket, thread, global random, and no order
that depends on hash(). Why so strict: `hash(str)`, and with it the order of a set of strings,
changes from process to process, so a simulation may pass twice in one process and differ in the
next; nodes that iterate a set would disagree about the ring.

Each rule is a function from source text to complaints. The second half of the file feeds every
one of them a few lines that break it: a check that cannot fail checks nothing.
"""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = {
    *("setup.cfg", "pyproject.toml", "README.md", "dynamo", "tests", "bench"),
    *(".ci", ".gitignore"),
}

CORE_PACKAGES = {"mmh3", "sortedcontainers", "msgspec"}
WORLD = {
    *("time", "datetime", "socket", "zmq", "os", "threading", "asyncio", "uuid", "secrets"),
    *("logging", "subprocess", "multiprocessing", "concurrent", "signal", "select", "selectors"),
    *("ssl", "tempfile", "shutil", "pathlib"),
}
PICKLES = {"pickle", "cPickle", "_pickle", "shelve", "marshal", "dill", "cloudpickle"}
# What a layer may import from, besides itself. A module not named here belongs to the top.
BELOW = {
    "core": set(),
    "storage": {"core"},
    "server": {"core", "storage"},
    "client": {"core", "storage"},
    "sim": {"core", "storage"},
}
# `dynamo.sim.Ring` is offered by its natural name, and loaded only when somebody asks for it.
OFFERED = ("dynamo.sim", "dynamo.testing")
# Runs many seeds in processes, and kills those that hang; nothing else in the simulator may use it.
FARM = "dynamo.sim.farm"
ZMQ_AT_HOME = ("dynamo.client", "dynamo.server", "dynamo.local", "dynamo.localring", "bench")

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 550
COLUMNS_MAX = 100
# Spelt backwards, so that this file passes its own check.
LEFTOVERS = [word[::-1] for word in ("ODOT", "EMXIF", "X" * 3, "KCAH")]
MARKERS = re.compile(rf"\b({'|'.join(LEFTOVERS)})\b")

Sources = Mapping[str, str]  # dotted module name -> text


def read_sources(*folders: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path.read_text("utf-8")
    return found


PRODUCT = read_sources("dynamo")
ALL = read_sources("dynamo", "bench", "tests")


# --- Who imports whom -------------------------------------------------------------------------


def imports(name: str, text: str, modules: Sources) -> Iterator[tuple[int, str]]:
    """(line, module) for every import anywhere in the text, lazily imported ones included.

    `from package import name` is an import of the module package.name where there is one.
    """
    package = name if any(other.startswith(name + ".") for other in modules) else None
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = name.split(".") if package else name.split(".")[:-1]
                up = here[: len(here) - node.level + 1]
                base = ".".join([*up, base]) if base else ".".join(up)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in modules else base


def layer(name: str) -> str:
    """core, storage, server, client or sim; "top" for everything above them."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in BELOW else "top"


def closure(name: str, modules: Sources) -> set[str]:
    """Every module that comes along with `name`, itself included, in the project or outside."""
    seen: set[str] = set()
    queue = [name]
    while queue:
        module = queue.pop()
        if module not in seen:
            seen.add(module)
            if module in modules:
                queue += [other for _, other in imports(module, modules[module], modules)]
    return seen


def pure(name: str, modules: Sources) -> bool:
    """Whether nothing that comes along with a module touches the world."""
    return not {other.split(".")[0] for other in closure(name, modules)} & WORLD


def upward_imports(modules: Sources) -> list[str]:
    """Imports that do not point down, but for sim -> the pure part of the client."""
    bad = []
    for name, text in modules.items():
        mine = layer(name)
        for line, other in imports(name, text, modules):
            if other.split(".")[0] != "dynamo" or mine == "top":
                continue
            theirs = layer(other)
            if theirs == mine or theirs in BELOW[mine]:
                continue
            if (mine, theirs) == ("sim", "client") and pure(other, modules):
                continue
            if (name, other) == OFFERED:
                continue
            bad.append(f"{name}:{line}: {mine} imports {other}")
    return bad


def foreign_imports_in_core(modules: Sources) -> list[str]:
    bad = []
    for name, text in modules.items():
        if layer(name) != "core":
            continue
        for line, other in imports(name, text, modules):
            top = other.split(".")[0]
            known = top == "dynamo" or top in CORE_PACKAGES or top in sys.stdlib_module_names
            if top in WORLD or not known:
                bad.append(f"{name}:{line}: the core imports {other}")
    return bad


def world_in_simulator(modules: Sources) -> list[str]:
    """Simulated time is the only time, but for the module that watches processes."""
    return [
        f"{name}:{line}: the simulator imports {other}"
        for name, text in modules.items()
        if layer(name) == "sim" and name != FARM
        for line, other in imports(name, text, modules)
        if other.split(".")[0] in WORLD or other == FARM
    ]


def zmq_away_from_home(modules: Sources) -> list[str]:
    return [
        f"{name}:{line}: imports {other}"
        for name, text in modules.items()
        if not name.startswith(ZMQ_AT_HOME)
        for line, other in imports(name, text, modules)
        if other.split(".")[0] == "zmq"
    ]


def pickle_imports(modules: Sources) -> list[str]:
    return [
        f"{name}:{line}: imports {other}"
        for name, text in modules.items()
        for line, other in imports(name, text, modules)
        if other.split(".")[0] in PICKLES
    ]


def cycles_in_core(modules: Sources) -> list[str]:
    graph = {
        name: {o for _, o in imports(name, text, modules) if layer(o) == "core" and o in modules}
        for name, text in modules.items()
        if layer(name) == "core"
    }
    bad = []
    while graph:
        leaves = [name for name, others in graph.items() if not others & graph.keys()]
        if not leaves:
            bad.append("modules import each other: " + ", ".join(sorted(graph)))
            break
        for name in leaves:
            del graph[name]
    return bad


# --- What may not be written in the core and the simulator ------------------------------------

ORDERED_CONSUMERS = {
    *("list", "tuple", "enumerate", "iter", "zip", "map", "filter", "next", "join", "fromkeys"),
    *("extend", "deque"),
}


def is_set(node: ast.expr) -> bool:
    """A set display, set comprehension, set(...) call, or set algebra on one of them."""
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.BinOp):
        return is_set(node.left) or is_set(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return is_set(node.func.value)
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("set", "frozenset")
    )


def iterated(node: ast.AST) -> list[ast.expr]:
    """What this node goes through in order."""
    if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        return [node.iter]
    if isinstance(node, ast.Starred):
        return [node.value]
    if isinstance(node, ast.Call):
        called = node.func
        name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
        return node.args if name in ORDERED_CONSUMERS else []
    return []


def chance(node: ast.AST) -> str:
    """What makes this node's result differ from process to process, or ""."""
    if isinstance(node, ast.ImportFrom) and node.module == "random":
        names = [alias.name for alias in node.names if alias.name != "Random"]
        return f"from random import {names[0]}" if names else ""
    if isinstance(node, ast.Call):
        called = node.func
        if isinstance(called, ast.Name) and called.id in ("hash", "id"):
            return f"built-in {called.id}()"
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            if called.value.id == "random" and called.attr != "Random":
                return f"global random.{called.attr}()"
            if called.value.id == "random" and not node.args:
                return "random.Random() without a seed"
    return "iteration over a set" if any(is_set(part) for part in iterated(node)) else ""


def undetermined(modules: Sources) -> list[str]:
    bad = []
    for name, text in modules.items():
        if layer(name) not in ("core", "sim"):
            continue
        for node in ast.walk(ast.parse(text)):
            if what := chance(node):
                bad.append(f"{name}:{getattr(node, 'lineno', '?')}: {what}")
    return bad


# --- Size and leftovers -----------------------------------------------------------------------


def long_functions(modules: Sources) -> list[str]:
    bad = []
    for name, text in modules.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    bad.append(f"{name}:{node.lineno}: {node.name} has {lines} lines")
    return bad


def long_modules(modules: Sources) -> list[str]:
    return [
        f"{name}: {text.count(chr(10))} lines"
        for name, text in modules.items()
        if text.count("\n") > MODULE_LINES_MAX
    ]


def wide_lines(modules: Sources) -> list[str]:
    return [
        f"{name}:{number}: {len(line)} columns"
        for name, text in modules.items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > COLUMNS_MAX
    ]


def leftovers(modules: Sources) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in modules.items()
        for number, line in enumerate(text.splitlines(), 1)
        if MARKERS.search(line)
    ]


# --- Settings and the top level ---------------------------------------------------------------


def settings_twice(setup_cfg: str, pyproject: str) -> list[str]:
    """Metadata in setup.cfg (setuptools would ignore it), or a tool configured in both files.

    pytest, for one, reads pyproject.toml and then never looks at setup.cfg.
    """
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(setup_cfg)
    bad = [
        f"setup.cfg has [{section}]; that belongs to pyproject.toml"
        for section in parser.sections()
        if section == "metadata" or section.split(".")[0] == "options"
    ]
    here = {re.split("[:-]", section.removeprefix("tool:"))[0] for section in parser.sections()}
    there = tomllib.loads(pyproject).get("tool", {})
    return bad + [f"{tool} is configured in both files" for tool in sorted(here & there.keys())]


def strangers(tracked: list[str]) -> list[str]:
    return sorted({path.split("/")[0] for path in tracked} - TOP_LEVEL)


# --- The rules, applied -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        upward_imports,
        foreign_imports_in_core,
        world_in_simulator,
        zmq_away_from_home,
        pickle_imports,
        cycles_in_core,
        undetermined,
        long_functions,
        long_modules,
    ],
)
def test_the_product_keeps_the_rule(rule: Callable[[Sources], list[str]]) -> None:
    assert rule(PRODUCT) == []


@pytest.mark.parametrize("rule", [wide_lines, leftovers])
def test_every_file_keeps_the_rule(rule: Callable[[Sources], list[str]]) -> None:
    assert rule(ALL) == []


def test_the_client_session_is_pure_so_that_the_simulator_may_use_it() -> None:
    if "dynamo.client.session" in PRODUCT:
        assert pure("dynamo.client.session", PRODUCT)


def test_each_setting_lives_in_one_file() -> None:
    setup_cfg = (ROOT / "setup.cfg").read_text("utf-8")
    assert settings_twice(setup_cfg, (ROOT / "pyproject.toml").read_text("utf-8")) == []


def test_nothing_unexpected_at_the_top_level() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    assert strangers(listed.stdout.splitlines()) == []


# --- And each rule can fail -------------------------------------------------------------------

SMALL = {
    "dynamo": "",
    "dynamo.core": "",
    "dynamo.core.a": "import mmh3\nfrom dynamo.core import b\n",
    "dynamo.core.b": "import math\n",
    "dynamo.storage": "from dynamo.core import a\n",
    "dynamo.client": "",
    "dynamo.client.session": "from dynamo.core.a import x\n",
    "dynamo.client.blocking": "import time\nimport zmq\nfrom dynamo.client import session\n",
    "dynamo.server": "import zmq\nimport dynamo.storage\n",
    "dynamo.sim": "from dynamo.client import session\nfrom dynamo.testing import Ring\n",
    "dynamo.local": "from dynamo import server, client\n",
}


@pytest.mark.parametrize(
    "rule",
    [
        upward_imports,
        foreign_imports_in_core,
        world_in_simulator,
        zmq_away_from_home,
        cycles_in_core,
        undetermined,
    ],
)
def test_a_small_tidy_project_passes(rule: Callable[[Sources], list[str]]) -> None:
    assert rule(SMALL) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dynamo.core.b", "import dynamo.storage"),
        ("dynamo.core.b", "def f():\n    from dynamo.server import x"),
        ("dynamo.core.b", "from .. import storage"),
        ("dynamo.core.b", "from dynamo import __version__"),
        ("dynamo.storage", "from dynamo.client import session"),
        ("dynamo.client.session", "from ..server import x"),
        ("dynamo.server", "from dynamo.client.session import x"),
        ("dynamo.server", "import dynamo.local"),
        ("dynamo.sim", "from dynamo.client import blocking"),
        ("dynamo.sim", "import dynamo.server"),
        ("dynamo.sim.world", "from dynamo.testing import Ring"),
    ],
)
def test_an_import_that_points_up_or_sideways_is_found(name: str, text: str) -> None:
    assert any(bad.startswith(f"{name}:") for bad in upward_imports(SMALL | {name: text}))


@pytest.mark.parametrize("module", ["time", "os.path", "zmq", "logging", "requests", "rocksdict"])
def test_a_core_that_sees_the_world_is_found(module: str) -> None:
    assert foreign_imports_in_core(SMALL | {"dynamo.core.b": f"import {module}"})
    assert foreign_imports_in_core(SMALL | {"dynamo.core.b": f"from {module} import x"})


@pytest.mark.parametrize("module", ["time", "subprocess", "pathlib", "dynamo.sim.farm"])
def test_a_simulator_that_sees_the_world_is_found(module: str) -> None:
    assert world_in_simulator(SMALL | {"dynamo.sim.world": f"import {module}"})
    assert not world_in_simulator(SMALL | {"dynamo.sim.farm": "import time, subprocess"})


def test_a_session_that_reads_the_clock_through_a_neighbour_is_found() -> None:
    project = SMALL | {
        "dynamo.client.session": "from dynamo.client import clock",
        "dynamo.client.clock": "from time import monotonic",
    }
    assert not pure("dynamo.client.session", project)
    assert upward_imports(project)


def test_zmq_in_the_storage_is_found() -> None:
    assert zmq_away_from_home(SMALL | {"dynamo.storage": "from zmq import Context"})


def test_an_import_cycle_in_the_core_is_found() -> None:
    assert cycles_in_core(SMALL | {"dynamo.core.b": "from dynamo.core.a import x"})


@pytest.mark.parametrize("text", ["import pickle", "from shelve import open", "import marshal"])
def test_pickles_are_found_anywhere(text: str) -> None:
    assert pickle_imports({"dynamo.local": text})


@pytest.mark.parametrize(
    "text",
    [
        "import random\nrandom.choice([1])",
        "import random\nrng = random.Random()",
        "from random import shuffle",
        "hash('a')",
        "id(object())",
        "for x in {1, 2}: pass",
        "for x in set(y): pass",
        "for x in set(y) - z: pass",
        "for x in a | {1}: pass",
        "for x in set(y).union(z): pass",
        "[x for x in {a for a in b}]",
        "list(frozenset(y))",
        "','.join({a for a in b})",
        "f(*{1, 2})",
        "dict.fromkeys(set(y))",
    ],
)
def test_what_differs_from_process_to_process_is_found(text: str) -> None:
    assert undetermined({"dynamo.core.b": text})
    assert undetermined({"dynamo.sim.world": text})
    assert not undetermined({"dynamo.server.loop": text})


def test_ordered_and_order_free_uses_of_sets_are_allowed() -> None:
    text = "sorted(set(y))\nlen({1})\nx in {1, 2}\nmax(set(y))\nimport random\nrandom.Random(7)\n"
    assert undetermined({"dynamo.core.b": text}) == []


def test_a_function_of_71_lines_is_found() -> None:
    body = "    pass\n"
    assert not long_functions({"m": "def f():\n" + body * 69})
    assert long_functions({"m": "def f():\n" + body * 70})
    assert long_functions({"m": "class C:\n  async def f():\n" + body * 70})


def test_a_module_of_551_lines_a_line_of_101_columns_and_leftovers_are_found() -> None:
    assert long_modules({"m": "x = 1\n" * 551})
    assert not long_modules({"m": "x = 1\n" * 550})
    assert wide_lines({"m": "#" * 101})
    assert not wide_lines({"m": "é" * 100})
    for marker in LEFTOVERS:
        assert leftovers({"m": f"# {marker}: later"})
    assert not leftovers({"m": "# hackney carriages, TODOS"})


def test_settings_in_the_wrong_or_in_both_files_are_found() -> None:
    assert settings_twice("[metadata]\nname = x\n", "")
    assert settings_twice("[options.packages.find]\n", "")
    assert settings_twice("[tool:pytest]\n", "[tool.pytest.ini_options]\na = 1\n")
    assert settings_twice("[mypy-zmq.*]\n", "[tool.mypy]\nstrict = true\n")
    assert not settings_twice("[tool:pytest]\n[mypy]\n", "[tool.ruff]\nline-length = 100\n")


def test_a_new_file_at_the_top_level_is_found() -> None:
    assert strangers(["dynamo/a.py", "Makefile", "docs/x.md"]) == ["Makefile", "docs"]
