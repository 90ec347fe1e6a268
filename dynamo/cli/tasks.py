"""`dynamo tasks`: committed changes of the ring, how far they are, and what they wait for."""

from __future__ import annotations

import time
from typing import Any

import click

from dynamo.cli import exits, show
from dynamo.cli.changing import DRY_RUN, Contact, change, contact
from dynamo.cli.shared import Shell, command

POLL_S = 0.25
# So long may the ring be silent while a task is watched: its nodes may be restarted meanwhile.
SILENCE_S = 30.0
RUNNING = "running"
STYLES = {RUNNING: "bold cyan", "done": "green", "aborted": "yellow", "superseded": "yellow"}

Task = dict[str, Any]


@command(
    examples="""
    dynamo tasks                       what is under way, and what was
    dynamo tasks c3-9f21               one of them, and what it waits for
    dynamo tasks --wait                follow the one that runs to its end
    dynamo tasks c3-9f21 --abort       arcs that have not moved stay where they are
    """
)
@click.argument("task", metavar="[ID]", default="")
@click.option("--wait", is_flag=True, help="Follow it to its end; Ctrl-C leaves it running.")
@click.option("--abort", is_flag=True, help="Go back as far as that is possible.")
@click.option("--resume", is_flag=True, help="Go on with one that was aborted.")
@DRY_RUN
def tasks(
    shell: Shell, task: str, wait: bool, abort: bool, resume: bool, dry_run: bool
) -> int | None:
    """Show the changes that were committed, how far they are, and what they wait for.

    ID may be shortened, and left out for the one that runs. With --wait the exit code is 0 once the
    task is done, 9 if it was aborted or superseded, 7 after --timeout.
    """
    if abort and resume:
        raise click.UsageError("--abort and --resume are opposites: choose one")
    at = contact(shell)
    known = listed(shell, at)
    if not (task or wait or abort or resume):
        _show_all(shell, known)
        return None
    found = chosen(known, task, RUNNING if not resume else "aborted")
    if found is None:
        return _nothing_to_do(shell, resume)
    if abort or resume:
        then = _turn(shell, at, found, "abort" if abort else "resume", dry_run, wait)
        return follow(shell, then) if wait and not dry_run else None
    if wait:
        return follow(shell, found["task"])
    if shell.json:
        shell.emit(found)
    else:
        _show_one(shell, found)
    return None


def listed(shell: Shell, at: Contact) -> list[Task]:
    """All tasks that the ring remembers, as one node knows them."""
    answers = shell.admin.status({at.name: at.address}, "tasks", shell.ask_s)
    return list(answers.get(at.name, {}).get("tasks", ()))


def chosen(known: list[Task], word: str, state: str) -> Task | None:
    """The task whose id begins with `word`; without one, the latest in `state`."""
    if not word:
        fitting = [task for task in known if task["state"] == state]
        return max(fitting, key=lambda task: int(task["started_wall_ms"]), default=None)
    fitting = [task for task in known if task["task"].startswith(word)]
    exact = [task for task in fitting if task["task"] == word]
    if len(exact or fitting) == 1:
        return (exact or fitting)[0]
    if fitting:
        ids = show.listed([task["task"] for task in fitting])
        raise click.UsageError(f"{word} fits {ids}: write more of it")
    ids = show.listed([task["task"] for task in known]) if known else "none"
    raise click.UsageError(f"there is no task {word!r}; there are: {ids}")


def _nothing_to_do(shell: Shell, resume: bool) -> int:
    if shell.json:
        shell.emit({"task": None})
    else:
        what = "No task was aborted" if resume else "Nothing is under way"
        shell.print(f"{what}. All tasks: dynamo tasks")
    return exits.OK


# --- showing --------------------------------------------------------------------------------------


def _show_all(shell: Shell, known: list[Task]) -> None:
    known = sorted(known, key=lambda task: -int(task["started_wall_ms"]))
    if shell.json:
        shell.emit({"tasks": known})
        return
    if not known:
        shell.print("No change was ever committed to this ring, or all are forgotten.")
        shell.say("\nNext: dynamo cluster join NODE, or dynamo status")
        return
    rows = [
        (
            task["task"],
            show.text((task["state"], STYLES.get(task["state"], ""))),
            show.clock(task["started_wall_ms"] / 1000),
            done_text(task)
            if task["state"] == RUNNING
            else "all"
            if task["state"] == "done"
            else "–",
            "; ".join(task["changes"]),
        )
        for task in known
    ]
    shell.print(show.table(("TASK", "STATE", "STARTED", ">ARCS DONE", "CHANGES"), rows))
    for task in known:
        for why in task.get("waiting", ())[:3] if task["state"] == RUNNING else ():
            shell.print(f"  {task['task']} waits: {show.escaped(why)}")
    running = [task["task"] for task in known if task["state"] == RUNNING]
    if running:
        shell.say(f"\nNext: dynamo tasks {running[0]} --wait, or dynamo transfers")


def done_text(task: Task) -> str:
    """26 of 38 (68 %)."""
    done, arcs = task["arcs_done"], task["arcs"]
    return f"{done:,} of {arcs:,} ({100 * done // arcs} %)" if arcs else "–"


