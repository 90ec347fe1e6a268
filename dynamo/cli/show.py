"""How keys, values and tables reach a terminal or a JSON object.

A key or a value may hold any bytes, and a terminal obeys some of them: a value that was written by
somebody else must not clear the screen, retitle the window or hide the line above. So control
characters are shown escaped, everywhere, and raw only in JSON, where JSON escapes them.

Keys on the command line are text. A key that is no UTF-8 is written b64:AAH/ (base64 of its bytes),
and is shown in that way too; a text key that itself begins with "b64:" is written text:b64:...
"""

from __future__ import annotations

import base64
import binascii
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Generic in newer versions of click only.
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType

BASE64, TEXT = "b64:", "text:"
# Tables in a pipe are as wide as their content; on a terminal they are fitted to it.
PIPE_COLUMNS = 1_000
VALUE_CHARS_MAX = 2_000

# Characters that change how a terminal reads or lays out what follows: C0, DEL, C1, and the marks
# that reverse the direction of text ("trojan source") or separate lines.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_ESCAPES |= {
    ord(char): escape for char, escape in zip("\t\n\r", ("\\t", "\\n", "\\r"), strict=True)
}
_ESCAPES |= {
    code: f"\\u{code:04x}"
    for code in (0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
}
_ESCAPES |= {code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)}


def escaped(text: str) -> str:
    """`text` on one line, with nothing in it that a terminal would obey."""
    return text.translate(_ESCAPES)


# --- keys -------------------------------------------------------------------------------------


class KeyText(ParamType):
    """A key as typed: text, or b64:... for one that is no text."""

    name = "key"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes:
        if not isinstance(value, str):
            return bytes(value)
        try:
            return parse_key(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse_key(text: str) -> str | bytes:
    """The key that was typed. Raises ValueError for a b64: that is no base64."""
    if text.startswith(TEXT):
        return text.removeprefix(TEXT)
    if not text.startswith(BASE64):
        return text
    try:
        return base64.b64decode(text.removeprefix(BASE64), validate=True)
    except binascii.Error:
        raise ValueError(
            f"{escaped(text)} is not base64 after b64:; a key that is really this text is "
            f"written text:{escaped(text)}"
        ) from None


def key_arg(key: str | bytes) -> str:
    """A key as text that `parse_key` reads back, not yet escaped."""
    if isinstance(key, bytes):
        try:
            return key_arg(key.decode())
        except UnicodeDecodeError:
            return BASE64 + base64.b64encode(key).decode()
    return TEXT + key if key.startswith((BASE64, TEXT)) else key


def key_text(key: str | bytes) -> str:
    """A key for people."""
    return escaped(key_arg(key))


def key_json(key: str | bytes) -> Any:
    """A key in JSON: text, or {"b64": ...} for one that is no text."""
    if isinstance(key, bytes):
        try:
            return key.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(key).decode()}
    return key


def shell_word(text: str) -> str:
    """`text` as one word of a shell command line that can be copied and run."""
    if any(ord(char) in _ESCAPES for char in text):
        return (
            f"$'{escaped(text.replace(chr(92), chr(92) * 2)).replace(chr(39), chr(92) + chr(39))}'"
        )
    import shlex

    return shlex.quote(text)


# --- values -----------------------------------------------------------------------------------


def value_json(value: Any) -> Any:
    """A value as JSON has it; what JSON cannot say becomes {"b64": ...} or text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # JSON has no word for these, and Python's "NaN" would break other readers.
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {
            name if isinstance(name, str) else str(name): value_json(item)
            for name, item in value.items()
        }
    if isinstance(value, set | frozenset):
        return sorted((value_json(item) for item in value), key=repr)
    if isinstance(value, list | tuple):
        return [value_json(item) for item in value]
    return str(value)


def value_text(value: Any, limit: int = VALUE_CHARS_MAX) -> str:
    """A value for people, on one line: text as it is, bytes as b'...', the rest as JSON."""
    import json

    if isinstance(value, str):
        text = escaped(value)
    elif isinstance(value, bytes):
        text = repr(value)
    else:
        text = escaped(json.dumps(value_json(value), ensure_ascii=False))
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


# --- quantities -------------------------------------------------------------------------------


def span(seconds: float) -> str:
    """A length of time in one or two units: 350 ms, 4.2 s, 12 s, 3m 20s, 6d 4h."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{int(seconds)} s"
    whole = int(seconds)
    for unit, size, below, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "m", 60)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // part}{below}"
    return f"{whole // 60}m {whole % 60}s"


def clock(seconds: float) -> str:
    """A time of day, with the date unless it is today's: 11:02:07, 2026-03-01 11:02:07."""
    then, today = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", then)


def size(count: int) -> str:
    """Bytes: 512 B, 1.4 KiB, 92 MiB."""
    if count < 1024:
        return f"{count} B"
    amount, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if amount >= 1024:
            amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"


def plural(count: int, one: str, many: str = "") -> str:
    """1 hint, 2 hints, 1,204 hints."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Iterable[str], last: str = "and") -> str:
    """n1 · n1 and n2 · n1, n2 and n3."""
    *first, end = names
    return f"{', '.join(first)} {last} {end}" if first else end


def split(sides: Iterable[Iterable[str]]) -> str:
    """n1 n2 | n3 n4 n5."""
    return " | ".join(" ".join(side) for side in sides)


# --- rich, imported when something is drawn ---------------------------------------------------


def lively(stream: IO[str]) -> bool:
    """Whether a bar may be redrawn on this stream: a terminal that is not dumb."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def columns() -> int:
    """How wide stdout is."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return shutil.get_terminal_size().columns
    return PIPE_COLUMNS


def console(stderr: bool = False) -> Console:
    """Where renderables go. NO_COLOR, FORCE_COLOR and TERM=dumb are honoured by rich."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS
    return Console(
        file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False
    )


def draw(what: object, stderr: bool = False) -> None:
    """Render to stdout or stderr, without the blanks with which rich fills its lines."""
    out = console(stderr)
    with out.capture() as captured:
        out.print(what)
    stream = sys.stderr if stderr else sys.stdout
    lines = captured.get().splitlines()
    stream.write("".join(f"{line.rstrip()}\n" for line in lines))
    stream.flush()


def wrapped(text: str, stream: IO[str]) -> str:
    """`text` broken between words where it would run over the edge of a terminal."""
    if not stream.isatty():
        return text
    width = max(20, shutil.get_terminal_size().columns)
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        fill = textwrap.TextWrapper(
            width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        lines += fill.wrap(line) or [""]
    return "\n".join(lines)


def text(*parts: str | tuple[str, str]) -> Text:
    """A line of parts, each plain or (text, style); escaped."""
    from rich.text import Text

    line = Text()
    for part in parts:
        if isinstance(part, str):
            line.append(escaped(part))
        else:
            line.append(escaped(part[0]), part[1])
    return line


def notes(rows: Iterable[tuple[tuple[str, str], str]]) -> Table:
    """Marks with their styles, and sentences that wrap beside them."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2, 0, 0))
    for mark, sentence in rows:
        made.add_row(text(mark), escaped(sentence))
    return made


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table without lines. A column named ">NAME" is right-aligned; cells are text or Text."""
    from rich.table import Table

    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        side: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        made.add_column(name.lstrip(">"), justify=side, overflow="fold")
    for row in rows:
        made.add_row(*(escaped(cell) if isinstance(cell, str) else cell for cell in row))
    return made
