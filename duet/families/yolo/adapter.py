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
from duet.families.opened import ForeignModel
from duet.families.protocol import Progress
from duet.families.scores import ClassLogits, class_scores
from duet.families.table import FAMILIES
from duet.families.tensors import plain_tensors
from duet.families.ultralytics.checkpoint import head_kind, open_checkpoint
from duet.families.ultralytics.family import UltralyticsFamily
from duet.families.ultralytics.recognise import architectures_of
from duet.families.ultralytics.train import run_job
from duet.families.yolo import roles
from duet.families.yolo.build import (
    inference_model,
    initial_part,
    layout_of,
    narrowest_towers,
    stock_model,
)
from duet.families.yolo.foreign import KIND
from duet.families.yolo.heads import ClassScores, ParallelDetect, unpick
from duet.families.yolo.stock import stock_detector
from duet.families.yolo.towers import join
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState, HeadForm
from duet.vectors.tensors import Tensors


class YoloFamily(UltralyticsFamily):
    """See `duet.families.protocol.Family`."""

    name = "yolo"
    licence = FAMILIES["yolo"].licence
    rules = roles
    fit = "letterbox"
    heads = (ParallelDetect,)
    kind = KIND

    def fresh(self, architecture: str, classes: Sequence[str], *, seed: int) -> StartWeights:
        """Return a stock detector with random weights; its class towers are the narrowest."""
        width = narrowest_towers(architecture)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = stock_model(architecture, len(classes), width)
        return StartWeights(plain_tensors(model), tuple(classes))

    def initial_part(
        self,
        start: StartWeights,
        head: HeadForm,
        classes: Sequence[str],
        *,
        architecture: str,
        seed: int,
    ) -> Tensors:
        """Return towers as in ``start``, rows of unknown classes fresh."""
        return initial_part(start, head, classes, seed=seed, architecture=architecture)

    def head_of(self, architecture: str) -> str:
        """Return the name prefix of the head, such as ``model.23.``."""
        return roles.head_of(architecture)

    def layout_of(self, state: DetectorState) -> Layout:
        """Return which branch of the head answers."""
        return layout_of(state)

    def inference_model(self, state: DetectorState) -> Any:
        """Build the detector of a state; see `duet.families.yolo.build`."""
        return inference_model(state)

    def stock_detector(self, state: DetectorState) -> Any:
        """Build it with joined class towers; see `duet.families.yolo.stock`."""
        return stock_detector(state)

    def architecture_of(self, tensors: Tensors) -> str | None:
        """Return the engine's architecture with these tensors; class towers may differ."""
        known = roles.known_architectures()
        found = architectures_of(tensors, known, roles.architecture_file, roles.OWN["towers"])
        return next(found, None)

    def recognises(self, model: ForeignModel) -> bool:
        """Tell whether a `.pt` file of the engine holds no RT-DETR."""
        return "RTDETR" not in head_kind(model.once(open_checkpoint))

    def train(self, folder: Path, progress: Progress) -> None:
        """Run one job (see `duet.training.job`) in this process."""
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
        model = inference_model(state).requires_grad_(False)
        model.model[-1] = ClassScores.of(model.model[-1])
        return class_scores(model, state)


FAMILY = YoloFamily()
