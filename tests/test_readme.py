"""README is run, not trusted: its Python blocks in order, as one program in an empty directory.

A block that cannot run here says why in a comment of its own, on the line before the fence:

    <!-- not run: needs a ring on other machines -->

and one that takes minutes is marked `<!-- slow -->`; it runs, after the blocks before it, with
`-m slow`. The first two blocks of commands set the project up and run its tests; `.ci/run` takes
the second one from README word for word. The others run here, in order, as one shell script.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"```(\w*)$")
MARK = re.compile(r"<!-- (slow|not run: \S.*) -->$")
COMMANDS = ("sh", "bash", "shell", "console")


class Block(NamedTuple):
    language: str
    line: int  # of the first line of text, counted from 1
    text: str
    mark: str  # "", "slow" or "not run: why"


def blocks(markdown: str) -> list[Block]:
    """All fenced blocks. A mark is the nearest line above the fence that is not empty."""
    found: list[Block] = []
    lines = markdown.splitlines()
    at = 0
    above = ""
    while at < len(lines):
        fence = FENCE.match(lines[at])
        if not fence:
            above = lines[at].strip() or above
            at += 1
            continue
        end = next((i for i in range(at + 1, len(lines)) if lines[i] == "```"), None)
        assert end is not None, f"README.md:{at + 1}: this block is never closed"
        mark = MARK.match(above)
        text = "\n".join(lines[at + 1 : end]) + "\n"
        found.append(Block(fence[1], at + 2, text, mark[1] if mark else ""))
        at, above = end + 1, ""
    return found


def programs(markdown: str, slow: bool) -> list[Block]:
    return [
        block
        for block in blocks(markdown)
        if block.language == "python"
        and not block.mark.startswith("not run")
        and (slow or block.mark != "slow")
    ]


def run(markdown: str, slow: bool) -> dict[str, object]:
    """Run the blocks in one fresh namespace; a traceback names README.md and its true line."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in programs(markdown, slow):
        code = compile("\n" * (block.line - 1) + block.text, "README.md", "exec")
        exec(code, namespace)
    return namespace


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text("utf-8")


@pytest.mark.net
def test_the_examples_run(readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert programs(readme, slow=False), "README has no example that runs"
    run(readme, slow=False)


@pytest.mark.net
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_large_examples_run(
    readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(readme, slow=True)


@pytest.mark.net
@pytest.mark.timeout(300)
def test_the_other_commands_run_one_after_the_other(readme: str, tmp_path: Path) -> None:
    """As typed into one shell in an empty directory, and nothing is left running."""
    commands = [block for block in blocks(readme) if block.language in COMMANDS][2:]
    assert not any(block.mark for block in commands), "each of them runs"
    assert commands, "README has no commands to operate a ring"
    # If one fails, the nodes go too: they hold the pipes, and this would wait for them.
    script = "set -euxo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n"
    script += "".join(block.text for block in commands)
    _check_free(*range(7001, 7006), *range(7101, 7106))
    done = subprocess.run(
        ["bash", "-c", script + "wait\n"], cwd=tmp_path, env=_shell(tmp_path / "bin"),
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"ready":true' in done.stdout.replace(" ", "")
    assert "HEALTHY" in done.stdout
    assert done.stdout.count("DONE: ") == 3, "it grows, it shrinks, it is repaired"


def _shell(folder: Path) -> dict[str, str]:
    """An environment in which `dynamo` is this checkout, and nothing of ours decides for it."""
    folder.mkdir()
    script = folder / "dynamo"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dynamo "$@"\n')
    script.chmod(0o755)
    kept = {name: text for name, text in os.environ.items() if not name.startswith("DYNAMO_")}
    return kept | {"PATH": f"{folder}:{os.environ['PATH']}", "COLUMNS": "120"}


def _check_free(*ports: int) -> None:
    """The commands name fixed ports, as a reader types them: make sure that they are ours."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.fail(f"README's commands need port {port}, and something listens there")


def test_the_first_commands_set_up_and_the_second_ones_test(readme: str) -> None:
    """Each works alone on a fresh machine, so each begins by making the environment."""
    commands = [block.text for block in blocks(readme) if block.language in COMMANDS]
    assert commands[0].startswith("python3 -m venv .venv &&")
    assert "pip install ." in commands[0]
    assert commands[0].endswith(".venv/bin/dynamo demo\n")
    assert commands[1].startswith("python3 -m venv .venv &&")
    assert "pip install '.[test]'" in commands[1]
    assert commands[1].endswith("-m pytest\n")


def test_ci_takes_the_test_command_from_readme_and_has_none_of_its_own() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "pip install" not in script
    assert f"^```({'|'.join(COMMANDS)})$" in script


# --- The reader of README itself --------------------------------------------------------------

SAMPLE = """\
# Sample

```sh
ls
```

```python
x = 1
```

<!-- not run: needs another machine -->

```python
x = missing
```

<!-- slow -->
```python
y = x + 1
```

A comment that is <!-- slow --> inside a sentence marks nothing.
```python
z = x
```
"""


def test_blocks_are_found_with_their_lines_and_marks() -> None:
    found = [(block.language, block.line, block.mark) for block in blocks(SAMPLE)]
    assert found == [
        ("sh", 4, ""),
        ("python", 8, ""),
        ("python", 14, "not run: needs another machine"),
        ("python", 19, "slow"),
        ("python", 24, ""),
    ]


def test_slow_blocks_run_only_when_asked_and_see_what_came_before() -> None:
    assert "y" not in run(SAMPLE, slow=False)
    assert run(SAMPLE, slow=True)["y"] == 2


def test_a_failing_block_names_its_line_in_readme() -> None:
    with pytest.raises(ZeroDivisionError) as failure:
        run("text\n\n```python\nx = 1\nx / 0\n```\n", slow=False)
    assert failure.traceback[-1].lineno + 1 == 5


def test_a_block_that_is_never_closed_is_found() -> None:
    with pytest.raises(AssertionError, match=r"README.md:1"):
        blocks("```python\nx = 1\n")
