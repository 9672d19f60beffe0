"""Detect heads that hold several increments: for inference and for training.

Three forms (issue A.5): `rows` is a stock `Detect` whose last convolutions hold the class rows of
all increments; `towers` shares one box tower and runs one class tower per increment;
`parallel` runs whole heads side by side. A detector with one increment is a stock `Detect` in
every form.

Shapes: B images, C classes, R bins per box side, A anchors, T increments.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules.head import Detect

Raw = dict[str, Any]
"""Raw head output: ``boxes`` (B, 4 R, A), ``scores`` (B, C, A), ``feats``; or ``parts`` of such."""


class ClassTowers(nn.Module):
    """T class towers of one pyramid level, one after another.

    As grouped convolutions they were slower, CPU time against a plain head of equal classes at
    640 px: 1.11 (T = 2), 1.42 (4), 1.92 (8); in turn 1.05, 1.20, 1.54 (`tools/bench_latency.py`).
    """

    def __init__(self, towers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, channels, H, W)`` features to ``(B, C, H, W)`` logits of all increments."""
        return torch.cat([tower(x) for tower in self.towers], 1)


class ParallelDetect(Detect):  # type: ignore[misc]
    """Whole heads side by side: anchors are concatenated, foreign classes score 0."""

    @classmethod
    def of(cls, heads: Sequence[Detect]) -> ParallelDetect:
        """Join trained heads; the attributes that the engine sets on a head come from the first."""
        self: ParallelDetect = _recast(copy.deepcopy(heads[0]), cls)
        self.cv2, self.cv3 = nn.ModuleList(), nn.ModuleList()  # the engine reads both attributes
        self.heads = nn.ModuleList(copy.deepcopy(head) for head in heads)
        self.nc = sum(head.nc for head in heads)
        self.no = self.nc + 4 * self.reg_max
        return self

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor | tuple[torch.Tensor, Raw]:
        """Return decoded ``(B, 4 + C, T A)``, with the raw outputs unless exporting."""
        raws = [head.forward_head(x, **head.one2many) for head in self.heads]
        decoded, start = [], 0
        for head, raw in zip(self.heads, raws, strict=True):
            head.stride, head.dynamic, head.xyxy = self.stride, self.dynamic, self.xyxy
            scores = raw["scores"].sigmoid()
            rest = self.nc - start - head.nc
            padded = nn.functional.pad(scores, (0, 0, start, rest))
            decoded.append(torch.cat((head._get_decode_boxes(raw), padded), 1))
            start += head.nc
        y = torch.cat(decoded, -1)
        return y if self.export else (y, {"parts": raws})


class TrainingDetect(Detect):  # type: ignore[misc]
    """The head while an increment is trained: the loss sees the new part, old parts ride along.

    Attributes:
        form: ``rows``, ``towers`` or ``parallel``.
        sizes: Class count of each increment, the new one last.
        mask_old: The detector loss sees only the new classes (``old_negatives: mask``).
        run_old: Compute the old outputs too (needed by distillation).
    """

    @classmethod
    def of(
        cls,
        head: Detect,
        form: str,
        old: Sequence[Detect],
        sizes: Sequence[int],
        *,
        mask_old: bool,
        run_old: bool,
    ) -> TrainingDetect:
        """Wrap a stock head that carries the new part.

        Args:
            head: Stock head; for `rows` it holds the rows of all increments.
            form: Head form.
            old: Stock heads with the old parts (`towers`, `parallel`); empty for `rows`.
            sizes: Class count of each increment, the new one last.
            mask_old: See the class.
            run_old: See the class.
        """
        self: TrainingDetect = _recast(head, cls)
        self.form, self.sizes, self.mask_old, self.run_old = form, tuple(sizes), mask_old, run_old
        self.old_towers = nn.ModuleList(item.cv3 for item in old) if form == "towers" else None
        self.old_heads = nn.ModuleList(old) if form == "parallel" else None
        self.nc = sizes[-1] if mask_old else sum(sizes)
        self.no = self.nc + 4 * self.reg_max
        return self

    def forward(self, x: list[torch.Tensor]) -> dict[str, object]:
        """Return the raw outputs that the engine's loss reads, and the old ones under ``old``."""
        boxes = torch.cat([self.cv2[i](x[i]).flatten(2) for i in range(self.nl)], -1)
        scores = torch.cat([self.cv3[i](x[i]).flatten(2) for i in range(self.nl)], -1)
        n_old = sum(self.sizes[:-1])
        old: list[tuple[torch.Tensor, torch.Tensor]] = []
        if self.form == "rows":
            old = [(boxes, scores[:, :n_old])]
            scores = scores[:, n_old:] if self.mask_old else scores
        elif self.run_old or not self.mask_old:
            old = self._old_outputs(x, boxes)
            if not self.mask_old:
                scores = torch.cat([*(part for _, part in old), scores], 1)
        return {"boxes": boxes, "scores": scores, "feats": x, "old": old}

    def _old_outputs(
        self, x: list[torch.Tensor], boxes: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        levels = range(self.nl)
        if self.old_towers is not None:
            parts = [
                torch.cat([tower[i](x[i]).flatten(2) for i in levels], -1)
                for tower in self.old_towers
            ]
            return [(boxes, torch.cat(parts, 1))]
        raws = [head.forward_head(x, **head.one2many) for head in self.old_heads]
        return [(raw["boxes"], raw["scores"]) for raw in raws]


class ClassScores(Detect):  # type: ignore[misc]
    """The class branch of a head: no boxes, so neither their towers nor their decoding run."""

    @classmethod
    def of(cls, head: Detect) -> ClassScores:
        """Take over an inference head of any form."""
        self: ClassScores = _recast(head, cls)
        return self

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        """Return ``(B, C, A)`` logits, classes in the order of the increments."""
        heads = self.heads if hasattr(self, "heads") else [self]
        return torch.cat(
            [
                torch.cat([head.cv3[i](x[i]).flatten(2) for i in range(self.nl)], -1)
                for head in heads
            ],
            1,
        )


def raw_parts(raw: Raw) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the ``(boxes, scores)`` pairs of a detector's raw inference output."""
    if "parts" in raw:
        return [(part["boxes"], part["scores"]) for part in raw["parts"]]
    return [(raw["boxes"], raw["scores"])]


def resize_classes(head: Detect, count: int) -> None:
    """Give a stock head room for ``count`` classes: fresh last convolutions, towers untouched."""
    for tower in head.cv3:
        tower[-1] = nn.Conv2d(tower[-1].in_channels, count, 1)
    head.nc, head.no = count, count + 4 * head.reg_max


def _recast(head: Detect, cls: Any) -> Any:
    """Return a module of class ``cls`` that takes over ``head``'s attributes and children."""
    new = cls.__new__(cls)
    new.__dict__ = head.__dict__.copy()
    return new
