"""Where user code made a client: for the warning about one that was never closed."""

from __future__ import annotations

import sys


def creation_line() -> str:
    """file:line of the innermost frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("dynamo"):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
