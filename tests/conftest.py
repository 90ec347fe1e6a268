"""The tests run against this checkout, in this process and in every process they start.

README installs the package before it runs the tests, and an installed copy goes stale with the
next edit. (History: a fix passed its unit test and failed its scenario, because the node processes
imported the copy.) So the checkout comes first on the path here and, by PYTHONPATH, in children.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parent.parent)

if sys.path[0] != ROOT:
    sys.path.insert(0, ROOT)
os.environ["PYTHONPATH"] = os.pathsep.join(
    [ROOT, *(p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != ROOT)]
)

import dynamo  # noqa: E402

# Blocked by its installed name in setup.cfg: a copy of `dynamo` would be imported before this file
# has put the checkout first.
pytest_plugins = ("dynamo.testing.plugin",)

assert Path(dynamo.__file__).resolve().is_relative_to(ROOT), f"not the checkout: {dynamo.__file__}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which seeds of the simulator `test_sim.py` runs."""
    parser.addoption("--seed", type=int, default=None, help="run this one seed of the simulator")
    parser.addoption(
        "--seeds", default=None, metavar="N or A..B",
        help="run the first N seeds of the simulator, or those from A to B",
    )  # fmt: skip
