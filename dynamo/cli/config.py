"""`dynamo config`: what a node's file amounts to, whether it can work, and a first one to start."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dynamo.cli import exits, show
from dynamo.cli.node import CONFIG
from dynamo.cli.shared import Shell, command, error_json, group

if TYPE_CHECKING:
    from dynamo.server.config import Settings

MADE_MAX = 100


@group(
    examples="""
    dynamo config init                 one node: ./dynamo.toml
    dynamo config init ring --nodes 3  a ring: ring/n1.toml, ring/n2.toml, ring/n3.toml
    dynamo config show -c ring/n1.toml
    dynamo config check ring/*.toml
    """
)
def config() -> None:
    """Write, check and show the configuration of nodes."""


# --- show -----------------------------------------------------------------------------------------


class Setting(NamedTuple):
    name: str
    value: Any
    source: str


@command(
    examples="""
    dynamo config show
    dynamo config show -c ring/n1.toml --json
    """
)
@CONFIG
def show_(shell: Shell, config: Path) -> None:
    """Show every setting of a node, and where it comes from: default, file or environment.

    The secret itself is never shown.
    """
    from dynamo.server.config import load

    settings = load(config, os.environ, make=False)
    found = list(_settings(config, settings))
    members = [
        {"name": member.name, "client": f"{member.host}:{member.client_port}"}
        | {"peer": f"{member.host}:{member.peer_port}", "zone": member.zone}
        | {"weight": member.weight}
        for member in settings.members
    ]
    if shell.json:
        values = {item.name: {"value": item.value, "source": item.source} for item in found}
        shell.emit({"file": str(config), "settings": values, "members": members})
        return
    rows = [
        (item.name, _shown(item), show.text((item.source, _SOURCE_STYLES[item.source.split()[0]])))
        for item in found
    ]
    shell.print(show.table(("SETTING", "VALUE", "FROM"), rows))
    shell.print()
    if not members:
        shell.print("No members listed: it joins the ring of its seeds.")
        return
    columns = ("MEMBER", "CLIENT", "PEER", "ZONE", ">WEIGHT")
    shell.print(
        show.table(columns, ([str(item) or "–" for item in entry.values()] for entry in members))
    )


_SOURCE_STYLES = {"default": "dim", "file": "green", "environment": "yellow"}


def _settings(path: Path, settings: Settings) -> Iterator[Setting]:
    """What `load` found valid, once more with its sources."""
    from dynamo.server.config import ClusterSection, NodeSection, TuningSection

    raw = tomllib.loads(path.read_text("utf-8"))
    kinds: dict[str, Any] = {"node": NodeSection, "cluster": ClusterSection}
    kinds["tuning"] = TuningSection
    for section, kind in kinds.items():
        defaults = kind()
        for field in kind.__struct_fields__:
            value = getattr(defaults, field)
            source = "default"
            if field in raw.get(section, {}):
                value, source = raw[section][field], "file"
            variable = f"DYNAMO_{section.upper()}_{field.upper()}"
            if variable in os.environ:
                value, source = _typed(os.environ[variable], value), f"environment {variable}"
            if (section, field) == ("node", "data_dir"):
                value = str(settings.data_dir)
            yield Setting(f"{section}.{field}", value, source)


def _typed(text: str, like: Any) -> Any:
    if isinstance(like, bool):
        return text == "true"
    if isinstance(like, list):
        return [part.strip() for part in text.split(",") if part.strip()]
    return int(text) if isinstance(like, int) else text


def _shown(item: Setting) -> str:
    if item.name in ("cluster.r", "cluster.w") and item.value == 0:
        return "0 (a quorum)"
    if isinstance(item.value, bool):
        return "true" if item.value else "false"
    if isinstance(item.value, int):
        return f"{item.value:,}"
    if isinstance(item.value, list):
        return ", ".join(item.value) or "–"
    return str(item.value) or "–"


# --- check ----------------------------------------------------------------------------------------


@command(
    examples="""
    dynamo config check
    dynamo config check ring/*.toml    each, and whether they are of one ring
    """
)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("-c", "--config", type=click.Path(path_type=Path), metavar="FILE", help="One more.")
def check(shell: Shell, files: tuple[Path, ...], config: Path | None) -> int:
    """Check files as a node would at its start, without starting or writing anything.

    Several files are also compared: the nodes of a ring must agree on members, name and secret.
    """
    from dynamo.server.config import ConfigError, load

    chosen = [*files, *([config] if config else [])] or [Path("dynamo.toml")]
    good: dict[Path, Settings] = {}
    bad: dict[Path, Exception] = {}
    for path in chosen:
        try:
            good[path] = load(path, os.environ, make=False)
        except ConfigError as error:
            bad[path] = error
    differences = list(_differences(good))
    if shell.json:
        told: list[dict[str, Any]] = [
            {"file": str(path), "ok": path in good}
            | ({"node": good[path].name} if path in good else error_json(bad[path]))
            for path in chosen
        ]
        shell.emit({"files": told, "differences": differences})
    else:
        for path in chosen:
            _print_checked(shell, path, good.get(path), bad.get(path))
        for difference in differences:
            shell.print(show.text(("differs", "bold red"), f"  {difference}"))
    return exits.USAGE if bad or differences else exits.OK


def _print_checked(
    shell: Shell, path: Path, settings: Settings | None, error: Exception | None
) -> None:
    if settings is None:
        shell.print(show.text(("wrong", "bold red"), f"  {path}: {error}"))
        return
    node = f"{settings.name}, one of {show.plural(len(settings.members), 'member')}"
    if len(settings.members) == 1:
        node = f"{settings.name}, alone"
    secret = "" if settings.cluster.secret else "; its secret is made at the first start"
    if not settings.members:
        node = f"{settings.name}, to join a ring at {show.listed(settings.seeds)}, one"
        secret = "" if settings.cluster.secret else "; it cannot start without the ring's secret"
    shell.print(
        show.text(
            ("ok", "bold green"),
            f"     {path}: {node} of {settings.cluster.name}; {settings.durability} in "
            f"{settings.data_dir}; clients at {settings.client}{secret}",
        )
    )


def _differences(good: dict[Path, Settings]) -> Iterator[str]:
    """What keeps the nodes of these files from being one ring."""
    if len(good) < 2:
        return
    (first, one), *others = good.items()
    names: dict[str, Path] = {one.name: first}
    places: dict[Path, Path] = {one.data_dir: first}
    for path, other in others:
        for what, here, there in (
            # A node that joins lists none.
            ("members", sorted(one.members or other.members), sorted(other.members or one.members)),
            ("cluster name", one.cluster.name, other.cluster.name),
            ("n", one.config.n, other.config.n),
            ("r", one.config.r, other.config.r),
            ("w", one.config.w, other.config.w),
            ("partitions", one.config.partitions, other.config.partitions),
            ("secret", one.cluster.secret, other.cluster.secret),
        ):
            if here != there:
                yield f"{what} of {path} and of {first}: nodes of one ring must agree on it"
        if other.name in names:
            yield f"{path} and {names[other.name]} are both of node {other.name}"
        if other.data_dir in places:
            yield f"{path} and {places[other.data_dir]} share the directory {other.data_dir}"
        names[other.name], places[other.data_dir] = path, path


# --- init -----------------------------------------------------------------------------------------


@command(
    examples="""
    dynamo config init                 one node: ./dynamo.toml
    dynamo config init ring --nodes 3  ring/n1.toml, ring/n2.toml, ring/n3.toml
    dynamo config init --nodes 5 --name shop --client-port 8001 --peer-port 8101
    dynamo config init --join ring/n1.toml   one more node: ring/n4.toml
    """
)
@click.argument("directory", type=click.Path(path_type=Path), required=False, metavar="[DIR]")
@click.option(
    "--join",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Nodes that join the ring of the node with this file, beside which theirs go.",
)
@click.option("--nodes", type=click.IntRange(1, MADE_MAX), default=1, show_default=True)
@click.option("--name", default="dynamo", show_default=True, help="What the ring is called.")
@click.option(
    "--durability",
    type=click.Choice(["fsync", "interval", "memory"]),
    default="fsync",
    show_default=True,
    help="When a write counts as stored: on disk, within a second, or never.",
)
@click.option(
    "--zone", default="", help="With --join: replicas go to different zones where they can."
)
@click.option(
    "--client-port",
    type=click.IntRange(1, 65_435),
    help="The first one. Default: 7001, or the next one of the ring.",
)
@click.option(
    "--peer-port",
    type=click.IntRange(1, 65_435),
    help="The first one. Default: 7101, or the next one of the ring.",
)
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def init(
    shell: Shell,
    directory: Path | None,
    join: Path | None,
    zone: str,
    force: bool,
    **wanted: Any,
) -> None:
    """Write the files of a new ring on this machine, ready for `dynamo node start`.

    With one node the file is dynamo.toml, which `node start` takes by default. With --join the
    files are of further nodes for a ring that exists. Nothing is overwritten without --force,
    nothing is started, and data goes beside the files.
    """
    from dynamo.cli.firstfiles import write, write_joiners

    if join is None:
        if zone:
            raise click.UsageError("--zone goes with --join; founders have theirs in [[members]]")
        write(shell, directory or Path("."), force, **wanted)
    else:
        del wanted["name"]
        write_joiners(shell, directory, join, force, zone=zone, **wanted)


show_.name = "show"
for verb in (init, check, show_):
    config.add_command(verb)
