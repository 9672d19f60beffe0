"""Names that come with duet, as words of options: what the shell offers when TAB is pressed."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

from duet.cli.common import NAME_OR_PATH, Command


def merge_methods(
    _context: click.Context, _option: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Return the merge methods that begin so."""
    from duet.merging.table import METHODS

    return [CompletionItem(name) for name in METHODS if name.startswith(begun)]


def strategies(
    _context: click.Context, _option: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Return the shipped ways to learn increments that begin so, and files."""
    from duet.shipped import shipped

    files = sorted(shipped("configs", "strategy").glob("*.yaml"))
    return _or_files([file.stem for file in files], begun)


def start_weights(
    _context: click.Context, _option: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Return the start weights on this machine whose names begin so, and files."""
    from duet.weights import load_manifest, presence

    manifest = load_manifest()
    here = [row.name for row in manifest.rows if presence(row, manifest) != "not downloaded"]
    return _or_files(here, begun)


def downloads(
    _context: click.Context, _option: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Return all start weights whose names begin so, and files."""
    from duet.weights import load_manifest

    return _or_files([row.name for row in load_manifest().rows], begun)


def _or_files(names: list[str], begun: str) -> list[CompletionItem]:
    # Files first: the script for bash forgets what came before them.
    found = [CompletionItem(name) for name in names if name.startswith(begun)]
    return [CompletionItem(begun, type="file"), *found]


def weights_option(about: str) -> Callable[[Command], Command]:
    """Return the option ``--weights``, which names θ_0 alike in every command."""
    return click.option(
        "--weights",
        type=NAME_OR_PATH,
        shell_complete=start_weights,
        help=f"{about}: a file, or a name of `duet weights ls`.",
    )
