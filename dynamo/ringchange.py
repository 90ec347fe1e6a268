"""A change of a running ring from beginning to end: stage, plan, commit, wait.

What an operator does by `dynamo cluster` in a few commands, as one call for programs that start
their nodes themselves: `dynamo.local`, the demo, tests. Nothing is asked back; what could lose data
is refused by the ring itself unless the change says "force".
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from dynamo.client.errors import DynamoError
from dynamo.server.admin import Admin
from dynamo.server.config import Address

ROUND_S = 1.0  # how long one question waits for those that do not answer
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.25
TOLD_MAX = 4  # sentences on what a task waits for

Change = Mapping[str, Any]


class ChangeFailed(DynamoError, RuntimeError):
    """A change of the ring was refused, or is not done yet."""


class Changing:
    """One change of a ring whose nodes are at these client addresses."""

    def __init__(self, admin: Admin, nodes: Mapping[str, Address], timeout: float) -> None:
        self._admin = admin
        self._nodes = nodes
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout

    def commit(self, changes: Iterable[Change]) -> tuple[str, dict[str, Any]]:
        """Stage, plan and commit; the task that carries the changes out, and the plan."""
        serving = self._await_somebody()
        self._tell(serving, "clear", {})
        for change in changes:
            self._tell(serving, "stage", change)
        plan = self._tell(serving, "plan", {})
        task: str = self._tell(serving, "commit", {"plan": plan["plan"]})["task"]
        return task, plan

    def await_done(self, task: str) -> None:
        """Until every node that serves has the task as done, and whoever was to leave has left."""
        pause = FIRST_PAUSE_S
        waiting = ["nobody has told of it"]
        while time.monotonic() < self._deadline:
            waiting = self._open_parts(task)
            if not waiting:
                return
            time.sleep(pause)
            pause = min(LONGEST_PAUSE_S, 1.5 * pause)
        raise ChangeFailed(
            f"task {task} is not done after {self._timeout:g} s: {'; '.join(waiting[:TOLD_MAX])}"
        )

    def _await_somebody(self) -> str:
        while time.monotonic() < self._deadline:
            for name, answer in self._members().items():
                if not answer["closed"]:
                    return name
            time.sleep(FIRST_PAUSE_S)
        raise ChangeFailed(f"no node serves: {', '.join(self._nodes)} were asked")

    def _members(self) -> dict[str, dict[str, Any]]:
        answers = self._admin.status(self._nodes, "members", ROUND_S)
        return {name: answer for name, answer in answers.items() if "members" in answer}

    def _tell(self, name: str, verb: str, body: Change) -> dict[str, Any]:
        left = max(1.0, self._deadline - time.monotonic())
        answer = self._admin.change(self._nodes[name], verb, body, left)
        if answer is None:
            raise ChangeFailed(f"{name} did not answer {verb!r}, so it may have been done")
        done: bool
        found: dict[str, Any]
        done, found = answer
        if not done:
            raise ChangeFailed(f"{found['error']}. {found.get('try', '')}".strip(" ."))
        return found

    def _open_parts(self, task: str) -> list[str]:
        """What keeps the change from being over, in sentences; none when it is."""
        open_parts = []
        serving = {name: x for name, x in self._members().items() if not x["closed"]}
        if not serving:
            return ["no node serves"]
        told = self._admin.status({name: self._nodes[name] for name in serving}, "tasks", ROUND_S)
        for name in serving:
            found = [x for x in told.get(name, {}).get("tasks", ()) if x["task"] == task]
            if not found:
                open_parts.append(f"{name} does not know of it yet")
                continue
            state = found[0]["state"]
            if state in ("aborted", "superseded"):
                raise ChangeFailed(f"task {task} was {state}")
            if state != "done":
                done = f"{name} has {found[0]['arcs_done']} of {found[0]['arcs']} arcs done"
                open_parts.append("; ".join([done, *found[0]["waiting"][:1]]))
        for name, answer in serving.items():
            leaving = [x["node"] for x in answer["members"] if x["status"] == "leaving"]
            if leaving:
                open_parts.append(f"{', '.join(leaving)} {_is(leaving)} leaving, says {name}")
        return open_parts


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def hashes(admin: Admin, nodes: Mapping[str, Address]) -> dict[str, str]:
    """What each node that answers knows of the ring, as one hash: equal when they agree."""
    answers = admin.status(nodes, "members", ROUND_S)
    return {name: answer["hash"] for name, answer in answers.items() if "hash" in answer}
