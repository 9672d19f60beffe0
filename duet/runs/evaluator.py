"""Predictions once per (model, domain); every number of a run is a slice of the resulting AP."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from duet.evaluation.agreement import IOU as OVERLAP
from duet.evaluation.agreement import Agreement
from duet.evaluation.ap import ClassAP
from duet.files import hidden_sibling, require_writable, sha256_file, sha256_json
from duet.increments.state import DetectorState
from duet.runs.asked import Asked
from duet.runs.evaluate import CONFIDENCE, IOU, LIMIT, ONE_BOX, looked_at
from duet.runs.look import FirstLook
from duet.runs.questions import EVIDENCE, SEEN, Agreeing, Measuring, on_any_machine
from duet.runs.slots import LOOK
from duet.series import Slice

ENDS = {EVIDENCE: ".npz", SEEN: ".seen.npz"}
"""Files of a kept evaluation, and how their names end."""


@dataclass
class Evaluator:
    """Evaluations kept under one folder, by content of model and data.

    Attributes:
        folder: Per (model, domain) a small JSON with the AP of every class, and beside it the
            matches that it was computed from (`duet.evaluation.matches`), for `duet compare`.
        image_size: Longer side of what images are fitted into, pixels.
        asked: Has the work done, and keeps it.
        look: What the images were when the run began; they must stay that.
        device: Where detectors run, torch's name.
        shared: Where they are found, for runs that share some; ``folder`` gets links to its own.
    """

    folder: Path
    image_size: int
    asked: Asked = field(default_factory=Asked)
    look: FirstLook = field(default_factory=FirstLook)
    device: str = "cpu"
    shared: Path | None = None

    def __call__(self, state: DetectorState, data: Slice, *, rank: int = LOOK) -> ClassAP:
        """Return the AP of every class of ``data`` that ``state`` knows, and its evidence.

        AP is of the raw scores; what users see is of the mapped ones.

        Raises:
            DataError: Images changed since the run began.
        """
        measured = self._measured(state.uncalibrated(), data, rank)
        if state.scores:
            measured = replace(measured, seen=self._measured(state, data, rank).seen)
        return measured

    def known(self, fingerprint: str, like: DetectorState, data: Slice) -> ClassAP | None:
        """Return what was measured of a detector that may be gone; None if something is missing.

        Args:
            fingerprint: Of the detector, which has no score maps.
            like: Another one of its family.
            data: Of classes that it knows.
        """
        path, key = self._place(fingerprint, like, data, data.classes)
        stored = self.asked.kept(path, key, ENDS)
        return self._scores(path, ENDS, stored) if stored is not None else None

    def _measured(self, state: DetectorState, data: Slice, rank: int) -> ClassAP:
        """Measure a detector; of one with score maps only what users see, so that AP is empty."""
        labels = state.labels
        known = tuple(name for name in data.classes if name in labels)
        if not known:  # data sets need not share classes
            return ClassAP({}, {})
        self.look.require_unchanged(data.images)
        path, key = self._place(state.fingerprint(), state, data, known)
        question = Measuring(state, _reduce(data, known), self.image_size, self.device)
        ends = {name: ENDS[name] for name in question.files}
        stored = self.asked(
            path, key, question, ends,
            rank=rank, sure=lambda: self.look.require_unchanged(data.images),
        )  # fmt: skip
        return self._scores(path, ends, stored)

    def _place(
        self, fingerprint: str, like: DetectorState, data: Slice, known: tuple[str, ...]
    ) -> tuple[Path, str]:
        """Return where an evaluation is kept, and its key."""
        how = (*looked_at(like, self.image_size), CONFIDENCE, IOU, LIMIT, *ONE_BOX)
        key = sha256_json([fingerprint, data.sha256, known, *how])
        return (self.shared or self.folder) / f"{data.domain}-{data.split}-{key[:16]}.json", key

    def _scores(self, path: Path, ends: Mapping[str, str], stored: Mapping[str, Any]) -> ClassAP:
        """Return an evaluation whose files lie in the folder, too."""
        files = {}
        for name, end in ends.items():
            file = path.with_suffix(end)
            if self.shared is not None:
                _linked(file, self.folder / file.name, stored[Path(name).stem])
            files[Path(name).stem] = f"{self.folder.name}/{file.name}"
        objects = stored.get("objects", {})  # an older duet did not count them
        return ClassAP(stored.get("ap50", {}), stored.get("ap", {}), **files, objects=objects)

    def kept(self, before: DetectorState, after: DetectorState, data: Slice) -> Agreement:
        """Return what the later detector makes of the detections of the earlier one."""
        self.look.require_unchanged(data.images)
        states, limits = (before.fingerprint(), after.fingerprint()), (*ONE_BOX, OVERLAP, IOU)
        key = sha256_json([*states, data.sha256, *looked_at(after, self.image_size), *limits])
        path = self.folder / f"kept-{data.domain}-{key[:16]}.json"
        images = on_any_machine(data.images)
        stored = self.asked(
            path, key, Agreeing(before, after, images, self.image_size, self.device)
        )
        rows = {name: tuple(row) for name, row in stored["per_class"].items()}
        return Agreement(**{**stored, "per_class": rows})


def _linked(source: Path, target: Path, expected: str) -> None:
    """Have ``target`` be the file ``source``: linked, or copied where nothing can be linked.

    Both are replaced as a whole, and never written into. What is there with the SHA-256
    ``expected`` stays.
    """
    if target.is_file() and sha256_file(target) == expected:
        return

    def link(path: Path) -> None:
        try:
            os.link(source, path)
        except FileExistsError:
            raise
        except OSError:  # another disk, or a file system without links
            path.open("xb").close()
            shutil.copyfile(source, path)

    require_writable(target)
    os.replace(hidden_sibling(target, link), target)


def _reduce(data: Slice, classes: tuple[str, ...]) -> Slice:
    """Return the slice with only the labels of ``classes``, all images kept."""
    places = {name: position for position, name in enumerate(classes)}
    new = np.array([places.get(name, -1) for name in data.classes], np.int64)
    annotations = tuple(found.renumbered(new) for found in data.annotations)
    images = on_any_machine(data.images)
    return replace(data, classes=classes, images=images, annotations=annotations)
