"""RT-DETR detectors as files of other programs; the engine's exporter writes them."""

from __future__ import annotations

import functools

from torch import nn

from duet.families.exportable import Exportable
from duet.families.rtdetr.build import inference_model
from duet.families.rtdetr.heads import ParallelRTDETRDecoder
from duet.families.ultralytics.export import UltralyticsEngine
from duet.increments.state import DetectorState


def exportable(state: DetectorState) -> Exportable:
    """Return how a detector is exported; nothing is built yet.

    ``pt`` holds unfused float32 modules for Ultralytics; only `parallel` decoders of several
    increments need duet installed there. The other formats hold one folded graph.
    """
    build, stock = functools.partial(_folded, state), functools.partial(inference_model, state)
    engine = UltralyticsEngine(build, stock, heads=(ParallelRTDETRDecoder,))
    return Exportable(build, "picked-n", "stretch", engine)


def _folded(state: DetectorState) -> nn.Module:
    folded: nn.Module = inference_model(state).fuse(verbose=False).requires_grad_(False)
    return folded
