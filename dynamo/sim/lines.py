"""Which lines of the core a simulation has run: what no seed reaches, no seed can prove.

    with Lines(files) as lines:
        run(7)
    lines.missed()       {file: line numbers}, of those inside functions

Only lines inside functions count. Those of a module run when it is imported, which proves nothing
and would make every figure look better.

A function all of whose lines have run is not watched any more, so that a campaign under watch soon
runs nearly as fast as without.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FrameType, TracebackType
from typing import Any, Self

Tracer = Callable[[FrameType, str, Any], Any]


class Lines:
    """Watches the code of some files while it is entered. `sources`: text by file name."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._left: dict[tuple[str, int, str], dict[int, None]] = {}  # not yet run, by function
        self._all: dict[str, dict[int, None]] = {}
        self._before: Any = None
        for file, text in sources.items():
            found = self._all.setdefault(file, {})
            for code in _functions(compile(text, file, "exec", dont_inherit=True)):
                lines = dict.fromkeys(line for _, _, line in code.co_lines() if line)
                if len(lines) > 1:
                    lines.pop(code.co_firstlineno, None)  # the `def` itself
                key = (file, code.co_firstlineno, code.co_name)
                self._left.setdefault(key, {}).update(lines)
                found.update(lines)

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.settrace(self._before)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Tracer | None:
        code = frame.f_code
        left = self._left.get((code.co_filename, code.co_firstlineno, code.co_name))
        if not left:
            return None

        def watch(frame: FrameType, event: str, arg: Any) -> Any:
            left.pop(frame.f_lineno, None)
            return watch if left else None

        return watch

    def missed(self) -> dict[str, list[int]]:
        """Lines that have not run, by file."""
        found: dict[str, dict[int, None]] = {file: {} for file in self._all}
        for (file, _, _), lines in self._left.items():
            found[file].update(lines)
        return {file: sorted(lines) for file, lines in found.items()}

    def counts(self) -> dict[str, tuple[int, int]]:
        """Lines that have run, and lines that there are, by file."""
        missed = self.missed()
        return {
            file: (len(lines) - len(missed[file]), len(lines)) for file, lines in self._all.items()
        }


def _functions(code: CodeType) -> Iterator[CodeType]:
    """The code of every function in a module, not of the module and its classes themselves."""
    for part in code.co_consts:
        if isinstance(part, CodeType):
            if part.co_flags & 0x2:  # CO_NEWLOCALS: a function; a class body has none
                yield part
            yield from _functions(part)


def ranges(lines: list[int]) -> str:
    """12, 15-18, 40 for a list of line numbers."""
    found: list[list[int]] = []
    for line in lines:
        if found and line == found[-1][1] + 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in found)
