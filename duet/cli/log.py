"""`duet log`: what went into a detector."""

from __future__ import annotations

from pathlib import Path

import click

from duet.cli.common import PATH, emit, hint, json_option
from duet.progress import note

EPILOG = """\b
Examples:
  duet log runs/demo/models/duet-plus/2-comic
  duet log DETECTOR --increments old/increments
  duet log DETECTOR --json | jq '.increments[].fingerprint'
"""


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
    from duet.recipes.log import read_history
    from duet.recipes.texts import log_text

    result = read_history(detector, roots)
    emit(result, as_json, log_text)
    if not result["recipe"]:
        note("note: the detector keeps no recipe; drop-class works, revert and scale do not")
    names = [step["name"] for step in result["increments"]]
    last = names[-1] if result["recipe"] and len(names) > 1 else None
    if last is not None:
        hint("duet", "revert", detector, last, "--out", "DIR")
    else:
        hint("duet", "predict", detector, "IMAGES")
