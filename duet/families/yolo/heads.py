"""Detect heads that hold several increments: for inference and for training.

Three forms: `rows` is a stock `Detect` whose last convolutions hold the class rows of
all increments; `towers` shares one box tower and runs one class tower per increment;
`parallel` runs whole heads side by side. A detector with one increment is a stock `Detect` in
every form.

End-to-end heads (v10, 26) have every branch twice: one-to-many (`cv2`, `cv3`), which trains the
trunk, and one-to-one (`one2one_cv2`, `one2one_cv3`), which reads detached features and needs no
suppression of overlapping boxes. Both grow and merge alike.

Shapes: B images, C classes, R bins per box side, A anchors, T increments.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from ultralytics.nn.modules.head import Detect

from duet.training.losses.distillation.responses import taught

Raw = dict[str, Any]
"""Raw head output: ``boxes`` (B, 4 R, A), ``scores`` (B, C, A), ``feats``; end-to-end heads hold
such under ``one2many`` and ``one2one``; heads in parallel hold ``parts`` of either kind."""

Branch = Literal["one2many", "one2one"]

Pairs = list[tuple[torch.Tensor, torch.Tensor]]
"""``(B, 4 R, A)`` boxes and ``(B, C, A)`` class logits of each head."""


def is_end_to_end(head: Detect) -> bool:
    """Tell whether a head has a one-to-one branch; folding may have left nothing else."""
    return getattr(head, "one2one_cv2", None) is not None


class ParallelDetect(Detect):  # type: ignore[misc]
    """Whole heads side by side: anchors are concatenated, foreign classes score 0."""

    @classmethod
    def of(cls, heads: Sequence[Detect]) -> ParallelDetect:
        """Join trained heads; the attributes that the engine sets on a head come from the first."""
        self: ParallelDetect = _recast(copy.deepcopy(heads[0]), cls)
        # The engine reads these attributes: which there are tells it the kind of head.
        for name in ("cv2", "cv3", "one2one_cv2", "one2one_cv3"):
            if hasattr(self, name):
                setattr(self, name, nn.ModuleList())
        self.heads = nn.ModuleList(copy.deepcopy(head) for head in heads)
        self.nc = sum(head.nc for head in heads)
        self.no = self.nc + 4 * self.reg_max
        return self

    @property
    def end2end(self) -> bool:
        """Whether the one-to-one branches answer; the heads never differ in it."""
        return bool(self.heads[0].end2end)

    @end2end.setter
    def end2end(self, value: bool) -> None:
        for head in self.heads:
            head.end2end = value

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor | tuple[torch.Tensor, Raw]:
        """Return decoded ``(B, 4 + C, T A)``, with the raw outputs unless exporting.

        End to end it is ``(B, K, 6)``: the K best of all heads, xyxy px, score, class.
        """
        parts, decoded, start = [], [], 0
        for head in self.heads:
            head.stride, head.dynamic, head.xyxy = self.stride, self.dynamic, self.xyxy
            part = raw = head.forward_head(x, **head.one2many)
            if is_end_to_end(head):
                part = {"one2many": raw, "one2one": head.forward_head(x, **head.one2one)}
                raw = part["one2one" if self.end2end else "one2many"]
            rest = self.nc - start - head.nc
            padded = nn.functional.pad(raw["scores"].sigmoid(), (0, 0, start, rest))
            decoded.append(torch.cat((head._get_decode_boxes(raw), padded), 1))
            parts.append(part)
            start += head.nc
        y = torch.cat(decoded, -1)
        if self.end2end:
            y = self._best(y.permute(0, 2, 1), decoded[0].shape[-1])
        return y if self.export else (y, {"parts": parts})

    def _best(self, y_BAX: Any, anchors: int) -> torch.Tensor:
        """Pick as many objects as one head may give: the exporter counts anchors of one."""
        boxes, every = y_BAX.split((4, self.nc), -1)  # OpenVINO loses slices before a gather
        scores, class_ids, index = self.get_topk_index(every, min(self.max_det, anchors))
        best: torch.Tensor = torch.cat((self._gather(boxes, index), scores, class_ids), -1)
        return best


class TrainingDetect(Detect):  # type: ignore[misc]
    """The head while an increment is trained: the loss sees the new part, old parts ride along.

    Attributes:
        form: ``rows``, ``towers`` or ``parallel``.
        sizes: Class count of each increment, the new one last.
        mask_old: The detector loss sees only the new classes (``old_negatives: mask``).
        run_old: Compute the old outputs of this share of the images too, the first ones
            (`duet.training.losses.distillation.responses.taught`): what distillation needs.
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
        run_old: float,
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
        # Their names start with "old_": that is how `frozen_names` knows them.
        self.old_towers = nn.ModuleList(item.cv3 for item in old) if form == "towers" else None
        self.old_one2one_towers = None
        if form == "towers" and is_end_to_end(head):
            self.old_one2one_towers = nn.ModuleList(item.one2one_cv3 for item in old)
        self.old_heads = nn.ModuleList(old) if form == "parallel" else None
        self.nc = sizes[-1] if mask_old else sum(sizes)
        self.no = self.nc + 4 * self.reg_max
        return self

    def forward(self, x: list[torch.Tensor]) -> Raw:
        """Return the raw outputs that the engine's loss reads, and the old ones as `Pairs`.

        They are under ``old`` and, of the one-to-one branch, under ``old_one2one``.
        """
        many, old = self._branch(x, "one2many")
        if not is_end_to_end(self):
            return {**many, "old": old}
        # As in the engine: the trunk learns from the one-to-many branch alone.
        apart = [level.detach() for level in x] if self.training else x
        one, old_one = self._branch(apart, "one2one")
        return {"one2many": many, "one2one": one, "old": old, "old_one2one": old_one}

    def _branch(self, x: list[torch.Tensor], branch: Branch) -> tuple[Raw, Pairs]:
        """Return what the loss sees of a branch, and its old outputs."""
        raw: Raw = {
            kind: _levels(modules, x)
            for kind, modules in zip(("boxes", "scores"), _modules(self, branch), strict=True)
        }
        boxes, scores = raw["boxes"], raw["scores"]
        n_old = sum(self.sizes[:-1])
        old: Pairs = []
        if self.form == "rows":
            old = [(boxes, scores[:, :n_old])]
            scores = scores[:, n_old:] if self.mask_old else scores
        elif not self.mask_old:
            old = self._old_outputs(x, boxes, branch)
            scores = torch.cat([*(part for _, part in old), scores], 1)
        elif self.run_old:
            first = slice(taught(self.run_old, len(boxes)))
            old = self._old_outputs([level[first] for level in x], boxes[first], branch)
        return {"boxes": boxes, "scores": scores, "feats": x}, old

    def _old_outputs(self, x: list[torch.Tensor], boxes: torch.Tensor, branch: Branch) -> Pairs:
        if self.form == "towers":
            towers = self.old_towers if branch == "one2many" else self.old_one2one_towers
            return [(boxes, torch.cat([_levels(tower, x) for tower in towers], 1))]
        modules = [_modules(head, branch) for head in self.old_heads]
        return [(_levels(cv2, x), _levels(cv3, x)) for cv2, cv3 in modules]


