"""`duet runs`: which run folders there are, and how to be rid of them or of a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import PATH, emit, json_option
from duet.cli.main import LazyGroup
from duet.progress import megabytes, note
from duet.text import printable

if TYPE_CHECKING:
    from duet.runs.folders import Removal

LS_EPILOG = """\b
Examples:
  duet runs ls
  duet runs ls runs/repeats --json | jq '.runs[] | {path, state, bytes}'
"""
RM_EPILOG = """\b
Examples:
  duet runs rm runs/old --dry-run
  duet runs rm runs/old runs/older --yes
"""
CLEAN_EPILOG = """\b
Examples:
  duet runs clean runs/shop --dry-run
  duet runs clean runs/shop --yes
"""
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
dry_option = click.option("--dry-run", is_flag=True, help="Say what would be removed, and stop.")


@click.group(
    "runs",
    cls=LazyGroup,
    table={
        "ls": "duet.cli.runs:ls",
        "rm": "duet.cli.runs:rm",
        "clean": "duet.cli.runs:clean",
    },
)
def runs() -> None:
    """List run folders, remove them, or free what can be computed again."""


@click.command("ls", epilog=LS_EPILOG)
@click.argument("folder", type=PATH, default=Path("runs"))
@json_option
def ls(folder: Path, as_json: bool) -> None:
    """List the runs in a folder [runs]: what they learned, how far they are, what they take."""
    from duet.runs.folders import describe, find, size_of

    places = list(find(folder))
    found = [describe(one).as_dict() for one in places]
    result = {"schema": 1, "runs": found, "bytes": size_of(places)}
    emit(result, as_json, lambda told: _listed(told, folder))


@click.command("rm", epilog=RM_EPILOG)
@click.argument("folders", type=PATH, nargs=-1, required=True, metavar="RUN...")
@dry_option
@yes_option
@json_option
def rm(folders: tuple[Path, ...], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove run folders: detectors, increments, results, reports and all.

    The folders that duet makes go with all that lies in them (lab, models, increments, evaluations,
    gallery, plots), and its files beside them; what else is there stays, and is named. A run at
    work is refused.
    """
    from duet.runs.folders import removal

    _remove([removal(one) for one in dict.fromkeys(folders)], dry_run, yes, as_json, _removed)


@click.command("clean", epilog=CLEAN_EPILOG)
@click.argument("folders", type=PATH, nargs=-1, required=True, metavar="RUN...")
@dry_option
@yes_option
@json_option
def clean(folders: tuple[Path, ...], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Free what of runs can be computed again: trained weights that only the lab holds.

    Detectors, increments, evaluations and reports stay. The command of the run would train again
    what it asks for; it is said how long that took.
    """
    from duet.runs.folders import cleaning

    _remove([cleaning(one) for one in dict.fromkeys(folders)], dry_run, yes, as_json, _cleaned)


def _remove(
    wanted: Sequence[Removal],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    human: Callable[[dict[str, Any]], str],
) -> None:
    """Ask, remove, and print what was removed."""
    from duet.runs.folders import held, remove

    told = [one.as_dict() for one in wanted]
    lines = [human(one) for one in told]
    if not dry_run and not yes:
        for line in lines:
            note(printable(line))
        if not click.confirm("Remove this?", err=True):
            raise click.Abort
    if not dry_run:
        for one in wanted:
            with held(one.path):  # all or none: a run at work is told before anything is gone
                pass
        for one in wanted:
            remove(one)
    result = {"schema": 1, "dry_run": dry_run, "removed": told}
    emit(result, as_json, lambda seen: _told(seen["removed"], human, dry_run))


def _told(
    removed: Sequence[dict[str, Any]], human: Callable[[dict[str, Any]], str], dry_run: bool
) -> str:
    lines = [human(one) for one in removed]
    return "\n".join([*lines, "nothing was removed" if dry_run else "removed"])


def _removed(one: dict[str, Any]) -> str:
    kept = f"; stays, it is not of duet's making: {', '.join(one['kept'])}" if one["kept"] else ""
    return f"{one['path']}: {megabytes(one['bytes'])}{kept}"


def _cleaned(one: dict[str, Any]) -> str:
    if not one["paths"]:
        return f"{one['path']}: nothing that can be computed again"
    cost = f"about {one['seconds']:.0f} s of training to have it back"
    return (
        f"{one['path']}: {megabytes(one['bytes'])}; {cost if one['seconds'] else 'costs nothing'}"
    )


def _listed(told: dict[str, Any], folder: Path) -> str:
    """Return one line per run, and the sum; what runs share counts once in it."""
    if not told["runs"]:
        return f"no runs in {folder}"
    lines = []
    for one in told["runs"]:
        indices = " ".join(
            f"{name.upper()} {100 * value:.1f}" for name, value in one["indices"].items()
        )
        state = one["state"]
        if state != "finished" and one["jobs"]:
            state += f" ({one['trained']} of {one['jobs']} trained)"
        seed = "" if one["seed"] is None else f"seed {one['seed']}"
        about = (one["series"] or "-", ",".join(one["strategies"]), seed, indices)
        lines.append("  ".join((one["path"], state, megabytes(one["bytes"]), *filter(None, about))))
    return "\n".join([*lines, f"{len(lines)} runs, {megabytes(told['bytes'])}"])
