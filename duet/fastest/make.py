"""Export a detector for `duet.fastest`, check the files, and measure them against torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from duet.errors import ConfigError, DuetError, ModelError
from duet.export.export import export_detector
from duet.export.formats import FORMATS
from duet.export.parity import sample_images
from duet.export.placing import user_lock
from duet.families.runtimes import OFTEN
from duet.families.table import resolve_family
from duet.fastest.kept import Export, Kept, Record, here, lacking, versions
from duet.files import sha256_path
from duet.increments.store import DetectorFile
from duet.inference.detector import LoadedDetector
from duet.inference.exported import load_exported
from duet.inference.load import running
from duet.leftovers import leftovers_below, remove

ROUNDS, WARM = 9, OFTEN + 1
"""Looks at one image whose least time counts, and those before them that do not."""


def make(
    kept: Kept, opened: Callable[[], DetectorFile], forms: Sequence[str], *, choose: bool
) -> Record:
    """Return a record with these formats, exporting and measuring what it lacks.

    Two processes at once: the second waits, and finds all done.

    Args:
        kept: Where it lies.
        opened: Opens the detector.
        forms: Formats that must be there.
        choose: Whether to measure, and to go on without a format that cannot be used.

    Raises:
        ModelError: The detector is damaged; or, without ``choose``, a file computes something else.
        MissingExtraError: Without ``choose``: packages for a format are not installed.
        DuetError: The file system refuses the write.
    """
    with user_lock(kept.folder):
        for leftover in leftovers_below(kept.folder):
            remove(leftover)
        record = kept.read() or Record(
            model=kept.model, versions=versions(), exports={}, refused={}, measured={}
        )
        exports = {form: one for form, one in record.exports.items() if kept.whole(one)}
        record = record.model_copy(update={"exports": exports})
        if not lacking(record, forms, choose=choose):
            return record
        record = _completed(kept.folder, record, opened(), forms, choose)
        kept.write(record)
        kept.make_room()
        return record


def _completed(
    folder: Path, record: Record, file: DetectorFile, forms: Sequence[str], choose: bool
) -> Record:
    exports, refused, measured = {**record.exports}, {**record.refused}, {**record.measured}
    for form in forms:
        if form in exports or (choose and form in refused):
            continue
        try:
            exports[form] = _exported(folder, file, form)
        except (ModelError, ConfigError) as error:
            if not choose:
                raise
            refused[form] = error.what
    if choose:
        files = {form: folder / exports[form].file for form in forms if form in exports}
        measured[here()] = _measured(file, files)
    told = {"exports": exports, "refused": refused, "measured": measured}
    return record.model_copy(update=told)


def _exported(folder: Path, file: DetectorFile, form: str) -> Export:
    target = folder / f"model{FORMATS[form].suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DuetError(f"cannot write: {error.strerror}", where=str(folder)) from error
    report = export_detector(file, target, form, overwrite=True)
    fit = resolve_family(file.state.family).fit
    if report.fit != fit:  # another look at images is another answer
        raise ModelError(f"{form} files of it take images as '{report.fit}', not '{fit}'")
    return Export(file=target.name, sha256=sha256_path(target))


def _measured(file: DetectorFile, files: dict[str, Path]) -> dict[str, float]:
    """Return the least milliseconds of an image in each program; they take turns."""
    image = sample_images(file.manifest.image_size, 1)[0]
    looks: dict[str, LoadedDetector] = {"torch": running(file, "cpu")}
    looks |= {form: load_exported(path) for form, path in files.items()}
    taken: dict[str, float] = dict.fromkeys(looks, float("inf"))
    for turn in range(WARM + ROUNDS):
        for name, look in looks.items():
            start = time.perf_counter()
            look(image, confidence=0.25)
            if turn >= WARM:
                taken[name] = min(taken[name], (time.perf_counter() - start) * 1000)
    return {name: round(ms, 3) for name, ms in taken.items()}