class ClassScores(Detect):  # type: ignore[misc]
    """The class branch of a head: no boxes, so neither their towers nor their decoding run.

    Of an end-to-end head it is the branch that answers at inference: a learned merge looks at the
    scores that users get.
    """

    @classmethod
    def of(cls, head: Detect) -> ClassScores:
        """Take over an inference head of any form."""
        self: ClassScores = _recast(head, cls)
        return self

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        """Return ``(B, C, A)`` logits, classes in the order of the increments."""
        heads = self.heads if hasattr(self, "heads") else [self]
        branches: list[Branch] = ["one2one" if head.end2end else "one2many" for head in heads]
        towers = [_modules(*pair)[1] for pair in zip(heads, branches, strict=True)]
        return torch.cat([_levels(tower, x) for tower in towers], 1)


class TeachingHead(nn.Module):
    """An inference head of any form as a teacher: its raw outputs, and its objects if wanted.

    Args:
        head: The head, folded or not. Objects are those of one that is not `ParallelDetect`.
        objects: Decode its outputs, too.
    """

    def __init__(self, head: Detect, *, objects: bool) -> None:
        super().__init__()
        self.head, self.objects = head, objects
        self.f, self.i = head.f, head.i  # where the engine reads its inputs

    def forward(self, x: list[torch.Tensor]) -> tuple[torch.Tensor | None, Raw]:
        """Return the decoded outputs or None, and the raw ones, float32, both branches of each."""
        parts = [self._raw(head, x) for head in getattr(self.head, "heads", [self.head])]
        return (self._decoded(parts[0], x) if self.objects else None), {"parts": parts}

    @staticmethod
    def _raw(head: Detect, x: list[torch.Tensor]) -> Raw:
        branches: list[Branch] = ["one2many", "one2one"]
        branches = branches if is_end_to_end(head) else branches[:1]
        towers = [_modules(head, branch) for branch in branches]
        raws = [
            {"boxes": _levels(box, x).float(), "scores": _levels(cls, x).float()}
            for box, cls in towers
        ]
        return dict(zip(branches, raws, strict=True))

    def _decoded(self, raw: Raw, x: list[torch.Tensor]) -> torch.Tensor:
        """Decode in float32: half as many bits would move boxes by pixels."""
        answers = raw["one2one" if self.head.end2end else "one2many"]
        y: torch.Tensor = self.head._inference({**answers, "feats": [level.float() for level in x]})
        return self.head.postprocess(y.permute(0, 2, 1)) if self.head.end2end else y


