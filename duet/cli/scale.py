"""`duet scale`: a detector in which one increment counts more or less; no training, no data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duet.cli.common import PATH
from duet.cli.remerge import merge_again, remerge_options

EPILOG = """\b
Examples:
  duet scale runs/demo/models/duet-plus/2-comic comic 0.7 --out runs/demo/less-comic
  duet scale runs/demo/less-comic comic 1 --out runs/demo/as-before
  duet scale --out DIR DETECTOR INCREMENT -- -0.5
"""


@click.command("scale", epilog=EPILOG)
@click.argument("detector", type=PATH, metavar="DETECTOR")
@click.argument("increment", metavar="INCREMENT")
@click.argument("factor", type=click.FloatRange(-2, 2), metavar="FACTOR")
@remerge_options
def scale(
    detector: Path, increment: str, factor: float, out: Path, roots: tuple[Path, ...],
    weights: str | None, trust: bool, **options: Any,
) -> None:  # fmt: skip
    """Merge DETECTOR again with FACTOR times what INCREMENT changed of the shared weights.

    FACTOR replaces the factor so far; 1 is as it was trained. Negative ones stand after `--`.
    """
    from duet.recipes import edits

    edit = edits.rescale(detector, increment, factor, roots=roots, weights=weights, trust=trust)
    merge_again(edit, out, **options)
