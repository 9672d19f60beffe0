"""From tensors to modules and back: which module carries which tensor (`roles` names them)."""

from __future__ import annotations

import copy

from torch import nn
from ultralytics.nn.modules.head import RTDETRDecoder
from ultralytics.nn.tasks import RTDETRDetectionModel

from duet.errors import ModelError
from duet.families.rtdetr.heads import ParallelRTDETRDecoder, TrainingRTDETRDecoder, resize_classes
from duet.families.rtdetr.roles import RULES, architecture_file
from duet.families.ultralytics.models import load_part, load_stock, read_back, set_classes
from duet.families.ultralytics.names import description
from duet.increments.state import DetectorState, HeadPart


def stock_model(architecture: str, classes: int) -> RTDETRDetectionModel:
    """Build a stock detector.

    Raises:
        ModelError: There is no such architecture.
    """
    described = description(architecture_file(architecture), architecture)
    model = RTDETRDetectionModel(described, nc=classes, verbose=False)
    # The engine compares layer numbers against the description; the class count is in the head.
    model.nc = classes
    return model


def inference_model(state: DetectorState) -> RTDETRDetectionModel:
    """Build the detector of a state for inference: stock where one decoder suffices.

    Raises:
        ModelError: Tensors are missing, unexpected or of another shape (all named).
    """
    model = joined_model(state)
    if state.head == "parallel" and len(state.parts) > 1:
        heads = [head_with(model, state, part) for part in state.parts]
        model.model[-1] = ParallelRTDETRDecoder.of(heads)
    set_classes(model, state.labels.names)
    return model.eval()


def training_model(state: DetectorState, *, mask_old: bool, run_old: float) -> RTDETRDetectionModel:
    """Build the detector of a state for training its last part; see `Build.training_model`.

    Raises:
        ModelError: ``parallel`` without ``mask_old``: a new decoder has no old classes.
    """
    *old, new = state.parts
    if state.head == "parallel" and old:
        require_separable(mask_old=mask_old)
    model = joined_model(state)
    if old:
        # Built under `rows`, too: the denoising of the Fisher draws what comes after them.
        olds = [head_with(model, state, part) for part in old] if run_old else []
        count = sum(len(part.classes) for part in old) if state.head == "rows" else 0
        model.model[-1] = TrainingRTDETRDecoder.of(
            model.model[-1],
            olds if state.head == "parallel" else [],
            first=count if mask_old else 0,
        )
    set_classes(model, new.classes if mask_old else state.labels.names)
    return model


def require_separable(*, mask_old: bool) -> None:
    """Refuse a loss of parallel decoders that does not leave old classes out.

    Raises:
        ModelError: It does not.
    """
    if not mask_old:
        raise ModelError(
            "parallel decoders detect their own classes only, so old ones cannot be in their loss",
            remedy="use old_negatives: mask, or the head form 'rows'",
        )


def trained_state(model: nn.Module, start: DetectorState) -> DetectorState:
    """Read the state back from a trained `training_model`, float32 on the CPU."""
    return read_back(model, start, RULES)


def joined_model(state: DetectorState) -> RTDETRDetectionModel:
    """Build a stock detector with the rows of all parts, or (`parallel`) the last decoder."""
    parts = state.parts if state.head == "rows" else state.parts[-1:]
    model = stock_model(state.architecture, sum(len(part.classes) for part in parts))
    load_stock(model, state, parts, RULES)
    return model


def head_with(model: RTDETRDetectionModel, state: DetectorState, part: HeadPart) -> RTDETRDecoder:
    """Return a copy of a stock decoder that carries another increment's part (`parallel`)."""
    other = copy.deepcopy(model.model[-1])
    resize_classes(other, len(part.classes))
    load_part(other, part, RULES.own_pattern(state.head))
    return other
