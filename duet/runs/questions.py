"""What a run asks of detectors and images, each as a value that any process can answer.

A question holds all that its answer depends on: states, labels, the paths of images. It can be
pickled and sent to any machine that sees the images; whoever answers it writes files into a folder
that is empty, and returns the rest as JSON-ready data. Equal questions have equal answers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from duet.evaluation.agreement import agreement
from duet.evaluation.deployment import save_deployed
from duet.evaluation.matches import measure, save_matches
from duet.increments.state import DetectorState
from duet.runs.evaluate import (
    calibrated_detector_of,
    evaluate_state,
    image_keys,
    shown,
    shown_at,
    shown_to_users,
    sides_of,
)
from duet.series import Slice

EVIDENCE, SEEN = "evidence.npz", "seen.npz"
"""Files of an answer to `Measuring`: the matches that AP comes from, and what users see."""


class Question(Protocol):
    """Something to find out; see the module."""

    def answer(self, folder: Path, stopped: threading.Event) -> dict[str, Any]:
        """Return the answer; its files are written into ``folder``.

        Raises:
            DuetError: ``stopped`` was set, or an image cannot be read.
        """
        ...


AnswerQuestion = Callable[[Question, Path, threading.Event], dict[str, Any]]
"""``answer(question, folder, stopped)`` has a question answered, wherever that is."""


def answer_here(question: Question, folder: Path, stopped: threading.Event) -> dict[str, Any]:
    """Answer a question in this process."""
    return question.answer(folder, stopped)


def on_any_machine(images: Sequence[Path]) -> tuple[Path, ...]:
    """Return paths that do not hang on a working folder."""
    return tuple(Path(os.path.abspath(image)) for image in images)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch work with so many threads in the calling thread; 0: as it is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Measuring:
    """What a detector finds in labelled images.

    Of one without score maps AP, and the matches that it is made of (`EVIDENCE`); of any one what
    its users see (`SEEN`): AP is of raw scores.

    Attributes:
        state: The detector.
        data: The images, with labels of classes that it knows.
        image_size: Longer side of what images are fitted into, pixels.
        device: Where it runs, torch's name.
    """

    state: DetectorState
    data: Slice
    image_size: int
    device: str = "cpu"

    @property
    def files(self) -> tuple[str, ...]:
        """Names of what is written."""
        return (SEEN,) if self.state.scores else (EVIDENCE, SEEN)

    def answer(self, folder: Path, stopped: threading.Event) -> dict[str, Any]:
        """Look at the images; return AP of every class and how many objects there are of it."""
        state, data = self.state, self.data
        detector = calibrated_detector_of(state, self.image_size, self.device)
        every, users = shown_to_users(detector, state, data.images, stopped)
        save_deployed(folder / SEEN, shown(users, data, state.labels.names))
        if EVIDENCE not in self.files:
            return {}
        result, matches = measure(*sides_of(every, data), image_keys(data.images))
        save_matches(folder / EVIDENCE, matches)
        return {key: dict(getattr(result, key)) for key in ("ap50", "ap", "objects")}


@dataclass(frozen=True)
class Scoring:
    """What one point of a sweep is chosen by; nothing is kept of it.

    Attributes:
        state: The detector.
        data: The images, with labels of classes that it knows.
        image_size: Longer side of what images are fitted into, pixels.
        device: Where it runs, torch's name.
    """

    state: DetectorState
    data: Slice
    image_size: int
    device: str = "cpu"

    def answer(self, folder: Path, stopped: threading.Event) -> dict[str, Any]:
        """Look at the images; return mAP50 of the classes of the data, as a fraction."""
        found = evaluate_state(
            self.state, self.data, image_size=self.image_size, device=self.device, stopped=stopped
        )
        return {"map50": found.map50(self.data.classes)}


@dataclass(frozen=True)
class Agreeing:
    """What a later detector makes of the detections of an earlier one.

    Attributes:
        before: The earlier one.
        after: The later one.
        images: Without labels.
        image_size: Longer side of what images are fitted into, pixels.
        device: Where they run, torch's name.
    """

    before: DetectorState
    after: DetectorState
    images: tuple[Path, ...]
    image_size: int
    device: str = "cpu"

    def answer(self, folder: Path, stopped: threading.Event) -> dict[str, Any]:
        """Look at the images with both; return the fields of an `Agreement`."""
        was, now = (
            shown_at(one, self.images, self.image_size, self.device, stopped)
            for one in (self.before, self.after)
        )
        return asdict(agreement(was, now))
