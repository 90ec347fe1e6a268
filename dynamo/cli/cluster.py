"""`dynamo cluster`: changes of the ring, staged one by one, looked at as one plan, then committed.

Nothing but `commit` changes anything, and it commits the plan that was looked at or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import click

from dynamo.cli import exits, show
from dynamo.cli.changing import (
    DRY_RUN,
    YES,
    Contact,
    await_heard,
    change,
    confirm,
    contact,
    print_staged,
    words,
)
from dynamo.cli.config import init as init_of_config
from dynamo.cli.shared import HelpFirst, Shell, command, group

WEIGHT = click.IntRange(1, 1 << 20)
NODE = click.argument("node", metavar="NODE")
FORCE = click.option("--force", is_flag=True, help="Give up what only its copies may hold.")
DISCARD = click.option(
    "--discard", is_flag=True, help="Should it come back, its rows are not wanted."
)
PLAN_DIGITS_MIN = 4


@group(
    examples="""
    dynamo cluster join n4             stage: n4 shall own its share
    dynamo cluster leave n2            stage: n2 hands everything over and goes
    dynamo cluster plan                what that would move, and what it risks
    dynamo cluster commit              do it
    """
)
def cluster() -> None:
    """Grow, shrink and repair the ring: stage changes, look at the plan, commit it."""


# --- stage ----------------------------------------------------------------------------------------


@command(
    short_help="Stage: a node gets its share of the ring",
    examples="""
    dynamo cluster join n4
    dynamo cluster join n4 --weight 2    a machine twice as large
    """,
)
@NODE
@click.option("--weight", type=WEIGHT, help="Its share, relative to others. Default: 1.")
@DRY_RUN
def join(shell: Shell, node: str, weight: int | None, dry_run: bool) -> None:
    """Stage that NODE, which runs and knows the ring, shall own its share of it.

    It runs and knows the ring once it was started with the file of a joiner (`dynamo config init
    --join`) or with `dynamo node start --join`. A node that was started just now is waited for.
    """
    at = await_heard(shell, "" if dry_run else node)
    _stage(shell, at, {"verb": "join", "node": node, "weight": weight}, dry_run)


@command(
    short_help="Stage: a node that is up hands all over, and goes",
    examples="""
    dynamo cluster leave n2
    dynamo cluster leave n2 --dry-run
    """,
)
@NODE
@DRY_RUN
def leave(shell: Shell, node: str, dry_run: bool) -> None:
    """Stage that NODE, which is up, hands all it owns over to the others and leaves.

    For a node that is down and will not come back there is `remove` or `replace`.
    """
    _stage(shell, contact(shell), {"verb": "leave", "node": node}, dry_run)


@command(
    short_help="Stage: a node that is down for good is given up",
    examples="""
    dynamo cluster remove n4             its copies are made anew from those of others
    dynamo cluster remove n4 --force     even where too few copies are left to be sure of all
    """,
)
@NODE
@FORCE
@DISCARD
@DRY_RUN
@YES
def remove(shell: Shell, node: str, force: bool, discard: bool, dry_run: bool, yes: bool) -> None:
    """Stage that NODE, which is down for good, is no member any more.

    The others make new copies from those that are left. Its name can never come back to this ring.
    For a node that is up there is `leave`.
    """
    at = contact(shell)
    _preview(shell, at, node, force, discard, yes or dry_run)
    body = {"verb": "remove", "node": node, "force": force, "discard": discard}
    _stage(shell, at, body, dry_run)


@command(
    short_help="Stage: a newcomer takes the place of a node",
    examples="""
    dynamo cluster replace n2 n6         n6 takes over what n2 owns
    dynamo cluster replace n2 --by n6    the same
    """,
)
@NODE
@click.argument("newcomer", metavar="[NEWCOMER]", default="")
@click.option("--by", metavar="NEWCOMER", default="", help="The node that takes its place.")
@FORCE
@DISCARD
@DRY_RUN
@YES
def replace(
    shell: Shell,
    node: str,
    newcomer: str,
    by: str,
    force: bool,
    discard: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Stage that NEWCOMER takes the place of NODE: only these two change what they own.

    NODE may be up, then it hands over; or down for good, then others do.
    """
    if bool(newcomer) == bool(by):
        raise click.UsageError(f"by which node? dynamo cluster replace {node} NEWCOMER")
    at = await_heard(shell, "" if dry_run else newcomer or by)
    body = {"verb": "replace", "node": node, "by": newcomer or by}
    if force or discard:
        _preview(shell, at, node, force, discard, yes or dry_run)
    _stage(shell, at, body | {"force": force, "discard": discard}, dry_run)


