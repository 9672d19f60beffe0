"""Open a file that `duet export` wrote; neither duet's weights nor the engine are needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from duet.devices import parse_device, require_device
from duet.errors import ModelError, in_short
from duet.families.exportable import ExportFacts
from duet.families.runtimes import PARITY, RUNTIMES, Session, open_file
from duet.files import read_json, sha256_path
from duet.increments.scores import comparable, thresholds
from duet.inference.apart import Apart
from duet.inference.detector import DetectorFacts, LoadedDetector
from duet.inference.filedetector import FileDetector
from duet.labels import LabelSpace

BATCH = 32
"""Largest batch of 640 px of a file that takes any, fewer of larger ones; others take one image."""

LOADING, TRIAL, LONGEST_TRIAL = 300.0, 60.0, 600.0
"""Seconds that a file may take to load, to look at a first image of 640 x 640 pixels, and at most
to look at a larger one."""

_AGAIN = "the file was edited or mixed from two: export the detector again"


def load_exported(path: Path, device: str = "cpu", *, trust: bool = False) -> LoadedDetector:
    """Open an exported ``.onnx`` or ``.torchscript`` file or ``*_openvino_model`` folder.

    Args:
        path: The file or folder.
        device: ``"cpu"``; ``"cuda"`` and the like where the program that runs it can use them.
        trust: **Dangerous**, see `duet.families.runtimes.open_file`.

    Raises:
        ModelError: It is missing, damaged, no export of duet's, or disagrees with its metadata; or
            it is a program that duet did not write here.
        ConfigError: The program cannot use the device.
        MissingExtraError: The program that runs it is not installed.
    """
    form, place = _form(path), parse_device(device).single("a detector runs")
    if form == "torchscript":  # torch runs it; the other programs know their devices themselves
        require_device(place)
    _require_unchanged(path)
    apart = Apart()
    session = _open(apart, path, form, place.torch_name, trust)
    facts = ExportFacts.from_json(session.stamp, str(path))
    check_output(_try(apart, session, facts, path), facts, str(path))
    increments = tuple((part.increment, part.classes) for part in facts.increments)
    scores = {name: one for part in facts.increments for name, one in part.scores.items()}
    detector = FileDetector(
        lambda batch: apart(lambda: session.run(batch), stop=session.stop),
        LabelSpace(facts.classes),
        comparable(increments, scores),
        facts,
        batch=max(1, min(BATCH, BATCH * 640**2 // facts.image_size**2)) if facts.dynamic else 1,
    )
    told = DetectorFacts(
        facts.fingerprint, facts.licence, facts.image_size, increments, thresholds(scores)
    )
    return LoadedDetector(detector, told, form)


def _require_unchanged(path: Path) -> None:
    """Refuse a file that is no longer the one that ``parity.json`` beside it speaks of.

    A file that travels alone is taken as it is.
    """
    beside = path.parent / PARITY
    if not beside.exists():
        return
    again = "export the detector again, or remove parity.json if the file is to be taken as it is"
    entries = read_json(beside, error=ModelError, remedy=again).get("exports")
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or entry.get("file") != path.name:
            continue
        if entry.get("sha256") != sha256_path(path):
            raise ModelError(
                f"the content changed since {PARITY} was written", where=str(path), remedy=again
            )


def check_output(output: np.ndarray, facts: ExportFacts, where: str) -> None:
    """Refuse a file whose outputs are not what its metadata says.

    Args:
        output: Of one image, batch first.
        facts: The metadata.
        where: The file.

    Raises:
        ModelError: They disagree.
    """
    count, picked = len(facts.classes), facts.layout in ("picked", "picked-n")
    axis, wanted = 1 if facts.layout == "anchors" else 2, 6 if picked else 4 + count
    got = tuple(output.shape)
    if len(got) != 3 or got[0] != 1 or got[axis] != wanted:
        shape = f"(1, {wanted}, anchors)" if axis == 1 else f"(1, rows, {wanted})"
        raise ModelError(
            f"the metadata names {count} classes in the layout '{facts.layout}', so outputs must "
            f"have shape {shape}, but got {got}",
            where=where,
            remedy=_AGAIN,
        )
    found = output[..., 5].round() if picked else np.zeros(1)
    strange = found[(found < 0) | (found >= count)]
    if len(strange):
        raise ModelError(
            f"the file finds class number {int(strange[0])}, but its metadata names {count} "
            "classes, counted from 0",
            where=where,
            remedy=_AGAIN,
        )


def _form(path: Path) -> str:
    for form, runtime in RUNTIMES.items():
        if path.name.lower().endswith(runtime.ending):
            _require_kind(path, folder=form == "openvino")
            return form
    endings = ", ".join(runtime.ending for runtime in RUNTIMES.values())
    raise ModelError(
        "not the name of an exported file that duet can run",
        where=str(path),
        remedy=f"names end in {endings}",
    )


def _require_kind(path: Path, *, folder: bool) -> None:
    if not (path.is_dir() if folder else path.is_file()):
        problem = "no such file or folder"
        if path.exists():
            problem = "expected a folder" if folder else "expected a file, got a folder"
        raise ModelError(problem, where=str(path), remedy="check the path with ls")


def _open(apart: Apart, path: Path, form: str, device: str, trust: bool) -> Session:
    try:
        return apart(lambda: open_file(path, form, device, trust=trust), seconds=LOADING)
    except TimeoutError:
        raise _endless(f"does not load within {LOADING:.0f} s", path) from None


def _try(apart: Apart, session: Session, facts: ExportFacts, path: Path) -> np.ndarray:
    """Run an empty image: what the file gives is known before the first real one.

    The narrowest one where sides are open: what it gives has the same form, in no time.
    """
    size = facts.image_size
    high = facts.stride if facts.open_sides else size
    seconds = min(TRIAL * max(1.0, (size / 640) ** 2), LONGEST_TRIAL)
    what = f"the file does not run on an input of {high} x {size} px, as its metadata says"
    wanted = (1, 3, high, size)
    if session.shape and not (  # before memory goes into such an input
        len(session.shape) == len(wanted)
        and all(got in (None, one) for got, one in zip(session.shape, wanted, strict=True))
    ):
        raise ModelError(f"{what}: its input is {session.shape}", where=str(path), remedy=_AGAIN)
    try:
        return apart(
            lambda: session.run(np.zeros(wanted, np.float32)), stop=session.stop, seconds=seconds
        )
    except TimeoutError:
        raise _endless(f"does not look at an image within {seconds:.0f} s", path) from None
    except Exception as error:  # foreign programs: every failure means the same
        raise ModelError(f"{what}: {in_short(error)}", where=str(path), remedy=_AGAIN) from error


def _endless(what: str, path: Path) -> ModelError:
    return ModelError(
        f"the file {what}: it may never end",
        where=str(path),
        remedy="ask its author for the detector folder; on a slow machine use a smaller network",
    )
