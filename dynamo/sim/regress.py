"""A failing draw as a file: what was found, how, and everything needed to run it again.

A draw that broke a promise is worth more than the bug: it is the one load of which we know that
our checks were sharp enough. So `dynamo sim shrink` ends with such a file, the file lies in
`tests/seeds/` for ever, and the ordinary tests run every one of them.

    {
      "violated": "I1",                    the promise that broke when it was found
      "expected": "clean",                 what a run shows now: "clean", or the number while it is
                                           not mended yet
      "sentence": "A put was lost when ...",
      "found": "dynamo sim run, seed 4711 at 334f3bd; 38,515 events shrunk to 1,204",
      "date": "2025-11-24",
      "digest": "",                        of the failing run, if somebody wants to compare
      "plant": "",                         a mistake of the zoo with which it breaks `violated`
      "draw": {...}                        every field of `campaign.Draw`
    }

A file with a plant can be asked whether it still has teeth: with the mistake in the code the
promise must break.

All fields of the draw are written, those with their default value too: a default that changes
later must not turn the file into another run. A field that this version does not know is an error
and not passed over, because a run without it would be clean for the wrong reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import msgspec

from dynamo.core.config import Config
from dynamo.sim.campaign import Draw

CLEAN = "clean"
COLUMNS = 100


class NotARegression(ValueError):
    """A file that is none; the text says what is wrong with it and what is allowed."""


@dataclass(frozen=True, slots=True)
class Regression:
    """One draw that broke a promise, and what a person must know of it."""

    violated: str
    sentence: str
    found: str
    date: str
    draw: Draw
    expected: str = CLEAN
    digest: str = ""
    plant: str = ""

    def as_expected(self, numbers: list[str]) -> bool:
        """Whether a run that broke the promises of these numbers is what the file foretells."""
        return not numbers if self.expected == CLEAN else self.expected in numbers


def plain(drawn: Draw) -> dict[str, Any]:
    """A draw in the types that JSON has."""
    found: dict[str, Any] = msgspec.to_builtins(drawn)
    return found


def from_plain(given: object) -> Draw:
    """The draw again; ValueError for anything that is none."""
    if isinstance(given, Mapping):
        _nothing_unknown("draw", given, Draw)
        config = given.get("config")
        if isinstance(config, Mapping):
            _nothing_unknown("draw.config", config, Config)
    try:
        return msgspec.convert(given, Draw)
    except msgspec.ValidationError as error:
        raise NotARegression(f"the draw does not fit this version: {error}") from None


def _nothing_unknown(where: str, given: Mapping[str, Any], kind: type[Any]) -> None:
    known = [field.name for field in fields(kind)]
    strange = [name for name in given if name not in known]
    if strange:
        raise NotARegression(
            f"{where} has {', '.join(map(repr, strange))}, which this version does not know; "
            f"it knows {', '.join(known)}"
        )


def write(regression: Regression) -> str:
    """The text of the file: JSON that a person can read, one fault a line."""
    found = {
        field.name: getattr(regression, field.name)
        for field in fields(Regression)
        if field.name != "draw"
    }
    return _pretty({**found, "draw": plain(regression.draw)}, "") + "\n"


def read(text: str, name: str = "the file") -> Regression:
    """What such a file says. Raises NotARegression, which names the file and what is wrong."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise NotARegression(f"{name} is not JSON: {error}") from None
    if not isinstance(given, dict) or "draw" not in given:
        raise NotARegression(
            f'{name} is no regression file: it must be an object with "draw", "violated", '
            f'"sentence", "found" and "date", as `dynamo sim shrink SEED --out FILE` writes it'
        )
    try:
        _nothing_unknown("it", given, Regression)
        return msgspec.convert({**given, "draw": from_plain(given["draw"])}, Regression)
    except (NotARegression, msgspec.ValidationError) as error:
        raise NotARegression(f"{name} is no regression file: {error}") from None


def _pretty(thing: Any, indent: str) -> str:
    """JSON as a person would write it: short fields fill a line, rows get one each."""
    flat = json.dumps(thing, ensure_ascii=False)
    if not isinstance(thing, dict | list | tuple) or len(indent) + len(flat) <= COLUMNS - 16:
        return flat
    inner = indent + "  "
    if isinstance(thing, dict):
        items = [f"{json.dumps(key)}: {_pretty(item, inner)}" for key, item in thing.items()]
        lines = _filled(items, inner) if indent else items
        return "{\n" + ",\n".join(inner + line for line in lines) + f"\n{indent}}}"
    rows = [inner + _pretty(item, inner) for item in thing]
    return "[\n" + ",\n".join(rows) + f"\n{indent}]"


def _filled(items: list[str], indent: str) -> list[str]:
    """Items joined to lines of at most COLUMNS; what is longer than a line stays alone."""
    lines: list[str] = []
    for item in items:
        last = lines[-1] if lines else "\n"
        if "\n" in last or "\n" in item or len(indent) + len(last) + len(item) + 3 > COLUMNS:
            lines.append(item)
        else:
            lines[-1] = f"{last}, {item}"
    return lines