def unpick(model: Any) -> None:
    """Let a network with an end-to-end head of any form give all places, not the best of them.

    It then gives ``(B, A, 4 + C)``: xyxy px and the scores of all classes.
    """
    head = model.model[-1]
    head.postprocess = head._best = lambda y_BAX, *_: y_BAX


def raw_parts(raw: Raw, branch: Branch = "one2many") -> Pairs:
    """Return the boxes and scores of a detector's raw inference output, head by head.

    Args:
        raw: Raw output of a head of any form.
        branch: Which branch of an end-to-end head; other heads have but one.
    """
    parts = [part.get(branch, part) for part in raw.get("parts", [raw])]
    return [(part["boxes"], part["scores"]) for part in parts]


def class_towers(head: Detect) -> list[Any]:
    """Return the class towers of each branch: a module list with one tower per level."""
    return [head.cv3, head.one2one_cv3] if is_end_to_end(head) else [head.cv3]


def class_layers(head: Detect) -> list[nn.Conv2d]:
    """Return the convolutions that hold one row per class, in every branch."""
    return [tower[-1] for towers in class_towers(head) for tower in towers]


def resize_classes(head: Detect, count: int) -> None:
    """Give a stock head room for ``count`` classes: fresh last convolutions, towers untouched."""
    for towers in class_towers(head):
        for tower in towers:
            tower[-1] = nn.Conv2d(tower[-1].in_channels, count, 1)
    head.nc, head.no = count, count + 4 * head.reg_max


def _modules(head: Detect, branch: Branch) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Return the box towers and the class towers of a branch, level by level."""
    modules = head.one2many if branch == "one2many" else head.one2one
    return modules["box_head"], modules["cls_head"]


def _levels(modules: nn.ModuleList, x: list[torch.Tensor]) -> torch.Tensor:
    """Run one module per pyramid level; ``(B, channels, A)`` over the anchors of all levels."""
    return torch.cat(
        [module(level).flatten(2) for module, level in zip(modules, x, strict=True)], -1
    )


def _recast(head: Detect, cls: Any) -> Any:
    """Return a module of class ``cls`` that takes over ``head``'s attributes and children."""
    new = cls.__new__(cls)
    new.__dict__ = head.__dict__.copy()
    return new
