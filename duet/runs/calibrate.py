"""The score maps of a stage: the images that they are fitted on, and the answer kept."""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from duet.calibration.colours import as_if, colours_of
from duet.calibration.stage import FARTHEST, NEAR, RULE, of_labels, of_the_past
from duet.defaults import CONFIDENCE
from duet.detections import Detections
from duet.devices import parse_device
from duet.evaluation.matches import ClassMatches, match
from duet.files import sha256_json
from duet.increments.colours import Colours
from duet.increments.scores import ScoreMap
from duet.increments.state import DetectorState, rescored
from duet.labels import LabelSpace
from duet.runs.evaluate import (
    FOR_AP,
    FOR_USERS,
    ONE_BOX,
    calibrated_detector_of,
    detector_of,
    image_keys,
    looked_at,
    looked_for,
    no_common_class,
    predict,
    require_split,
    shown_at,
    truths,
)
from duet.runs.questions import on_any_machine
from duet.runs.setting import Before, Setting
from duet.runs.slots import CHAIN
from duet.series import Increment, Series, Slice, train_slice
from duet.series.slices import eval_slice, eval_split

VALIDATION = "val"
AT_MOST = 200
"""Images that are looked at without labels: more change the maps by less than chance does."""

AT_LEAST = 50
"""Images, if there are so many, that are looked at in the colours of each earlier increment."""


def calibrated(
    setting: Setting, increment: Increment, merged: DetectorState, before: Before | None
) -> DetectorState:
    """Return the detector after a stage with score maps of all its classes, and its colours.

    Only the increment's own images are looked at: of its validation split for its classes, which
    have labels there, and of its training split for all others. An increment without a validation
    split leaves the scores of its classes as they are.

    Args:
        setting: See `Setting`.
        increment: What was learned.
        merged: The detector after it.
        before: What the stage had behind it; None at the base.
    """
    place = parse_device(setting.schedule.device).torch_name
    previous = before.merged if before is not None else None
    # As the detector is kept: what an old class needs to be seen is not taken from it.
    size = max(setting.schedule.image_size, before.image_size if before is not None else 0)
    images = spread(train_slice(increment.data, increment.classes).images)
    labelled = _validation(increment)
    remembered = [part.colours for part in previous.parts] if previous is not None else []
    key = sha256_json(
        [
            merged.fingerprint(), previous.fingerprint() if previous else None,
            *looked_at(merged, size),
            [str(number) for number in image_keys(images)], labelled.sha256 if labelled else None,
            increment.classes, NEAR, RULE, FARTHEST, *ONE_BOX,
            [one and one.model_dump() for one in remembered],
        ]
    )  # fmt: skip
    asked = Fitting(
        merged, previous, on_any_machine(images), labelled, increment.classes, size, place
    )
    stored = setting.lab.asked(
        setting.lab.folder / f"scores-{key[:16]}.json", key, asked, rank=CHAIN
    )
    maps = {name: ScoreMap(**one) for name, one in stored["scores"].items()}
    parts = rescored(merged.parts, maps)
    if parts[-1].increment == increment.name:  # else it brought no classes
        parts = (*parts[:-1], replace(parts[-1], colours=Colours(**stored["colours"])))
    return replace(merged, parts=parts)


@dataclass(frozen=True)
class Fitting:
    """Which score maps the detector after a stage needs, and what its images look like.

    Attributes:
        merged: The detector after the stage.
        previous: The one before it; None at the base.
        images: Of the increment, without labels.
        labelled: Validation images with labels of the increment's classes; None without any.
        classes: Of the increment.
        image_size: Side of the square that images are fitted into, pixels.
        device: Where they run, torch's name.
    """

    merged: DetectorState
    previous: DetectorState | None
    images: tuple[Path, ...]
    labelled: Slice | None
    classes: tuple[str, ...]
    image_size: int
    device: str = "cpu"

    def answer(self, folder: Path, stopped: threading.Event) -> dict[str, Any]:
        """Look at the images; return ``scores`` by class name and ``colours``."""
        size, place = self.image_size, self.device
        maps: dict[str, ScoreMap] = {}
        if self.previous is not None:
            others = [name for name in self.previous.labels if name not in self.classes]
            maps = by_detector(self.merged, self.previous, others, self.images, size, place)
        if self.labelled is not None:
            state = replace(self.merged, parts=rescored(self.merged.parts, maps))
            maps |= of_labels(found_on(state, [self.labelled], size, place))
        return {
            "scores": {name: one.model_dump() for name, one in maps.items()},
            "colours": colours_of(self.images).model_dump(),
        }


