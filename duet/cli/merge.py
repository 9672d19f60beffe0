"""`duet merge`: one detector from increments, detectors or foreign files; no training, no data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import (
    NAME_OR_PATH,
    PATH,
    architecture_option,
    emit,
    hint,
    json_option,
    read_told,
    trust_option,
    writing,
)
from duet.cli.names import merge_methods, weights_option
from duet.cli.settings import parse_settings
from duet.progress import counting, note

if TYPE_CHECKING:
    from duet.recipes.plan import Plan
    from duet.recipes.recipe import Recipe
    from duet.recipes.write import Written

EPILOG = """\b
Examples:
  duet merge runs/demo/increments/duet-plus/flat runs/demo/increments/duet-plus/comic \\
      --weights weights/yolo11n-emoji.safetensors --set alpha_base=0.7 --out runs/demo/old-first
  duet merge A B C --weights W --method ties --set density=0.3 --out DIR --dry-run
  duet merge mine=a.pt theirs=b.pt --weights yolo11n.pt --method task-arithmetic --out DIR
  duet merge --recipe merge.yaml --out DIR
  duet merge A B --weights W --method ties --sweep density=[0.1,0.2,0.5] --sweep weight=[0.5,1] \
      --series series.yaml --split val --out DIR
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
    "--head", type=click.Choice(["towers", "parallel", "rows"]), default="towers",
    show_default=True, help="What of a foreign .pt stays its own.",
)  # fmt: skip
@click.option(
    "--sweep", multiple=True, metavar="KEY=[V1,V2]", help="Try all values, keep the best."
)
@click.option("--series", type=PATH, help="Data that --sweep measures on.")
@click.option("--data-root", type=PATH, help="Folder of that data.")
@click.option("--split", default="", help="Split that --sweep chooses on; must be named.")
@click.option("--images", type=PATH, help="Unlabelled, for learned merges.")
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
    from duet.errors import ConfigError, named_in
    from duet.recipes.apply import rehearse, start_tensors
    from duet.recipes.plan import make_plan
    from duet.recipes.write import write_detector

    recipe, trials = _recipe(options), None
    with named_in(options["recipe"]):
        plan = make_plan(recipe, head=head, trust=trust)
        theta_0 = start_tensors(plan)  # missing or other weights are told before any work
        if dry_run:
            rehearse(plan, theta_0, trust=trust)
    for remark in plan.remarks:
        note(f"note: {remark}")
    if dry_run:
        from duet.recipes.estimate import estimate

        result = {"schema": 1, "detector": None, **plan.as_dict(), "estimate": estimate(plan)}
        emit(result, as_json, _plan_text)
        return
    if out is None:
        raise ConfigError("missing --out", where="duet merge", remedy="name a detector folder")
    objective = objective_for(plan)
    if options["sweep"]:
        recipe, trials = _swept(plan, options, objective)
        plan = make_plan(recipe, head=head, trust=trust)
    with writing(out, overwrite=overwrite), counting(f"{plan.recipe.method} merge") as step:
        written = write_detector(
            plan, out, overwrite=overwrite, listen=step, trust=trust,
            make_objective=objective,
        )  # fmt: skip
    for remark in written.result.remarks[len(plan.remarks) :]:
        note(f"note: {remark}")
    result = describe(plan, written) | ({"sweep": trials} if trials else {})
    emit(result, as_json, text_of)
    hint("duet", "predict", out, "IMAGES")


def _swept(plan: Plan, options: dict[str, Any], objective: Any) -> tuple[Recipe, list[Any]]:
    """Return the best recipe of the grid and all trials, JSON-ready."""
    import dataclasses

    from duet.errors import ConfigError
    from duet.runs.sweep import grid_of, sweep

    if options["series"] is None:
        raise ConfigError(
            "--sweep needs data to choose on", remedy="give --series SERIES.yaml --split val"
        )
    grid = grid_of(parse_settings(options["sweep"], option="--sweep"))
    series = read_told(options["series"], options["data_root"])
    with counting("sweep") as step:
        recipe, trials = sweep(
            plan.recipe, grid, series, split=options["split"], listen=step,
            image_size=max(s.image_size for s in plan.sources), make_objective=objective,
            head=plan.sources[0].head,
        )  # fmt: skip
    for trial in trials:
        cells = ", ".join(f"{name} {100 * value:.1f}" for name, value in trial.map50.items())
        note(f"{dict(trial.params)}: {100 * trial.score:.1f} ({cells})")
    return recipe, [dataclasses.asdict(trial) for trial in trials]


def describe(plan: Plan, written: Written) -> dict[str, Any]:
    """Return the JSON result of a merge."""
    return {
        "schema": 1,
        "detector": str(written.folder),
        "fingerprint": written.manifest.fingerprint,
        "method": plan.recipe.method,
        "geometry": plan.geometry,
        "classes": list(written.result.state.labels),
        "merges": [trace.as_dict() for trace in written.result.traces],
        "remarks": list(written.result.remarks),
    }


def text_of(result: dict[str, Any]) -> str:
    """Return the same for people."""
    first = f"{result['method']} merge of {len(result['classes'])} classes -> {result['detector']}"
    return "\n".join([first, *merge_lines(result["merges"])])


