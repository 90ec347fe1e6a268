"""`dynamo version` and `dynamo completion`."""

from __future__ import annotations

import platform

import click

from dynamo.cli.main import COMPLETE
from dynamo.cli.shared import Shell, command

_WHERE = {
    "bash": 'eval "$(dynamo completion bash)"        in ~/.bashrc',
    "zsh": 'eval "$(dynamo completion zsh)"         in ~/.zshrc, after compinit',
    "fish": "dynamo completion fish > ~/.config/fish/completions/dynamo.fish",
}


@command(
    examples="""
    dynamo version
    dynamo version --json
    """
)
def version(shell: Shell) -> None:
    """Versions of this package, of the protocol and of Python."""
    import dynamo
    from dynamo.core.messages import VERSION

    found = {
        "version": dynamo.__version__,
        "protocol": VERSION,
        "python": platform.python_version(),
    }
    if shell.json:
        shell.emit(found)
    else:
        shell.print(
            f"dynamo {found['version']}, protocol {found['protocol']}, Python {found['python']}"
        )


@command(examples="\n".join(_WHERE.values()))
@click.argument("name", type=click.Choice(list(_WHERE)), metavar="bash|zsh|fish")
def completion(shell: Shell, name: str) -> None:
    """Print what a shell needs to complete commands and options."""
    from click.shell_completion import get_completion_class

    from dynamo.cli.group import cli

    kind = get_completion_class(name)
    assert kind is not None, "click has all three"
    script = kind(cli, {}, "dynamo", COMPLETE).source()
    if shell.json:
        shell.emit({"shell": name, "script": script})
    else:
        shell.print(script)
