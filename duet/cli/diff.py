"""`duet diff`: how two detectors or increments differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

_ROWS = 10


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

    result = compare_models(a, b, weights=weights, trust=trust).as_dict()
    for remark in result["remarks"]:
        note(f"note: {remark}")
    emit(result, as_json, lambda seen: _text(seen, every))
    detectors = [path for path, key in ((b, "b"), (a, "a")) if result[key]["kind"] == "detector"]
    if detectors:
        hint("duet", "log", detectors[0])
    else:
        hint("duet", "merge", a, b, "--weights", "FILE", "--out", "DIR")


def _text(result: dict[str, Any], every: bool) -> str:
    lines = [
        f"{key.upper()} {side['path']}: {side['kind']}, {side['classes']} classes, "
        f"{side['architecture']}, {side['head']}"
        for key, side in (("a", result["a"]), ("b", result["b"]))
    ]
    lines += _set_lines("classes", result["classes"])
    lines += _set_lines("increments", result["increments"])
    for row in result["recipe"]:
        lines.append(f"recipe: {row['setting']}: {_value(row['a'])} -> {_value(row['b'])}")
    for part in result["parts"]:
        lines.append(f"head part of {part['increment']}: {_gap(part)}")
    for kind, row in result["statistics"].items():
        lines.append(f"{kind}: {_gap(row)}")
    if result["weights"] is not None:
        lines += _weight_lines(result["weights"], every)
    return "\n".join(lines)


def _set_lines(title: str, names: dict[str, Any]) -> list[str]:
    count = len(names["both"])
    order = "" if names["same_order"] or count < 2 else ", in another order"
    lines = [f"{title}: {count} in both{order}"]
    for key in ("a", "b"):
        if names[f"only_{key}"]:
            lines.append(f"  only in {key.upper()}: {', '.join(names[f'only_{key}'])}")
    return lines


def _value(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    if isinstance(value, dict):
        return ", ".join(f"{old} is {new}" for old, new in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _gap(row: dict[str, Any]) -> str:
    if row["identical"]:
        return "identical to the bit"
    if row["max_difference"] is None:
        return "other shapes"
    return f"differs by at most {row['max_difference']:.3g}"


def _weight_lines(weights: dict[str, Any], every: bool) -> list[str]:
    total, tensors, layers = weights["total"], weights["tensors"], weights["layers"]
    same = sum(row["identical"] for row in tensors)
    line = f"shared weights: {same} of {len(tensors)} tensors identical to the bit"
    if weights["skipped"]:
        line += f", {len(weights['skipped'])} not comparable"
    lines = [line]
    if total["identical"]:
        return lines
    layers = sorted(layers, key=lambda row: _size_of(row), reverse=True)
    shown = layers if every else layers[:_ROWS]
    rows = [total, *weights["roles"], *shown]
    width = max(len(row["name"]) for row in rows)
    lines.append(
        f"{'':<{width}} {'role':<8}     |B-A|     of A       |τ_A|     |τ_B| cosine conflict"
    )
    lines += [_row(row, width) for row in rows]
    if len(shown) < len(layers):
        lines.append(f"... and {len(layers) - len(shown)} more layers (--all)")
    return lines


def _size_of(row: dict[str, Any]) -> float:
    relative: float | None = row["relative"]
    return row["change"] if relative is None else relative  # type: ignore[no-any-return]


def _row(row: dict[str, Any], width: int) -> str:
    cells = [f"{row['name']:<{width}} {row.get('role', ''):<8} {row['change']:>9.3g}"]
    cells.append(f"{'' if row['relative'] is None else format(row['relative'], '.2%'):>8}")
    if row["tau_a"] is None:
        return " ".join(cells).rstrip()
    cells.append(f"{row['tau_a']:>11.3g} {row['tau_b']:>9.3g} {row['cosine']:>6.2f}")
    cells.append(f"{row['sign_conflict']:>8.1%}")
    return " ".join(cells)
