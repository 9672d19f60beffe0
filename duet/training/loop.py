"""A plain training loop for families whose engine brings no trainer: a job folder in, results out.

A family hands in a `Learner`: a module and its loss. The loop does what every family shares: order,
seeds, schedule, gradient accumulation, L_DC, frozen parts, EMA, checkpoints, Fisher. Each epoch's
randomness is a function of (seed, epoch) and each epoch leaves an exact float32 checkpoint, so that
a resumed training ends with the same bits on a CPU.

Losses are means over the images of a step, and λ of both extra losses is relative to such a mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from duet.devices import one_place, parse_device
from duet.errors import Collected, ConfigError
from duet.images import Fit
from duet.increments.state import DetectorState
from duet.training.augment import require_single
from duet.training.batches import EpochOrder, SquareImages, collate, loader, to_device
from duet.training.ema import Ema, tensors_of
from duet.training.job import Job, Progress, keeps_trunk
from duet.training.optimizer import learning_rate, make_optimizer
from duet.training.precision import resolve_precision
from duet.training.pseudo import Target
from duet.training.schedule import Schedule
from duet.training.seen import Seen
from duet.training.session import KeptRows, Session, freeze, rest_frozen_statistics, seed_all
from duet.vectors.tensors import Tensors


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
        fit: How images become squares (`duet.images.squared`), as the family's detectors fit them.

    Raises:
        ConfigError: The device is not there, or is several.
        ModelError: The training diverged, or the checkpoint cannot be used.
    """
    _Loop(folder, build, progress, fit).run()


class _Loop:
    """One job in training."""

    def __init__(self, folder: Path, build: Build, progress: Progress, fit: Fit) -> None:
        self.session = session = Session(folder)
        self._build, self._progress = build, progress
        self.job, self.schedule = session.job, session.job.schedule
        _use_threads(self.schedule.threads)
        _require_one_process(self.schedule)
        self.device = torch.device(one_place(self.schedule.device, ALONE))
        self.images = SquareImages(session.slice, self.schedule, seed=self.job.seed, fit=fit)
        seed_all(self.job.seed, 0)
        self.learner = build(self.job, session.start, self.device)
        module = self.learner.module
        freeze(module, session.start.shared if keeps_trunk(self.job) else ())
        rows = self.learner.kept_rows.items()
        self._kept = KeptRows((module.get_parameter(name), index) for name, index in rows)
        self._pulls = session.pulls(module, self.device)
        self.optimizer = make_optimizer(module, self.job)
        self.precision = resolve_precision(self.schedule.precision, self.device)
        self.scaler = self.precision.scaler()
        self.ema = Ema(module)
        self.order = EpochOrder(len(self.images), self.schedule.batch, self.job.seed)

    def run(self) -> None:
        """Train to the end, from the last finished epoch on, and write the result."""
        if self.session.lacks_fisher:
            self.session.add_fisher(self._own_loss)
            return
        first = self._resume()
        workers = self.schedule.workers if self.device.type == "cuda" else 0
        batches = loader(self.images, self.order, workers, self.device)
        for epoch in range(first, self.schedule.epochs):
            self.session.history.append(self._train_epoch(epoch, batches))
            self.session.save(
                epoch, model=tensors_of(self.learner.module), ema=self.ema.tensors,
                updates=self.ema.updates, optimizer=self.optimizer, scaler=self.scaler,
            )  # fmt: skip
        trained = self.learner.state(self.ema.on_cpu())
        last, name = self.schedule.epochs - 1, self.precision.name
        self.session.finish(trained, last, self._own_loss, precision=name)

    def _resume(self) -> int:
        """Load the last finished epoch, if there is one; return the next."""
        state = self.session.resume(self.device, self.optimizer, self.scaler)
        if state is None:
            return 0
        with torch.no_grad():
            for name, tensor in tensors_of(self.learner.module).items():
                tensor.copy_(state["model"][name])
        self.ema = Ema(self.learner.module, state["ema"], state["updates"])
        return int(state["epoch"]) + 1

    def _train_epoch(self, epoch: int, batches: Any) -> dict[str, float]:
        """Train one epoch; return its mean losses."""
        seed_all(self.job.seed, epoch + 1)
        self.order.epoch = epoch
        self.learner.module.train()
        rest_frozen_statistics(self.learner.module)
        seen = Seen(self.device)
        steps, group = len(self.order), self.schedule.accumulate
        for step, batch in enumerate(batches):
            images, targets = to_device(batch, self.device)
            self.session.images_seen += len(images)
            with self.precision.autocast():
                losses = self.learner.losses(images, targets)
            total = torch.stack(list(losses.values())).sum()
            seen.add(losses, total)
            self.session.require_finite_loss(seen.total, epoch)
            first = step // group * group
            torch.autograd.backward(self.scaler.scale(total / min(group, steps - first)))
            if (step + 1) % group == 0 or step + 1 == steps:
                self._optimizer_step(epoch * steps + first, steps)
            done = {"epoch": epoch + 1, "epochs": self.schedule.epochs}
            done |= {"done": epoch * steps + step + 1, "total": self.schedule.epochs * steps}
            self._progress({**done, "loss": round(seen.last, 4)})
        means = seen.means()
        self.session.require_finite_loss(seen.total, epoch)
        return means

    def _optimizer_step(self, done: int, steps: int) -> None:
        """Add the gradients of the losses of the weights, clip, step, and put kept rows back."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.job, done, steps)
        self.scaler.unscale_(self.optimizer)
        for pull in self._pulls:
            pull.add(1.0)
        self._kept.stop_gradients()
        nn.utils.clip_grad_norm_(self.learner.module.parameters(), self.learner.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self._kept.put_back()
        self.ema.update(self.learner.module)

    def _own_loss(
        self, trained: DetectorState
    ) -> tuple[nn.Module, Callable[[int, int], torch.Tensor]]:
        """Return the detector's own loss, image by image: without distillation."""
        exact = self.schedule.model_copy(update={"precision": "fp32"})
        job = self.job.model_copy(update={"distill": None, "schedule": exact})
        learner = self._build(job, trained, self.device)

        def loss(number: int, place: int) -> torch.Tensor:
            seed_all(self.job.seed, self.schedule.epochs + 1 + number)
            batch = to_device(collate([self.images[-1, place]]), self.device)
            return torch.stack(list(learner.losses(*batch).values())).sum()

        return learner.module, loss


ALONE = "this detector family trains"


def require_trainable(job: Job) -> None:
    """Refuse a job that `run_job` would refuse wherever it runs.

    Raises:
        ConfigError: Several devices or ranks, or an augmentation that joins images.
    """
    found = Collected()
    with found.noted():
        parse_device(job.schedule.device).single(ALONE)
    with found.noted():
        _require_one_process(job.schedule)
    with found.noted():
        require_single(job.schedule.augmentation)
    found.raise_all("the schedule does not fit this detector family")


def _require_one_process(schedule: Schedule) -> None:
    if schedule.ranks > 1:
        raise ConfigError(f"{ALONE} in one process, got {schedule.ranks} ranks", where="ranks")


def _use_threads(count: int) -> None:
    import cv2

    wanted = count or os.cpu_count() or 1
    torch.set_num_threads(wanted)
    cv2.setNumThreads(wanted)
