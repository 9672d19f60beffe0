"""θ_0 from a file: duet's own, or one that the engine wrote."""

from __future__ import annotations

from pathlib import Path

from duet.families.ultralytics.checkpoint import class_names, float_tensors, open_checkpoint
from duet.increments.base import StartWeights, load_start


def read_start(path: Path) -> StartWeights:
    """Read θ_0: duet's base safetensors, or an Ultralytics `.pt` through the guarded door.

    The engine stores float16; the float32 upcast of its numbers *is* θ_0, so nothing is ever
    subtracted from a rounded checkpoint.

    Raises:
        ModelError: The file is damaged, refused, fused, or holds no detector.
    """
    if path.suffix not in (".pt", ".pth"):
        return load_start(path)
    checkpoint = open_checkpoint(path)
    return StartWeights(float_tensors(checkpoint), class_names(checkpoint))
