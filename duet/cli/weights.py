"""`duet weights`: start weights by name; the only command that downloads, and only when asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import PATH, LocalPath, emit, json_option, tell_leftovers
from duet.cli.main import LazyGroup
from duet.cli.names import downloads
from duet.progress import downloading, megabytes, note
from duet.text import is_address, masked, without_secrets

if TYPE_CHECKING:
    from duet.weights import Manifest, WeightsRow
    from duet.weights.fetch import Fetched, Plan

LS_EPILOG = """\b
Examples:
  duet weights ls
  duet weights ls --family yolo --json
"""
GET_EPILOG = """\b
Examples:
  duet weights get yolo11n
  duet weights get yolo11n --dry-run
  duet weights get yolov9c --sha256 HEX --to weights
  duet weights get downloads/best.pt
"""
manifest_option = click.option(
    "--manifest", "table", type=PATH,
    help="A table of your own, such as of a mirror [the one that comes with duet].",
)  # fmt: skip


@click.group(
    "weights",
    cls=LazyGroup,
    table={"ls": "duet.cli.weights:ls", "get": "duet.cli.weights:get"},
)
def weights() -> None:
    """List start weights, download them, check them."""


@click.command("ls", epilog=LS_EPILOG)
@click.option("--family", help="Only those of one detector family.")
@manifest_option
@json_option
def ls(family: str | None, table: Path | None, as_json: bool) -> None:
    """List the start weights that duet knows by name, and which are on this machine."""
    from duet.errors import ConfigError, did_you_mean
    from duet.weights import load_manifest

    manifest = load_manifest(table)
    families = sorted({row.family for row in manifest.rows})
    if family is not None and family not in families:
        raise ConfigError(
            f"no start weights of the family '{family}'{did_you_mean(family, families)}",
            where="--family",
            remedy=f"families: {', '.join(families)}",
        )
    chosen = [row for row in manifest.rows if family in (None, row.family)]
    rows = [_described(row, manifest) for row in chosen]
    emit({"schema": 1, "weights": rows}, as_json, lambda seen: _table(seen["weights"]))


@click.command("get", epilog=GET_EPILOG)
@click.argument("weights", metavar="NAME|FILE", shell_complete=downloads)
@click.option(
    "--to", "folder", type=LocalPath(path_type=Path, file_okay=False),
    help="Folder to put the file into [the user's cache; a FILE stays where it is].",
)  # fmt: skip
@click.option("--sha256", metavar="HEX", help="The hash that the file must have.")
@click.option(
    "--accept-unverified", is_flag=True,
    help="Take a file whose hash nobody knows; the first download is pinned.",
)  # fmt: skip
@manifest_option
@click.option("--dry-run", is_flag=True, help="Say what would be downloaded; no network.")
@json_option
def get(
    weights: str, folder: Path | None, sha256: str | None, accept_unverified: bool,
    table: Path | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Download start weights by NAME, or check a FILE that is already here.

    A download resumes where it was cut, must have the known SHA-256, and is then opened through
    the guarded door, which runs nothing of it. Only then does it get its name.
    """
    from duet.weights import load_manifest
    from duet.weights.fetch import fetch, plan_fetch, take_local
    from duet.weights.manifest import parse_sha256
    from duet.weights.store import find

    expected = parse_sha256(sha256) if sha256 else None
    manifest = load_manifest(table)
    row = manifest.row(weights) if weights in manifest else None
    if row is None or (row.url is None and folder is not None):
        _require_no_address(weights)
        file = find(weights, manifest=manifest)
        if dry_run:
            target = folder / file.name if folder else file
            result = {"schema": 1, "path": str(target), "url": None, "part_bytes": 0}
            emit(result, as_json, lambda _: f"{file}: would be checked; no network")
            return
        if folder is not None:
            tell_leftovers(folder / file.name)
        _tell(take_local(file, folder=folder, sha256=expected), weights, as_json)
        return
    plan = plan_fetch(
        row, manifest, folder=folder, sha256=expected, accept_unverified=accept_unverified
    )
    if dry_run:
        emit({"schema": 1, **plan.as_dict()}, as_json, lambda _: _plan_text(plan))
        return
    tell_leftovers(*plan.writes)
    with downloading(row.name) as progress:
        fetched = fetch(plan, progress=progress, notify=note)
    _tell(fetched, weights, as_json, row, manifest)


