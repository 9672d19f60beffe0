"""Merges, histories and differences as text for people, from their JSON-ready data.

Data from strangers' files should come through `duet.text.for_people` first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

_LAYERS = 10  # rows of a table of differences
_SHOWN = 4  # class names per increment


def written_text(result: dict[str, Any]) -> str:
    """Return what `Written.as_dict` tells."""
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


def plan_text(result: dict[str, Any]) -> str:
    """Return what `Prepared.rehearse` found."""
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


def log_text(result: dict[str, Any]) -> str:
    """Return what `read_history` found."""
    size = f"{result['image_size']} px"
    facts = [_classes(result["classes"]), result["architecture"], result["head"], size]
    lines = [
        f"{result['detector']}: {', '.join(facts)}, {result['licence']}",
        f"  fingerprint {result['fingerprint'][:12]}…",
        *(f"  damaged: {problem}" for problem in result["problems"]),
    ]
    if result["recipe"]:
        start = result["weights"]
        path, geometry = start["path"] or "not named", result["geometry"] or "plain"
        lines.append(
            f"  {geometry} merge by {result['method']}; start weights {path}"
            f"{'' if start['found'] else ' (not found)'}"
        )
    lines += [f"  scores of {name}: {_score_map(one)}" for name, one in result["scores"].items()]
    for number, step in enumerate(result["increments"], start=1):
        lines += _step_lines(f"{number}. {step['name']}", step)
    for step in result["models"]:
        lines += _step_lines(f"merged as a whole: {step['name']}", step)
    if result["merges"]:
        lines += ["merges", *merge_lines(result["merges"])]
    return "\n".join(lines)


def _score_map(one: dict[str, Any]) -> str:
    """Return what happens to the scores of a class, and at which one it is deployed."""
    told = [] if one["threshold"] is None else [f"deployed at {one['threshold']:.3g}"]
    if (one["scale"], one["offset"]) != (1, 0):
        told.append(f"{one['scale']:.3g} times the logit {one['offset']:+.3g}")
    return ", ".join(told) or "as they are"


def _step_lines(title: str, step: dict[str, Any]) -> list[str]:
    facts = [step["kind"], step["domain"]]
    if step["images"]:
        facts.append(f"{step['images']} images")
    if step["scale"] != 1:
        facts.append(f"scale {step['scale']:g}")
    about = ", ".join(fact for fact in facts if fact)
    lines = [f"{title} ({about})" if about else title]
    for what, names in (("", step["classes"]), ("known before: ", step["adapts"])):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"  {what}{_classes(names)}: {', '.join(names[:_SHOWN])}{more}")
    if step["alias"]:
        renamed = ", ".join(f"{old} is {new}" for old, new in step["alias"].items())
        lines.append(f"  renamed: {renamed}")
    if step["drop"]:
        lines.append(f"  dropped: {', '.join(step['drop'])}")
    if step["method"]:
        params = "".join(f", {key}={value}" for key, value in step["params"].items())
        lines.append(f"  merged by {step['method']}{params}; BatchNorm {step['batchnorm']}")
    state = "intact" if step["intact"] else f"damaged: {step['problem']}"
    if not step["found"]:
        state = step["problem"]
    mark = f"{step['fingerprint'][:12]}…" if step["fingerprint"] else None
    where = " ".join(word for word in (mark, step["path"]) if word)
    lines.append(f"  {where}: {state}")
    return [f"  {line}" for line in lines]


def _classes(names: list[str]) -> str:
    return f"{len(names)} class{'' if len(names) == 1 else 'es'}"


def diff_text(result: dict[str, Any], *, every: bool = False) -> str:
    """Return what `compare_models` found; ``every``: all layers."""
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
        maps = f"; other score maps: {', '.join(part['scores'])}" if part["scores"] else ""
        lines.append(f"head part of {part['increment']}: {_gap(part)}{maps}")
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
    shown = layers if every else layers[:_LAYERS]
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
