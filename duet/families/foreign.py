"""Models that duet did not write: which paths are such models, and which family reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duet.errors import ModelError
from duet.families.opened import ForeignModel
from duet.families.row import FamilyRow
from duet.families.table import families, resolve_family, row_of
from duet.names import as_name
from duet.text import shell_line

if TYPE_CHECKING:
    from duet.increments.state import DetectorState, HeadForm
    from duet.increments.store import DetectorFile


def is_foreign(path: Path) -> bool:
    """Tell whether a path looks like a model of some engine, without opening it."""
    return any(_reads(row, path) for row in families().values())


def family_of_file(model: ForeignModel) -> str:
    """Return the family that reads a foreign model.

    Raises:
        ModelError: No family reads it, or the file is damaged or refused.
    """
    names = [name for name, row in families().items() if _reads(row, model.path)]
    if len(names) > 1:  # several families of one engine share a suffix: ask what is inside
        names = [name for name in names if resolve_family(name).recognises(model)]
    if len(names) != 1:
        told = f"{' and '.join(names)} claim it" if names else "no detector family knows it"
        raise ModelError(
            f"cannot tell whose model this is: {told}",
            where=str(model.path),
            remedy="give a detection model that Ultralytics or transformers saved",
        )
    return names[0]


def file_name(path: Path) -> str:
    """Return the name of a foreign file: its stem, or its run for `RUN/weights/best.pt`."""
    named_by_engine = path.stem in ("best", "last") and path.parent.name == "weights"
    return as_name(path.absolute().parent.parent.name if named_by_engine else path.stem)


def read_foreign(
    model: ForeignModel,
    *,
    name: str | None = None,
    head: HeadForm = "towers",
    architecture: str | None = None,
) -> tuple[DetectorState, dict[str, Any]]:
    """Read a foreign model through the guarded door.

    Args:
        model: The model.
        name: Name that its classes get as an increment; that of the file when left out.
        head: The head form that a strategy would ask for.
        architecture: The only one to try where the file has to be recognised.

    Returns:
        The state, float32 on the CPU, and facts as `duet.families.family.Family.foreign`.

    Raises:
        ModelError: It is damaged, refused, or no detector that duet can rebuild.
    """
    family = family_of_file(model)
    name, form = name or file_name(model.path), row_of(family).head_form(head, family)
    return resolve_family(family).foreign(model, name=name, head=form, architecture=architecture)


def open_model(
    path: Path, *, trust: bool = False, notify: Callable[[str], None] | None = None
) -> DetectorFile:
    """Open a detector folder, or a foreign model as `duet import` would keep it, in memory.

    Args:
        path: Detector folder, or a foreign model.
        trust: **Dangerous**, see `duet.increments.guard.load_pt`; folders never need it.
        notify: Called with one line when a foreign model was opened.

    Raises:
        ModelError: It is missing, damaged or refused.
    """
    from duet.increments.manifest import MANIFEST, DetectorManifest, Lineage
    from duet.increments.store import DetectorFile, load_detector

    if (path / MANIFEST).is_file() or not is_foreign(path):
        return load_detector(path)
    model = ForeignModel(path, trust)
    state, facts = read_foreign(model)
    lineage = tuple(
        Lineage(increment=part.increment, manifest=model.fingerprint, merge=None)
        for part in state.parts
    )
    manifest = DetectorManifest.for_state(
        state, lineage=lineage, image_size=image_size_of(facts), licence=str(facts["licence"])
    )
    if notify is not None:
        classes = len(state.labels)
        count = f"{classes} class{'' if classes == 1 else 'es'}"
        name = state.architecture.removesuffix(".yaml")
        keeping = shell_line("duet", "import", path)
        notify(f"{path}: opened as {name}, {count}, in memory; `{keeping}` keeps it")
    return DetectorFile(state, manifest)


def image_size_of(facts: dict[str, Any]) -> int:
    """Return the side in pixels that a foreign model was trained at, or the engines' usual one.

    Networks take multiples of 32, up to which the engine rounds as well.
    """
    return -(-int(facts.get("image_size") or 640) // 32) * 32


def _reads(row: FamilyRow, path: Path) -> bool:
    return any(
        path.suffix == known if known.startswith(".") else (path / known).is_file()
        for known in row.files
    )
