"""`duet import`: a foreign detector becomes a duet detector folder, through the guarded door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duet.cli.common import (
    PATH,
    architecture_option,
    emit,
    hint,
    json_option,
    trust_option,
    writing,
)

EPILOG = """\b
Examples:
  duet import best.pt --as shop
  duet import best.pt --as shop --out detectors/shop --json
"""


@click.command("import", epilog=EPILOG)
@click.argument("file", type=PATH, metavar="MODEL")
@click.option("--as", "name", help="Name of its classes' increment [the file's name].")
@click.option(
    "--head", type=click.Choice(["towers", "parallel", "rows"]), default="towers",
    show_default=True, help="What stays its own when it is merged.",
)  # fmt: skip
@architecture_option
@trust_option
@click.option("--out", type=PATH, help="Detector folder [./NAME].")
@click.option("--overwrite", is_flag=True, help="Replace an older detector in --out.")
@json_option
def import_file(
    file: Path, name: str | None, head: Any, architecture: str | None, trust: bool,
    out: Path | None, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Read a detector of another program and keep it with its class names, in float32.

    MODEL is a .pt file of Ultralytics (YOLO, RT-DETR), or a folder of transformers (D-FINE).
    Nothing in it is run. `duet merge` takes such files directly, too.
    """
    from duet.errors import ModelError
    from duet.families.foreign import is_foreign
    from duet.recipes.plan import make_plan
    from duet.recipes.recipe import Entry, Recipe
    from duet.recipes.write import write_detector

    if not is_foreign(file):
        raise ModelError(
            f"expected a model that Ultralytics (.pt) or transformers (a folder) saved, "
            f"got '{file.name}'",
            where=str(file),
            remedy="folders that duet wrote need no import",
        )
    # The mean of one model is that model, to the bit.
    entry = Entry(path=str(file), name=name, architecture=architecture)
    recipe = Recipe(method="average", increments=(entry,))
    plan = make_plan(recipe, head=head, trust=trust)
    target = out or Path(plan.sources[0].name)
    with writing(target, overwrite=overwrite):
        written = write_detector(plan, target, overwrite=overwrite)
    source = plan.sources[0]
    result = {
        "schema": 1, "detector": str(target), "name": source.name, "classes": list(source.classes),
        "architecture": source.architecture, "head": source.head,
        "image_size": source.image_size, "sha256": source.fingerprint,
        "fingerprint": written.manifest.fingerprint, "licence": source.licence,
    }  # fmt: skip
    emit(result, as_json, _text)
    hint("duet", "merge", target, "OTHER", "--weights", "BASE.pt", "--out", "DIR")


def _text(result: dict[str, Any]) -> str:
    return (
        f"{result['name']}: {result['architecture']}, {len(result['classes'])} classes "
        f"({', '.join(result['classes'][:6])}{', …' if len(result['classes']) > 6 else ''}) -> "
        f"{result['detector']}"
    )
