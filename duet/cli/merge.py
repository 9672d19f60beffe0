"""`duet merge`: one detector from increments, detectors or foreign files; no training, no data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import (
    NAME_OR_PATH,
    PATH,
    architecture_option,
    emit,
    json_option,
    read_told,
    trust_option,
)
from duet.cli.names import merge_methods, weights_option
from duet.cli.options import (
    engine_of,
    engine_options,
    gate_of,
    gate_options,
    parse_settings,
)
from duet.cli.running import write_mended, write_merge
from duet.progress import counted, note

if TYPE_CHECKING:
    from duet.evaluation.gate import Verdict
    from duet.recipes.prepared import Prepared
    from duet.recipes.recipe import Recipe

EPILOG = """\b
Examples:
  duet merge runs/demo/increments/duet-plus/flat runs/demo/increments/duet-plus/comic \\
      --weights weights/yolo11n-emoji.safetensors --set alpha_base=0.7 --out runs/demo/old-first
  duet merge A B C --weights W --method ties --set density=0.3 --out DIR --dry-run
  duet merge mine=a.pt theirs=b.pt --weights yolo11n.pt --method task-arithmetic --out DIR
  duet merge a=a.pt b=b.pt --method mtda --set weights=images --count a=900 --count b=300 --out DIR
  duet merge --recipe merge.yaml --out DIR
  duet merge mine=a.pt theirs=b.pt --mend photos/ --out DIR
  duet merge A B --weights W --method ties --sweep density=[0.1,0.2,0.5] --sweep weight=[0.5,1] \
      --series series.yaml --split val --out DIR [--engine ray --address auto]
  duet merge A B --weights W --out DIR --series series.yaml --max-drop 5 --against BEFORE
"""


@click.command("merge", epilog=EPILOG)
@click.argument("sources", nargs=-1, type=NAME_OR_PATH, metavar="[NAME=]SOURCE...")
@click.option("--recipe", type=PATH, help="YAML; other options change it.")
@weights_option("θ_0 that the models were trained from")
@click.option(
    "--method",
    shell_complete=merge_methods,
    help="See `duet methods` [the last increment's own; of whole models without θ_0: average].",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Parameter of the method."
)
@click.option(
    "--bn", type=click.Choice(["mixture", "average", "newest", "oldest"]), help="Statistics."
)
@click.option(
    "--geometry", type=click.Choice(["sequential", "independent"]),
    help="Fold a chain, or merge at once [what the manifests say].",
)  # fmt: skip
@click.option("--scale", multiple=True, metavar="NAME=FACTOR", help="How much of a model counts.")
@click.option("--alias", multiple=True, metavar="NAME:OLD=NEW", help="Rename a class of a model.")
@click.option("--drop", multiple=True, metavar="NAME:CLASS", help="Leave out a class of a model.")
@click.option(
    "--keep-apart", is_flag=True,
    help="Each model keeps its own head part; a class of several becomes CLASS@NAME in each.",
)  # fmt: skip
@click.option(
    "--count", multiple=True, metavar="NAME=IMAGES",
    help="Training images of a model, for weights: images; a .pt does not tell.",
)  # fmt: skip
@click.option(
    "--head", type=click.Choice(["towers", "parallel", "rows"]), default="towers",
    show_default=True, help="What of a foreign .pt stays its own.",
)  # fmt: skip
@click.option(
    "--sweep", multiple=True, metavar="KEY=[V1,V2]", help="Try all values, keep the best."
)
@click.option("--series", type=PATH, help="Data that --sweep and a gate measure on.")
@click.option("--data-root", type=PATH, help="Folder of that data.")
@click.option("--split", default="", help="Split of it; for --sweep it must be named.")
@engine_options
@gate_options
@click.option("--images", type=PATH, help="Unlabelled, for learned merges.")
@click.option(
    "--mend", type=NAME_OR_PATH, multiple=True,
    help="Unlabelled images on which the merge learns from its models, as `duet mend`; once for "
    "each domain.",
)  # fmt: skip
@architecture_option
@trust_option
@click.option("--out", type=PATH, help="Detector folder.")
@click.option("--overwrite", is_flag=True, help="Replace an older detector in --out.")
@click.option("--dry-run", is_flag=True, help="Check everything, merge nothing.")
@json_option
def merge(
    out: Path | None, overwrite: bool, dry_run: bool, trust: bool, head: Any, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Merge increment folders, detector folders or Ultralytics .pt files into one detector."""
    from duet.errors import named_in
    from duet.recipes.plan import make_plan
    from duet.recipes.prepared import Prepared
    from duet.recipes.texts import plan_text

    if options["engine"] != "local" and not options["sweep"]:
        raise click.UsageError(f"--engine {options['engine']} measures the points of a --sweep")
    with named_in(options["recipe"]):
        recipe = _recipe(options)
        merge = Prepared(make_plan(recipe, head=head, trust=trust), options["images"])
        planned = merge.rehearse() if dry_run else None
    judge = _judge(options)
    if options["weights"] is None and options["recipe"] is None and recipe.weights is not None:
        note(f"note: start weights {recipe.weights}, known by their fingerprint")
    for remark in merge.plan.remarks:
        note(f"note: {remark}")
    if planned is not None:
        emit(planned, as_json, plan_text)
        return
    if out is None:
        raise click.UsageError("missing --out: name a detector folder")
    if merge.omission:
        note(merge.omission)
    extra: dict[str, Any] = {}
    if options["sweep"]:
        merge, extra["sweep"] = _swept(merge, options, out)
    if merge.plan.recipe.mend is None:
        write_merge(merge, out, extra, overwrite=overwrite, as_json=as_json, judge=judge)
        return
    from duet.objects.merged import merged
    from duet.runs.mend import specialists_of

    write_mended(
        merged(merge, True), specialists_of(merge.plan, trust=trust), merge.plan.recipe.mend,
        out=out, overwrite=overwrite, as_json=as_json, extra=extra, judge=judge,
    )  # fmt: skip


