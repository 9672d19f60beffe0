"""`duet diff`: how two detectors or increments differ."""

from __future__ import annotations

from pathlib import Path

import click

from duet.cli.common import PATH, emit, hint, json_option, trust_option
from duet.cli.names import weights_option
from duet.progress import note

EPILOG = """\b
Examples:
  duet diff runs/demo/models/duet-plus/1-flat runs/demo/models/duet-plus/2-comic
  duet diff A B --weights weights/yolo11n-emoji.safetensors --all
  duet diff A best.pt --json | jq .classes
"""


@click.command("diff", epilog=EPILOG)
@click.argument("a", type=PATH, metavar="A")
@click.argument("b", type=PATH, metavar="B")
@weights_option("θ_0, if not what a recipe or fingerprint names")
@click.option("--all", "every", is_flag=True, help="Show all layers, not those that differ most.")
@trust_option
@json_option
def diff(a: Path, b: Path, weights: str | None, every: bool, trust: bool, as_json: bool) -> None:
    """Compare detectors A and B, or increments, or .pt files: classes, recipe, weights.

    |B-A| is the l2 norm of the difference, |τ| that of what training and merging changed of the
    start weights; a conflict is a number that A and B moved in opposite directions.
    """
    from duet.recipes.diff import compare_models
    from duet.recipes.texts import diff_text

    result = compare_models(a, b, weights=weights, trust=trust)
    for remark in result["remarks"]:
        note(f"note: {remark}")
    emit(result, as_json, lambda seen: diff_text(seen, every=every))
    detectors = [path for path, key in ((b, "b"), (a, "a")) if result[key]["kind"] == "detector"]
    if detectors:
        hint("duet", "log", detectors[0])
    else:
        hint("duet", "merge", a, b, "--weights", "FILE", "--out", "DIR")
