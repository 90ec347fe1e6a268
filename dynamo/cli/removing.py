"""What goes with a node that is to be removed, before anybody confirms it."""

from __future__ import annotations

from dynamo.cli import show
from dynamo.cli.shared import Shell
from dynamo.cli.survey import STATE_STYLES, Survey, survey


def preview(shell: Shell, node: str, force: bool, discard: bool) -> None:
    """State, shares, hints and bare arcs of the node; nothing with --json."""
    if shell.json:
        return
    found = survey(shell)
    if node not in found.ring.nodes:
        return  # it owns nothing, and nothing can go with it
    state = found.state(node)
    silent_s = found.silent_s(node)
    since = f" {show.span(silent_s)}" if state != "up" and silent_s is not None else ""
    primary, replica = found.shares()[node]
    shell.print(
        show.text(
            (node, "bold"),
            "  ",
            (state.upper() + since if state == "down" else state, STATE_STYLES[state]),
            f"   first owner of {100 * primary:.1f} % of the keys, holds a copy of "
            f"{100 * replica:.1f} %",
        )
    )
    shell.print(show.text(f"  {_copies(found, node)}"))
    if waiting := found.hints_for().get(node):
        shell.print(
            f"  {show.plural(waiting, 'hint waits', 'hints wait')} for it, and will go to the new "
            "owners instead."
        )
    if force:
        shell.print("  With --force nobody waits for it: what only its copies hold is given up.")
    if discard:
        shell.print("  With --discard, what it holds is not taken in should it ever come back.")
    shell.print()


def _copies(found: Survey, node: str) -> str:
    """How many copies are left of what it holds."""
    up = [name for name in found.states() if name not in found.away and name != node]
    held = [owners for owners in found.ring.owners if node in owners]
    if not held:
        return "It owns nothing."
    left = [sum(name in up for name in owners) for owners in held]
    bare = left.count(0)
    if bare:
        part = 100 * bare / len(found.ring.owners)
        return f"Of {part:.1f} % of the keys no other copy is on a node that is up."
    least = min(left)
    return (
        f"Of all it holds there {'is' if least == 1 else 'are'} at least "
        f"{show.plural(least, 'other copy', 'other copies')} on nodes that are up."
    )
