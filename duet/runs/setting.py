"""What all chains of a run share, and what each stage gives and takes: values alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from duet.families.family import Family
from duet.families.protocol import RoleRules
from duet.families.table import resolve_family, resolve_roles
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState, HeadForm
from duet.merging.trace import MergeTrace
from duet.runs.lab import Lab, Trained
from duet.runs.onto import Onto
from duet.runs.put_back import put_back
from duet.series import Increment, Series
from duet.training.schedule import Schedule
from duet.vectors.tensors import Tensors


@dataclass(frozen=True)
class Setting:
    """What all chains of a run share.

    Attributes:
        series: Increments and their data.
        family: Detector family.
        architecture: Architecture file of the family.
        theta_0: The pretrained detector, float32.
        schedule: How long and how fast every stage trains.
        seed: Of class rows, order and augmentation.
        lab: Where training happens.
        weights: File that θ_0 was read from, noted in detectors so that they can be merged again.
        onto: The detector that stands for the first increment, which is then not trained.
    """

    series: Series
    family: str
    architecture: str
    theta_0: StartWeights
    schedule: Schedule
    seed: int
    lab: Lab
    weights: Path | None = None
    onto: Onto | None = None

    @cached_property
    def engine(self) -> Family:
        """What trains and runs detectors of the family."""
        return resolve_family(self.family)

    @cached_property
    def roles(self) -> RoleRules:
        """What each tensor of the family is for."""
        return resolve_roles(self.family)

    def shared_start(self, head: HeadForm) -> Tensors:
        """Return θ_0's shared tensors, as a detector of that head form has them."""
        return self.roles.split_roles(self.theta_0.tensors, head).shared

    def put_back(self, place: Path, start: DetectorState) -> DetectorState:
        """Return a trained state out of what a run keeps of it, see `duet.runs.put_back`."""
        return put_back(place, start, self.shared_start)

    def let_go(self, result: StageResult, *places: Path) -> None:
        """Have the lab remove what a run keeps of a stage, see `Lab.let_go`."""
        for trained in (result.trained, result.refit):
            if trained is not None:
                self.lab.let_go(trained, places, self.put_back)


RETENTION = "retention"
"""Fact of a trace: what `min_retention` measured, and how far it let the stage move."""


@dataclass(frozen=True)
class StageResult:
    """One finished stage of a chain.

    Attributes:
        increment: What was learned.
        trained: The training, before any merge.
        merged: The detector to deploy after this stage.
        trace: What the merge did; None at the base.
        refit: The re-fit training, if the strategy has one.
        drawn: What of the training is merged and kept, where `min_retention` drew it back.
    """

    increment: Increment
    trained: Trained
    merged: DetectorState
    trace: MergeTrace | None = None
    refit: Trained | None = None
    drawn: DetectorState | None = None

    @property
    def learned(self) -> DetectorState:
        """The detector that was merged with the one before."""
        return self.trained.state if self.drawn is None else self.drawn

    @property
    def seconds(self) -> float:
        """Training time of the stage."""
        return self.trained.seconds + (self.refit.seconds if self.refit else 0.0)

    def finished(self, merged: DetectorState) -> FinishedStage:
        """Return what is needed of the stage once it is kept; ``merged`` is the kept detector."""
        both = [self.trained] if self.refit is None else [self.trained, self.refit]
        peaks = (one.peak_memory for one in both if one.peak_memory is not None)
        peak = max(peaks, default=None)
        return FinishedStage(self.increment, merged, self.trace, self.seconds, peak)


@dataclass(frozen=True)
class FinishedStage:
    """A stage of which a run folder holds everything: long chains keep no tensors in memory.

    Attributes:
        increment: What was learned.
        merged: The detector after it; its tensors are mapped from its file.
        trace: What the merge did; None at the base.
        seconds: Training time.
        peak_memory: Main memory of a training process at most, bytes; None if none told.
    """

    increment: Increment
    merged: DetectorState
    trace: MergeTrace | None = None
    seconds: float = 0.0
    peak_memory: int | None = None


@dataclass(frozen=True)
class Before:
    """All that an increment needs of the past: no image, two sets of weights, two counts.

    Attributes:
        merged: Detector after the previous stage.
        earlier: Shared tensors one stage before that (θ_0 at the second stage): L_DC's direction.
        stages: Increments that ``merged`` holds.
        images: Images seen in their training.
        fisher: Sum of their Fishers; None if one was not kept.
        image_size: Side of the images that ``merged`` looks at, pixels; 0: the schedule's.
    """

    merged: DetectorState
    earlier: Tensors
    stages: int
    images: int
    fisher: Tensors | None = None
    image_size: int = 0
