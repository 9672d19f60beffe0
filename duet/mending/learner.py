"""A merged detector that learns from its specialists (`duet.training.loop.Learner`).

Its backbone stays as the merge made it, unless that is asked for: what is trained reads other
features than the specialists' heads do, and learns to say of them what the specialists say of
theirs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from duet.families.answers import Answers
from duet.families.protocol import RoleRules
from duet.families.table import resolve_family
from duet.increments.state import DetectorState
from duet.mending.distances import (
    Voice,
    box_distance,
    class_distance,
    class_targets,
    voices_of,
)
from duet.mending.statistics import blend, interleaved, re_estimate
from duet.merging.layers import ROLES
from duet.training.batches import SquareImages, collate, to_device
from duet.training.ema import tensors_of
from duet.training.job import Job, Progress, read_job, read_slice, read_state, specialist_file
from duet.training.loop import run_job
from duet.training.memory import fast_module
from duet.training.precision import resolve_precision
from duet.training.pseudo import Target
from duet.vectors.tensors import Tensors


class MendLearner:
    """A merged detector in training.

    Args:
        folder: Of the job; holds the specialists.
        job: Settings.
        start: The merged detector.
        device: Where it runs.
    """

    clip_norm: float = 10.0
    module: nn.Module
    kept_rows: Mapping[str, torch.Tensor]

    def __init__(self, folder: Path, job: Job, start: DetectorState, device: torch.device) -> None:
        assert job.mend is not None
        self._mend, self.kept_rows = job.mend, {}
        family, precision = (
            resolve_family(job.family),
            resolve_precision(job.schedule.precision, device),
        )
        taught = [read_state(folder / specialist_file(n)) for n in range(len(job.specialists))]
        self._specialists = [family.specialist(one, precision) for one in taught]
        self._taught = [[part.classes for part in one.parts] for one in taught]
        self._classes = [part.classes for part in start.parts]
        self._learner = family.answering(start)
        self.module = fast_module(self._learner.module, device)
        schedule = job.schedule.model_copy(update={"cache": False})
        images = SquareImages(read_slice(folder / "slice.npz"), schedule, job.seed, family.fit)
        self._estimate(images, job.groups, device)
        self._freeze(family.rules, start)

    def losses(
        self, images_B3SS: torch.Tensor, targets: Sequence[Target]
    ) -> dict[str, torch.Tensor]:
        """Return how far its answers are from the specialists'; see `duet.training.loop`."""
        theirs = [look(images_B3SS) for look in self._specialists]
        cls = box = images_B3SS.new_zeros(())
        for branch, ours in enumerate(self._learner.look(images_B3SS)):
            said = [one[branch] for one in theirs]
            own_cls, own_box = self._distances(ours, said)
            cls, box = cls + own_cls, box + own_box
        return {"cls": cls, "box": self._mend.boxes * box}

    def state(self, tensors: Tensors) -> DetectorState:
        """Return the state that holds these tensors."""
        return self._learner.state(tensors)

    def _distances(
        self, ours: Answers, theirs: Sequence[Answers]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the class and the box distance of one branch."""
        counts = [len(one.boxes) for one in theirs]
        voices = voices_of(self._classes, self._taught, counts)
        targets = class_targets(voices, theirs, ours.scores.shape[1])
        cls = class_distance(ours.scores, targets, [*map(len, self._classes)])
        own = range(len(self._classes)) if len(ours.boxes) > 1 else [None]
        boxes = [
            box_distance(one, self._heard(voices, part), theirs, self._learner.bins)
            for one, part in zip(ours.boxes, own, strict=True)
        ]
        return cls, torch.stack(boxes).mean()

    def _heard(self, voices: Sequence[Voice], part: int | None) -> list[Voice]:
        """Return those that speak for a head part; all of them for boxes that parts share."""
        if part is None:
            return list(voices)
        first = sum(map(len, self._classes[:part]))
        mine = set(range(first, first + len(self._classes[part])))
        return [voice for voice in voices if mine & {*voice.places}]

    def _estimate(self, images: SquareImages, groups: Sequence[int], device: torch.device) -> None:
        """Estimate the statistics that learning begins with."""
        stored = {name: one.clone() for name, one in tensors_of(self.module).items()}
        batches = (
            to_device(collate([images[-1, place] for place in places]), device)[0]
            for places in interleaved(groups)
        )
        if self._mend.statistics:
            re_estimate(self.module, batches)
            blend(self.module, stored, self._mend.statistics)

    def _freeze(self, rules: RoleRules, start: DetectorState) -> None:
        """Leave untouched what does not learn: parts of the detector, and what nobody teaches."""
        learning = {"head": ("head",), "neck": ("head", "neck"), "all": ROLES}[self._mend.trains]
        layers = rules.layers(start.shared, start.architecture)
        still = {name for name, layer in layers.items() if layer.role not in learning}
        for name, parameter in self.module.named_parameters():
            if self._learner.name_of(name) in still:
                parameter.requires_grad_(False)


def mend(folder: Path, progress: Progress) -> None:
    """Run the job in ``folder``, a ``mend``; leaves the files of a finished job.

    Raises:
        ModelError: The training diverged, or the checkpoint cannot be used.
    """
    family = resolve_family(read_job(folder).family)
    run_job(folder, functools.partial(MendLearner, folder), progress, family.fit)
