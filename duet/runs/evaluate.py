"""Predictions once per (model, domain); every number of a run is a slice of the resulting AP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.defaults import AGNOSTIC, CLEAR
from duet.detections import Detections
from duet.errors import DataError, DuetError, did_you_mean
from duet.evaluation.agreement import IOU as OVERLAP
from duet.evaluation.agreement import Agreement, agreement
from duet.evaluation.ap import ClassAP, Truth, evaluate_ap
from duet.evaluation.deployment import Deployed, save_deployed
from duet.evaluation.doubles import find_doubles
from duet.evaluation.matches import match, save_matches
from duet.families.detector import ImageDetector
from duet.families.outputs import View
from duet.families.table import resolve_family
from duet.files import sha256_file, sha256_json
from duet.images import Image, read_groups
from duet.increments.state import DetectorState
from duet.labels import LabelSpace
from duet.runs.look import FirstLook
from duet.runs.memo import Tell, recall, remember
from duet.series import Series, Slice
from duet.series.images import image_sha256

CONFIDENCE, IOU, LIMIT = 0.001, 0.7, 300
"""Candidate confidence, suppression overlap and detections per image: the engine's validation."""

ONE_BOX = (AGNOSTIC, CLEAR, "calibrated classes")
"""Which box of an object is shown: answers that were kept under another rule are not used."""

EVIDENCE = {"evidence": ".npz", "seen": ".seen.npz"}
"""Files of a kept evaluation: key of their SHA-256 in it, and how their names end."""


Seen = Callable[[Image], Image]
"""Makes of an image, ``(H, W, 3)`` uint8 BGR, the one that a detector is shown."""


def truths(data: Slice) -> list[Truth]:
    """Return the labels of a slice as xyxy px of each original image, ignored ones marked."""
    return [
        Truth(item.xyxy, item.class_ids, item.height, item.width, item.ignored, item.crowds)
        for item in data.annotations
    ]


FOR_AP = View(CONFIDENCE, IOU, LIMIT, multi_label=True)
FOR_USERS = View(CONFIDENCE, IOU, LIMIT, agnostic=AGNOSTIC)
"""What is looked at: every class of a place; and the best one, down to scores nobody is shown, so
that what any threshold shows can be told."""


def predict(
    detector: ImageDetector,
    images: Sequence[Path],
    stopped: threading.Event | None = None,
    *,
    view: View = FOR_AP,
    seen: Seen | None = None,
) -> list[Detections]:
    """Run a detector over image files; see `predict_views`."""
    return predict_views(detector, images, stopped, views=(view,), seen=seen)[0]


def predict_views(
    detector: ImageDetector,
    images: Sequence[Path],
    stopped: threading.Event | None = None,
    *,
    views: Sequence[View],
    seen: Seen | None = None,
) -> tuple[list[Detections], ...]:
    """Run a detector over image files, a few dozen at a time; return what each view shows.

    Args:
        detector: Runs over them.
        images: The files.
        stopped: Ends it early when set.
        views: See `View`.
        seen: What is made of each image before the detector sees it.

    Raises:
        DuetError: ``stopped`` was set.
    """
    found: tuple[list[Detections], ...] = tuple([] for _ in views)
    for _, group in read_groups(images, 64):
        if stopped is not None and stopped.is_set():
            raise DuetError("stopped", remedy="the same command resumes")
        group = [seen(image) for image in group] if seen is not None else group
        for every, some in zip(found, detector.views(group, *views), strict=True):
            every += some
    return found


def evaluate_state(
    state: DetectorState, data: Slice, *, image_size: int, device: str = "cpu"
) -> ClassAP:
    """Return the AP of every class of ``data`` for one detector; ``device`` is torch's name."""
    found = predict(detector_of(state, image_size, device), data.images)
    return average_precision(found, data)


def average_precision(found: list[Detections], data: Slice) -> ClassAP:
    """Return the AP of every class of ``data`` for the detections on its images."""
    return evaluate_ap(*_sides(found, data))


def shown(found: list[Detections], data: Slice, classes: Sequence[str]) -> Deployed:
    """Return what a detector of these classes shows its users: detections of `FOR_USERS`."""
    matches = match(*_sides(found, data), image_keys(data.images))
    return Deployed(matches, find_doubles(found, classes))


def detector_of(state: DetectorState, image_size: int, device: str = "cpu") -> ImageDetector:
    """Return what runs a detector on images of that side; ``device`` is torch's name.

    Scores are raw: no score map changes what AP is made of.
    """
    return calibrated_detector_of(state.uncalibrated(), image_size, device)


