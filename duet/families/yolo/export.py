"""YOLO detectors as files of other programs; the engine's exporter writes them."""

from __future__ import annotations

import functools
from pathlib import Path

from torch import nn

from duet.families.exportable import Exportable
from duet.families.ultralytics.export import UltralyticsEngine, write_file
from duet.families.yolo.build import inference_model, layout_of
from duet.families.yolo.heads import ParallelDetect
from duet.families.yolo.stock import stock_detector
from duet.increments.state import DetectorState


def exportable(state: DetectorState) -> Exportable:
    """Return how a detector is exported; nothing is built yet.

    ``pt`` holds unfused float32 modules, to predict, validate, export and fine-tune with
    Ultralytics; only `parallel` heads of several increments need duet installed there. The other
    formats hold one folded graph.
    """
    build, layout = functools.partial(_folded, state), layout_of(state)
    engine = UltralyticsEngine(
        build, functools.partial(stock_detector, state), layout == "picked", (ParallelDetect,)
    )
    return Exportable(build, layout, "letterbox", engine)


def write(state: DetectorState, target: Path, *, image_size: int, form: str, licence: str) -> Path:
    """Write a detector as one file; see `write_file`."""
    return write_file(
        state, exportable(state), target, image_size=image_size, form=form, licence=licence
    )


def _folded(state: DetectorState) -> nn.Module:
    folded: nn.Module = inference_model(state).fuse(verbose=False).requires_grad_(False)
    return folded
