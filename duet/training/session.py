"""One job in training, from its folder to its results: what both trainers share.

Who runs the epochs differs: `duet.families.ultralytics.train` is mixed into the engine's trainer,
`duet.training.loop` is a loop of duet's own. Here is once what must not: seeds, what stays as it
is, checkpoints, the Fisher, and results.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from duet.errors import ModelError
from duet.increments.fisher import FISHER, write_fisher
from duet.increments.state import DetectorState
from duet.training.checkpoint import read_checkpoint, write_checkpoint
from duet.training.fisher import diagonal_fisher, evenly_spaced
from duet.training.job import (
    TRAINED,
    keeps_trunk,
    old_part_count,
    read_job,
    read_slice,
    read_state,
    write_state,
)
from duet.training.losses.weights import Pull, read_pulls
from duet.training.memory import in_default_order, lay_out_state
from duet.training.outcome import lacks_fisher, read_outcome, write_outcome
from duet.vectors.tensors import Tensors

OwnLoss = Callable[[DetectorState], tuple[nn.Module, Callable[[int, int], torch.Tensor]]]
"""``own_loss(trained)`` returns a network with the weights of a state and ``loss(number, place)``:
the loss of one image, a scalar, where ``place`` is in the slice and ``number`` counts from 0."""


class Session:
    """A job that can be stopped, resumed and finished.

    Attributes:
        folder: Job folder.
        job: Its settings.
        start: Where it starts.
        slice: Images and labels.
        history: Mean losses per epoch.
        images_seen: Images that passed through training.

    Args:
        folder: Job folder.
    """

    def __init__(self, folder: Path) -> None:
        self._began = time.perf_counter()
        self.folder, self.job = folder, read_job(folder)
        self.start = read_state(folder / "start.safetensors")
        self.slice = read_slice(folder / "slice.npz")
        self.history: list[dict[str, float]] = []
        self.images_seen = 0

    def previous(self) -> DetectorState:
        """Return the previous detector, which teaches: the start without a part that is new."""
        return replace(self.start, parts=self.start.parts[: old_part_count(self.job)])

    def pulls(self, module: nn.Module, device: torch.device) -> list[Pull]:
        """Return what the losses of the weights do to the trainable shared tensors of a module."""
        named = module.named_parameters()
        return read_pulls(self.folder, self.job, named, self.start.shared, device)

    def save(
        self, epoch: int, *, model: Tensors, ema: Tensors, updates: int,
        optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
    ) -> None:  # fmt: skip
        """Write an exact float32 checkpoint after an epoch; the last leaves results instead."""
        if epoch + 1 == self.job.schedule.epochs:
            return
        state = {
            "epoch": epoch,
            "model": in_default_order(dict(model)),
            "ema": in_default_order(dict(ema)),
            "updates": updates,
            "optimizer": in_default_order(optimizer.state_dict()),
            "scaler": scaler.state_dict(),
            "history": self.history,
            "images_seen": self.images_seen,
        }
        write_checkpoint(self.folder, self.job, state)

    def resume(
        self, device: torch.device, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> dict[str, Any] | None:
        """Load the last finished epoch of this job, if there is one; on a CPU bit for bit.

        Returns:
            ``epoch``, ``model``, ``ema`` and ``updates``, which are the trainer's to load.

        Raises:
            ModelError: The checkpoint is damaged.
        """
        state = read_checkpoint(self.folder, self.job, device)
        if state is not None:
            optimizer.load_state_dict(state["optimizer"])
            lay_out_state(optimizer)
            scaler.load_state_dict(state["scaler"])
            self.history, self.images_seen = state["history"], state["images_seen"]
        return state

    def finish(
        self, trained: DetectorState, epoch: int, own_loss: OwnLoss, *, precision: str,
        processes: int = 1,
    ) -> None:  # fmt: skip
        """Write the results; the outcome comes last, because it says that the job is finished.

        Args:
            trained: What was learned.
            epoch: The last one, from 0.
            own_loss: Asked only if the schedule wants a Fisher.
            precision: What it computed in (`duet.training.precision`).
            processes: Trained side by side, each on as many images.

        Raises:
            ModelError: The last step made the weights, or the gradients at them, infinite or NaN.
        """
        self._require_finite(trained.to_tensors(), "the trained weights", epoch)
        write_state(self.folder / TRAINED, trained)
        write_outcome(
            self.folder, key=self.job.key, images_seen=self.images_seen * processes,
            history=self.history, fisher_images=self._write_fisher(trained, epoch, own_loss),
            seconds=round(time.perf_counter() - self._began, 3), precision=precision,
        )  # fmt: skip

    @property
    def lacks_fisher(self) -> bool:
        """Whether the job was trained before, and only the Fisher of it is missing."""
        try:
            return lacks_fisher(self.job, read_outcome(self.folder, self.job.key))
        except ModelError:
            return False

    def add_fisher(self, own_loss: OwnLoss) -> None:
        """Compute the Fisher of a training that ended without one; see `finish`."""
        outcome = read_outcome(self.folder, self.job.key)
        trained, last = read_state(self.folder / TRAINED), self.job.schedule.epochs - 1
        images = self._write_fisher(trained, last, own_loss)
        facts = outcome.model_dump(exclude={"files", "fisher_images"})
        write_outcome(self.folder, fisher_images=images, **facts)

    def _write_fisher(self, trained: DetectorState, epoch: int, own_loss: OwnLoss) -> int:
        """Store the diagonal Fisher of the shared tensors; return its number of images.

        A stage that keeps its trunk has none: it says nothing about how to merge the trunk.
        """
        wanted = self.job.schedule.fisher_images
        if not wanted or keeps_trunk(self.job):
            return 0
        module, loss = own_loss(trained)
        chosen = evenly_spaced(len(self.slice.images), wanted)
        losses = (functools.partial(loss, *pair) for pair in enumerate(chosen))
        fisher = diagonal_fisher(module, trained.shared, losses)
        self._require_finite(fisher, "the squared gradients at the end", epoch)
        write_fisher(self.folder / FISHER, fisher)
        return len(chosen)

    def require_finite_loss(self, loss: float, epoch: int) -> None:
        """Stop a training that diverged.

        Raises:
            ModelError: The loss is infinite or NaN.
        """
        if not np.isfinite(loss):
            raise self._diverged(epoch, f"the loss is {loss}")

    def _require_finite(self, tensors: Tensors, what: str, epoch: int) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise self._diverged(epoch, f"{what} are not finite")

    def _diverged(self, epoch: int, how: str) -> ModelError:
        return ModelError(
            f"training diverged in epoch {epoch + 1}: {how}",
            where=str(self.folder),
            remedy="lower the learning rate or the loss weights of the strategy",
        )


class KeptRows:
    """Rows of parameters that must not move, to the bit, while other rows of the same tensor train.

    Args:
        rows: Each parameter with an index of its rows.
    """

    def __init__(self, rows: Iterable[tuple[nn.Parameter, slice | torch.Tensor]]) -> None:
        self._kept = [(one, index, one.detach()[index].clone()) for one, index in rows]

    def stop_gradients(self) -> None:
        """Before a step: the rows count in no norm and leave no trace in an optimizer."""
        for parameter, index, _ in self._kept:
            if parameter.grad is not None:
                parameter.grad[index] = 0

    @torch.no_grad()
    def put_back(self) -> None:
        """After a step: weight decay moves rows without a gradient, too."""
        for parameter, index, values in self._kept:
            parameter[index] = values


def freeze(module: nn.Module, names: Collection[str]) -> None:
    """Train none of the named parameters."""
    for name, parameter in module.named_parameters():
        if name in names:
            parameter.requires_grad_(False)


def rest_frozen_statistics(module: nn.Module) -> None:
    """Have BatchNorm layers that do not train run on their stored statistics, and keep these."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and not layer.weight.requires_grad:
            layer.eval()


def seed_all(seed: int, number: int, rank: int = 0) -> int:
    """Seed Python, NumPy and torch for one stretch of a training; return the number they got.

    Randomness depends on (seed, number, process) alone, so that a resumed training draws the same.
    Trainings of different seeds get far apart by a prime; stretches of one by a smaller one.

    Args:
        seed: Of the job.
        number: The engine's trainer gives its epochs, from 0. The loop draws for building the
            learner too, which is its number 0: its epochs begin at 1, and the images of the Fisher
            follow the last.
        rank: Of this process among those that train side by side.
    """
    mixed = (seed * 1_000_003 + number * 8191 + rank) % 2**32
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)
    return mixed