def calibrated_detector_of(
    state: DetectorState, image_size: int, device: str = "cpu"
) -> ImageDetector:
    """Return what runs a detector as users have it, with its score maps."""
    return resolve_family(state.family).detector(state, image_size=image_size, device=device)


def shown_to_users(
    detector: ImageDetector, state: DetectorState, images: Sequence[Path],
    stopped: threading.Event | None = None,
) -> tuple[list[Detections], list[Detections]]:  # fmt: skip
    """Return what AP is computed from, and what users see, down to scores nobody is shown.

    What scores above its class's threshold is just what users are shown: there a class below its
    own threshold hides no other one.
    """
    least = tuple(state.thresholds.values())
    exact = replace(FOR_USERS, confidence=least)
    views = (FOR_AP, FOR_USERS) if len(set(least)) == 1 else (FOR_AP, FOR_USERS, exact)
    every, shown, *others = predict_views(detector, images, stopped, views=views)
    for above in others:
        shown = [_over(one, other, least) for one, other in zip(above, shown, strict=True)]
    return every, shown


def shown_at(
    state: DetectorState, images: Sequence[Path], image_size: int, device: str = "cpu",
    stopped: threading.Event | None = None,
) -> list[Detections]:  # fmt: skip
    """Return what users of a detector are shown, at the thresholds in use."""
    view = replace(FOR_USERS, confidence=tuple(state.thresholds.values()))
    detector = calibrated_detector_of(state, image_size, device)
    return predict(detector, images, stopped, view=view)


def _over(above: Detections, every: Detections, least: Sequence[float]) -> Detections:
    """Return ``above``, and of ``every`` what scores no more than its class's threshold."""
    rest = every.scores <= np.array(least, np.float32)[every.class_ids]
    return Detections(
        np.concatenate([above.xyxy, every.xyxy[rest]]),
        np.concatenate([above.scores, every.scores[rest]]),
        np.concatenate([above.class_ids, every.class_ids[rest]]),
        above.labels,
    )


def _sides(
    found: list[Detections], data: Slice
) -> tuple[list[Detections], list[Truth], LabelSpace]:
    """Return what `evaluate_ap` compares: detections, labels, and the classes of ``data``."""
    return looked_for(found, data), truths(data), LabelSpace(data.classes)


def looked_for(found: list[Detections], data: Slice) -> list[Detections]:
    """Leave out what nobody looked for: it is neither a hit nor a false alarm."""
    if not data.labelled:
        return found
    return [one.of(names) for one, names in zip(found, data.labelled, strict=True)]


def image_keys(images: Sequence[Path]) -> npt.NDArray[np.uint64]:
    """Return ``(images,)`` numbers that tell images apart by content."""
    return np.array([int(image_sha256(path)[:16], 16) for path in images], np.uint64)


def require_split(series: Series, split: str) -> None:
    """Refuse a split that a data set does not have; none chosen is always there.

    Raises:
        DataError: Names all data sets without it.
    """
    sources = {item.data.source: item.data for item in series.increments}
    missing = {path: data for path, data in sources.items() if split not in data.splits}
    if split and missing:
        there = list(dict.fromkeys(name for data in missing.values() for name in data.splits))
        hint = did_you_mean(split, there)
        raise DataError(
            f"no split '{split}'{hint} in {', '.join(map(str, missing))}",
            where="--split",
            remedy=f"there are: {', '.join(there)}",
        )


def no_common_class(known: Iterable[str], there: Iterable[str]) -> DataError:
    """Return the error of a detector that knows some classes of a series that has others."""
    return DataError(
        f"the detector knows no class of this series: it knows {', '.join(known)}; the series has "
        f"{', '.join(there)}",
        remedy="classes are matched by name: rename the classes of one side",
    )


