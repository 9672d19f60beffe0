"""`duet completion`: the script that lets a shell complete duet's words."""

from __future__ import annotations

import click

EPILOG = """\b
Examples:
  duet completion bash >> ~/.bashrc
  duet completion zsh >> ~/.zshrc
  duet completion fish > ~/.config/fish/completions/duet.fish
"""


@click.command("completion", epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes TAB complete commands, options, merge methods, strategies and weights.

    The script calls duet when TAB is pressed; put it where your shell reads it.
    """
    from click.shell_completion import get_completion_class

    from duet.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None, shell
    click.echo(found(cli, {}, "duet", "_DUET_COMPLETE").source())
