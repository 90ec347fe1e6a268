"""A ring that is made of its answers: what the command line asks of nodes, without any node.

`FakeRing` stands where `dynamo.server.admin.Admin` does. Plans are those of the real planner; moves
take `step` arcs per question about tasks. What real nodes answer is tested in test_cli_net.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynamo.core import planner
from dynamo.core.messages import RING_IS, Message
from dynamo.core.ring import Member, Register, Table
from dynamo.server.config import Address

STARTED_MS = 1_700_000_000_000
LIMIT = 5 << 20


class FakeNode:
    """One node as the others have it."""

    def __init__(self, port: int, zone: str, weight: int, status: str) -> None:
        self.port = port
        self.zone = zone
        self.weight = weight
        self.status = status
        self.state = "up"
        self.hints: dict[str, int] = {}
        self.hash = "9f3a21c40b77d015"
        self.closed = ""


class FakeRing:
    """Answers for all nodes. `nodes`: name -> zone; those in `outside` do not belong to it."""

    def __init__(
        self, nodes: Mapping[str, str], outside: Sequence[str] = (), partitions: int = 64
    ) -> None:
        self.nodes = {
            name: FakeNode(7001 + at, zone, 1, "out" if name in outside else "in")
            for at, (name, zone) in enumerate(nodes.items())
        }
        self.partitions = partitions
        self.cur = planner.plan([()] * partitions, self.members(), 3)
        self.goals: list[tuple[str, ...]] = [()] * partitions
        self.staged: list[dict[str, Any]] = []
        self.tasks: list[dict[str, Any]] = []
        self.step = 0
        self.plan_id = "3f9a21c40b77d015"
        self.extra: dict[str, Any] = {}  # fields of the next plans
        self.refusal: dict[str, str] | None = None
        self.silent = False  # takes changes and does not answer
        self.transfers: dict[str, list[dict[str, Any]]] = {}
        self.done: list[tuple[str, str, dict[str, Any]]] = []  # changes: node, verb, body

    def members(self) -> dict[str, tuple[str, int]]:
        return {n: (x.zone, x.weight) for n, x in self.nodes.items() if x.status == "in"}

    # --- as Admin -----------------------------------------------------------------------------

    def ring(self, nodes: Mapping[str, Address], timeout: float) -> dict[str, Message]:
        inside = [n for n, x in self.nodes.items() if x.status in ("in", "leaving")]
        members = [Member(n, "127.0.0.1", self.nodes[n].port, 1) for n in inside]
        registers = [Register(1, 0, 0, owners, ()) for owners in self.cur]
        names, packed = Table(members, 3, self.partitions, registers).packed_owners()
        listed = [[n, "127.0.0.1", self.nodes[n].port] for n in names]
        head = (RING_IS, 1, "shop", 37, 3, self.partitions, 0, 0)
        return {next(iter(nodes)): (*head, listed, packed, [])}

    def status(
        self, nodes: Mapping[str, Address], what: str, timeout: float
    ) -> dict[str, dict[str, Any]]:
        if what == "tasks":
            self._advance()
        return {
            name: getattr(self, f"_{what}")(name)
            for name in nodes
            if self.nodes[name].state != "down"
        }

    def change(
        self, address: Address, verb: str, body: Mapping[str, Any], timeout: float
    ) -> tuple[bool, dict[str, Any]] | None:
        name = next(n for n, x in self.nodes.items() if x.port == address.port)
        self.done.append((name, verb, dict(body)))
        if self.silent:
            return None
        if self.refusal:
            return False, self.refusal
        if verb in ("plan", "commit") and not self.staged:
            return False, {"error": "nothing is staged", "try": "dynamo cluster join NODE"}
        told: dict[str, Any] = getattr(self, f"_do_{verb}")(dict(body))
        return True, told

    # --- answers ------------------------------------------------------------------------------

    def _status(self, name: str) -> dict[str, Any]:
        others = {n: x.state for n, x in self.nodes.items() if n != name and x.status != "out"}
        return {
            "node": name,
            "peers": others,
            "silent_ms": {n: 200_000 for n, state in others.items() if state == "down"},
            "hints": self.nodes[name].hints,
            "ready": True,
            "corrupt": 0,
            "keys": 81_204,
            "up_ms": 7_260_000,
            "ring": {"version": 37, "r": 2, "w": 2},
        }

    def _members(self, name: str) -> dict[str, Any]:
        told = [
            {
                "node": n,
                "address": f"127.0.0.1:{x.port}",
                "zone": x.zone,
                "weight": x.weight,
                "status": x.status,
                "state": x.state,
            }
            for n, x in sorted(self.nodes.items())
        ]
        mine = self.nodes[name]
        head = {"node": name, "ring": 37, "hash": mine.hash, "closed": mine.closed}
        return head | {"members": told, "staged": self.staged}

    def _table(self, name: str) -> dict[str, Any]:
        registers = []
        for cur, goal in zip(self.cur, self.goals, strict=True):
            moving = bool(goal) and {*goal} != {*cur}
            registers.append([1, 0, list(cur), []] if not moving else [9, 1, list(cur), list(goal)])
        return {"registers": registers, "goals": [list(goal) for goal in self.goals]}

    def _tasks(self, name: str) -> dict[str, Any]:
        return {"node": name, "tasks": self.tasks}

    def _transfers(self, name: str) -> dict[str, Any]:
        mine = self.transfers.get(name, [])
        rate = 4_928_307 if any(item["bytes"] for item in mine) else 0
        head = {"node": name, "transfers": mine}
        return head | {"rate_bytes_per_s": rate, "limit_bytes_per_s": LIMIT}

    def _gossip(self, name: str) -> dict[str, Any]:
        peers = [n for n in self.nodes if n != name]
        talks = {n: {"ago_ms": 380 + 1200 * at, "same": True} for at, n in enumerate(peers)}
        told = {"node": name, "hash": self.nodes[name].hash, "rounds": 1204, "bytes_per_s": 96}
        return told | {"messages": 4816, "items_taken": 212, "items_refused": 0, "peers": talks}

    # --- changes ------------------------------------------------------------------------------

    def _do_stage(self, body: dict[str, Any]) -> dict[str, Any]:
        self.staged = [*(x for x in self.staged if x["node"] != body["node"]), body]
        return {"staged": self.staged}

    def _do_clear(self, body: dict[str, Any]) -> dict[str, Any]:
        kept = [x for x in self.staged if body.get("node") not in (None, x["node"])]
        self.staged = kept
        return {"staged": kept}

    def _after(self) -> tuple[dict[str, tuple[str, int]], list[tuple[str, ...]]]:
        members = self.members()
        table = list(self.cur)
        for change in self.staged:
            node = change["node"]
            if change["verb"] in ("leave", "remove", "replace"):
                members.pop(node, None)
            if change["verb"] == "replace":
                by = change["by"]
                members[by] = (self.nodes[by].zone, 1)
                table = [tuple(by if x == node else x for x in owners) for owners in table]
            if change["verb"] in ("join", "reweight"):
                members[node] = (self.nodes[node].zone, change.get("weight", 1))
        return members, planner.plan(table, members, 3)

    def _do_plan(self, body: dict[str, Any]) -> dict[str, Any]:
        members, after = self._after()
        moves = sum(
            name not in now for now, then in zip(self.cur, after, strict=True) for name in then
        )
        nodes = [
            {
                "node": n,
                "zone": self.nodes[n].zone,
                "weight": members.get(n, ("", self.nodes[n].weight))[1],
                "status": self.nodes[n].status,
                "state": self.nodes[n].state,
                "primary_now": sum(x[0] == n for x in self.cur),
                "primary_after": sum(x[0] == n for x in after),
                "replicas_now": sum(n in x for x in self.cur),
                "replicas_after": sum(n in x for x in after),
            }
            for n in sorted({*members, *self.members()})
        ]
        arcs = sum({*now} != {*then} for now, then in zip(self.cur, after, strict=True))
        return {
            "plan": self.plan_id,
            "ring": 37,
            "staged": self.staged,
            "n": 3,
            "partitions": self.partitions,
            "moves": moves,
            "arcs": arcs,
            "bytes": moves * 2_480_000,
            "seconds": moves * 0.47,
            "limit_bytes_per_s": LIMIT,
            "nodes": nodes,
            "risks": [],
            "violations": [],
            "warnings": [],
            "loss": "",
        } | self.extra

    def _do_commit(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body == {"plan": self.plan_id}
        made = self._do_plan({})
        _, self.goals = self._after()
        verbs = {"join": "joins", "leave": "leaves", "remove": "is removed"}
        sentences = []
        for change in self.staged:
            node, verb = self.nodes[change["node"]], change["verb"]
            node.status = {"leave": "leaving", "remove": "removed"}.get(verb, "in")
            if verb == "replace":
                node.status, self.nodes[change["by"]].status = "leaving", "in"
                sentences.append(f"{change['by']} takes the places of {change['node']}")
            else:
                sentences.append(f"{change['node']} {verbs.get(verb, verb)}")
        self.staged = []
        return self._task(sentences, made["arcs"], made["moves"])

    def _task(self, sentences: list[str], arcs: int, moves: int) -> dict[str, Any]:
        name = f"c{len(self.tasks) + 3}-9f21"
        self.tasks.insert(
            0,
            {
                "task": name,
                "state": "running",
                "started_wall_ms": STARTED_MS + len(self.tasks),
                "changes": sentences,
                "arcs": arcs,
                "arcs_done": 0,
                "waiting": [],
            },
        )
        return {"task": name, "arcs": arcs, "moves": moves}

    def _advance(self) -> None:
        left = self.step
        for arc, goal in enumerate(self.goals):
            if goal and {*goal} != {*self.cur[arc]} and left:
                self.cur[arc] = goal
                left -= 1
        for task in self.tasks:
            if task["state"] == "running":
                task["arcs_done"] = min(task["arcs"], task["arcs_done"] + self.step)
                if task["arcs_done"] == task["arcs"]:
                    task["state"] = "done"

    def _do_abort(self, body: dict[str, Any]) -> dict[str, Any]:
        task = next(x for x in self.tasks if x["task"] == body["task"])
        task["state"] = "aborted"
        undo = self._task([f"{body['task']} is taken back"], 4, 4)
        return undo | {"task": body["task"], "undo": undo["task"], "kept": []}

    def _do_resume(self, body: dict[str, Any]) -> dict[str, Any]:
        old = next(x for x in self.tasks if x["task"] == body["task"])
        return self._task(old["changes"], old["arcs"], old["arcs"]) | {"resumes": body["task"]}

    def _do_drain(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"node": body["node"], "draining": not body.get("off"), "hints": 0}
