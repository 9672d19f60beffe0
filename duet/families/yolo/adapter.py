"""The YOLO family: states in, trained states and detectors out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from duet.errors import ModelError
from duet.families.answers import Answering, Look
from duet.families.detector import ImageDetector
from duet.families.exportable import Exportable
from duet.families.outputs import Layout
from duet.families.scores import ClassLogits, class_scores
from duet.families.table import FAMILIES
from duet.families.tensors import plain_tensors
from duet.families.ultralytics.checkpoint import Checkpoint, file_architecture, head_kind
from duet.families.ultralytics.family import UltralyticsFamily
from duet.families.yolo import build, roles
from duet.families.yolo.heads import ClassScores, ParallelDetect, unpick
from duet.families.yolo.late import late
from duet.families.yolo.stock import join_heads, stock_detector
from duet.families.yolo.towers import join
from duet.families.yolo.unjoin import split_part
from duet.images import STRIDE
from duet.increments.base import StartWeights
from duet.increments.door.values import told
from duet.increments.forms import HeadForm
from duet.increments.state import DetectorState, HeadPart
from duet.training.job import Progress
from duet.training.precision import Precision
from duet.vectors.tensors import Tensors

_OPEN_FROM = 480
"""Pixels from which a rectangle of one stride has the 300 places that end-to-end heads pick."""


class YoloFamily(UltralyticsFamily):
    """See `duet.families.family.Family`."""

    name = "yolo"
    row = FAMILIES["yolo"]
    rules = roles.RULES
    build = build
    heads = (ParallelDetect,)

    def owns(self, head: str) -> bool:
        """Tell whether a head, by the name of its class, is no RT-DETR's."""
        return "RTDETR" not in head

    def require_kind(self, checkpoint: Checkpoint) -> None:
        """Refuse all but plain detectors.

        Raises:
            ModelError: It is of another kind.
        """
        head, task = head_kind(checkpoint), checkpoint.says("task")
        plain = {kind.__name__ for kind in build.PLAIN_HEADS}
        if head not in plain or task not in (None, "detect"):
            raise ModelError(
                f"expected a detector with a plain Detect head, got {checkpoint.network.root.kind}"
                f"{f' with {head}' if head else ''}"
                f"{f' for the task {told(task)!r}' if task is not None else ''}",
                where=checkpoint.where,
                remedy="segmentation, pose, oriented-box, open-vocabulary and RT-DETR models "
                "cannot be merged with YOLO detectors; give a detection model (v8, v9, v10, 11, "
                "12, 26)",
            )

    def said(self, checkpoint: Checkpoint) -> str:
        """Return what a file says, with the size in its name, such as ``yolo11n.yaml``."""
        named, scale = file_architecture(checkpoint)
        plain = re.fullmatch(r"(yolov?\d+)((-p2|-p6)?\.yaml)", named)
        return f"{plain[1]}{scale}{plain[2]}" if plain else named

    def parts_of(
        self, checkpoint: Checkpoint, architecture: str, part: HeadPart, head: HeadForm
    ) -> tuple[HeadPart, ...]:
        """Take joined class towers apart; see `duet.families.yolo.unjoin`."""
        return split_part(checkpoint, architecture, part, head)

    def stock_of(self, architecture: str, parts: tuple[HeadPart, ...]) -> Any:
        """Build the network of a file anew, the class towers of several parts joined."""
        model, *others = (
            build.stock_model(architecture, len(part.classes), roles.tower_width(part.tensors))
            for part in parts
        )
        if others:
            join_heads([one.model[-1] for one in (model, *others)])
        return model

    def random_tensors(self, architecture: str, classes: int) -> Tensors:
        """Return a stock detector as the engine starts it; its class towers are the narrowest."""
        width = build.narrowest_towers(architecture)
        return plain_tensors(build.stock_model(architecture, classes, width))

    def fresh_rows(self, like: Tensors, classes: int, *, architecture: str, seed: int) -> Tensors:
        """Return fresh class rows; their bias starts at the engine's prior."""
        stock = build.stock_model(architecture, classes, roles.tower_width(like)).model[-1]
        # A generator of its own: chains run in threads, and the global one would mix their draws.
        generator = torch.Generator().manual_seed(seed)
        fresh: dict[str, torch.Tensor] = {}
        for level, stride in enumerate(stock.stride.tolist()):
            weight = torch.empty_like(stock.cv3[level][-1].weight)
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
            # The engine's prior: about 0.01 objects per cell of a 640 px image.
            prior = math.log(5 / classes / (640 / stride) ** 2)
            bias = torch.full((classes,), prior)
            for branch in ("", "one2one_"):  # of an end-to-end head start alike, as in the engine
                name = f"{branch}cv3.{level}.2"
                if f"{name}.weight" in like:
                    fresh |= {f"{name}.weight": weight.detach(), f"{name}.bias": bias}
        return fresh

    def fresh(self, architecture: str, classes: Sequence[str], *, seed: int) -> StartWeights:
        """Return a stock detector with random weights, class rows too."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return StartWeights(self.random_tensors(architecture, len(classes)), tuple(classes))

    def layout_of(self, state: DetectorState) -> Layout:
        """Return which branch of the head answers."""
        return build.layout_of(state)

    def stock_detector(self, state: DetectorState) -> Any:
        """Build it with joined class towers; see `duet.families.yolo.stock`."""
        return stock_detector(state)

    def train(self, folder: Path, progress: Progress) -> None:
        """Run one job (see `duet.training.job`) in this process."""
        from duet.families.ultralytics.run import run_job
        from duet.families.yolo.train import IncrementTrainer

        run_job(IncrementTrainer, folder, progress)

    def detector(
        self, state: DetectorState, *, image_size: int, device: str = "cpu"
    ) -> ImageDetector:
        """Build a detector for inference; see `Family.detector`."""
        detector = super().detector(state, image_size=image_size, device=device)
        strides = cast("Any", detector.module).stride
        return replace(detector, stride=max(int(strides.max()), STRIDE))

    def quickened(self, network: nn.Module) -> nn.Module:
        """Return the network packed; class towers are run together where that is faster.

        On a CPU it leaves boxes to who knows which scores count, see `late`.
        """
        return late(super().quickened(join(network)))

    def exportable(self, state: DetectorState) -> Exportable:
        """Return how a detector is exported; what an end-to-end head picks from is known."""
        coarse = re.fullmatch(r".*(?:6|-p6)\.yaml", state.architecture) is not None
        plain = replace(super().exportable(state), stride=64 if coarse else STRIDE)
        if plain.layout != "picked":
            return plain
        return replace(plain, unpick=unpick, open_from=_OPEN_FROM)

    def answering(self, state: DetectorState) -> Answering:
        """Return a detector that answers at every anchor, and learns to."""
        from duet.families.yolo.answers import YoloAnswering

        return YoloAnswering(state)

    def specialist(self, state: DetectorState, precision: Precision) -> Look:
        """Return what asks a detector, folded and packed, with all branches of its head."""
        from duet.families.yolo.answers import specialist

        return specialist(state, precision)

    def class_logits(self, state: DetectorState) -> ClassLogits:
        """Return the class scores of all increments as a function of the shared tensors.

        Of an end-to-end head they are those of the one-to-one branch, which answers at inference.
        """
        model = build.inference_model(state).requires_grad_(False)
        model.model[-1] = ClassScores.of(model.model[-1])
        return class_scores(model, state)


FAMILY = YoloFamily()
