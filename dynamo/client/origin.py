"""Where a client comes from: which line made it, and whether this process is a fork since."""

from __future__ import annotations

import os
import sys


class Lineage:
    """Counts the forks between the first process and this one; clients compare, once per call.

    The process id would do as well, at the price of a system call for each operation.
    """

    forks = 0

    @classmethod
    def forked(cls) -> None:
        cls.forks += 1


os.register_at_fork(after_in_child=Lineage.forked)


def creation_line() -> str:
    """file:line of the innermost frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("dynamo"):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
