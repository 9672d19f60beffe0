"""A plain training loop for families whose engine brings no trainer: a job folder in, results out.

A family hands in a `Learner`: a module and its loss. The loop does what every family shares: order,
seeds, schedule, gradient accumulation, L_DC, frozen parts, EMA, checkpoints, Fisher. Each epoch's
randomness is a function of (seed, epoch) and each epoch leaves an exact float32 checkpoint, so that
a resumed training ends with the same bits on a CPU.

Losses are means over the images of a step, and λ of both extra losses is relative to such a mean.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from duet.devices import one_place, parse_device
from duet.errors import Collected, DuetError, ModelError
from duet.images import Fit
from duet.increments.fisher import FISHER, write_fisher
from duet.increments.state import DetectorState
from duet.training.augment import require_single
from duet.training.batches import EpochOrder, SquareImages, collate, loader, to_device
from duet.training.checkpoint import read_checkpoint, write_checkpoint
from duet.training.ema import Ema, tensors_of
from duet.training.fisher import diagonal_fisher, evenly_spaced
from duet.training.job import (
    TRAINED,
    Job,
    keeps_trunk,
    read_job,
    read_slice,
    read_state,
    write_state,
)
from duet.training.optimizer import learning_rate, make_optimizer
from duet.training.outcome import finish_job
from duet.training.pseudo import Target
from duet.training.pulls import read_pulls
from duet.vectors.tensors import Tensors

Progress = Callable[[dict[str, Any]], None]


class Learner(Protocol):
    """What a family brings to the loop; it learns the last part of a state.

    Attributes:
        module: Trained in place; parameters are named like the state's shared tensors.
        clip_norm: Largest norm of the gradient of a step.
        kept_rows: For parameters that hold rows of several owners, which rows must not move:
            ``(rows,)`` bool on the module's device.
    """

    module: nn.Module
    clip_norm: float
    kept_rows: Mapping[str, torch.Tensor]

    def losses(
        self, images_B3SS: torch.Tensor, targets: Sequence[Target]
    ) -> dict[str, torch.Tensor]:
        """Return the parts of the loss, scalars per image on average; their sum is minimised.

        Args:
            images_B3SS: float32 RGB in [0, 1].
            targets: cxcywh normalised; class ids count from the first class of the last part, or
                from the first of all where the job adapts known classes.
        """
        ...

    def state(self, tensors: Tensors) -> DetectorState:
        """Return the state whose module holds these tensors (`duet.training.ema.tensors_of`)."""
        ...


Build = Callable[[Job, DetectorState, torch.device], Learner]


def run_job(folder: Path, build: Build, progress: Progress, fit: Fit = "stretch") -> None:
    """Run the job in ``folder``; leaves the files of a finished job (`duet.training.job`).

    Args:
        folder: A job folder.
        build: Makes the learner of a job from a state, on a device.
        progress: Called after each step with epoch, epochs, done, total and loss.
        fit: How images become squares; the family's detectors must fit them likewise.

    Raises:
        ConfigError: The device is not there, or is several.
        ModelError: The training diverged, or the checkpoint cannot be used.
    """
    Loop(folder, build, progress, fit).run()


class Loop:
    """One job in training. Use `run_job`."""

    def __init__(
        self, folder: Path, build: Build, progress: Progress, fit: Fit = "stretch"
    ) -> None:
        self._began = time.perf_counter()
        self.folder, self._build, self._progress = folder, build, progress
        self.job = read_job(folder)
        self.schedule = self.job.schedule
        _use_threads(self.schedule.threads)
        self.device = device_of(self.schedule.device)
        self.start = read_state(folder / "start.safetensors")
        self.images = SquareImages(
            read_slice(folder / "slice.npz"), self.schedule, seed=self.job.seed, fit=fit
        )
        _seed(self.job.seed, -1)
        self.learner = build(self.job, self.start, self.device)
        self._freeze(self.learner.module)
        self._parameters = dict(self.learner.module.named_parameters())
        self._kept = {
            name: (rows, self._parameters[name].detach()[rows].clone())
            for name, rows in self.learner.kept_rows.items()
        }
        self._pulls = read_pulls(
            folder, self.job, self._parameters.items(), self.start.shared, self.device
        )
        self.optimizer = make_optimizer(self.learner.module, self.job)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self._half())
        self.ema = Ema(self.learner.module)
        self.order = EpochOrder(len(self.images), self.schedule.batch, self.job.seed)
        self.history: list[dict[str, float]] = []
        self.images_seen = 0

    def run(self) -> None:
        """Train to the end, from the last finished epoch on, and write the result."""
        first = self._resume()
        workers = self.schedule.workers if self.device.type == "cuda" else 0
        batches = loader(self.images, self.order, workers)
        for epoch in range(first, self.schedule.epochs):
            self.history.append(self._train_epoch(epoch, batches))
            if epoch + 1 < self.schedule.epochs:
                self._save(epoch)
        self._finish()

    # ---- one epoch ------------------------------------------------------------------------

    def _train_epoch(self, epoch: int, batches: Any) -> dict[str, float]:
        """Train one epoch; return its mean losses."""
        _seed(self.job.seed, epoch)
        self.order.epoch = epoch
        self._train_mode(self.learner.module)
        sums: dict[str, float] = {}
        steps, group = len(self.order), self.schedule.accumulate
        for step, batch in enumerate(batches):
            images, targets = to_device(batch, self.device)
            self.images_seen += len(images)
            losses = self._losses(images, targets)
            total = torch.stack(list(losses.values())).sum()
            value = float(total.detach())
            if not np.isfinite(value):
                raise self._diverged(epoch, f"the loss is {value}")
            first = step // group * group
            torch.autograd.backward(self.scaler.scale(total / min(group, steps - first)))
            if (step + 1) % group == 0 or step + 1 == steps:
                self._optimizer_step(epoch * steps + first, steps)
            for name, part in losses.items():
                sums[name] = sums.get(name, 0.0) + float(part.detach()) / steps
            done = {"epoch": epoch + 1, "epochs": self.schedule.epochs}
            done |= {"done": epoch * steps + step + 1, "total": self.schedule.epochs * steps}
            self._progress({**done, "loss": round(value, 4)})
        return sums

    def _losses(self, images: torch.Tensor, targets: Sequence[Target]) -> dict[str, torch.Tensor]:
        with torch.autocast(self.device.type, enabled=self._half()):
            return self.learner.losses(images, targets)

    def _optimizer_step(self, done: int, steps: int) -> None:
        """Add the gradients of the losses of the weights, clip, step, and put kept rows back."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.job, done, steps)
        self.scaler.unscale_(self.optimizer)
        for pull in self._pulls:
            pull.add(1.0)
        for name, (rows, _) in self._kept.items():
            kept = self._parameters[name].grad
            if kept is not None:
                kept[rows] = 0
        nn.utils.clip_grad_norm_(self._parameters.values(), self.learner.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        with torch.no_grad():  # weight decay moves rows without a gradient too
            for name, (rows, values) in self._kept.items():
                self._parameters[name][rows] = values
        self.ema.update(self.learner.module)

    # ---- what must not train --------------------------------------------------------------

    def _freeze(self, module: nn.Module) -> None:
        if keeps_trunk(self.job):
            for name, parameter in module.named_parameters():
                if name in self.start.shared:
                    parameter.requires_grad_(False)

    def _train_mode(self, module: nn.Module) -> None:
        module.train()
        for layer in module.modules():
            if isinstance(layer, _BatchNorm) and not layer.weight.requires_grad:
                layer.eval()

    def _half(self) -> bool:
        return self.schedule.amp and self.device.type == "cuda"

    # ---- files ----------------------------------------------------------------------------

    def _save(self, epoch: int) -> None:
        state = {
            "epoch": epoch,
            "model": tensors_of(self.learner.module),
            "ema": self.ema.tensors,
            "updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "images_seen": self.images_seen,
        }
        write_checkpoint(self.folder, self.job, state)

    def _resume(self) -> int:
        """Load the last finished epoch, if there is one; return the next."""
        state = read_checkpoint(self.folder, self.job, self.device)
        if state is None:
            return 0
        with torch.no_grad():
            for name, tensor in tensors_of(self.learner.module).items():
                tensor.copy_(state["model"][name])
        self.ema = Ema(self.learner.module, state["ema"], state["updates"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.history, self.images_seen = state["history"], state["images_seen"]
        return int(state["epoch"]) + 1

    def _finish(self) -> None:
        """Write the result; `finish_job` comes last, because it says that the job is finished."""
        trained = self.learner.state(self.ema.on_cpu())
        if not all(bool(tensor.isfinite().all()) for tensor in trained.to_tensors().values()):
            raise self._diverged(self.schedule.epochs - 1, "the trained weights are not finite")
        write_state(self.folder / TRAINED, trained)
        finish_job(
            self.folder, self.job, images_seen=self.images_seen, history=self.history,
            fisher_images=self._write_fisher(trained),
            seconds=time.perf_counter() - self._began,
        )  # fmt: skip

    def _write_fisher(self, trained: DetectorState) -> int:
        """Store the diagonal Fisher of the stage's shared tensors; return its number of images.

        It is that of the detector's own loss, without distillation. A stage that keeps its trunk
        has none: it says nothing about how to merge the trunk.
        """
        wanted = self.schedule.fisher_images
        if not wanted or keeps_trunk(self.job):
            return 0
        job = self.job.model_copy(update={"distill": None})
        learner = self._build(job, trained, self.device)
        chosen = evenly_spaced(len(self.images), wanted)

        def losses() -> Iterator[Callable[[], torch.Tensor]]:
            for number, place in enumerate(chosen):
                _seed(self.job.seed, self.schedule.epochs + number)
                batch = to_device(collate([self.images[-1, place]]), self.device)
                yield lambda: torch.stack(list(learner.losses(*batch).values())).sum()  # noqa: B023

        fisher = diagonal_fisher(learner.module, trained.shared, losses())
        if not all(bool(tensor.isfinite().all()) for tensor in fisher.values()):
            how = "the squared gradients at the end are not finite"
            raise self._diverged(self.schedule.epochs - 1, how)
        write_fisher(self.folder / FISHER, fisher)
        return len(chosen)

    def _diverged(self, epoch: int, how: str) -> DuetError:
        return ModelError(
            f"training diverged in epoch {epoch + 1}: {how}",
            where=str(self.folder),
            remedy="lower the learning rate or the loss weights of the method",
        )


ALONE = "this detector family trains"


def device_of(name: str) -> torch.device:
    """Return the device that a schedule names.

    Raises:
        ConfigError: It is not there, or several are named.
    """
    return torch.device(one_place(name, ALONE))


def require_trainable(job: Job) -> None:
    """Refuse a job that `run_job` would refuse wherever it runs.

    Raises:
        ConfigError: Several devices, or an augmentation that joins images.
    """
    found = Collected()
    with found.noted():
        parse_device(job.schedule.device).single(ALONE)
    with found.noted():
        require_single(job.schedule.augmentation)
    found.raise_all("the schedule does not fit this detector family")


def _use_threads(count: int) -> None:
    import cv2

    wanted = count or os.cpu_count() or 1
    torch.set_num_threads(wanted)
    cv2.setNumThreads(wanted)


def _seed(seed: int, epoch: int) -> None:
    """Seed everything: an epoch's randomness depends on (seed, epoch) alone."""
    number = (seed * 1_000_003 + (epoch + 1) * 8191) % 2**32
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
