"""RT-DETR decoders that hold several increments: for inference and for training.

Two forms: `rows` is a stock decoder whose class layers hold the rows of all increments; `parallel`
runs whole decoders side by side and keeps the best objects of all.

Shapes: B images, N places of the feature maps, Q queries, C classes, K objects that are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from ultralytics.models.utils.ops import get_cdn_group
from ultralytics.nn.modules.head import RTDETRDecoder

Raw = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Any]
"""Decoder boxes and scores (layers first), encoder boxes and scores, facts about denoising."""


class ParallelRTDETRDecoder(RTDETRDecoder):  # type: ignore[misc]
    """Whole decoders side by side. The engine wants "RTDETR" in the name of such a class."""

    @classmethod
    def of(cls, heads: Sequence[RTDETRDecoder]) -> ParallelRTDETRDecoder:
        """Join trained decoders; the attributes that the engine sets come from the first."""
        first = heads[0]
        self: ParallelRTDETRDecoder = cls.__new__(cls)
        nn.Module.__init__(self)
        for name, value in first.__dict__.items():
            if name not in ("_parameters", "_buffers", "_modules"):
                self.__dict__[name] = copy.copy(value)
        self.heads = nn.ModuleList(copy.deepcopy(head) for head in heads)
        self.nc = sum(head.nc for head in heads)
        return self

    def forward(
        self, x: list[torch.Tensor], batch: dict[str, Any] | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, list[Raw]]:
        """Return the best ``(B, K, 6)``: cxcywh normalised, score, class; unless exporting, raw."""
        picked, raws, start = [], [], 0
        for head in self.heads:
            head.export, head.dynamic, head.max_det = False, self.dynamic, self.max_det
            rows, raw = head(x)
            shift = rows.new_tensor([0, 0, 0, 0, 0, start])
            picked.append(rows + shift)
            raws.append(raw)
            start += head.nc
        rows = torch.cat(picked, 1)
        best = rows[..., 4].topk(picked[0].shape[1], dim=1).indices
        y = rows.gather(1, best[..., None].expand(-1, -1, 6))
        return y if self.export else (y, raws)


class TrainingRTDETRDecoder(RTDETRDecoder):  # type: ignore[misc]
    """The decoder while an increment is trained.

    Attributes:
        first: The detector loss sees the classes from this one on: with `old_negatives: mask` the
            first new class, else 0. Queries are always chosen by the scores of all classes.
    """

    @classmethod
    def of(
        cls, head: RTDETRDecoder, old: Sequence[RTDETRDecoder], *, first: int
    ) -> TrainingRTDETRDecoder:
        """Take over a stock decoder.

        Args:
            head: Holds the new part; for `rows` the rows of all increments.
            old: Decoders with the old parts (`parallel`), for distillation; else empty.
            first: See the class.
        """
        self: TrainingRTDETRDecoder = cls.__new__(cls)
        self.__dict__ = head.__dict__.copy()
        self.first = first
        self.nc = head.nc - first
        self.old_heads = nn.ModuleList(old)
        return self

    def forward(self, x: list[torch.Tensor], batch: dict[str, Any] | None = None) -> Raw:
        """Return what the engine's loss reads; class ids in ``batch`` count from `first`."""
        feats, shapes = self._get_encoder_input(x)
        embed, boxes, mask, about = get_cdn_group(
            batch, self.nc, min(self.num_queries, feats.shape[1]),
            self.denoising_class_embed.weight[self.first :], self.num_denoising,
            self.label_noise_ratio, self.box_noise_scale, self.training,
        )  # fmt: skip
        queries, refer, enc_boxes, enc_scores = self._get_decoder_input(feats, shapes, embed, boxes)
        dec_boxes, dec_scores = self.decoder(
            queries, refer, feats, shapes, self.dec_bbox_head, self.dec_score_head,
            self.query_pos_head, attn_mask=mask,
        )  # fmt: skip
        if about is None:  # as the engine: several GPUs want every parameter used
            dec_boxes = dec_boxes + 0 * self.denoising_class_embed.weight.sum()
        new = slice(self.first, None)
        return dec_boxes, dec_scores[..., new], enc_boxes, enc_scores[..., new], about


class QueryScores(nn.Module):
    """The class scores of a head's queries, in evaluation mode."""

    def __init__(self, head: RTDETRDecoder) -> None:
        super().__init__()
        self.heads = head.heads if hasattr(head, "heads") else nn.ModuleList([head])
        self.f = head.f

    def forward(self, x: list[torch.Tensor], batch: dict[str, Any] | None = None) -> torch.Tensor:
        """Return ``(B, C, Q)`` logits, classes in the order of the increments."""
        raws = [head(x)[1] for head in self.heads]
        return torch.cat([scores[-1].transpose(1, 2) for _, scores, *_ in raws], 1)


class TeachingHead(nn.Module):
    """A head of any form as a teacher: what its encoder proposes, and its objects if wanted.

    Args:
        head: Inference head.
        objects: Run its decoder, too.
    """

    def __init__(self, head: RTDETRDecoder, *, objects: bool) -> None:
        super().__init__()
        self.head, self.objects, self.f = head, objects, head.f

    def forward(
        self, x: list[torch.Tensor], batch: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor | None, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Return its objects or None, and the `proposals` of each decoder in it."""
        heads = getattr(self.head, "heads", [self.head])
        found = self.head(x)[0] if self.objects else None
        return found, [proposals(head, x) for head in heads]


def proposals(head: RTDETRDecoder, x: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the encoder proposes at every place.

    Args:
        head: Stock decoder.
        x: Feature maps, ``(B, channels, H, W)`` each.

    Returns:
        ``(B, N, C)`` class logits and ``(B, N, 4)`` boxes, cxcywh normalised.
    """
    feats, shapes = head._get_encoder_input(x)
    anchors, valid = head._generate_anchors(shapes, feats)
    features = head.enc_output(valid * feats)
    return head.enc_score_head(features), propose_boxes(head, features, anchors)


def propose_boxes(
    head: RTDETRDecoder, features_BNX: torch.Tensor, anchors_1N4: torch.Tensor
) -> torch.Tensor:
    """Return the encoder's boxes from its features, cxcywh normalised; ``(B, N, 4)``.

    Anchors at the border are infinite: the sigmoid then gives 1, without a gradient.
    """
    boxes: torch.Tensor = (head.enc_bbox_head(features_BNX) + anchors_1N4).sigmoid()
    return boxes


def class_layers(head: RTDETRDecoder) -> list[nn.Module]:
    """Return the layers that hold one row per class."""
    return [head.enc_score_head, *head.dec_score_head, head.denoising_class_embed]


def resize_classes(head: RTDETRDecoder, count: int) -> None:
    """Give a stock decoder room for ``count`` classes: fresh class layers, all else untouched."""
    head.enc_score_head = nn.Linear(head.hidden_dim, count)
    head.dec_score_head = nn.ModuleList(
        nn.Linear(head.hidden_dim, count) for _ in head.dec_score_head
    )
    head.denoising_class_embed = nn.Embedding(count, head.hidden_dim)
    head.nc = count
