"""`results.json`: everything a report needs, as closed data (`duet.results.files` reads it).

The file is the only border between running and reporting: reports read it and nothing else, and
whoever wants the numbers reads it (or `results.csv`) instead of parsing a report.

Units: every mAP, AP and ratio is a fraction (0.5 = 50 %); times are seconds; boxes are
``[left, top, right, bottom]`` in absolute pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from duet.config import Config
from duet.evaluation.ap import ClassAP
from duet.evaluation.deployment import Deployment
from duet.evaluation.indices import Indices
from duet.evaluation.matrix import MatrixRecord, StageMatrix
from duet.fields import (
    Amount,
    ByClass,
    Count,
    Fraction,
    InnerPath,
    Names,
    Seconds,
    Stage,
)
from duet.results.boxes import GalleryImage
from duet.series.expected import PublishedEntry

if TYPE_CHECKING:  # merging imports torch; a report must not
    from duet.merging.trace import MergeTrace


class SplitCount(Config):
    """How much data one split of an increment holds.

    Attributes:
        images: Images.
        boxes: Objects that are not ignored.
        classes: Class name -> such objects; empty in files of older versions.
    """

    images: Count
    boxes: Count
    classes: ByClass[Count] = Field(default_factory=dict)


class IncrementEntry(Config):
    """One step of the series."""

    domain: str
    classes: Names
    counts: dict[str, SplitCount] = Field(default_factory=dict)
    """Split name ("train", "val", ...) -> counts."""


class SeriesEntry(Config):
    """What was learned, in which order."""

    name: str
    increments: Annotated[tuple[IncrementEntry, ...], Field(min_length=1)]

    @property
    def steps(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(domain, classes) per increment, as `duet.evaluation.pairs` wants it."""
        return tuple((step.domain, step.classes) for step in self.increments)

    @cached_property
    def taught(self) -> dict[tuple[str, frozenset[str]], int]:
        """(domain, classes) -> the increment, 1..T, that first teaches them there."""
        steps = enumerate(self.steps, start=1)
        return {(domain, frozenset(names)): n for n, (domain, names) in reversed(list(steps))}

    @cached_property
    def first_of(self) -> dict[frozenset[str], int]:
        """Classes -> the increment, 1..T, that first teaches just these."""
        steps = enumerate(self.steps, start=1)
        return {frozenset(names): number for number, (_, names) in reversed(list(steps))}

    @cached_property
    def owners(self) -> dict[str, list[int]]:
        """Class name -> the increments, 1..T, that teach it."""
        found: dict[str, list[int]] = {}
        for number, step in enumerate(self.increments, start=1):
            for name in step.classes:
                found.setdefault(name, []).append(number)
        return found


class ApBackend(Config):
    """How AP was computed; see `duet.evaluation.ap.backend`."""

    name: str
    version: str
    parameters: dict[str, JsonValue] = Field(default_factory=dict)


class Protocol(Config):
    """The choices that numbers depend on."""

    family: str
    """Detector, e.g. "yolo11n"."""
    eval_split: str
    image_rule: str
    """Which images of the split are evaluated, in words."""
    ap: ApBackend
    seed: int
    image_size: Annotated[int, Field(ge=1)]
    """Pixels, longer side of the detector's input."""
    shape: Literal["square", "rectangle"] = "square"
    """Of the input; a rectangle is the image padded to the next multiple of the stride a side."""
    head_form: str
    strategy_config: dict[str, JsonValue] = Field(default_factory=dict)
    """Configuration of the main strategy, as it was run."""

    @property
    def input(self) -> str:
        """What the detector looks at, in words."""
        return f"{self.image_size} px{', rectangles' if self.shape == 'rectangle' else ''}"


