"""θ_0 from a file: duet's own, or one that the engine wrote."""

from __future__ import annotations

from pathlib import Path

import torch

from duet.families.ultralytics.checkpoint import class_names, float_tensors, open_checkpoint
from duet.families.ultralytics.names import layer_number
from duet.increments.base import StartWeights, load_start
from duet.vectors.tensors import Tensors


def read_start(path: Path) -> StartWeights:
    """Read θ_0: duet's base safetensors, or an Ultralytics `.pt` through the guarded door.

    The engine stores float16; the float32 upcast of its numbers *is* θ_0, so nothing is ever
    subtracted from a rounded checkpoint. Counters of batches that a file left out begin at 0.

    Raises:
        ModelError: The file is damaged, refused, fused, or holds no detector.
    """
    if path.suffix not in (".pt", ".pth"):
        start = load_start(path)
        return StartWeights({**start.tensors, **_missing_counters(start.tensors)}, start.classes)
    checkpoint = open_checkpoint(path)
    return StartWeights(float_tensors(checkpoint), class_names(checkpoint))


def _missing_counters(tensors: Tensors) -> Tensors:
    """Return a counter for each BatchNorm layer of the engine's that has none."""
    counters = (
        name.replace(".running_mean", ".num_batches_tracked")
        for name in tensors
        if name.endswith(".running_mean") and layer_number(name) is not None
    )
    return {name: torch.tensor(0) for name in counters if name not in tensors}
