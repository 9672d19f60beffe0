"""Folders of results: what may be there, and what each file in them is called."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from duet.errors import ConfigError, DuetError
from duet.files import read_json, refuse_links
from duet.images import seen_suffix
from duet.inference.savers.txt import CLASSES, label_name
from duet.inference.sources import Source
from duet.trees import resolved

PREDICTIONS, SUMMARY = "predictions.json", "summary.json"
"""What was found in images; what was counted in a video or stream."""

FORMAT = "duet-predictions"

UNFINISHED = ".duet-unfinished"
"""File of a folder of annotated copies that are not all there: the same command goes on."""

_WRITTEN = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of images whose annotated copies keep the format."""


def copy_name(name: Path) -> Path:
    """Return the name of an annotated copy: the image's own, but ``x.avif.png`` of ``x.avif``.

    OpenCV does not write every format that it reads, and some only with losses that show.
    """
    return name if name.suffix.lower() in _WRITTEN else Path(f"{name}{seen_suffix(name)}")


def check_out(out: Path, source: Source, formats: Sequence[str] = ()) -> None:
    """Refuse a folder for annotated images that holds anything else; writes nothing.

    Args:
        out: Folder for results; need not exist.
        source: The images.
        formats: Of `duet.inference.savers.table.SAVERS`, asked for beside the copies.

    Raises:
        ConfigError: ``out`` is the folder of the source, copies would replace its images, or two
            images would share a file of results.
        DuetError: ``out`` holds files that are not predictions.
    """
    names = [source.name_of(path) for path in source.paths]
    _refuse_shared(names, formats)
    originals = {resolved(path) for path in source.paths}
    copies = {resolved(out / copy_name(name)) for name in names}
    if resolved(out) in {path.parent for path in originals} or originals & copies:
        raise ConfigError(
            "annotated images would overwrite or join the originals",
            where=str(out),
            remedy="choose a folder of its own for --out",
        )
    if out.is_dir() and any(out.iterdir()) and not _is_ours(out):
        raise DuetError(
            "already exists and does not hold predictions of duet",
            where=str(out),
            remedy="choose another folder or remove this one first",
        )


def _refuse_shared(names: Sequence[Path], formats: Sequence[str]) -> None:
    """Refuse images of which two would share a file of results."""
    kinds: list[tuple[str, Callable[[Path], Path], dict[Path, str]]] = [("--out", copy_name, {})]
    if "txt" in formats:
        kinds.append(("--save txt", label_name, {Path(CLASSES): "the list of classes"}))
    for where, place, taken in kinds:
        for name in names:
            if (file := place(name)) in taken:
                raise ConfigError(
                    f"'{name}' and {taken[file]} would share the file '{file}'",
                    where=where,
                    remedy="rename the image"
                    + (", or use --save coco" if where != "--out" else ""),
                )
            taken[file] = f"'{name}'"


def make_out(out: Path) -> None:
    """Make the folder and write to it once: a refusal must not come after an hour of detecting.

    Raises:
        DuetError: The file system refuses, or a folder in it is a link.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        refuse_links(out, [entry.name for entry in out.iterdir() if entry.is_dir()])
        with tempfile.NamedTemporaryFile(dir=out):
            pass
    except OSError as error:
        raise DuetError(
            f"cannot write: {error.strerror or error}",
            where=str(out),
            remedy="choose another folder for --out; nothing was detected yet",
        ) from error


def _is_ours(out: Path) -> bool:
    if (out / UNFINISHED).is_file():
        return True
    try:
        return bool(read_json(out / PREDICTIONS).get("format") == FORMAT)
    except DuetError:
        return False
