"""The group of all commands: loaded one at a time, misspellings answered, errors made sentences."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from dynamo.cli import exits, show
from dynamo.cli.main import COMMANDS, COMPLETE, SECTIONS
from dynamo.cli.shared import CONTEXT, Verbs, error_json, sentence


class LazyGroup(Verbs):
    """A click group whose commands are imported when they are asked for."""

    def __init__(self, table: Mapping[str, str], **more: Any) -> None:
        super().__init__(**more)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = self._table.get(cmd_name)
        if target is None:
            return None
        module, _, name = target.partition(":")
        try:
            command: click.Command = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            return None  # a command of another version of this package
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # One width for all sections, so that the columns line up from section to section.
        width = max(map(len, self._table))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])


@click.command(
    cls=LazyGroup,
    table=COMMANDS,
    examples="""
    dynamo demo                        see a ring lose a node, and lose nothing
    dynamo config init --nodes 3       files for a ring of your own
    dynamo put cart:7 '["tea"]' --as json
    dynamo explain cart:7              who holds what of a key, and why
    """,
    context_settings={**CONTEXT, "ignore_unknown_options": True},
    invoke_without_command=True,
)
@click.option("--version", is_flag=True, help="Show the version and exit.")
@click.pass_context
def cli(ctx: click.Context, version: bool) -> None:
    """An always-writable, eventually consistent key-value store.

    Commands talk to the ring at --url, else DYNAMO_URL, else dynamo://127.0.0.1:7001; one
    reachable node is enough. All take --json, --url and --timeout.
    """
    if version:
        import dynamo

        click.echo(f"dynamo {dynamo.__version__}")
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def dispatch(args: list[str]) -> int:
    """Run the command in `args`; every foreseeable error becomes a sentence and a code."""
    try:
        with cli.make_context("dynamo", args) as ctx:
            code = cli.invoke(ctx)
        sys.stdout.flush()
        return code if isinstance(code, int) else exits.OK
    except click.exceptions.Exit as done:
        return done.exit_code
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, click.Abort):
        raise KeyboardInterrupt from None
    except Exception as error:
        if not foreseen(error):
            raise
        options = args[: args.index("--")] if "--" in args else args
        complain(error, as_json="--json" in options)
        return exits.of_error(error)


def foreseen(error: Exception) -> bool:
    """Whether an error is the user's or the world's, and not a bug of this program."""
    from dynamo.client.errors import DynamoError
    from dynamo.server.config import ConfigError
    from dynamo.storage import StoreError

    return isinstance(
        error, DynamoError | click.ClickException | ConfigError | StoreError | OSError
    )


def complain(error: Exception, as_json: bool) -> None:
    """Say on stderr what went wrong: a sentence, or with --json one object."""
    if as_json:
        print(json.dumps(error_json(error), ensure_ascii=False), file=sys.stderr)
        return
    message = sentence(error)
    ctx = getattr(error, "ctx", None)
    if isinstance(error, click.UsageError) and ctx is not None:
        message += f"\nHelp: {ctx.command_path} --help"
    if then := getattr(error, "then", ""):
        message += f"\nNext: {then}"
    key = getattr(error, "key", "")
    if key and getattr(error, "maybe_applied", False):
        message += f"\nSee who holds what: dynamo explain {show.shell_word(show.key_arg(key))}"
    lines = [show.escaped(line) for line in f"dynamo: {message}".splitlines()]
    print(show.wrapped("\n".join(lines), sys.stderr), file=sys.stderr)


def complete(instruction: str) -> int:
    """Answer a shell that asks what could stand where the user pressed the tab key."""
    from click.shell_completion import shell_complete

    return shell_complete(cli, {}, "dynamo", COMPLETE, instruction)
