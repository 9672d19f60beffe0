"""TensorRT engines."""

from __future__ import annotations

from pathlib import Path

from duet.errors import ConfigError
from duet.export.formats import require_engine
from duet.families.exportable import Exportable, ExportFacts


def check() -> None:
    """Refuse a machine without an NVIDIA GPU; see `duet.export.formats.Writer`."""
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            "a TensorRT engine is built on the NVIDIA GPU that will run it, and torch finds none",
            remedy="export there; or --to onnx, and build the engine there with trtexec",
        )


def write(exportable: Exportable, target: Path, facts: ExportFacts) -> None:
    """Build the engine; see `duet.export.formats.Writer`."""
    require_engine(exportable, "engine", target, facts)
