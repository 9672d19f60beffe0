"""A detector in memory: shared tensors, their buffers, and the head parts of its increments."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch

from duet.defaults import CONFIDENCE
from duet.errors import ModelError
from duet.files import sha256_json
from duet.increments.colours import Colours
from duet.increments.forms import HeadForm as HeadForm
from duet.increments.scores import ScoreMap, chosen, thresholds
from duet.labels import LabelSpace
from duet.vectors.tensors import Tensors, fingerprint


@dataclass(frozen=True)
class HeadPart:
    """The tensors that one increment owns (theta_tau): class rows, a class tower or a whole head.

    Attributes:
        classes: Class names in the order of the part's outputs.
        tensors: float32 parameters and buffers of the part, and integer counters.
        increment: Name of the increment.
        scores: Score maps by class name; the tensors give raw scores all the same.
        colours: Of the images that it was trained on; None where they were not kept.
    """

    classes: tuple[str, ...]
    tensors: Tensors
    increment: str
    scores: Mapping[str, ScoreMap] = field(default_factory=dict)
    colours: Colours | None = None

    def __post_init__(self) -> None:
        LabelSpace(self.classes)
        where = f"head part of '{self.increment}'"
        if not self.classes or not self.increment.strip():
            raise ModelError("a head part needs classes and the name of its increment", where=where)
        if not self.tensors:
            raise ModelError("a head part needs tensors", where=where)
        strange = sorted(set(self.scores) - set(self.classes))
        if strange:
            raise ModelError(f"score maps of classes it lacks: {', '.join(strange)}", where=where)
        require_full_precision(self.tensors, where)


@dataclass(frozen=True)
class DetectorState:
    """Everything that makes a detector, independent of the engine that runs it.

    Attributes:
        family: Detector family, such as "yolo".
        architecture: Architecture within the family, such as "yolo11n".
        head: How head parts are put together: "rows", "towers" or "parallel".
        shared: Trainable shared tensors (theta_s), float32.
        buffers: Buffers of the shared layers: running_mean and running_var float32, counters int64.
        parts: Head parts, oldest increment first.
    """

    family: str
    architecture: str
    head: HeadForm
    shared: Tensors
    buffers: Tensors
    parts: tuple[HeadPart, ...]

    def __post_init__(self) -> None:
        where = f"{self.family} {self.architecture}"
        if self.head not in get_args(HeadForm):
            known = ", ".join(get_args(HeadForm))
            raise ModelError(f"unknown head form '{self.head}', expected {known}", where=where)
        if not self.parts:
            raise ModelError("a detector needs at least one head part", where=where)
        names = [part.increment for part in self.parts]
        if len(set(names)) != len(names):
            raise ModelError(f"increments occur twice: {', '.join(names)}", where=where)
        both = sorted(set(self.shared) & set(self.buffers))
        if both:
            raise ModelError(f"tensors are both shared and buffers: {', '.join(both)}", where=where)
        require_full_precision(self.shared, f"{where}, shared tensors", floating_only=True)
        require_full_precision(self.buffers, f"{where}, buffers")
        _ = self.labels  # refuses classes that two increments claim

    @functools.cached_property
    def labels(self) -> LabelSpace:
        """All classes, in the order of the head parts."""
        spaces = [LabelSpace(part.classes) for part in self.parts]
        return functools.reduce(lambda known, new: known + new, spaces)

    @property
    def scores(self) -> dict[str, ScoreMap]:
        """Score maps of all parts by class name; classes without one are as they are."""
        return {name: one for part in self.parts for name, one in part.scores.items()}

    @property
    def thresholds(self) -> dict[str, float]:
        """Lowest score that users are shown of each class, by name, in the order of `labels`."""
        return {**dict.fromkeys(self.labels, CONFIDENCE), **thresholds(self.scores)}

    def uncalibrated(self) -> DetectorState:
        """Return the detector that gives raw scores everywhere: itself if it has no score maps."""
        if not self.scores:
            return self
        return replace(self, parts=tuple(replace(part, scores={}) for part in self.parts))

    @classmethod
    def from_tensors(
        cls,
        flat: Tensors,
        parts: Sequence[tuple[str, tuple[str, ...], Mapping[str, ScoreMap], Colours | None]],
        *,
        family: str,
        architecture: str,
        head: HeadForm,
    ) -> DetectorState:
        """Return the detector whose `to_tensors` are ``flat``.

        Args:
            flat: Its tensors.
            parts: Increment, classes, score maps and colours of each head part, oldest first.
            family: See `DetectorState`.
            architecture: See `DetectorState`.
            head: See `DetectorState`.
        """

        def under(prefix: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}

        heads = tuple(
            HeadPart(classes, under(f"part/{index}/"), increment, scores, colours)
            for index, (increment, classes, scores, colours) in enumerate(parts)
        )
        return cls(family, architecture, head, under("shared/"), under("buffers/"), heads)

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Return flat tensors: `shared/<name>`, `buffers/<name>`, `part/<index>/<name>`."""
        flat = {f"shared/{name}": tensor for name, tensor in self.shared.items()}
        flat |= {f"buffers/{name}": tensor for name, tensor in self.buffers.items()}
        for index, part in enumerate(self.parts):
            flat |= {f"part/{index}/{name}": tensor for name, tensor in part.tensors.items()}
        return flat

    def fingerprint(self) -> str:
        """Return a SHA-256 over all tensors and what they mean (family, head, classes, scores)."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        # A state is a value: nobody writes into its tensors, so that they are hashed once.
        meaning: dict[str, Any] = {
            "family": self.family,
            "architecture": self.architecture,
            "head": self.head,
            "parts": [[part.increment, list(part.classes)] for part in self.parts],
            "tensors": fingerprint(self.to_tensors()),
        }
        if self.scores:  # else as it was before there were score maps
            meaning["scores"] = {n: one.model_dump(mode="json") for n, one in self.scores.items()}
        return sha256_json(meaning)


def rescored(parts: Sequence[HeadPart], scores: Mapping[str, ScoreMap]) -> tuple[HeadPart, ...]:
    """Return head parts with other score maps of some classes, by name."""
    return tuple(
        replace(part, scores={**part.scores, **own})
        if (own := chosen(scores, part.classes))
        else part
        for part in parts
    )


def require_full_precision(tensors: Tensors, where: str, *, floating_only: bool = False) -> None:
    """Refuse floating tensors that are not float32, and integer ones if ``floating_only``.

    Raises:
        ModelError: With the first tensor concerned.
    """
    for name, tensor in tensors.items():
        wrong_float = tensor.is_floating_point() and tensor.dtype != torch.float32
        if wrong_float or (floating_only and not tensor.is_floating_point()):
            raise ModelError(
                f"expected float32, got {tensor.dtype} in '{name}'",
                where=where,
                remedy="keep detectors in float32 in memory; half precision is for base files only",
            )