def _require_no_address(text: str) -> None:
    from duet.errors import ConfigError

    if is_address(text) and not Path(text).exists():
        raise ConfigError(
            f"expected a name or a file, got the address {masked(text)}",
            where="NAME|FILE",
            remedy="download it yourself and give the file; or list it with its hash in a table "
            "of your own, see --manifest in docs/weights.md",
        )


def _described(row: WeightsRow, manifest: Manifest) -> dict[str, Any]:
    from duet.weights.store import place, presence

    here = presence(row, manifest)
    return {
        "name": row.name, "family": row.family, "architecture": row.architecture,
        "classes": len(manifest.classes(row)), "class_list": row.classes, "size": row.size,
        "licence": row.licence, "sha256": row.sha256, "presence": here,
        "url": row.url and without_secrets(row.url),
        "path": None if here == "not downloaded" else str(place(row, manifest)),
    }  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> str:
    from duet.report.tables import Table

    head = ("name", "family", "architecture", "classes", "size", "licence", "hash", "here")
    lines = tuple(
        (
            row["name"], row["family"], row["architecture"],
            f"{row['classes']} {row['class_list']}",
            megabytes(row["size"]), row["licence"], "known" if row["sha256"] else "unknown",
            row["presence"],
        )
        for row in rows
    )  # fmt: skip
    return Table(head, lines, words=len(head)).as_text()


def _plan_text(plan: Plan) -> str:
    if plan.present or plan.row.url is None:
        return f"{plan.row.name}: {plan.target} is here; it would be checked, no network"
    begun = plan.as_dict()["part_bytes"]
    return "\n".join(
        (
            f"{plan.row.name}: {without_secrets(plan.row.url)}",
            f"  to      {plan.target}",
            f"  size    {megabytes(plan.row.size)}"
            + (f", {megabytes(begun)} of it are here" if begun else ""),
            f"  sha256  {plan.expected or 'unknown: the download would be pinned'}"
            + (f" (from the {plan.checked})" if plan.expected else ""),
            f"  licence {plan.row.licence}",
        )
    )


def _tell(
    fetched: Fetched,
    name: str,
    as_json: bool,
    row: WeightsRow | None = None,
    manifest: Manifest | None = None,
) -> None:
    """Print what the file is; the table fills in what the file does not say itself."""
    facts = dict(fetched.facts)
    if row is not None and manifest is not None:
        told = {
            "architecture": row.architecture, "licence": row.licence,
            "classes": list(manifest.classes(row).names),
        }  # fmt: skip
        facts |= {key: value for key, value in told.items() if facts[key] is None}
    result = {
        "schema": 1, "weights": name, "path": str(fetched.path), "state": fetched.state,
        "checked": fetched.checked, "received": fetched.received, **facts,
    }  # fmt: skip
    emit(result, as_json, _text)
    if fetched.checked == "first download":
        note(
            f"pinned: SHA-256 {result['sha256']}, which nobody has confirmed; compare it with what "
            "the publisher says. Later downloads must be equal to this one"
        )


def _text(result: dict[str, Any]) -> str:
    classes = result["classes"]
    shown = "not said" if classes is None else f"{len(classes)}: {', '.join(classes[:6])}"
    more = ", …" if classes is not None and len(classes) > 6 else ""
    words = {"user": "as --sha256 says", None: "not compared with any"}
    checked = words.get(result["checked"], result["checked"])
    return "\n".join(
        (
            f"{result['path']} ({result['state']})",
            f"  {result['kind']}, {result['tensors']} tensors, {megabytes(result['size'])}",
            f"  architecture {result['architecture'] or 'not said'}",
            f"  classes      {shown}{more}",
            f"  licence      {result['licence'] or 'not said'}",
            f"  sha256       {result['sha256']} ({checked})",
        )
    )