@command(
    short_help="Stage: another share for a node",
    examples="""
    dynamo cluster reweight n3 2         twice the share of a node of weight 1
    """,
)
@NODE
@click.argument("weight", type=WEIGHT)
@DRY_RUN
def reweight(shell: Shell, node: str, weight: int, dry_run: bool) -> None:
    """Stage another share for NODE, relative to the weights of the others."""
    _stage(shell, contact(shell), {"verb": "reweight", "node": node, "weight": weight}, dry_run)


def _preview(shell: Shell, at: Contact, node: str, force: bool, discard: bool, yes: bool) -> None:
    """Show what goes with a node, and ask for its name."""
    from dynamo.cli.removing import preview

    _check_name(at, node)
    if at.members[node]["state"] == "up":
        return  # the node that is asked refuses that, and says what to do instead
    preview(shell, node, force, discard)
    confirm(shell, node, yes, f"{node} goes for good, once that is committed")


def _stage(shell: Shell, at: Contact, body: Mapping[str, Any], dry_run: bool) -> None:
    """Stage one change, or say that it would be, and show all that is staged."""
    wanted = {name: value for name, value in body.items() if value not in (False, None)}
    if dry_run:
        _check_name(at, body["node"])
        _tell(shell, {"would_stage": wanted}, f"Would stage: {words(wanted)}.", "")
        return
    staged = change(shell, at, "stage", wanted)["staged"]
    if shell.json:
        shell.emit({"staged": staged})
        return
    print_staged(shell, staged)
    shell.say("\nNothing has changed yet. Next: dynamo cluster plan")


def _check_name(at: Contact, node: str) -> None:
    if node not in at.members:
        close = get_close_matches(node, at.members, 1)
        guess = f"did you mean {close[0]}?" if close else f"known: {', '.join(at.members)}"
        raise exits.Refused(f"the ring knows no node {node!r}; {guess}")


def _tell(shell: Shell, told: Mapping[str, Any], text: str, then: str) -> None:
    if shell.json:
        shell.emit(told)
        return
    shell.print(text)
    if then:
        shell.say(f"\nNext: {then}")


# --- plan, commit, clear --------------------------------------------------------------------------


@command(
    short_help="Show what the staged changes would move and risk",
    examples="""
    dynamo cluster plan
    dynamo cluster plan --json | jq .bytes
    """,
)
def plan(shell: Shell) -> None:
    """Show what the staged changes would move, and what could go wrong meanwhile.

    Who owns how much now and then, bytes, time at the transfer limit, which failures would cost a
    quorum until it is done, and which rules it breaks. Nothing is changed.
    """
    from dynamo.cli import planview

    at = contact(shell)
    try:
        made = change(shell, at, "plan", {})
    except exits.Refused as refusal:
        if at.staged:
            raise
        text = f"There is nothing to plan: {refusal}."
        _tell(shell, {"plan": "", "staged": []}, text, "dynamo cluster --help")
        return
    if shell.json:
        shell.emit(made)
        return
    planview.draw(shell, made)
    shell.say(
        f"\nNothing has changed yet. Apply: dynamo cluster commit {made['plan']}\n"
        "                         Forget: dynamo cluster clear"
    )