def _show_one(shell: Shell, task: Task) -> None:
    state = task["state"]
    started = task["started_wall_ms"] / 1000
    shell.print(
        show.text(
            (task["task"], "bold"),
            "  ",
            (state, STYLES.get(state, "")),
            f", started {show.clock(started)} ({show.span(time.time() - started)} ago)",
        )
    )
    for sentence in task["changes"]:
        shell.print(f"  {show.escaped(sentence)}")
    shell.print(f"\nArcs with the owners they shall have: {done_text(task)}")
    if task.get("waiting"):
        shell.print(show.notes((("waits", "yellow"), str(why)) for why in task["waiting"]))
    if state == RUNNING:
        shell.say(f"\nNext: dynamo tasks {task['task']} --wait, or --abort; dynamo transfers")
    elif state == "aborted":
        shell.say(f"\nNext: dynamo tasks {task['task']} --resume, or dynamo cluster plan")


# --- abort and resume -----------------------------------------------------------------------------


def _turn(shell: Shell, at: Contact, task: Task, verb: str, dry_run: bool, wait: bool) -> str:
    """Abort or resume; the task that does it, which is a new one."""
    name, changes = task["task"], "; ".join(task["changes"])
    if dry_run:
        if shell.json:
            shell.emit({"task": name, "would": verb})
        else:
            shell.print(f"Would {verb} {name}: {show.escaped(changes)}. {_effect(task, verb)}")
        return str(name)
    told = change(shell, at, verb, {"task": name})
    then = str(told.get("undo") or told["task"])
    if shell.json:
        if not wait:
            shell.emit(told)
        return then
    did = "Aborted" if verb == "abort" else "Resumed"
    shell.print(f"{did} {name}: {show.escaped(changes)}. {_effect(task, verb)}")
    if told.get("kept"):
        shell.print(show.notes((("stays", "yellow"), str(why)) for why in told["kept"]))
    if not wait:
        shell.say(f"\nNext: dynamo tasks {then} --wait")
    return then


def _effect(task: Task, verb: str) -> str:
    if verb == "resume":
        return "What it wanted is planned anew, and goes on."
    left = task["arcs"] - task["arcs_done"]
    stays = f"{show.plural(left, 'arc')} not yet moved {'stays' if left == 1 else 'stay'}"
    return f"The owners of before are wanted again: {stays}, {task['arcs_done']:,} go back."


# --- following ------------------------------------------------------------------------------------


def follow(shell: Shell, name: str) -> int:
    """Show the progress of a task until it has ended; the exit code.

    Ctrl-C ends the watching and not the task.
    """
    try:
        ended = _await(shell, name)
    except KeyboardInterrupt:
        shell.say(
            f"Detached; the change goes on without you.\n"
            f"Watch again: dynamo tasks {name} --wait\nStop it:     dynamo tasks {name} --abort"
        )
        return exits.INTERRUPTED
    if shell.json:
        shell.emit(ended)
    if ended["state"] != "done":
        why = next(iter(ended.get("waiting", ())), "")
        raise exits.TaskEnded(
            f"{name} was {ended['state']} with {done_text(ended)} arcs in place",
            hint=f"{why[:1].upper()}{why[1:]}" if why else "All tasks: dynamo tasks",
        )
    if not shell.json:
        took = show.span(time.time() - ended["started_wall_ms"] / 1000)
        arcs = f"{show.plural(ended['arcs'], 'arc')} in place"
        arcs = arcs if ended["arcs"] else "No arc had to move for it"
        shell.print(
            show.text(("DONE", "bold green"), f": {'; '.join(ended['changes'])}. ")
            + show.text(f"{arcs}, {took} after the commit.")
        )
        shell.say("\nNext: dynamo status")
    return exits.OK


def _await(shell: Shell, name: str) -> Task:
    deadline = time.monotonic() + shell.timeout if shell.timeout else float("inf")
    heard = time.monotonic()
    shell.timeout = None  # it was for the whole; each question has its own
    task = _latest(shell, name)
    total = task["arcs"] if task else None
    with shell.progress(total, f"{name}: arcs in place") as bar:
        said = ""
        while True:
            now = time.monotonic()
            if task is not None:
                heard = now
                if moved := task["arcs_done"] - bar.done:
                    bar.advance(moved)
                if task["state"] != RUNNING:
                    return task
                said = _say_why(shell, bar, name, task, said)
            elif now - heard > SILENCE_S:
                raise exits.Unfinished(f"no node has told of {name} for {show.span(now - heard)}")
            if now >= deadline:
                raise exits.Unfinished(
                    f"{name} has not ended in time and goes on",
                    hint=f"Watch it: dynamo tasks {name} --wait",
                )
            time.sleep(max(0.0, min(POLL_S, deadline - now)))
            task = _latest(shell, name)


def _say_why(shell: Shell, bar: Any, name: str, task: Task, said: str) -> str:
    """Tell what it waits for, whenever that is something else; the sentence."""
    why = next(iter(task.get("waiting", ())), "")
    if why != said:
        bar.rename(f"{name}: waits" if why else f"{name}: arcs in place")
        if why:
            shell.say(f"{name} waits: {show.escaped(why)}")
    return why


def _latest(shell: Shell, name: str) -> Task | None:
    """The task as the ring has it now; None while nobody can tell."""
    try:
        known = listed(shell, contact(shell))
    except (ConnectionError, exits.Unhealthy, exits.Refused):
        return None
    return next((task for task in known if task["task"] == name), None)