def _judge(options: dict[str, Any]) -> Callable[[Path], Verdict] | None:
    """Return what holds a detector against the gate that was asked for, with all that it needs."""
    if (gate := gate_of(options)) is None:
        return None
    from duet.increments.store import load_detector
    from duet.runs.gated import (
        cells_of,
        judge_cells,
        open_before,
        require_gate,
        standings_before,
    )  # fmt: skip

    if options["series"] is None:
        raise click.UsageError("a gate needs data to measure on: give --series SERIES.yaml")
    series, split = read_told(options["series"], options["data_root"]), options["split"]
    require_gate(gate, series)
    before = open_before(gate, note)

    def judge(folder: Path) -> Verdict:
        cells = cells_of(load_detector(folder), series, split)
        return judge_cells(gate, cells, standings_before(before, series, split))

    return judge


def _swept(merge: Prepared, options: dict[str, Any], out: Path) -> tuple[Prepared, list[Any]]:
    """Return the best merge of the grid and all trials, JSON-ready."""
    import dataclasses

    from duet.errors import ConfigError
    from duet.runs.sweep import grid_of, sweep

    if options["series"] is None:
        raise ConfigError(
            "--sweep needs data to choose on", remedy="give --series SERIES.yaml --split val"
        )
    grid = grid_of(parse_settings(options["sweep"], option="--sweep"))
    series = read_told(options["series"], options["data_root"])
    with engine_of(options, out) as engine, counted("sweep") as step:
        best, trials = sweep(
            merge, grid, series, split=options["split"], engine=engine, listen=step, tell=note
        )
    for trial in trials:
        cells = ", ".join(f"{name} {100 * value:.1f}" for name, value in trial.map50.items())
        note(f"{dict(trial.params)}: {100 * trial.score:.1f} ({cells})")
    return best, [dataclasses.asdict(trial) for trial in trials]


def _recipe(options: dict[str, Any]) -> Recipe:
    from duet.config import parse_config
    from duet.recipes.defaults import recipe_of
    from duet.recipes.recipe import Entry, Mending
    from duet.recipes.words import edited

    recipe = recipe_of(
        [parse_config(Entry, _entry(word), where=word) for word in options["sources"]],
        file=options["recipe"], method=options["method"],
        params=parse_settings(options["settings"]), batchnorm=options["bn"],
        geometry=options["geometry"], weights=options["weights"],
        architecture=options["architecture"], keep_apart=options["keep_apart"],
    )  # fmt: skip
    if options["mend"]:
        said = recipe.mend.model_dump() if recipe.mend is not None else {}
        mend = parse_config(Mending, said | {"images": options["mend"]}, where="--mend")
        recipe = recipe.model_copy(update={"mend": mend})
    return edited(
        recipe, scales=options["scale"], aliases=options["alias"], drops=options["drop"],
        counts=options["count"],
    )  # fmt: skip


def _entry(word: str) -> dict[str, str]:
    """Split `NAME=PATH`; a path that exists is taken as it is."""
    name, separator, path = word.partition("=")
    if separator and name and not Path(word).exists():
        return {"name": name, "path": path}
    return {"path": word}
