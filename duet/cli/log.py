"""`duet log`: what went into a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duet.cli.common import PATH, emit, hint, json_option
from duet.cli.merge import merge_lines
from duet.progress import note

EPILOG = """\b
Examples:
  duet log runs/demo/models/duet-plus/2-comic
  duet log DETECTOR --increments old/increments
  duet log DETECTOR --json | jq '.increments[].fingerprint'
"""

_SHOWN = 4  # class names per increment


@click.command("log", epilog=EPILOG)
@click.argument("detector", type=PATH, metavar="DETECTOR")
@click.option(
    "--increments", "roots", multiple=True, type=PATH,
    help="Folder to search for increments that were moved.",
)  # fmt: skip
@json_option
def log(detector: Path, roots: tuple[Path, ...], as_json: bool) -> None:
    """Show what DETECTOR was merged from, how, and whether it could be merged again.

    Increments are known by fingerprint: moved folders are found, exchanged ones are noticed.
    """
    from duet.recipes.lineage import read_history

    result = read_history(detector, roots).as_dict()
    emit(result, as_json, _text)
    if not result["recipe"]:
        note("note: the detector keeps no recipe; drop-class works, revert and scale do not")
    names = [step["name"] for step in result["increments"]]
    last = names[-1] if result["recipe"] and len(names) > 1 else None
    if last is not None:
        hint("duet", "revert", detector, last, "--out", "DIR")
    else:
        hint("duet", "predict", detector, "IMAGES")


def _text(result: dict[str, Any]) -> str:
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
    for number, step in enumerate(result["increments"], start=1):
        lines += _step_lines(f"{number}. {step['name']}", step)
    for step in result["models"]:
        lines += _step_lines(f"merged as a whole: {step['name']}", step)
    if result["merges"]:
        lines += ["merges", *merge_lines(result["merges"])]
    return "\n".join(lines)


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
