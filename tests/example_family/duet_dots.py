"""Dots, a detector family in one file: a small anchor-free convolutional detector in plain torch.

Every cell of 8 x 8 pixels says how far the sides of an object are from its centre, and how much it
looks like each class. A class is one row of the last convolution, `rows`; everything else is shared
by all increments. docs/new_family.md explains the file from top to bottom.

Shapes: B images, S pixels, A = (S / 8)² cells, C classes of all increments, N objects of an image.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import softplus

from duet.errors import ModelError
from duet.families.decode import corners
from duet.families.family import Family
from duet.families.protocol import Roles
from duet.families.row import FamilyRow
from duet.families.rows import cut_rows, join_rows, split_by_name
from duet.families.scores import ClassLogits, class_scores
from duet.increments.state import DetectorState
from duet.merging.layers import Layer
from duet.training.job import Job, Progress, old_part_count, refines, unlabelled_classes
from duet.training.losses.distillation.responses import Anchors as Responses
from duet.training.losses.distillation.responses import Quantiles, taught
from duet.training.losses.distillation.table import resolve_distillation
from duet.training.pseudo import Found, Target, add_pseudo_labels
from duet.vectors.tensors import Tensors

ROW = FamilyRow(
    module="duet_dots",
    roles="duet_dots",
    summary="Dots: the example of docs/new_family.md",
    licence="BSD-3-Clause",  # of the engine, which is PyTorch
    architectures=r"dots-(tiny|small)",
    heads={"rows": "rows", "towers": "rows"},
)

WIDTHS = {"dots-tiny": (16, 32, 64, 64), "dots-small": (32, 64, 128, 128)}
STRIDE = 8
RADIUS = 1.5  # cells around an object's centre that learn it
PRIOR = 0.01  # score of a fresh class row


# ---- the network: knows nothing of duet ------------------------------------------------------


class Dots(nn.Module):
    """The network; ``widths`` are the output channels of its four layers."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        layers, channels = [], 3
        for width, stride in zip(widths, (2, 2, 2, 1), strict=True):
            convolution = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
            layers.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.SiLU()))
            channels = width
        self.trunk = nn.Sequential(*layers)
        self.sides = nn.Conv2d(channels, 4, 1)
        self.rows = nn.Conv2d(channels, classes, 1)

    def forward(self, images_B3SS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(B, 4, A)`` distances to left, top, right, bottom in strides, and logits."""
        features = self.trunk(images_B3SS)
        return softplus(self.sides(features)).flatten(2), self.rows(features).flatten(2)


class Anchors(nn.Module):
    """The network as one traceable function with outputs in the layout ``anchors``."""

    def __init__(self, dots: Dots) -> None:
        super().__init__()
        self.dots = dots

    def forward(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        """Map float32 RGB in [0, 1] to ``(B, 4 + C, A)``: cxcywh px, scores in [0, 1]."""
        sides, logits = self.dots(images_B3SS)
        return torch.cat((boxes_of(sides), logits.sigmoid()), 1)


def centres(cells: int) -> torch.Tensor:
    """Return the ``(2, A)`` centres x, y of a square grid of A cells, in pixels."""
    along = torch.arange(math.isqrt(cells)) * STRIDE + STRIDE / 2
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()))


def boxes_of(sides_B4A: torch.Tensor) -> torch.Tensor:
    """Return ``(B, 4, A)`` cxcywh in pixels."""
    first, last = sides_B4A[:, :2] * STRIDE, sides_B4A[:, 2:] * STRIDE
    middle = centres(int(sides_B4A.shape[-1])).to(sides_B4A.device) + (last - first) / 2
    return torch.cat((middle, first + last), 1)


# ---- the roles of its tensors: what merging, diffing and editing need ------------------------

CLASS_ROWS = re.compile(r"rows\.(weight|bias)")
STATISTIC = re.compile(r"trunk\.\d\.1\.(running_mean|running_var|num_batches_tracked)")
SHARED = re.compile(r"(trunk\.\d\.0|trunk\.\d\.1|sides)\.(weight|bias)")


def split_roles(tensors: Tensors, form: str) -> Roles:
    """Split the tensors of a one-increment detector: each has one role, told by its name."""
    if form not in ROW.heads:
        raise ModelError(f"Dots has no head form '{form}'", remedy="use the head form 'rows'")
    return split_by_name(tensors, shared=SHARED, buffers=STATISTIC, own=CLASS_ROWS)


def layers(names: Iterable[str], architecture: str) -> dict[str, Layer]:
    """Return where each shared tensor sits: four layers of the backbone, then the head."""
    return {
        name: Layer("head", 1.0)
        if name.startswith("sides.")
        else Layer("backbone", int(name.split(".")[1]) / 4)
        for name in names
    }


# ---- states to networks and back -------------------------------------------------------------


def network(state: DetectorState) -> Dots:
    """Build the detector of a state, with the class rows of all increments."""
    model = Dots(WIDTHS[state.architecture], len(state.labels))
    try:
        model.load_state_dict({**state.shared, **state.buffers, **join_rows(state.parts)})
    except RuntimeError as error:  # names all tensors that do not fit
        raise ModelError(str(error), where=state.architecture) from error
    return model


# ---- training: a loss, and which rows must not move ------------------------------------------


class DotsLearner:
    """A detector that learns its last part (`duet.training.loop.Learner`)."""

    clip_norm = 10.0
    module: nn.Module
    kept_rows: Mapping[str, torch.Tensor]

    def __init__(self, job: Job, start: DetectorState, device: torch.device) -> None:
        previous = start.parts[: old_part_count(job)]
        self._start, self._old = start, sum(len(part.classes) for part in previous)
        self._first = 0 if job.adapts else self._old  # the first class of the slice
        self._unlabelled = unlabelled_classes(job)
        later = self._old > 0
        self._begin = self._first if later and job.old_negatives == "mask" else 0
        self._pseudo = job.pseudo if later and job.old_negatives == "pseudo" else None
        self._distill = job.distill if later and job.distill and job.distill.weight else None
        self.module = network(start).to(device)
        old = torch.arange(len(start.labels), device=device) < self._old
        kept = later and job.old_part == "kept" and not refines(job)
        self.kept_rows = {"rows.weight": old, "rows.bias": old} if kept else {}
        self._teacher: Any = None
        if self._pseudo or self._distill:
            teacher = network(replace(start, parts=previous))
            self._teacher = teacher.to(device).eval().requires_grad_(False)

    def state(self, tensors: Tensors) -> DetectorState:
        """Return the state whose network holds these tensors."""
        roles = split_roles(tensors, "rows")
        parts = cut_rows(roles.own, self._start.parts)
        return replace(self._start, shared=roles.shared, buffers=roles.buffers, parts=parts)

    def losses(
        self, images_B3SS: torch.Tensor, targets: Sequence[Target]
    ) -> dict[str, torch.Tensor]:
        """Return the parts of the loss; class ids count from the first class of the last part."""
        size = images_B3SS.shape[-1]
        targets = [Target(one.boxes * size, one.labels + self._first) for one in targets]
        first = slice(taught(self._distill.images if self._distill else 1.0, len(images_B3SS)))
        looks = images_B3SS if self._pseudo is not None else images_B3SS[first]
        seen = self._teacher(looks) if self._teacher is not None else None
        if self._pseudo is not None:
            targets = add_pseudo_labels(targets, found(seen), self._pseudo, self._unlabelled)
        sides, logits = (output.float() for output in self.module(images_B3SS))
        losses = self._detection(boxes_of(sides), logits, targets)
        if self._distill is not None:
            choice, weight = self._distill, self._distill.weight
            theirs, known = (output[first] for output in seen)
            cls, box = resolve_distillation(choice.method).of_anchors(
                Responses(sides[first], logits[first, : self._old], 1),
                Responses(theirs, known, 1, lambda: boxes_of(theirs).transpose(1, 2)),
                Quantiles(choice.class_quantile, choice.box_quantile),
            )
            losses |= {"kd_cls": weight * cls, "kd_box": weight * box}
        return losses

    def _detection(
        self, boxes_B4A: torch.Tensor, logits_BCA: torch.Tensor, targets: Sequence[Target]
    ) -> dict[str, torch.Tensor]:
        """Return the focal loss of all cells and the GIoU loss of those that learn an object."""
        from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss  # slow to import

        truth, boxes, wanted = torch.zeros_like(logits_BCA), [], []
        for index, target in enumerate(targets):
            cells, objects = assign(target.boxes, boxes_B4A.shape[-1])
            truth[index, target.labels[objects], cells] = 1
            boxes.append(boxes_B4A[index, :, cells].T)
            wanted.append(target.boxes[objects])
        count = max(sum(len(one) for one in wanted), 1)
        begin = self._begin  # old classes take no part where they are not labelled
        focal = sigmoid_focal_loss(logits_BCA[:, begin:], truth[:, begin:], reduction="sum")
        overlap = generalized_box_iou_loss(corners(torch.cat(boxes)), corners(torch.cat(wanted)))
        return {"cls": focal / count, "box": overlap.sum() / count}


def assign(boxes_N4: torch.Tensor, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which of A cells learn an object (cxcywh px), and which: the smallest that is near."""
    middle, half = boxes_N4[:, :2, None], boxes_N4[:, 2:, None] / 2
    away = (centres(cells).to(boxes_N4) - middle).abs()
    # At least the cell that holds the centre, however small the object is.
    near = (away <= half.clamp(max=RADIUS * STRIDE).clamp(min=STRIDE / 2)).all(1)
    area = boxes_N4[:, 2:].prod(1, keepdim=True)
    cost = torch.where(near, area, torch.inf)
    chosen = torch.nonzero(near.any(0)).flatten()
    return chosen, cost[:, chosen].argmin(0) if len(chosen) else chosen


def found(seen: tuple[torch.Tensor, torch.Tensor]) -> list[Found]:
    """Return what the previous detector finds in each image, boxes in pixels."""
    boxes_B4A, (scores_BA, labels_BA) = boxes_of(seen[0]), seen[1].sigmoid().max(1)
    return [Found(b.T, s, c) for b, s, c in zip(boxes_B4A, scores_BA, labels_BA, strict=True)]


# ---- the family ------------------------------------------------------------------------------


class DotsFamily(Family):
    """See `duet.families.family.Family`."""

    name = "dots"
    row = ROW
    rules = sys.modules[__name__]  # this file is its own `RoleRules`
    layout = "anchors"

    def random_tensors(self, architecture: str, classes: int) -> Tensors:
        """Return a detector with random weights."""
        return Dots(WIDTHS[architecture], classes).state_dict()

    def fresh_rows(self, like: Tensors, classes: int, *, architecture: str, seed: int) -> Tensors:
        """Return class rows that have learned nothing, in the shapes of ``like``."""
        # A generator of its own: chains run in threads, and the global one would mix their draws.
        generator = torch.Generator().manual_seed(seed)
        weight = 0.01 * torch.randn((classes, *like["rows.weight"].shape[1:]), generator=generator)
        return {"rows.weight": weight, "rows.bias": torch.full((classes,), math.log(PRIOR))}

    def train(self, folder: Path, progress: Progress) -> None:
        """Run one job in this process."""
        from duet.training.loop import run_job

        run_job(folder, DotsLearner, progress, self.fit)

    def network(self, state: DetectorState, device: str = "cpu") -> nn.Module:
        """Build the network as it runs, and as duet traces it."""
        return Anchors(network(state)).eval().requires_grad_(False).to(device)

    def class_logits(self, state: DetectorState) -> ClassLogits:
        """Return the class scores of all cells as a function of the shared tensors."""
        model = network(state).eval().requires_grad_(False)
        return class_scores(model, state, pick=lambda output: output[1])


FAMILY = DotsFamily()