def by_detector(
    state: DetectorState,
    earlier: DetectorState,
    classes: Sequence[str],
    images: Sequence[Path],
    size: int,
    device: str = "cpu",
) -> dict[str, ScoreMap]:
    """Return the score maps that give a detector the scores of an earlier one.

    Images get the colours of those that a class was learned on, where its part remembers them.

    Args:
        state: The detector; its own score maps do not count.
        earlier: The one before it, with its score maps.
        classes: That both know.
        images: Without labels; `AT_MOST` are looked at.
        size: Longer side of what images are fitted into, pixels.
        device: Where they run, torch's name.
    """
    learned_on: dict[Colours | None, list[str]] = defaultdict(list)
    for part in earlier.parts:
        if names := [name for name in part.classes if name in classes]:
            learned_on[part.colours] += names
    if not learned_on:
        return {}
    both = [detector_of(one, size, device) for one in (earlier, state)]
    own = colours_of(spread(images))
    # A long chain has many colours: what is looked at in each becomes less, but not too few.
    some = spread(images, max(AT_MOST // len(learned_on), AT_LEAST))
    known, maps = earlier.scores, {}
    for colours, names in learned_on.items():
        seen = functools.partial(as_if, own=own, wanted=colours) if colours is not None else None
        was, now = (predict(one, some, view=FOR_AP, seen=seen) for one in both)
        for name, one in of_the_past(was, now, names, known).items():
            maps[name] = known.get(name, ScoreMap()).after(one)
    return maps


def found_on(
    state: DetectorState, cuts: Sequence[Slice], size: int, device: str = "cpu"
) -> dict[str, list[ClassMatches]]:
    """Return the detections of labelled classes, matched in each cut, with raw scores.

    Args:
        state: The detector. Score maps of other classes count: they compete for the same places.
        cuts: Labelled images.
        size: Longer side of what images are fitted into, pixels.
        device: Where it runs, torch's name.
    """
    raw = ScoreMap(threshold=CONFIDENCE)  # it competes with others as it does once it is fitted
    fitted = dict.fromkeys((name for cut in cuts for name in cut.classes), raw)
    detector = calibrated_detector_of(
        replace(state, parts=rescored(state.parts, fitted)), size, device
    )
    return _matched((predict(detector, cut.images, view=FOR_USERS), cut) for cut in cuts)


def right_at_thresholds(
    state: DetectorState, cuts: Sequence[Slice], size: int, device: str = "cpu"
) -> dict[str, float]:
    """Return which share of what users are shown is right, of classes that are shown at all.

    Arguments as `found_on`.
    """
    found = _matched((shown_at(state, cut.images, size, device), cut) for cut in cuts)
    counted = {
        name: np.concatenate([one.hit[~one.ignored] for one in every])
        for name, every in found.items()
    }
    return {name: float(hits.mean()) for name, hits in counted.items() if len(hits)}


def _matched(
    looks: Iterable[tuple[list[Detections], Slice]],
) -> dict[str, list[ClassMatches]]:
    """Match what was found in each cut with its labels, class by class."""
    found: dict[str, list[ClassMatches]] = defaultdict(list)
    for every, cut in looks:
        keys = np.arange(len(cut.images), dtype=np.uint64)
        matches = match(looked_for(every, cut), truths(cut), LabelSpace(cut.classes), keys)
        for name, one in matches.classes.items():
            found[name].append(one)
    return found


def labelled_cuts(state: DetectorState, series: Series, split: str) -> list[Slice]:
    """Return the labelled images of each increment whose classes a detector knows.

    Raises:
        DataError: A data set has no such split, or the detector knows no class of the series.
    """
    require_split(series, split)
    found = [
        eval_slice(item.data, names, split or eval_split(item.data))
        for item in series.increments
        if item.has_data and (names := [n for n in item.classes if n in state.labels])
    ]
    if not found:
        raise no_common_class(state.labels, series.labels)
    return found


def _validation(increment: Increment) -> Slice | None:
    """Return the validation images with the labels of the increment's classes, if it has any."""
    if VALIDATION not in increment.data.splits:
        return None
    return eval_slice(increment.data, increment.classes, VALIDATION)


def spread(images: Sequence[Path], most: int = AT_MOST) -> tuple[Path, ...]:
    """Return at most so many images, evenly spread over them."""
    places = np.linspace(0, len(images) - 1, min(len(images), most)).round().astype(int)
    return tuple(images[place] for place in places)
