"""`duet merge`: rebuild a detector from kept increments with other coefficients, in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import emit, json_option, note

if TYPE_CHECKING:
    from duet.increments.store import IncrementFile
    from duet.training.config import Method

EPILOG = """\b
Examples:
  duet merge runs/demo/increments/duet-plus/flat runs/demo/increments/duet-plus/comic \\
      --weights weights/yolo11n-emoji.safetensors --set alpha_base=0.7 --out runs/demo/old-first
  duet merge BASE INCREMENT --weights W --method average --bn average --out DIR --dry-run
"""


@click.command("merge", epilog=EPILOG)
@click.argument(
    "increments", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BASE [INC]..."
)
@click.option(
    "--weights", required=True, type=click.Path(path_type=Path), help="θ_0 they started from."
)
@click.option("--method", help="See `duet methods` [the last increment's own].")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Parameter of the method."
)
@click.option(
    "--bn", type=click.Choice(["mixture", "average", "newest", "oldest"]), help="Statistics."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Detector folder.")
@click.option("--overwrite", is_flag=True, help="Replace an older detector in --out.")
@click.option("--dry-run", is_flag=True, help="Check everything, merge nothing.")
@json_option
def merge(
    increments: tuple[Path, ...], weights: Path, method: str | None, settings: tuple[str, ...],
    bn: str | None, out: Path, overwrite: bool, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Merge a base and any prefix of its increments again: no training, no data."""
    from duet.families.table import resolve_family
    from duet.increments.manifest import DetectorManifest, Lineage
    from duet.increments.store import load_increment, save_detector
    from duet.runs.keep import rebuild

    loaded = [load_increment(folder) for folder in increments]
    family = resolve_family(loaded[0].manifest.family)
    chosen = _method(loaded, method, _parse(settings), bn)
    state, traces, remarks = rebuild(family.weights(weights), loaded, chosen)
    merge_config = chosen.model_dump(mode="json", include={"merge", "batchnorm"})
    lineage = tuple(
        Lineage(
            increment=item.manifest.name,
            manifest=item.manifest.fingerprint(),
            merge=merge_config if index else None,
        )
        for index, item in enumerate(loaded)
    )
    size = int(_config(loaded)["schedule"]["image_size"])
    manifest = DetectorManifest.for_state(
        state, lineage=lineage, image_size=size, licence=loaded[0].manifest.licence
    )
    if not dry_run:
        save_detector(out, state, manifest, overwrite=overwrite)
    for remark in remarks:
        note(f"note: {remark}")
    result = {
        "schema": 1,
        "detector": None if dry_run else str(out),
        "fingerprint": manifest.fingerprint,
        "classes": list(state.labels),
        "merges": [trace.as_dict() for trace in traces],
        "remarks": remarks,
    }
    emit(result, as_json, lambda: _text(result, chosen))
    if not dry_run:
        note(f"next: duet predict {out} IMAGES")


def _text(result: dict[str, Any], method: Method) -> str:
    lines = [
        f"{method.merge.method} merge of {len(result['classes'])} classes -> {result['detector']}"
    ]
    for trace in result["merges"]:
        s = trace["summary"]
        lines.append(
            f"  {s['tensors']} tensors, alpha {s['alpha_mean']:.3f} "
            f"({s['alpha_min']:.3f} to {s['alpha_max']:.3f}), "
            f"sign conflicts {s['sign_conflict']:.1%}"
        )
    return "\n".join(lines)


def _config(loaded: list[IncrementFile]) -> dict[str, Any]:
    return dict(loaded[-1].manifest.config)


def _method(
    loaded: list[IncrementFile], name: str | None, settings: dict[str, Any], bn: str | None
) -> Method:
    """Return the last increment's method with the merge that was asked for."""
    from duet.config import parse_config
    from duet.merging.methods import resolve
    from duet.training.config import Method

    data: dict[str, Any] = dict(_config(loaded)["method"])
    same = name in (None, data["merge"]["method"])
    params = dict(data["merge"]["params"]) if same else {}
    chosen = name or data["merge"]["method"]
    params |= settings
    parse_config(resolve(chosen).params, params, where=f"--set for '{chosen}'")
    data["merge"] = {"method": chosen, "params": params}
    if bn:
        data["batchnorm"] = {"rule": bn}
    return parse_config(Method, data, where="merge options")


def _parse(settings: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    from duet.errors import ConfigError

    parsed: dict[str, Any] = {}
    for item in settings:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise ConfigError(f"expected KEY=VALUE, got '{item}'", where="--set")
        try:
            parsed[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            detail = " ".join(str(error).split())
            raise ConfigError(f"not a YAML value in '{item}': {detail}", where="--set") from None
    return parsed
