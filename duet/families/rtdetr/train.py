"""One stage of an RT-DETR detector on the engine's trainer."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from ultralytics.models.rtdetr.train import RTDETRTrainer

from duet.families.rtdetr import build
from duet.families.rtdetr.heads import TeachingHead, class_layers, proposals, propose_boxes
from duet.families.ultralytics.train import StageTrainer
from duet.increments.state import DetectorState
from duet.training.losses.distillation.responses import Places, Quantiles, taught
from duet.training.losses.distillation.table import resolve_distillation

Proposals = tuple[torch.Tensor, torch.Tensor]
"""``(B, N, C)`` class logits and ``(B, N, 4)`` boxes of the encoder, cxcywh normalised."""


class RTDETRStageTrainer(StageTrainer, RTDETRTrainer):  # type: ignore[misc]
    """See `StageTrainer`.

    Queries of two detectors are not aligned, places of the feature maps are: distilled is what the
    encoder proposes at every place. The decoder keeps old objects by pseudo-labels.
    """

    build = build
    layout = "picked-n"
    fit = "stretch"
    summed = False

    def teaching_model(self, state: DetectorState) -> nn.Module:
        """Build the previous detector, folded; its decoder runs where it labels old objects."""
        model: Any = super().teaching_model(state)
        model.model[-1] = TeachingHead(model.model[-1], objects=self.job.pseudo is not None)
        return cast("nn.Module", model)

    def class_rows(self, model: Any) -> list[nn.Parameter]:
        """Return weights and biases of the class layers."""
        layers = class_layers(model.model[-1])
        return [parameter for layer in layers for parameter in layer.parameters()]

    def watch(self, model: Any) -> None:
        """Keep what the heads read, and what the encoder of the head in training makes of it."""
        if not self.distils:
            return
        self._kept: dict[str, Any] = {}
        head = model.model[-1]
        head.register_forward_pre_hook(self._keeper("student"))
        head.enc_output.register_forward_hook(self._keeper("features"))
        head.enc_score_head.register_forward_hook(self._keeper("scores"))

    def _keeper(self, name: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Any = None) -> None:
            self._kept[name] = args[0] if output is None else output

        return keep

    def distillation(self, model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (L*_cls, L*_box), the mean over the old heads (one, unless in parallel)."""
        choice = self.job.distill
        assert choice is not None
        method = resolve_distillation(choice.method)
        quantiles = Quantiles(choice.class_quantile, choice.box_quantile)
        first = slice(taught(choice.images, len(images)))
        asked = [(scores[first], boxes[first]) for scores, boxes in self._asked(images)]
        pairs = zip(self._student(model.model[-1], asked, first), asked, strict=True)
        losses = [
            method.of_places(_places(*ours), _places(*theirs), quantiles) for ours, theirs in pairs
        ]
        cls, box = zip(*losses, strict=True)
        return torch.stack(cls).mean(), torch.stack(box).mean()

    def _student(self, head: Any, asked: list[Proposals], first: slice) -> list[Proposals]:
        """Return the old classes' proposals of the model in training for the first images."""
        if len(getattr(head, "old_heads", ())):  # a stock decoder holds all old classes
            levels = [level[first] for level in self._kept["student"]]
            return [proposals(old, levels) for old in head.old_heads]
        features, count = self._kept["features"][first], asked[0][0].shape[-1]
        boxes = propose_boxes(head, features, head.anchors)
        return [(self._kept["scores"][first, ..., :count], boxes)]


def _places(scores_BNC: torch.Tensor, boxes_BN4: torch.Tensor) -> Places:
    return Places(boxes_BN4, scores_BNC.transpose(1, 2))
