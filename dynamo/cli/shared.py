"""What every command gets: its options, a way to the ring, and a place for its output.

    @command(examples="dynamo hints    who owes what to whom")
    def hints(shell: Shell) -> int | None:
        ...

`shell` comes first, then the command's own parameters by name. What the function returns is the
exit code, None for 0. Data goes to stdout, talk to stderr; with --json stdout carries one object
and nothing else.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable
from contextlib import ExitStack
from difflib import get_close_matches
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import click

from dynamo.cli import show

if TYPE_CHECKING:
    from dynamo.cli.progress import Progress
    from dynamo.client.blocking import Bucket, Client
    from dynamo.client.options import Options
    from dynamo.server.admin import Admin
    from dynamo.server.config import Address

# How long a question to the nodes may take where --timeout does not say.
ASK_S = 2.0
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Ring(NamedTuple):
    """The ring as one of its nodes knows it. `owners[arc]`: the preference list of an arc."""

    cluster: str
    version: int
    n: int
    partitions: int
    r: int
    w: int
    nodes: dict[str, Address]
    owners: list[tuple[str, ...]]


class Shell:
    """One run of one command."""

    def __init__(self, as_json: bool, url: str | None, timeout: float | None) -> None:
        self.json = as_json
        self.url = url
        self.timeout = timeout
        self._open = ExitStack()
        self._ring: Ring | None = None
        self._admin: Admin | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    # --- output -------------------------------------------------------------------------------

    def emit(self, obj: object) -> None:
        """The one JSON object of this command."""
        sys.stdout.write(json.dumps(obj, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def print(self, what: object = "") -> None:
        """Data for people, on stdout: a text as it is, anything else as rich renders it."""
        if isinstance(what, str):
            sys.stdout.write(what + "\n")
        else:
            show.draw(what)

    def say(self, what: object) -> None:
        """Talk, on stderr; nothing with --json."""
        if self.json:
            return
        sys.stdout.flush()
        if isinstance(what, str):
            print(show.wrapped(what, sys.stderr), file=sys.stderr, flush=True)
        else:
            show.draw(what, stderr=True)

    def fail(self, error: Exception, more: dict[str, Any]) -> None:
        """With --json: an error as an object on stderr, with what else a script may want."""
        if self.json:
            print(json.dumps(error_json(error) | more, ensure_ascii=False), file=sys.stderr)

    def progress(self, total: int | None, what: str) -> Progress:
        """Of long work: a bar on a terminal, a line now and then elsewhere, nothing with --json.

        A context manager with `advance(n)`. `total` None: it is not known.
        """
        from dynamo.cli.progress import progress

        return progress(total, what, silent=self.json)

    # --- the ring -----------------------------------------------------------------------------

    def options(self, **options: Any) -> Options:
        """Where the ring is, and with what options it is used; checked."""
        from dynamo.client.options import resolve

        return resolve(self.url, os.environ.get("DYNAMO_URL"), options)

    def bucket(self, name: str | None) -> Bucket[Any]:
        """The bucket of that name, or the URL's, on a client of its own."""
        kv = self.client()
        return kv.bucket(name) if name is not None else kv

    def client(self, **options: Any) -> Client:
        """A client of the ring, closed when the command ends."""
        from dynamo.client.blocking import connect

        options.setdefault("timeout", self.timeout)
        return self._open.enter_context(connect(self.url, **options))

    @property
    def admin(self) -> Admin:
        """For questions to nodes, one by one."""
        if self._admin is None:
            from dynamo.server.admin import Admin

            self._admin = Admin()
        return self._admin

    @property
    def ask_s(self) -> float:
        """How long to wait for the answers of nodes."""
        return self.timeout if self.timeout is not None else ASK_S

    def ring(self) -> Ring:
        """Members and owners, from the first node of the URL that answers."""
        if self._ring is None:
            self._ring = self._ask_ring()
        return self._ring

    def nodes(self) -> dict[str, Address]:
        """All members, as any node of the URL knows them."""
        return self.ring().nodes

    def _ask_ring(self) -> Ring:
        from dynamo.client.errors import ConnectionFailed
        from dynamo.convergence import unpack_owners
        from dynamo.server.config import Address

        seeds = {}
        for seed in self.options().seeds:
            host, _, port = seed.rpartition(":")
            seeds[seed] = Address(host, int(port))
        answers = self.admin.ring(seeds, self.ask_s)
        if not answers:
            silent = f"no answer in {self.ask_s:g} s"
            raise ConnectionFailed(
                f"no node reachable at {', '.join(seeds)} ({silent})",
                dict.fromkeys(seeds, silent),
                hint="Is a node running there? Start one with `dynamo node start`, or name "
                "another with --url or DYNAMO_URL",
            )
        _, _, cluster, version, n, partitions, r, w, members, owners, _ = next(
            iter(answers.values())
        )
        nodes = {name: Address(host, port) for name, host, port in members}
        shares = unpack_owners(owners, list(nodes))
        return Ring(cluster, version, n, partitions, r, w, nodes, shares)

    def ask(self, what: str) -> dict[str, dict[str, Any]]:
        """STATUS of all members at once; those that did not answer in time are left out."""
        return self.admin.status(self.nodes(), what, self.ask_s)