@command(
    short_help="Apply what is staged",
    examples="""
    dynamo cluster commit 3f9a21c40b77d015    the plan that was looked at, and no other
    dynamo cluster commit                     shows the plan, and asks
    dynamo cluster commit --yes --wait        for scripts: whatever is staged, to its end
    """,
)
@click.argument("plan", metavar="[PLAN]", default="")
@click.option("--wait", is_flag=True, help="Follow the task to its end.")
@DRY_RUN
@YES
def commit(shell: Shell, plan: str, wait: bool, dry_run: bool, yes: bool) -> int | None:
    """Apply the staged changes. They become a task, which goes on by itself.

    PLAN is the id that `plan` prints, or its first digits: if the ring has moved since, nothing is
    done. What may lose data shows that first, and asks for the names of the nodes.
    """
    from dynamo.cli import planview

    if plan and len(plan) < PLAN_DIGITS_MIN:
        raise click.UsageError(f"{plan!r} is too short: write {PLAN_DIGITS_MIN} digits or more")
    at = contact(shell)
    made = change(shell, at, "plan", {})
    if not made["plan"].startswith(plan):
        raise exits.Refused(
            f"the ring, or what is staged, has changed since plan {plan}: nothing is done",
            then="dynamo cluster plan",
        )
    if not shell.json and (dry_run or not yes) and (dry_run or not plan or made.get("loss")):
        planview.draw(shell, made)
        shell.print()
    if dry_run:
        told = {"would_commit": made["plan"], "arcs": made["arcs"], "moves": made["moves"]}
        _tell(shell, told, "Nothing was changed: this was a dry run.", "")
        return None
    _confirm_plan(shell, made, plan, yes)
    told = change(shell, at, "commit", {"plan": made["plan"]})
    return _committed(shell, told, wait)


def _confirm_plan(shell: Shell, made: Mapping[str, Any], given: str, yes: bool) -> None:
    """What may lose data asks for names, a plan that was not named for a yes."""
    if made.get("loss"):
        gone = [change["node"] for change in made["staged"] if change.get("force")]
        gone = gone or [change["node"] for change in made["staged"]]
        confirm(shell, " ".join(gone), yes, "This may lose data that was acknowledged")
    elif not given:
        confirm(shell, "yes", yes, "What you see above is carried out")


def _committed(shell: Shell, told: Mapping[str, Any], wait: bool) -> int | None:
    from dynamo.cli.tasks import follow

    task = told["task"]
    if wait:
        shell.say(f"Committed as task {task}.")
        return follow(shell, task)
    text = f"Committed as task {task}: {show.plural(told['arcs'], 'arc')} will change owners, "
    text += f"{show.plural(told['moves'], 'replica')} will travel."
    _tell(shell, told, text, f"dynamo tasks {task} --wait, or dynamo transfers")
    return None


@command(
    short_help="Forget what is staged",
    examples="""
    dynamo cluster clear
    dynamo cluster clear n4              only what is staged for n4
    """,
)
@click.argument("node", metavar="[NODE]", default="")
@DRY_RUN
def clear(shell: Shell, node: str, dry_run: bool) -> None:
    """Forget what is staged. What is committed goes on: see `dynamo tasks --abort`."""
    at = contact(shell)
    going = [change for change in at.staged if not node or change["node"] == node]
    if not going:
        whose = f" for {node}" if node else ""
        _tell(shell, {"forgotten": [], "staged": at.staged}, f"Nothing is staged{whose}.", "")
        return
    gone = show.listed(words(change) for change in going)
    if dry_run:
        _tell(shell, {"would_forget": going}, f"Would forget: {gone}.", "")
        return
    left = change(shell, at, "clear", {"node": node} if node else {}).get("staged", [])
    _tell(shell, {"forgotten": going, "staged": left}, f"Forgotten: {gone}.", "")


# --- init -----------------------------------------------------------------------------------------

init = HelpFirst(
    "init",
    callback=init_of_config.callback,
    params=init_of_config.params,
    context_settings=init_of_config.context_settings,
    short_help="Write the files of a first ring, or of nodes that join",
    help=f"{init_of_config.help}\n\nThe same as `dynamo config init`: there is one way to begin.",
    examples="""
    dynamo cluster init ring --nodes 3   ring/n1.toml, ring/n2.toml, ring/n3.toml
    dynamo cluster init                  one node: ./dynamo.toml
    """,
)

for verb in (init, join, leave, remove, replace, reweight, plan, commit, clear):
    cluster.add_command(verb)
