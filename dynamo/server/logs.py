"""Structured log lines on stderr: `text` for people, `json` for programs.

    2026-11-24T11:20:03.123Z WARNING n1 server: refused a frame reason=checksum count=3
    {"at": "2026-11-24T11:20:03.123Z", "level": "warning", "node": "n1", "part": "server", ...}

A record's fields are passed as `extra={"data": {...}}`. Values of keys and secrets are never
logged. Stdout carries nothing but the ready line.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

ROOT = "dynamo"


def setup(node: str, form: str, level: str, stream: TextIO | None = None) -> None:
    """Send everything under `dynamo.*` to stderr in the given form, and nowhere else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json(node) if form == "json" else _Text(node))
    root = logging.getLogger(ROOT)
    root.handlers = [handler]
    root.setLevel(level.upper())
    root.propagate = False


def _at(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class _Text(logging.Formatter):
    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        data = getattr(record, "data", {})
        part = record.name.removeprefix(ROOT + ".")
        line = f"{_at(record)} {record.levelname} {self._node} {part}: {record.getMessage()}"
        line += "".join(f" {key}={_plain(value)}" for key, value in data.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Json(logging.Formatter):
    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "at": _at(record),
            "level": record.levelname.lower(),
            "node": self._node,
            "part": record.name.removeprefix(ROOT + "."),
            "message": record.getMessage(),
            **getattr(record, "data", {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def _plain(value: object) -> str:
    # A name that came over the wire may hold anything; quoting keeps one record on one line.
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)


class Quiet:
    """Says the first of a kind at once, then at most one line per `every_ms` with the count.

    (Why: a client of another version sends a thousand bad frames a second, and the log that should
    explain it fills the disk.)
    """

    def __init__(self, log: Callable[..., None], every_ms: int = 10_000) -> None:
        self._log = log
        self._every_ms = every_ms
        self._seen: dict[str, list[int]] = {}  # reason -> [last said, unsaid since]

    def say(self, text: str, reason: str, now_ms: int, **data: object) -> None:
        """`reason` must come from a fixed set: each costs memory for good."""
        last = self._seen.get(reason)
        if last is not None and now_ms - last[0] < self._every_ms:
            last[1] += 1
            return
        count = 1 + (last[1] if last else 0)
        self._seen[reason] = [now_ms, 0]
        self._log(text, extra={"data": {"reason": reason, "count": count, **data}})
