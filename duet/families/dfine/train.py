"""What D-FINE brings to the training loop: its loss, on the classes that take part in it.

Old classes sit in the same layers as new ones. With `old_negatives: mask` their logits are cut off
before the engine's loss, so that neither matching nor loss knows of them; with `pseudo` the
previous detector labels old objects, and all classes take part. Distillation compares what the
encoder says at every place of the image, because queries of two detectors are not aligned.

Shapes: B images, S pixels, N places of the encoder, C classes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.loss.loss_d_fine import DFineForObjectDetectionLoss

from duet.boxes import corners
from duet.families.decode import pick
from duet.families.dfine.architectures import require_queries
from duet.families.dfine.build import BLOCKS, model_of, state_of, stock_config
from duet.families.dfine.roles import EMBEDDING, PREFIX
from duet.families.packed import pack
from duet.increments.state import DetectorState
from duet.training.job import Job, old_part_count, refines, unlabelled_classes
from duet.training.losses.distillation.responses import Places, Quantiles, taught
from duet.training.losses.distillation.table import resolve_distillation
from duet.training.memory import fast_module
from duet.training.precision import resolve_precision
from duet.training.pseudo import Found, Target, add_pseudo_labels, inside
from duet.vectors.tensors import Tensors

CLIP_NORM = 0.1
"""Of the published training."""

PARTS = {"vfl": "cls", "bbox": "box", "giou": "giou", "fgl": "fgl", "ddf": "ddf"}
"""The engine's names of its losses, and ours."""


