"""From the outputs of a network to objects in its input; no engine is needed for it.

What they mean is told in `duet.families.outputs`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from duet.boxes import class_nms, corners
from duet.families.outputs import Layout

Objects = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""``(n, 4)`` xyxy in input pixels, ``(n,)`` scores, ``(n,)`` class ids; best first."""


@dataclass(frozen=True)
class Undecoded:
    """One image's output of the ``anchors`` layout, of which only what scores enough is decoded.

    Attributes:
        logits: Class logits of each pyramid level, ``(C, cells)``.
        bins: Logits of the distances from an anchor to the left, top, right and bottom side, of
            each level, ``(cells, 4 R)``: R distances of 0, 1, ... strides; with R = 1 the distances
            themselves.
        anchors: x and y of all levels' anchors, ``(A, 2)`` strides.
        strides: ``(A, 1)`` input pixels.
    """

    logits: tuple[torch.Tensor, ...]
    bins: tuple[torch.Tensor, ...]
    anchors: torch.Tensor
    strides: torch.Tensor

    def above(self, confidence: float | torch.Tensor) -> torch.Tensor:
        """Return, as ``(4 + C, K)``, the K anchors of which a score may be above ``confidence``.

        There may be others among them, whose scores are as near to it as float32 tells.
        """
        least = torch.as_tensor(confidence).float().mul(1 - 1e-4).logit()
        limits = least[:, None] if least.ndim else least
        good = [((level > limits).any(0) if least.ndim else level.amax(0) > limits)
                for level in self.logits]  # fmt: skip
        pairs = list(zip(self.logits, self.bins, good, strict=True))
        scores_CK = torch.cat([level[:, own] for level, _, own in pairs], 1).sigmoid()
        count, every = self.bins[0].shape[1] // 4, torch.cat(good)
        sides_K4R = torch.cat([level[own] for _, level, own in pairs]).view(-1, 4, count)
        if count > 1:
            distances = torch.arange(count, dtype=sides_K4R.dtype, device=sides_K4R.device)
            sides_K4R = sides_K4R.softmax(2).mul_(distances).sum(2, keepdim=True)
        sides, anchors = sides_K4R[..., 0], self.anchors[every]
        low, high = anchors - sides[:, :2], anchors + sides[:, 2:]
        boxes = torch.cat(((low + high) / 2, high - low), 1).mul_(self.strides[every])
        return torch.cat((boxes.t(), scores_CK))


def decode(
    output: torch.Tensor | Undecoded, layout: Layout, *, size: tuple[int, int],
    confidence: float | torch.Tensor, iou: float, limit: int, multi_label: bool = True,
) -> Objects:  # fmt: skip
    """Return the objects in one image's output.

    Args:
        output: Without the batch dimension, see `duet.families.outputs`; or not yet decoded, of
            the ``anchors`` layout.
        layout: What the numbers mean.
        size: Height and width of the input in pixels.
        confidence: Objects must score above it; ``(C,)`` for a value per class.
        iou: Boxes of one class that overlap more are suppressed; used by ``anchors`` only.
        limit: At most this many objects remain.
        multi_label: See `suppress`.
    """
    if isinstance(output, Undecoded):
        output = output.above(confidence)
    if layout == "anchors":
        return suppress(
            output, confidence=confidence, iou=iou, limit=limit, multi_label=multi_label
        )
    if layout == "queries":
        every = isinstance(confidence, torch.Tensor)  # the best need not be those that count
        output = pick(output, output[:, 4:].numel() if every else limit)
    boxes, scores, class_ids = output[:, :4], output[:, 4], output[:, 5].long()
    if layout != "picked":
        boxes = corners(boxes) * boxes.new_tensor((size[1], size[0]) * 2)
    if isinstance(confidence, torch.Tensor):  # `Detections` refuses ids that no class has
        confidence = confidence[class_ids.clamp(0, len(confidence) - 1)]
    order = scores.argsort(descending=True, stable=True)
    order = order[(scores > confidence)[order]][:limit]
    return boxes[order], scores[order], class_ids[order]


def suppress(
    y_CA: torch.Tensor, *, confidence: float | torch.Tensor, iou: float, limit: int,
    multi_label: bool = True,
) -> Objects:  # fmt: skip
    """Class-wise non-maximum suppression of the ``anchors`` layout.

    Ultralytics' own function stops after a time limit and would silently lose boxes on a loaded
    machine, so torchvision's operator is called directly, see `duet.boxes`.

    Args:
        y_CA: ``(4 + C, A)``: cxcywh in input pixels, then class scores in [0, 1].
        confidence: Candidates must score above it; ``(C,)`` for a value per class.
        iou: Boxes of one class that overlap more are suppressed.
        limit: At most this many detections remain, best first.
        multi_label: One anchor may be several classes, as the engine has it for validation; else
            the best one of those that score enough, as for prediction.
    """
    least = confidence[:, None] if isinstance(confidence, torch.Tensor) else confidence
    scores_CA = y_CA[4:]
    if multi_label:
        class_ids, anchors = torch.where(scores_CA > least)
    else:
        counts = isinstance(confidence, torch.Tensor)  # of those that score enough the best
        enough = scores_CA.where(scores_CA > least, 0) if counts else scores_CA
        best, which = enough.max(0)
        anchors = torch.where(best > (0 if counts else confidence))[0]
        class_ids = which[anchors]
        order = class_ids.argsort(stable=True)  # as above: of equal scores the first class is first
        class_ids, anchors = class_ids[order], anchors[order]
    scores = scores_CA[class_ids, anchors]
    boxes = corners(y_CA[:4, anchors].T)
    kept = class_nms(boxes, scores, class_ids, iou)[:limit]
    return boxes[kept], scores[kept], class_ids[kept]


def pick(output_QX: torch.Tensor, limit: int) -> torch.Tensor:
    """Return the best (query, class) pairs of the ``queries`` layout as ``picked-n``."""
    scores_QC = output_QX[:, 4:]
    best, places = scores_QC.flatten().topk(min(limit, scores_QC.numel()))
    queries = places // scores_QC.shape[1]
    class_ids = (places % scores_QC.shape[1]).to(output_QX.dtype)
    return torch.cat((output_QX[queries, :4], best[:, None], class_ids[:, None]), 1)
