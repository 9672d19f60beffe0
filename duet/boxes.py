"""Boxes as tensors: overlap, and suppression of those that overlap better ones.

torchvision's operator does the suppression; its Python package, which takes a second to import, is
not needed for that.

Shapes: N and M boxes; boxes are ``(N, 4)`` float.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from pathlib import Path
from typing import cast

import torch

from duet.defaults import CANDIDATES

_TOGETHER = {"cpu": 1000}
"""Boxes up to which classes are moved apart and suppressed in one go, by device."""

_TOGETHER_ELSEWHERE = 25_000

_LIBRARIES = ("_C_stable", "_C")
"""Names of torchvision's operator library, newest first."""


def corners(boxes_N4: torch.Tensor) -> torch.Tensor:
    """Return cxcywh boxes as xyxy, in the same unit."""
    cx, cy, w, h = boxes_N4.unbind(-1)
    return torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), -1)


def box_iou(one_N4: torch.Tensor, other_M4: torch.Tensor) -> torch.Tensor:
    """Return the ``(N, M)`` IoU of xyxy boxes; NaN for two boxes without area."""
    left_top = torch.max(one_N4[:, None, :2], other_M4[:, :2])
    right_bottom = torch.min(one_N4[:, None, 2:], other_M4[:, 2:])
    width, height = _wide(right_bottom - left_top).clamp(min=0).unbind(-1)
    inside = width * height
    return inside / (_area(one_N4)[:, None] + _area(other_M4) - inside)


def nms(boxes_N4: torch.Tensor, scores_N: torch.Tensor, iou: float) -> torch.Tensor:
    """Return the places of boxes that no better one overlaps by more than ``iou``, best first.

    Args:
        boxes_N4: xyxy.
        scores_N: Of two that are equal the first is the better one.
        iou: In [0, 1].
    """
    return _operator()(boxes_N4, scores_N, iou)


def class_nms(
    boxes_N4: torch.Tensor, scores_N: torch.Tensor, classes_N: torch.Tensor, iou: float
) -> torch.Tensor:
    """Return what `nms` does where boxes of different classes leave each other alone.

    Only the `CANDIDATES` best boxes count. The result is ``torchvision.ops.batched_nms``'s, also
    where float32 could not hold coordinates that are moved apart by class.
    """
    if len(scores_N) > CANDIDATES:
        best = scores_N.argsort(descending=True, stable=True)[:CANDIDATES]
        return best[class_nms(boxes_N4[best], scores_N[best], classes_N[best], iou)]
    if not len(scores_N):
        return scores_N.new_zeros(0, dtype=torch.long)
    if len(scores_N) <= _TOGETHER.get(boxes_N4.device.type, _TOGETHER_ELSEWHERE):
        apart = classes_N.to(boxes_N4) * (boxes_N4.max() + 1)
        return nms(boxes_N4 + apart[:, None], scores_N, iou)
    order = classes_N.argsort(stable=True)
    counts = torch.bincount(classes_N.long())
    classes = torch.split(order, counts[counts > 0].tolist())
    kept = torch.cat([own[nms(boxes_N4[own], scores_N[own], iou)] for own in classes])
    kept = kept.sort().values
    return kept[scores_N[kept].argsort(descending=True, stable=True)]


def _area(xyxy: torch.Tensor) -> torch.Tensor:
    left, top, right, bottom = _wide(xyxy).unbind(-1)
    return (right - left) * (bottom - top)


def _wide(values: torch.Tensor) -> torch.Tensor:
    """Return values whose products do not overflow: half precision holds no area."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


@functools.cache
def _operator() -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
    """Return torchvision's operator; its package is imported only where the library is not found.

    Raises:
        ImportError: torchvision is not installed.
    """
    if "torchvision" not in sys.modules and not _load_library():
        import torchvision  # noqa: F401  # registers its operators
    return cast("Callable[..., torch.Tensor]", torch.ops.torchvision.nms)


def _load_library() -> bool:
    """Load the library with torchvision's operators; tells whether there is one that loads."""
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return False
    finder = FileFinder(str(Path(package.origin).parent), (ExtensionFileLoader, EXTENSION_SUFFIXES))
    for name in _LIBRARIES:
        found = finder.find_spec(name)
        if found is None or found.origin is None:
            continue
        try:
            torch.ops.load_library(found.origin)  # type: ignore[no-untyped-call]
        except OSError:  # made for another torch: its package says so better
            return False
        return hasattr(torch.ops.torchvision, "nms")
    return False
