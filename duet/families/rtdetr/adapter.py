"""The RT-DETR family: states in, trained states and detectors out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from duet.errors import ModelError
from duet.families.rows import quiet_rows
from duet.families.rtdetr import build, roles
from duet.families.rtdetr.heads import ParallelRTDETRDecoder, QueryScores
from duet.families.scores import ClassLogits, class_scores
from duet.families.table import FAMILIES
from duet.families.tensors import plain_tensors
from duet.families.ultralytics.checkpoint import Checkpoint, file_architecture, head_kind
from duet.families.ultralytics.family import UltralyticsFamily
from duet.increments.state import DetectorState, HeadPart
from duet.training.job import Job, Progress
from duet.vectors.tensors import Tensors


class RTDETRFamily(UltralyticsFamily):
    """See `duet.families.family.Family`. Head forms: `rows` and `parallel`."""

    name = "rtdetr"
    row = FAMILIES["rtdetr"]
    rules = roles.RULES
    build = build
    layout = "picked-n"
    heads = (ParallelRTDETRDecoder,)

    def owns(self, head: str) -> bool:
        """Tell whether a head, by the name of its class, is an RT-DETR's."""
        return "RTDETR" in head

    def require_kind(self, checkpoint: Checkpoint) -> None:
        """Refuse all but RT-DETR detectors.

        Raises:
            ModelError: It is of another kind.
        """
        head = head_kind(checkpoint)
        if head != "RTDETRDecoder":
            raise ModelError(
                "expected an RT-DETR detector, got a network with "
                f"{f'a {head}' if head else 'no'} head",
                where=checkpoint.where,
                remedy="give an RT-DETR detector that Ultralytics saved",
            )

    def said(self, checkpoint: Checkpoint) -> str:
        """Return what a file says, such as ``rtdetr-l.yaml``."""
        named, size = file_architecture(checkpoint)
        return f"yolov8{size}-rtdetr.yaml" if named == "yolov8-rtdetr.yaml" else named

    def stock_of(self, architecture: str, parts: tuple[HeadPart, ...]) -> Any:
        """Build the network of a file anew."""
        return build.stock_model(architecture, len(parts[0].classes))

    def random_tensors(self, architecture: str, classes: int) -> Tensors:
        """Return a stock detector as the engine starts it."""
        return plain_tensors(build.stock_model(architecture, classes))

    def fresh_rows(self, like: Tensors, classes: int, *, architecture: str, seed: int) -> Tensors:
        """Return quiet class rows; see `Family.fresh_rows`."""

        def draw(name: str, rows: torch.Tensor, generator: torch.Generator) -> None:
            if name.startswith("denoising_class_embed"):
                nn.init.normal_(rows, generator=generator)
            else:
                nn.init.kaiming_uniform_(rows, a=math.sqrt(5), generator=generator)

        rows = {name: tensor for name, tensor in like.items() if roles.CLASS_ROWS.match(name)}
        return quiet_rows(rows, classes, seed=seed, draw=draw)

    def score_rows(self, names: Iterable[str]) -> Sequence[str]:
        """Return those of the last decoder layer, which alone answers.

        Those before it are for training, and the encoder's choose the queries.
        """
        layers = {
            name: int(name.split(".")[1]) for name in names if name.startswith("dec_score_head.")
        }
        return [name for name, layer in layers.items() if layer == max(layers.values())]

    def require_trainable(self, job: Job) -> None:
        """Refuse decoders in parallel whose loss would need each other's classes.

        Raises:
            ModelError: See `duet.families.rtdetr.build.require_separable`.
        """
        if job.head == "parallel" and job.phase == "increment" and len(job.parts) > 1:
            build.require_separable(mask_old=not job.adapts and job.old_negatives == "mask")

    def train(self, folder: Path, progress: Progress) -> None:
        """Run one job (see `duet.training.job`) in this process."""
        from duet.families.rtdetr.train import RTDETRStageTrainer
        from duet.families.ultralytics.run import run_job

        run_job(RTDETRStageTrainer, folder, progress)

    def class_logits(self, state: DetectorState) -> ClassLogits:
        """Return the queries' class scores as a function of the shared tensors."""
        model, head = (
            build.inference_model(state).requires_grad_(False),
            self.head_of(state.architecture),
        )
        model.model[-1] = QueryScores(model.model[-1])

        def inside(name: str) -> str:  # `QueryScores` lists its heads
            local = name.removeprefix(head)
            return name if local == name else f"{head}heads.0.{local}"

        return class_scores(model, state, inside=inside)


FAMILY = RTDETRFamily()
