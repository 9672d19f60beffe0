"""From tensors to modules and back: which module carries which tensor (`roles` names them)."""

from __future__ import annotations

import copy

import torch
from torch import nn
from ultralytics.nn.modules.head import Detect, v10Detect
from ultralytics.nn.tasks import DetectionModel

from duet.errors import ModelError
from duet.families.outputs import Layout
from duet.families.ultralytics.models import load_part, load_stock, read_back, set_classes
from duet.families.ultralytics.names import description
from duet.families.yolo.heads import (
    ParallelDetect,
    TrainingDetect,
    is_end_to_end,
    resize_classes,
)
from duet.families.yolo.roles import RULES, architecture_file, tower_width
from duet.families.yolo.strides import detection_model
from duet.families.yolo.towers import ClassTowers
from duet.increments.state import DetectorState, HeadPart

PLAIN_HEADS = (Detect, v10Detect)
"""The engine's heads that find boxes and nothing else."""


def stock_model(architecture: str, classes: int, width: int) -> DetectionModel:
    """Build a stock detector whose class towers are ``width`` channels wide.

    The engine ties the tower width to the class count (max(ch0, min(nc, 100))), which would make
    heads of different increments incompatible; here the pretrained detector decides it.

    Raises:
        ModelError: The engine knows no such architecture, or it has another kind of head.
    """
    described = description(architecture_file(architecture), architecture)
    model = detection_model(described, width)
    head = model.model[-1]
    if type(head) not in PLAIN_HEADS or head.cv3[0][-1].in_channels != width:
        raise ModelError(
            f"{architecture} has a {type(head).__name__} head with class towers of "
            f"{head.cv3[0][-1].in_channels} channels, expected a plain Detect with {width}",
            remedy="use a detection model such as yolov8, yolo11 or yolo26; if duet exported it "
            "from several increments, the detector folder that it was exported from",
        )
    resize_classes(head, classes)
    model.nc, model.yaml["nc"] = classes, classes
    return model


def narrowest_towers(architecture: str) -> int:
    """Return the channels of an architecture's class towers while it has few classes."""
    described = description(architecture_file(architecture), architecture)
    with torch.random.fork_rng(devices=[]):  # what is drawn here is thrown away
        head = detection_model(described, 1).model[-1]
    return int(head.cv3[0][-1].in_channels)


def inference_model(state: DetectorState) -> DetectionModel:
    """Build the detector of a state for inference: stock where one head suffices.

    Class towers of different widths stand side by side, each as wide as its part. End-to-end
    heads answer with their one-to-one branch, whose boxes need no suppression: `layout_of` decides
    it, and folding drops the branch that is not chosen.

    Raises:
        ModelError: Tensors are missing, unexpected or of another shape (all named), or rows of
            towers of different widths would have to share one.
    """
    model, old = _joined(state), state.parts[:-1]
    head = model.model[-1]
    if old and state.head != "rows":
        heads = [*(_head_with(head, state, part) for part in old), head]
        if state.head == "towers":
            for name in ("cv3", "one2one_cv3") if is_end_to_end(head) else ("cv3",):
                levels = zip(*(getattr(one, name) for one in heads), strict=True)
                setattr(head, name, nn.ModuleList(ClassTowers(level) for level in levels))
            head.nc = sum(one.nc for one in heads)
            head.no = head.nc + 4 * head.reg_max
        else:
            model.model[-1] = ParallelDetect.of(heads)
    if layout_of(state) == "picked":
        model.end2end = True
    set_classes(model, state.labels.names)
    return model.eval()


def layout_of(state: DetectorState) -> Layout:
    """Return what the decoded output of `inference_model` means: which branch answers."""
    has_one_to_one = any(name.startswith("one2one_") for name in state.parts[0].tensors)
    return "picked" if has_one_to_one else "anchors"


def training_model(state: DetectorState, *, mask_old: bool, run_old: float) -> DetectionModel:
    """Build the detector of a state for training its last part; see `Build.training_model`."""
    *old, new = state.parts
    model = _joined(state)
    if old:
        head = model.model[-1]
        sizes = [len(part.classes) for part in state.parts]
        olds = [] if state.head == "rows" else [_head_with(head, state, part) for part in old]
        model.model[-1] = TrainingDetect.of(
            head, state.head, olds, sizes, mask_old=mask_old, run_old=run_old
        )
    names = new.classes if mask_old else state.labels.names
    set_classes(model, names)
    return model


def trained_state(model: nn.Module, start: DetectorState) -> DetectorState:
    """Read the state back from a trained `training_model`, float32 on the CPU."""
    return read_back(model, start, RULES)


def _joined(state: DetectorState) -> DetectionModel:
    """Build a stock detector with the rows of all parts, or with the last head or towers."""
    parts = state.parts if state.head == "rows" else state.parts[-1:]
    widths = {part.increment: tower_width(part.tensors) for part in parts}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{name}: {width}" for name, width in widths.items())
        raise ModelError(
            f"class rows read the same tower, but these want different widths ({listed} channels)",
            remedy="use the head form 'towers', in which each increment keeps its own tower",
        )
    classes = sum(len(part.classes) for part in parts)
    model = stock_model(state.architecture, classes, widths[parts[-1].increment])
    load_stock(model, state, parts, RULES)
    return model


def _head_with(head: Detect, state: DetectorState, part: HeadPart) -> Detect:
    """Return a copy of a stock head that carries another increment's part."""
    other = copy.deepcopy(head)
    width = tower_width(part.tensors)
    if width != head.cv3[0][-1].in_channels:
        wide = stock_model(state.architecture, len(part.classes), width).model[-1]
        other.cv3 = wide.cv3
        if is_end_to_end(wide):
            other.one2one_cv3 = wide.one2one_cv3
    resize_classes(other, len(part.classes))
    load_part(other, part, RULES.own_pattern(state.head))
    return other