class ClassScores(Config):
    """AP of every class, for the model after one stage on one domain; None = nothing labelled."""

    stage: Stage
    domain: str
    ap50: ByClass[Fraction | None]
    ap: ByClass[Fraction | None]
    evidence: InnerPath | None = None
    """The matches that AP50 was computed from (`duet.evaluation.matches`)."""
    deployed: Deployment | None = None
    """What users are shown; None in files of older versions."""
    objects: ByClass[Count] = Field(default_factory=dict)
    """Class name -> labelled objects, ignored ones left out; empty in files of older versions."""

    @classmethod
    def of(
        cls, stage: int, domain: str, scores: ClassAP, deployed: Deployment | None = None
    ) -> ClassScores:
        """Convert the result of `duet.evaluation.evaluate_ap`."""
        return cls(
            stage=stage, domain=domain, ap50=dict(scores.ap50), ap=dict(scores.ap),
            evidence=scores.evidence, deployed=deployed, objects=dict(scores.objects),
        )  # fmt: skip


class KeptEntry(Config):
    """What became of the detections of the detector that a series goes on from.

    Both looked at the evaluation images of a domain, which need no labels for it; see
    `duet.evaluation.agreement`.
    """

    domain: str
    images: Count
    before: Count
    """Detections of the detector at the start, in the classes it knows."""
    kept: Count
    """Those of them that the final model makes, too."""
    renamed: Count
    """Those that are not, in whose place it sees a class that is new."""
    added: Count
    """Detections of these classes that only the final model makes."""
    confidence: Fraction | None = None
    """None: at the thresholds of both."""
    iou: Fraction


class TensorEntry(Config):
    """What the merge did to one shared tensor."""

    name: str
    scalars: Count
    alpha: float | None
    """Weight of the previous model, 1 - alpha goes to the new one; None without such a weight."""
    sign_conflict: Fraction | None
    """Share of the scalars that the old and the new task vector move in opposite directions; None
    if θ_0 was not there to tell."""


class MergeEntry(Config):
    """The merge at the end of one increment."""

    increment: Annotated[int, Field(ge=2)]
    method: str
    params: dict[str, JsonValue] = Field(default_factory=dict)
    tensors: tuple[TensorEntry, ...]

    @classmethod
    def of(cls, increment: int, trace: MergeTrace) -> MergeEntry:
        """Keep of a merge trace what the report shows, by name: safetensors' order is chance."""
        rows = tuple(
            TensorEntry(
                name=name, scalars=row.scalars, alpha=row.alpha, sign_conflict=row.sign_conflict
            )
            for name, row in sorted(trace.tensors.items())
        )
        return cls(
            increment=increment, method=trace.method, params=dict(trace.params), tensors=rows
        )

    @property
    def sign_conflict(self) -> float | None:
        """Share of conflicting scalars over all scalars of the merge; None if not measured."""
        rows = [row for row in self.tensors if row.sign_conflict is not None]
        scalars = sum(row.scalars for row in rows)
        conflicts = sum((row.sign_conflict or 0) * row.scalars for row in rows)
        return conflicts / scalars if scalars else None


class StageCost(Config):
    """Wall-clock time of one piece of work."""

    title: str
    seconds: Seconds


class StrategyResult(Config):
    """Everything measured about one way of learning the series."""

    name: str
    """Short and stable, e.g. "duet-plus", "seq-ft"."""
    title: str
    """For people, e.g. "DuET+ (recommended)"."""
    indices: Indices
    matrix: tuple[MatrixRecord, ...]
    class_scores: tuple[ClassScores, ...] = ()
    kept: tuple[KeptEntry, ...] = ()
    """Empty if the series trains its first increment."""
    merges: tuple[MergeEntry, ...] = ()
    costs: tuple[StageCost, ...] = ()
    parameters: Count | None = None
    """Trainable numbers of the final detector; None in files of older versions, as below."""
    latency_ms: Amount | None = None
    """Of the final detector on one image, median, one CPU thread; see `duet.runs.costs`."""
    memory_mb: Amount | None = None
    """Largest peak of a training process of the increments, main memory, in 10^6 bytes."""
    notes: tuple[str, ...] = ()

    def stage_matrix(self) -> StageMatrix:
        """Return the records as a `StageMatrix`."""
        return StageMatrix.from_records(self.matrix)

    def scores_at(self, stage: int, domain: str) -> ClassScores | None:
        """Return the per-class scores after ``stage`` on ``domain``, if they were recorded."""
        return self._scores.get((stage, domain))

    def map50_at(self, stage: int, domain: str, classes: Iterable[str]) -> float | None:
        """Return a cell of the stage matrix, in any order of the classes; None if not there."""
        return self._cells.get((stage, domain, frozenset(classes)))

    @cached_property
    def _scores(self) -> dict[tuple[int, str], ClassScores]:
        return {(one.stage, one.domain): one for one in self.class_scores}

    @cached_property
    def _cells(self) -> dict[tuple[int, str, frozenset[str]], float]:
        return {(one.stage, one.domain, frozenset(one.classes)): one.map50 for one in self.matrix}