def merge_lines(merges: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line about each merge of shared tensors, and one about each joined head part."""
    lines: list[str] = []
    heads: dict[tuple[str, str], Counter[str]] = {}
    for trace in merges:
        s, stages = trace["summary"], " + ".join(trace["stages"])
        if trace["part"] is not None:
            counts = heads.setdefault((stages, trace["part"]), Counter())
            counts[trace["method"]] += s["tensors"]
            continue
        told = [f"{s['tensors']} tensors"]
        if s["alpha_mean"] is not None:
            told.append(
                f"alpha {s['alpha_mean']:.3f} ({s['alpha_min']:.3f} to {s['alpha_max']:.3f})"
            )
        if s["sign_conflict"] is not None:  # only θ_0 tells who moved where
            told.append(f"sign conflicts {s['sign_conflict']:.1%}")
        lines.append(f"  {stages}: {', '.join(told)}")
    for (stages, part), counts in heads.items():
        methods = ", ".join(f"{count} tensors by {method}" for method, count in counts.items())
        lines.append(f"  {stages}: head part '{part}', {methods}")
    return lines


def _plan_text(result: dict[str, Any]) -> str:
    classes = len(result["classes"])
    head = f"{result['method']} merge, {result['geometry']}, from {result['starts_from']}"
    lines = [f"{head}: {classes} classes"]
    for source in result["sources"]:
        scale = f", scale {source['scale']:g}" if source["scale"] != 1 else ""
        lines.append(
            f"  {source['name']:<16} {source['kind']:<12} {len(source['classes'])} classes{scale}"
            f"  {source['path']}"
        )
    e = result["estimate"]
    roles = ", ".join(f"{count} {role}" for role, count in e["tensors"].items())
    cost = f"scratch memory about {e['memory_mb']:.0f} MB, about {e['seconds']:.1f} s"
    lines += [f"  tensors: {roles}", f"  writes {e['disk_mb']:.1f} MB, {cost}"]
    return "\n".join(lines)


def objective_for(plan: Plan, images: Path | None = None) -> Any:
    """Return what a learned merge minimises on ``images``, else the recipe's; None without."""
    adapt = plan.recipe.adapt
    chosen = str(images) if images is not None else adapt.images
    if chosen is None:
        return None
    from duet.inference.sources import find_images
    from duet.runs.adapt import objective_from

    found, size = find_images(chosen), max(s.image_size for s in plan.sources)
    if omission := found.omission():
        note(omission)
    settings = adapt.model_dump(exclude={"images"})
    return lambda state: objective_from(state, found.paths, image_size=size, **settings)


def _recipe(options: dict[str, Any]) -> Recipe:
    """Join the recipe file with the options; options win."""
    from duet.errors import ConfigError
    from duet.recipes.recipe import load_recipe

    changes: dict[str, Any] = {}
    if options["sources"]:
        changes["increments"] = [_entry(word) for word in options["sources"]]
    if options["weights"]:
        changes["weights"] = str(options["weights"])
    if options["geometry"]:
        changes["geometry"] = options["geometry"]
    if options["bn"]:
        changes["batchnorm"] = {"rule": options["bn"]}
    settings = parse_settings(options["settings"])
    if options["recipe"] is not None:
        from duet.config import load_yaml

        file = load_yaml(options["recipe"]) or {}
        changes |= _method_changes(file if isinstance(file, dict) else {}, options, settings)
        recipe = load_recipe(options["recipe"], changes)
    elif options["sources"]:
        recipe = _without_file(changes, options, settings)
    else:
        raise ConfigError(
            "nothing to merge", where="duet merge", remedy="give SOURCES, or --recipe FILE"
        )
    if options["images"] is not None:
        adapt = recipe.adapt.model_copy(update={"images": str(options["images"])})
        recipe = recipe.model_copy(update={"adapt": adapt})
    if options["architecture"] is not None:
        entries = (
            entry.model_copy(update={"architecture": options["architecture"]})
            for entry in recipe.increments
        )
        recipe = recipe.model_copy(update={"increments": tuple(entries)})
    return _edit(recipe, options)


def _method_changes(
    data: dict[str, Any], options: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Return `method` and `params` with the options applied; a new method drops old parameters."""
    if not options["method"] and not settings:
        return {}
    method = options["method"] or data.get("method", "duet")
    kept = dict(data.get("params") or {}) if method == data.get("method", "duet") else {}
    return {"method": method, "params": kept | settings}


def _without_file(
    changes: dict[str, Any], options: dict[str, Any], settings: dict[str, Any]
) -> Recipe:
    """Take method and BatchNorm rule from the last increment, unless options say otherwise."""
    from duet.config import parse_config
    from duet.increments.manifest import IncrementManifest, read_any_manifest
    from duet.recipes.recipe import Recipe
    from duet.recipes.sources import is_source

    own: dict[str, Any] = {}
    last = Path(changes["increments"][-1]["path"])
    if last.is_dir() and is_source(last):
        manifest = read_any_manifest(last)
        if isinstance(manifest, IncrementManifest):
            config = manifest.config.get("method")
            own = dict(config) if isinstance(config, dict) else {}
    data: dict[str, Any] = {
        "batchnorm": own.get("batchnorm", {}),
        **own.get("merge", {}),
        **changes,
    }
    data |= _method_changes(data, options, settings)
    if "method" not in data and "weights" not in data:
        data["method"] = "average"  # of whole models: what can be done without θ_0
    return parse_config(Recipe, data, where="merge options")


def _entry(word: str) -> dict[str, str]:
    """Split `NAME=PATH`; a path that exists is taken as it is."""
    name, separator, path = word.partition("=")
    if separator and name and not Path(word).exists():
        return {"name": name, "path": path}
    return {"path": word}


def _edit(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    from duet.recipes.edit import edited

    return edited(recipe, scales=options["scale"], aliases=options["alias"], drops=options["drop"])
