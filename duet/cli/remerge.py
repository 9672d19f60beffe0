"""What `duet revert` and `duet scale` share: their options, and merging a detector again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from duet.cli.common import PATH, emit, hint, json_option, trust_option, writing
from duet.cli.names import weights_option
from duet.progress import counting, note
from duet.text import printable

if TYPE_CHECKING:
    from duet.recipes.edits import Edit

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
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


def remerge_options(command: Command) -> Command:
    """Add the options of a command that merges a detector again."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def merge_again(
    edit: Edit, out: Path, *, overwrite: bool, images: Path | None, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Do an edited merge, and say how exact it is."""
    from duet.recipes.prepared import Prepared
    from duet.recipes.texts import written_text

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
    with writing(out, overwrite=overwrite), counting(f"{edit.plan.recipe.method} merge") as step:
        written = merge.write(out, overwrite=overwrite, listen=step)
    for remark in written.remarks:
        note(f"note: {remark}")
    emit({**written.as_dict(), **verdict}, as_json, written_text)
    hint("duet", "predict", out, "IMAGES")
