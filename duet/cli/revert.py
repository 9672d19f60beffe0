"""`duet revert`: a detector without one of its increments; no training, no data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duet.cli.common import PATH
from duet.cli.remerge import merge_again, remerge_options

EPILOG = """\b
Examples:
  duet revert runs/demo/models/duet-plus/2-comic comic --out runs/demo/without-comic
  duet revert DETECTOR INCREMENT --out DIR --weights W --increments old/increments
  duet revert DETECTOR INCREMENT --out DIR --dry-run --json
"""


@click.command("revert", epilog=EPILOG)
@click.argument("detector", type=PATH, metavar="DETECTOR")
@click.argument("increment", metavar="INCREMENT")
@remerge_options
def revert(
    detector: Path, increment: str, out: Path, roots: tuple[Path, ...], weights: str | None,
    trust: bool, **options: Any,
) -> None:  # fmt: skip
    """Merge DETECTOR again without INCREMENT: its classes and its weights go.

    Says whether that is exact. What later increments took from it stays in them.
    """
    from duet.recipes import edits

    edit = edits.revert(detector, increment, roots=roots, weights=weights, trust=trust)
    merge_again(edit, out, **options)
