"""The two ways to play the demo, from the first node to the last, with everything cleared away."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dynamo.client.errors import DynamoError
from dynamo.demo.records import Records
from dynamo.demo.script import Story, Teller
from dynamo.demo.signals import Stops
from dynamo.demo.stage import Stage

FRAME_S = 0.1


def script(
    records: Records, path: Path | None, timeout: float, write: Callable[[str], None] | None
) -> tuple[bool, dict[str, Any]]:
    """The story in plain lines through `write`, or in silence; whether it held, and its facts."""
    teller = Teller(write or (lambda line: None))
    with ExitStack() as opened:
        stops = opened.enter_context(Stops())
        stage = _opened(opened, stops, path, records)
        story = Story(stage, teller, timeout, stops.held)
        try:
            story.play()
        except DynamoError as error:
            teller.claim(False, str(error))
    held = not teller.broken
    if held:
        teller.say("The story held: a node died, the network split, and no write was lost.")
    else:
        teller.say('THE STORY DID NOT HOLD: see the lines marked with "!".', "!")
    teller.more(
        "The nodes are stopped, and nothing is left behind."
        if path is None
        else f"The nodes are stopped; their data is kept: dynamo demo --path {path}"
    )
    facts = {"held": held, "seconds": round(teller.seconds, 1), **story.facts}
    return held, facts | {"broken": teller.broken}


def _opened(opened: ExitStack, stops: Stops, path: Path | None, records: Records) -> Stage:
    """The stage, to be closed in the end; a signal meanwhile waits until that is certain."""
    with stops.held():
        stage = opened.enter_context(Stage(path, records))
        opened.callback(stops.closing)
    return stage


def live(records: Records, path: Path | None, program: str) -> tuple[bool, str]:
    """The live view until q; whether nothing was lost, and last words."""
    from rich.console import Console
    from rich.live import Live

    from dynamo.demo.keys import Keyboard
    from dynamo.demo.live import Director
    from dynamo.demo.view import View

    with ExitStack() as opened:
        stops = opened.enter_context(Stops())
        stage = _opened(opened, stops, path, records)
        director = opened.enter_context(Director(stage, program))
        keyboard = opened.enter_context(Keyboard())
        screen = Live(
            console=Console(),
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        opened.enter_context(screen)
        opened.callback(stops.closing)
        while not director.over.is_set():
            screen.update(View(director.scene()), refresh=True)
            for key in keyboard.read(FRAME_S):
                director.press(key)
    return director.last_words(path)
