"""`duet mend`: a merged detector learns what its specialists answer, on images without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import NAME_OR_PATH, PATH, device_option, json_option, trust_option
from duet.cli.names import weights_option
from duet.progress import note

if TYPE_CHECKING:
    from duet.increments.store import DetectorFile
    from duet.runs.mend import Specialist

EPILOG = """\b
Examples:
  duet mend runs/both --images photos/ --out runs/mended
  duet mend runs/both --images day/ --images night/ --out runs/mended
  duet mend both.pt --images day/ --teachers mine.pt --teachers theirs.pt --out runs/mended
  duet merge mine=mine.pt theirs=theirs.pt --mend photos/ --out runs/mended
"""


@click.command("mend", epilog=EPILOG)
@click.argument("model", type=PATH, metavar="MODEL")
@click.option(
    "--images", type=NAME_OR_PATH, multiple=True, required=True,
    help="Without labels: a folder, an image or a glob; once for each domain.",
)  # fmt: skip
@click.option(
    "--teachers", type=PATH, multiple=True,
    help="Increment, detector or .pt that knows some of the classes [what MODEL was merged from].",
)  # fmt: skip
@weights_option("θ_0 of increments that teach")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the images [12, or 300 steps].")
@click.option("--lr", type=click.FloatRange(0, 1, min_open=True), help="Peak learning rate [4e-3].")
@click.option(
    "--trains", type=click.Choice(["head", "neck", "all"]),
    help="What learns: the head, the neck too, or all [neck].",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), help="Of order and augmentation [0].")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(0), help="0 = all.")
@click.option("--out", type=PATH, required=True, help="Detector folder.")
@click.option("--overwrite", is_flag=True, help="Replace an older detector in --out.")
@device_option
@trust_option
@json_option
def mend(
    model: Path, images: tuple[str, ...], teachers: tuple[Path, ...], weights: str | None,
    epochs: int | None, lr: float | None, trains: str | None, seed: int | None, **options: Any,
) -> None:  # fmt: skip
    """Teach MODEL what its specialists answer on images that nobody labelled.

    A merge moves the weights that every head reads, so that all of them answer worse. Statistics
    are estimated anew and neck and heads learn from the models that were merged: minutes on a CPU,
    no labels, and no old image if there is none. A stopped command is continued by the same one.
    """
    from duet.cli.running import write_mended
    from duet.config import parse_config
    from duet.families.foreign import open_model
    from duet.increments.manifest import MANIFEST
    from duet.increments.store import load_traces
    from duet.recipes.model import Model
    from duet.recipes.recipe import Mending

    given = {"epochs": epochs, "lr": lr, "trains": trains, "seed": seed}
    given = {key: value for key, value in given.items() if value is not None}
    mending = parse_config(Mending, {"images": images, **given}, where="duet mend")
    trust = options.pop("trust")
    loaded = open_model(model, trust=trust, notify=note)
    found = _specialists(model, loaded, teachers, weights, trust=trust)
    traces = load_traces(model) if (model / MANIFEST).is_file() else ()
    write_mended(Model(loaded, model, True, traces), found, mending, **options)


def _specialists(
    model: Path, loaded: DetectorFile, teachers: tuple[Path, ...], weights: str | None, *,
    trust: bool,
) -> tuple[Specialist, ...]:  # fmt: skip
    """Return who teaches: what was given, else what the detector was merged from."""
    from duet.recipes.edits import kept_recipe, located
    from duet.recipes.plan import make_plan
    from duet.runs.mend import open_specialist, specialists_of

    if teachers:
        return tuple(open_specialist(one, weights=weights, trust=trust) for one in teachers)
    if loaded.manifest.recipe is None:
        raise click.UsageError(
            f"{model} does not say what it was merged from: name its models with --teachers"
        )
    recipe = kept_recipe(loaded.manifest, model).model_dump(mode="json", by_alias=True)
    found = located(recipe, model, weights=weights)
    return specialists_of(make_plan(found, head=loaded.manifest.head, trust=trust), trust=trust)