@dataclass
class Evaluator:
    """Evaluations kept under one folder, by content of model and data.

    Attributes:
        folder: Per (model, domain) a small JSON with the AP of every class, and beside it the
            matches that it was computed from (`duet.evaluation.matches`), for `duet compare`.
        image_size: Longer side of what images are fitted into, pixels.
        stopped: Ends an evaluation early when set.
        slots: Entered while an evaluation runs, so that it counts among the trainings at a time.
        look: What the images were when the run began; they must stay that.
        tell: Told of damaged evaluations, which are done again.
        device: Where detectors run, torch's name.
    """

    folder: Path
    image_size: int
    stopped: threading.Event = field(default_factory=threading.Event)
    slots: AbstractContextManager[Any] = field(default_factory=nullcontext)
    look: FirstLook = field(default_factory=FirstLook)
    tell: Tell = lambda line: None
    device: str = "cpu"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, state: DetectorState, data: Slice) -> ClassAP:
        """Return the AP of every class of ``data`` that ``state`` knows, and its evidence.

        AP is of the raw scores; what users see is of the mapped ones.

        Raises:
            DataError: Images changed since the run began.
        """
        measured = self._measured(state.uncalibrated(), data)
        if state.scores:
            measured = replace(measured, seen=self._measured(state, data).seen)
        return measured

    def _measured(self, state: DetectorState, data: Slice) -> ClassAP:
        """Measure a detector; of one with score maps only what users see, so that AP is empty."""
        known = tuple(name for name in data.classes if name in state.labels)
        if not known:  # data sets need not share classes
            return ClassAP({}, {})
        self.look.require_unchanged(data.images)
        key = sha256_json(
            [
                state.fingerprint(),
                data.sha256,
                known,
                self.image_size,
                CONFIDENCE,
                IOU,
                LIMIT,
                *ONE_BOX,
            ]
        )
        path = self.folder / f"{data.domain}-{data.split}-{key[:16]}.json"
        with self._lock:  # one at a time: evaluation uses torch in this process
            stored = self._kept(path, key, _files(path, state))
            if stored is None:
                with self.slots:  # after the lock: who waits for it must not hold up a training
                    stored = self._evaluate(state, _reduce(data, known), path)
                self.look.require_unchanged(data.images)
                remember(path, key, stored)
        files = {n: f"{self.folder.name}/{file.name}" for n, file in _files(path, state).items()}
        objects = stored.get("objects", {})  # an older duet did not count them
        return ClassAP(stored.get("ap50", {}), stored.get("ap", {}), **files, objects=objects)

    def kept(self, before: DetectorState, after: DetectorState, data: Slice) -> Agreement:
        """Return what the later detector makes of the detections of the earlier one."""
        self.look.require_unchanged(data.images)
        states, limits = (before.fingerprint(), after.fingerprint()), (*ONE_BOX, OVERLAP, IOU)
        key = sha256_json([*states, data.sha256, self.image_size, *limits])
        path = self.folder / f"kept-{data.domain}-{key[:16]}.json"
        with self._lock:
            stored = recall(path, key, self.tell)
            if stored is None:
                with self.slots:
                    stored = asdict(self._agreement(before, after, data.images))
                remember(path, key, stored)
        rows = {name: tuple(row) for name, row in stored.pop("per_class").items()}
        return Agreement(**stored, per_class=rows)

    def _agreement(
        self, before: DetectorState, after: DetectorState, images: Sequence[Path]
    ) -> Agreement:
        was, now = (
            shown_at(one, images, self.image_size, self.device, self.stopped)
            for one in (before, after)
        )
        return agreement(was, now)

    def _kept(self, path: Path, key: str, files: Mapping[str, Path]) -> dict[str, Any] | None:
        """Return an evaluation that was done before, if all of its files are whole."""
        stored = recall(path, key, self.tell)
        if stored is None:
            if not path.exists() and any(file.exists() for file in files.values()):
                self.tell(f"{path} is missing; computed again")
            return None
        for name, file in files.items():
            try:
                if stored.get(name) == sha256_file(file):
                    continue
                why = "its content is not the one that was written"
            except OSError as error:
                why = f"cannot read: {error.strerror or error}"
            self.tell(f"{file}: {why}; computed again")
            return None
        return stored

    def _evaluate(self, state: DetectorState, data: Slice, path: Path) -> dict[str, Any]:
        """Look at the images, and write what is found of each view beside ``path``."""
        files, numbers = _files(path, state), {}
        detector = calibrated_detector_of(state, self.image_size, self.device)
        every, users = shown_to_users(detector, state, data.images, self.stopped)
        save_deployed(files["seen"], shown(users, data, state.labels.names))
        if "evidence" in files:
            result = average_precision(every, data)
            save_matches(files["evidence"], match(*_sides(every, data), image_keys(data.images)))
            numbers = {key: dict(getattr(result, key)) for key in ("ap50", "ap", "objects")}
        return {**numbers, **{name: sha256_file(file) for name, file in files.items()}}


def _files(path: Path, state: DetectorState) -> dict[str, Path]:
    """Return the files of an evaluation: AP is of raw scores, so there is none of mapped ones."""
    wanted = ("seen",) if state.scores else tuple(EVIDENCE)
    return {name: path.with_suffix(EVIDENCE[name]) for name in wanted}


def _reduce(data: Slice, classes: tuple[str, ...]) -> Slice:
    """Return the slice with only the labels of ``classes``, all images kept."""
    new = np.full(len(data.classes), -1, dtype=np.int64)
    for position, name in enumerate(classes):
        new[data.classes.index(name)] = position
    annotations = tuple(found.renumbered(new) for found in data.annotations)
    return replace(data, classes=classes, annotations=annotations)