class ReferenceEntry(Config):
    """A model trained only on one slice: the denominator of GI and PI."""

    domain: str
    classes: Names
    map50: Fraction
    ap50: ByClass[Fraction | None] = Field(default_factory=dict)
    """Per class, on the same slice."""
    seconds: Seconds | None = None
    evidence: InnerPath | None = None
    """The matches that AP50 was computed from."""


class Environment(Config):
    """Where and when the numbers came from."""

    versions: dict[str, str]
    cpu: str
    threads: Annotated[int, Field(ge=1)]
    device: str = "cpu"
    date: str
    """ISO 8601, passed in by whoever runs the series."""


class Commands(Config):
    """Shell lines for the reader."""

    reproduce: tuple[str, ...] = ()
    next: tuple[str, ...] = ()


class Stagewise(Config):
    """What a folder lacks that `duet base` and `duet increment` made, one stage at a time."""

    unread: dict[str, str] = Field(default_factory=dict)
    """Domain that was not measured after the last stage -> why, in words: what is known of it is as
    it was remembered from earlier stages."""

    without_maps: tuple[Count | None, ...] = ()
    """Per stage: how many of the objects that its detector found would be found today if score maps
    had stayed as they were, by the scores that its increment keeps; None where none are kept."""


class Results(Config):
    """The whole of `results.json`."""

    series: SeriesEntry
    protocol: Protocol
    main_strategy: str
    """Name of the strategy that the report is about; the others are compared with it."""
    strategies: Annotated[tuple[StrategyResult, ...], Field(min_length=1)]
    references: tuple[ReferenceEntry, ...] = ()
    published: tuple[PublishedEntry, ...] = ()
    environment: Environment
    gallery: tuple[GalleryImage, ...] = ()
    commands: Commands = Commands()
    stagewise: Stagewise | None = None
    """None of `duet run`."""
    not_looked_at: dict[str, tuple[Stage, ...]] = Field(default_factory=dict)
    """Domain -> stages whose detectors did not look at it, though its images are there: no index
    needs them. `duet run --cells all` has them look."""

    @model_validator(mode="after")
    def _consistent(self) -> Results:
        names = [strategy.name for strategy in self.strategies]
        if len(set(names)) != len(names):
            raise ValueError(f"strategy names must be unique, got {names}")
        if self.main_strategy not in names:
            raise ValueError(f"main_strategy '{self.main_strategy}' is not one of {names}")
        stages = len(self.series.increments)
        late = [r.stage for m in self.strategies for r in m.matrix if r.stage > stages]
        if late:
            raise ValueError(f"a matrix speaks of stage {late[0]}, the series has {stages}")
        return self

    @property
    def main(self) -> StrategyResult:
        """The strategy that the report is about."""
        return next(strategy for strategy in self.strategies if strategy.name == self.main_strategy)

    @property
    def final_stage(self) -> int:
        """T, the number of increments."""
        return len(self.series.increments)

    @cached_property
    def objects(self) -> dict[str, dict[str, int]]:
        """Domain -> class -> labelled objects in its evaluation split, ignored ones left out.

        Empty if nobody counted. Not to be changed.
        """
        counts: dict[str, dict[str, int]] = {}
        for scores in (item for strategy in self.strategies for item in strategy.class_scores):
            if scores.objects:
                counts.setdefault(scores.domain, {}).update(scores.objects)
        return counts

    def reference(self, domain: str, classes: tuple[str, ...]) -> ReferenceEntry | None:
        """Return the reference of one slice, if it was trained."""
        return self._references.get((domain, frozenset(classes)))

    @cached_property
    def _references(self) -> dict[tuple[str, frozenset[str]], ReferenceEntry]:
        return {(one.domain, frozenset(one.classes)): one for one in self.references}
