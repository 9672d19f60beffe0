"""`duet revert` and `duet scale`: a detector merged again in another way; no training, no data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import PATH, emit, json_option, several, trust_option
from duet.cli.names import weights_option
from duet.cli.running import write_merge
from duet.progress import note
from duet.text import printable

if TYPE_CHECKING:
    from duet.recipes.edits import Edit

REVERT_EPILOG = """\b
Examples:
  duet revert runs/demo/models/duet-plus/2-comic comic --out runs/demo/without-comic
  duet revert DETECTOR INCREMENT --out DIR --weights W --increments old/increments
  duet revert DETECTOR INCREMENT --out DIR --dry-run --json
"""
SCALE_EPILOG = """\b
Examples:
  duet scale runs/demo/models/duet-plus/2-comic comic 0.7 --out runs/demo/less-comic
  duet scale runs/demo/less-comic comic 1 --out runs/demo/as-before
  duet scale --out DIR DETECTOR INCREMENT -- -0.5
"""
_remerge_options = several(
    click.option("--out", type=PATH, required=True, help="Detector folder."),
    click.option("--overwrite", is_flag=True, help="Replace an older detector in --out."),
    weights_option("θ_0, if not what the detector's recipe names"),
    click.option(
        "--increments",
        "roots",
        multiple=True,
        type=PATH,
        help="Folder to search for increments that were moved.",
    ),
    click.option("--images", type=PATH, help="Unlabelled, for learned merges."),
    trust_option,
    click.option("--dry-run", is_flag=True, help="Check everything, merge nothing."),
    json_option,
)


@click.command("revert", epilog=REVERT_EPILOG)
@click.argument("detector", type=PATH, metavar="DETECTOR")
@click.argument("increment", metavar="INCREMENT")
@_remerge_options
def revert(
    detector: Path, increment: str, out: Path, roots: tuple[Path, ...], weights: str | None,
    trust: bool, **options: Any,
) -> None:  # fmt: skip
    """Merge DETECTOR again without INCREMENT: its classes and its weights go.

    Says whether that is exact. What later increments took from it stays in them.
    """
    from duet.recipes import edits

    edit = edits.revert(detector, increment, roots=roots, weights=weights, trust=trust)
    _merge_again(edit, out, **options)


@click.command("scale", epilog=SCALE_EPILOG)
@click.argument("detector", type=PATH, metavar="DETECTOR")
@click.argument("increment", metavar="INCREMENT")
@click.argument("factor", type=click.FloatRange(-2, 2), metavar="FACTOR")
@_remerge_options
def scale(
    detector: Path, increment: str, factor: float, out: Path, roots: tuple[Path, ...],
    weights: str | None, trust: bool, **options: Any,
) -> None:  # fmt: skip
    """Merge DETECTOR again with FACTOR times what INCREMENT changed of the shared weights.

    FACTOR replaces the factor so far; 1 is as it was trained. Negative ones stand after `--`.
    """
    from duet.recipes import edits

    edit = edits.rescale(detector, increment, factor, roots=roots, weights=weights, trust=trust)
    _merge_again(edit, out, **options)


def _merge_again(
    edit: Edit, out: Path, *, overwrite: bool, images: Path | None, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Do an edited merge, and say how exact it is."""
    from duet.recipes.prepared import Prepared

    merge = Prepared(edit.plan, images)
    planned = merge.rehearse() if dry_run else None
    verdict = {"exact": edit.exact, "why": edit.why}
    note(f"note: {'exact' if edit.exact else 'not exact'}: {edit.why}")
    for remark in edit.plan.remarks:
        note(f"note: {remark}")
    if planned is not None:
        names = printable(" + ".join(source.name for source in edit.plan.sources))
        words = f"would merge {names} -> {out}; nothing was written"
        emit({**planned, **verdict}, as_json, lambda _: words)
        return
    write_merge(merge, out, verdict, overwrite=overwrite, as_json=as_json)