def error_json(error: Exception) -> dict[str, Any]:
    """What stderr carries with --json when a command fails."""
    then = getattr(error, "then", "")
    return {
        "error": type(error).__name__,
        "message": sentence(error),
        "maybe_applied": bool(getattr(error, "maybe_applied", False)),
    } | ({"try": then} if then else {})


def sentence(error: Exception) -> str:
    """What went wrong, for people."""
    if isinstance(error, click.ClickException):
        text = error.format_message()
        first, _, rest = text.partition(" ")
        return f"{first.lower()} {rest}" if first.istitle() else text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


# --- options ----------------------------------------------------------------------------------


class Duration(show.ParamType):
    """Seconds as a float, from 2, 500ms, 2s or 1m."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)([a-z]*)", str(value))
        if not found or found[2] not in _UNITS_S or float(found[1]) <= 0:
            self.fail(f"{value!r} is no duration above 0: write 2, 500ms, 2s or 1m", param, ctx)
        return float(found[1]) * _UNITS_S[found[2]]


DURATION = Duration()


class Level(show.ParamType):
    """r or w: a count, or one, quorum, all."""

    name = "level"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        word = str(value)
        if word in ("one", "quorum", "all"):
            return word
        if not (word.isascii() and word.isdigit()) or int(word) < 1:
            self.fail(f"{word!r} is no level: write a count from 1, quorum or all", param, ctx)
        return int(word)


class HelpFirst(click.Command):
    """A command whose help begins with examples: most people need nothing else."""

    def __init__(self, *args: Any, examples: str = "", **more: Any) -> None:
        super().__init__(*args, **more)
        self.examples = textwrap.dedent(examples).strip()

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}".rstrip() + "\n")
            formatter.write_paragraph()
        super().format_help(ctx, formatter)

    def get_short_help_str(self, limit: int = 45) -> str:
        return super().get_short_help_str(limit).rstrip(".")


class Verbs(HelpFirst, click.Group):
    """A command that has commands of its own, and answers a misspelt one with its like."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None:
            known = [name for name in self.list_commands(ctx) if self.get_command(ctx, name)]
            raise click.UsageError(_unknown(ctx, args[0], known), ctx)
        return super().resolve_command(ctx, args)


def _unknown(ctx: click.Context, word: str, known: list[str]) -> str:
    if word.startswith("-"):
        return f"options stand behind the command: {ctx.command_path} COMMAND {word}"
    close = get_close_matches(word, known, 2, 0.5)
    guess = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(known)}"
    return f"there is no command '{ctx.command_path} {word}'; {guess}"


_COMMON = (
    click.Option(["--json", "as_json"], is_flag=True, help="One JSON object on stdout."),
    click.Option(
        ["--url"],
        metavar="URL",
        help="The ring, dynamo://host:port,host:port/bucket. Default: DYNAMO_URL, else "
        "dynamo://127.0.0.1:7001.",
    ),
    click.Option(
        ["--timeout"], type=DURATION, metavar="TIME", help="How long to wait: 2, 500ms, 2s or 1m."
    ),
)

Function = Callable[..., Any]


def command(
    name: str | None = None, *, examples: str = "", ring: bool = True, **attributes: Any
) -> Callable[[Function], click.Command]:
    """A command of dynamo: `function(shell, **parameters)`, with the options that all have.

    `ring`: whether it talks to one, and so takes --url and --timeout.
    """

    def decorate(function: Function) -> click.Command:
        @functools.wraps(function)
        def run(
            *, as_json: bool, url: str | None = None, timeout: float | None = None, **given: Any
        ) -> Any:
            with Shell(as_json, url, timeout) as shell:
                return function(shell, **given)

        # As click's decorators leave them, last one first: the command's own options stand above
        # the common ones in its help.
        own = getattr(function, "__click_params__", [])
        common = _COMMON if ring else _COMMON[:1]
        vars(run)["__click_params__"] = [*reversed(common), *own]
        attributes.setdefault("context_settings", CONTEXT)
        made: click.Command = click.command(name, cls=HelpFirst, examples=examples, **attributes)(
            run
        )
        return made

    return decorate


def group(
    name: str | None = None, *, examples: str = "", **attributes: Any
) -> Callable[[Function], click.Group]:
    """A command that has commands of its own, such as `node`; alone, it prints its help."""

    def decorate(function: Function) -> click.Group:
        @functools.wraps(function)
        def run() -> None:
            ctx = click.get_current_context()
            if ctx.invoked_subcommand is None:
                click.echo(ctx.get_help())

        attributes.setdefault("context_settings", CONTEXT)
        made: click.Group = click.group(
            name, cls=Verbs, examples=examples, invoke_without_command=True, **attributes
        )(run)
        return made

    return decorate


# --- keys -------------------------------------------------------------------------------------

KEY = click.argument("key", type=show.KeyText(), metavar="KEY")
BUCKET = click.option("-b", "--bucket", metavar="NAME", help="The bucket. Default: the URL's.")