class DFineLearner:
    """A D-FINE detector that learns its last part (`duet.training.loop.Learner`).

    Args:
        job: Settings.
        start: Where training starts.
        device: Where it runs.

    Raises:
        ModelError: The state does not fit its architecture, or the images are too small for it.
    """

    clip_norm: float = CLIP_NORM
    module: nn.Module
    kept_rows: Mapping[str, torch.Tensor]

    def __init__(self, job: Job, start: DetectorState, device: torch.device) -> None:
        require_queries(job.architecture, job.schedule.image_size)
        previous = start.parts[: old_part_count(job)]
        self._start, self._old = start, sum(len(part.classes) for part in previous)
        self._first = 0 if job.adapts else self._old  # the slice's first class
        self._unlabelled = unlabelled_classes(job)
        later = self._old > 0
        self._masks = later and not job.adapts and job.old_negatives == "mask"
        self._pseudo = job.pseudo if later and job.old_negatives == "pseudo" else None
        distill = job.distill if later and job.phase == "increment" else None
        self._distill = distill if distill is not None and distill.weight > 0 else None
        self._model: Any = fast_module(model_of(start), device)
        self.module = self._model
        kept = later and job.old_part == "kept" and not refines(job)
        self.kept_rows = dict(self._rows_to_keep(kept, device))
        self._teacher: Any = None
        if self._pseudo is not None or self._distill is not None:
            teacher = model_of(dataclasses.replace(start, parts=previous)).eval()
            precision = resolve_precision(job.schedule.precision, device)
            laid = fast_module(teacher.requires_grad_(False), device)
            # What is packed computes in float32 whatever autocast says.
            exact = precision.dtype is None
            self._teacher = pack(laid, BLOCKS) if exact else precision.settled(laid)
        learned = len(start.labels) - (self._old if self._masks else 0)
        self._loss_config = stock_config(start.architecture, learned)

    def _rows_to_keep(self, old: bool, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield old classes' rows, and the padding row of the embedding, which never trains."""
        for local in self._start.parts[0].tensors:
            name = PREFIX + local
            rows = torch.zeros(len(self.module.get_parameter(name)), dtype=torch.bool)
            rows[: self._old] = old
            rows[-1] |= name == EMBEDDING
            if bool(rows.any()):
                yield name, rows.to(device)

    def losses(
        self, images_B3SS: torch.Tensor, targets: Sequence[Target]
    ) -> dict[str, torch.Tensor]:
        """Return the parts of the loss; see `duet.training.loop.Learner`."""
        targets = [Target(target.boxes, target.labels + self._first) for target in targets]
        first, seen = len(images_B3SS), None
        if self._distill is not None:
            first = taught(self._distill.images, first)
        if self._teacher is not None:
            seen = self._look(images_B3SS if self._pseudo is not None else images_B3SS[:first])
        if self._pseudo is not None:
            targets = add_pseudo_labels(targets, self._found(seen), self._pseudo, self._unlabelled)
        labels = [{"class_labels": target.labels, "boxes": target.boxes} for target in targets]
        output = self._model.model(images_B3SS, labels=labels)
        with torch.autocast(images_B3SS.device.type, enabled=False):
            losses = self._detection(output, labels)
            if self._distill is not None:
                losses |= self._distillation(output, seen, slice(first))
        return losses

    def state(self, tensors: Tensors) -> DetectorState:
        """Return the state that holds these tensors."""
        return state_of(tensors, self._start)

    def _detection(self, output: Any, labels: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the engine's loss, summed over decoder layers and denoising by kind."""
        begin = self._old if self._masks else 0
        logits = output.intermediate_logits[..., begin:].float()
        boxes = output.intermediate_reference_points.float()
        if not bool(logits.isfinite().all() and boxes.isfinite().all()):
            return {"cls": logits.sum() * torch.nan}  # the engine would trip over such boxes
        local = [{**label, "class_labels": label["class_labels"] - begin} for label in labels]
        _, found, _ = DFineForObjectDetectionLoss(
            logits[:, -1], local, logits.device, boxes[:, -1], self._loss_config, logits, boxes,
            enc_topk_logits=output.enc_topk_logits[..., begin:].float(),
            enc_topk_bboxes=output.enc_topk_bboxes.float(),
            denoising_meta_values=output.denoising_meta_values,
            predicted_corners=output.intermediate_predicted_corners.float(),
            initial_reference_points=output.initial_reference_points.float(),
        )  # fmt: skip
        losses: dict[str, torch.Tensor] = {}
        for name, value in found.items():
            kind = PARTS[re.sub(r"loss_([a-z]+).*", r"\1", name)]
            losses[kind] = losses[kind] + value if kind in losses else value
        return losses

    @torch.no_grad()
    def _look(self, images_B3SS: torch.Tensor) -> Any:
        return self._teacher.model(images_B3SS)

    def _found(self, seen: Any) -> list[Found]:
        """Return what the previous detector finds in each image, cut at its border."""
        scores = seen.intermediate_logits[:, -1].float().sigmoid()
        rows = torch.cat((seen.intermediate_reference_points[:, -1].float(), scores), -1)
        found = []
        for row in rows:
            objects = pick(row, len(row))
            boxes = inside(corners(objects[:, :4]))
            solid = (boxes[:, 2:] > 0).all(1)
            scores, labels = objects[solid, 4], objects[solid, 5].long()
            found.append(Found(boxes[solid], scores, labels))
        return found

    def _distillation(self, output: Any, seen: Any, first: slice) -> dict[str, torch.Tensor]:
        """Return λ_Distill · L*_Distill on the encoder's scores and proposals of old classes.

        Of the images that are distilled, the first ones of what was seen.
        """
        assert self._distill is not None
        method = resolve_distillation(self._distill.method)
        quantiles = Quantiles(self._distill.class_quantile, self._distill.box_quantile)
        ours = Places(
            output.enc_outputs_coord_logits[first].float().sigmoid(),
            output.enc_outputs_class[first, ..., : self._old].transpose(1, 2),
        )
        theirs = Places(
            seen.enc_outputs_coord_logits[first].float().sigmoid(),
            seen.enc_outputs_class[first].transpose(1, 2),
        )
        cls, box = method.of_places(ours, theirs, quantiles)
        return {"kd_cls": self._distill.weight * cls, "kd_box": self._distill.weight * box}
