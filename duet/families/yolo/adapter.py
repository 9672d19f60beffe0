"""The YOLO family: states in, trained states and detectors out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from duet.families.decode import Layout
from duet.families.detector import ImageDetector
from duet.families.exportable import Exportable
from duet.families.scores import ClassLogits, class_scores
from duet.families.table import FAMILIES
from duet.families.tensors import plain_tensors
from duet.families.ultralytics.family import UltralyticsFamily
from duet.families.yolo import build, roles
from duet.families.yolo.foreign import KIND
from duet.families.yolo.heads import ClassScores, ParallelDetect, unpick
from duet.families.yolo.stock import stock_detector
from duet.families.yolo.towers import join
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState
from duet.training.job import Progress
from duet.vectors.tensors import Tensors


class YoloFamily(UltralyticsFamily):
    """See `duet.families.family.Family`."""

    name = "yolo"
    row = FAMILIES["yolo"]
    rules = roles
    build = build
    fit = "letterbox"
    heads = (ParallelDetect,)
    kind = KIND

    def random_tensors(self, architecture: str, classes: int) -> Tensors:
        """Return a stock detector as the engine starts it; its class towers are the narrowest."""
        width = build.narrowest_towers(architecture)
        return plain_tensors(build.stock_model(architecture, classes, width))

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
        from duet.families.ultralytics.train import run_job
        from duet.families.yolo.train import IncrementTrainer

        run_job(IncrementTrainer, folder, progress)

    def detector(
        self, state: DetectorState, *, image_size: int, device: str = "cpu"
    ) -> ImageDetector:
        """Build a detector for inference; class towers are run together where that is faster."""
        detector = super().detector(state, image_size=image_size, device=device)
        join(cast("nn.Module", detector.module))
        return detector

    def exportable(self, state: DetectorState) -> Exportable:
        """Return how a detector is exported; what an end-to-end head picks from is known."""
        plain = super().exportable(state)
        return replace(plain, unpick=unpick) if plain.layout == "picked" else plain

    def class_logits(self, state: DetectorState) -> ClassLogits:
        """Return the class scores of all increments as a function of the shared tensors.

        Of an end-to-end head they are those of the one-to-one branch, which answers at inference.
        """
        model = build.inference_model(state).requires_grad_(False)
        model.model[-1] = ClassScores.of(model.model[-1])
        return class_scores(model, state)


FAMILY = YoloFamily()
