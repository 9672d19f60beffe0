"""One stage of a YOLO detector on the engine's trainer."""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.tal import dist2bbox, make_anchors
from ultralytics.utils.torch_utils import unwrap_model

from duet.families.ultralytics.train import StageTrainer
from duet.families.yolo import build, roles
from duet.families.yolo.answers import teaching_model
from duet.families.yolo.heads import Pairs, class_layers, raw_parts
from duet.increments.state import DetectorState
from duet.training.losses.distillation.responses import Anchors, Quantiles, taught
from duet.training.losses.distillation.table import resolve_distillation


class IncrementTrainer(StageTrainer, DetectionTrainer):  # type: ignore[misc]
    """See `StageTrainer`."""

    build = build

    def teaching_model(self, state: DetectorState) -> nn.Module:
        """Build the previous detector, folded, with all branches of its head.

        Of an end-to-end head the one-to-one branch, which is what users run, gives pseudo labels;
        the one-to-many branch teaches.
        """
        self.layout = build.layout_of(state)
        return teaching_model(state, objects=self.job.pseudo is not None)

    def class_rows(self, model: Any) -> list[nn.Parameter]:
        """Return weight and bias of the last class convolutions, those of old towers too."""
        head = model.model[-1]
        layers = class_layers(head)
        for name in ("old_towers", "old_one2one_towers"):
            layers += [tower[-1] for towers in getattr(head, name, None) or () for tower in towers]
        return [parameter for layer in layers for parameter in layer.parameters()]

    def held(self, name: str) -> bool:
        """Tell whether the head form keeps a shared tensor as it is: towers share a box tower."""
        local = name.removeprefix(self._prefix)
        return self.job.head == "towers" and local != name and bool(roles.BOX_TOWER.match(local))

    @functools.cached_property
    def _prefix(self) -> str:
        """Name prefix of the head; `held` is asked for every tensor."""
        return roles.RULES.head_of(self.start.architecture)

    def silence(self, model: Any, classes: list[int]) -> None:
        """Take classes out of the detector loss: its class term weighs them with 0."""
        weights = torch.ones(model.nc)
        weights[classes] = 0
        model.class_weights = weights

    def watch(self, model: Any) -> None:
        """Keep the raw output of the head."""
        self._raw: dict[str, Any] = {}
        model.model[-1].register_forward_hook(self._keep_raw)

    def _keep_raw(self, module: nn.Module, args: Any, output: Any) -> None:
        if module.training:
            self._raw = output

    def distillation(self, model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (L*_cls, L*_box), the mean over the old heads (one, unless in parallel).

        An end-to-end head adds the same of its one-to-one branch where that has something to
        learn. Its features are detached, so only tensors of the branch itself can: what `rows`
        share, and old parts that train. The branches have no trained tensor in common, so each
        sees the loss at its full weight. Parts that are kept need nothing: they cannot move.
        """
        raw, asked = self._raw, self._asked(images)
        if self.job.adapts:  # no part is new: all that the head says was known before
            pairs = [(raw_parts(raw), raw_parts(asked))]
            if "one2one" in raw:
                pairs.append((raw_parts(raw, "one2one"), raw_parts(asked, "one2one")))
        else:
            pairs = [(raw["old"], raw_parts(asked))]
            learns = self.job.head == "rows" or self.job.old_part == "trained"
            if "old_one2one" in raw and learns:
                pairs.append((raw["old_one2one"], raw_parts(asked, "one2one")))
        losses = [self._distance(*pair, len(images)) for pair in pairs]
        cls, box = torch.stack(losses).sum(0)
        return cls, box

    def _distance(self, student: Pairs, teacher: Pairs, images: int) -> torch.Tensor:
        """Return L*_cls and L*_box of one branch, ``(2,)``, the mean over its heads.

        Args:
            student: Of all images of the step or of those that are distilled.
            teacher: Likewise.
            images: How many images the step has.
        """
        choice = self.job.distill
        assert choice is not None
        method = resolve_distillation(choice.method)
        quantiles = Quantiles(choice.class_quantile, choice.box_quantile)
        bins = unwrap_model(self.model).model[-1].reg_max
        first = slice(taught(choice.images, images))
        losses = []
        for (boxes, scores), (old_boxes, old_scores) in zip(student, teacher, strict=True):
            ours = Anchors(boxes[first], scores[first], bins)
            decode = functools.partial(self._teacher_boxes, old_boxes[first])
            theirs = Anchors(old_boxes[first], old_scores[first], bins, decode)
            losses.append(torch.stack(method.of_anchors(ours, theirs, quantiles)))
        return torch.stack(losses).mean(0)

    def _teacher_boxes(self, raw_BXA: torch.Tensor) -> torch.Tensor:
        """Decode raw box outputs of the teacher: ``(B, A, 4)`` xyxy px."""
        head: Any = cast("Any", self.teacher).network.model[-1].head
        head = head.heads[0] if hasattr(head, "heads") else head
        cells = [[self.args.imgsz // int(stride)] * 2 for stride in head.stride]
        sizes = torch.tensor(cells).to(raw_BXA)
        points, strides = (one.T[None] for one in make_anchors(sizes, head.stride, 0.5))
        corners: torch.Tensor = dist2bbox(head.dfl(raw_BXA), points, xywh=False, dim=1) * strides
        return corners.transpose(1, 2)
