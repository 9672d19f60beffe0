"""What a family fills in of a stage, and how the stage is stored: checkpoints and result files."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from duet.errors import ModelError
from duet.families.decode import Layout
from duet.families.ultralytics.arguments import restore_frozen
from duet.images import Fit
from duet.increments.fisher import FISHER, write_fisher
from duet.increments.state import DetectorState
from duet.training.checkpoint import read_checkpoint, write_checkpoint
from duet.training.fisher import diagonal_fisher, evenly_spaced
from duet.training.job import TRAINED, Job, keeps_trunk, write_state
from duet.training.outcome import finish_job

# Mixed into the engine's trainers, whose methods it calls and overrides: untyped, hence Any.
Engine: Any = object


class StoredStage(Engine):  # type: ignore[misc]
    """A stage of training that can be stopped, resumed and finished.

    Attributes:
        layout: What the decoded output of the family's networks means.
        fit: How images become squares.
        summed: Whether the engine's loss is summed over the images of a step, not averaged.
        folder: Job folder.
        job: Its settings.
        start: Where it starts.
        history: Mean losses per epoch.
        images_seen: Images that passed through training.
        frozen: Names of the parameters that do not train.
    """

    layout: Layout = "anchors"
    fit: Fit = "letterbox"
    summed = True
    folder: Path
    job: Job
    start: DetectorState
    history: list[dict[str, float]]
    images_seen: int
    frozen: set[str]
    _began: float

    # ---- what a family fills in -----------------------------------------------------------

    def training_model(self, state: DetectorState) -> nn.Module:
        """Build the detector that trains the last part of a state."""
        raise NotImplementedError

    def trained_state(self, model: nn.Module) -> DetectorState:
        """Read the state back from a trained model."""
        raise NotImplementedError

    def inference_model(self, state: DetectorState) -> nn.Module:
        """Build the detector of a state for inference."""
        raise NotImplementedError

    def class_rows(self, model: Any) -> list[nn.Parameter]:
        """Return the parameters that hold one row per class: the rows of all increments."""
        raise NotImplementedError

    def held(self, name: str) -> bool:
        """Tell whether the head form keeps a shared tensor as it is."""
        raise NotImplementedError

    def silence(self, model: Any, classes: list[int]) -> None:
        """Take classes out of the detector loss: nobody labelled them in these images.

        Asked only of families whose row says that they can (`FamilyRow.leaves_out`).
        """
        raise NotImplementedError

    def watch(self, model: Any) -> None:
        """Hook what `distillation` needs onto the model in training and onto the teacher."""

    def distillation(self, model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (L*_cls, L*_box) for a batch ``(B, 3, S, S)`` that the model has just seen."""
        raise NotImplementedError

    # ---- what all share -------------------------------------------------------------------

    def save_model(self) -> bool:
        """Write an exact float32 checkpoint after each epoch (the engine's would be float16)."""
        if self.epoch + 1 < self.epochs:
            state = {
                "epoch": self.epoch,
                "model": unwrap_model(self.model).state_dict(),
                "ema": self.ema.ema.state_dict(),
                "updates": self.ema.updates,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "history": self.history,
                "images_seen": self.images_seen,
            }
            write_checkpoint(self.folder, self.job, state)
        return True

    def _resume(self) -> None:
        """Continue after the last finished epoch of the same job, bit for bit on a CPU."""
        state = read_checkpoint(self.folder, self.job, self.device)
        if state is None:
            return
        unwrap_model(self.model).load_state_dict(state["model"])
        self.ema.ema.load_state_dict(state["ema"])
        self.ema.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.history, self.images_seen = state["history"], state["images_seen"]
        self.start_epoch = state["epoch"] + 1
        self.scheduler.last_epoch = self.start_epoch - 1

    def final_eval(self) -> None:
        """Write the result, and leave evaluation to duet.

        It is written here and not by `Family.train`: with several GPUs only the engine's launched
        processes ever hold the trained model.

        Raises:
            ModelError: The last step made the weights, or the gradients at them, infinite or NaN.
        """
        if RANK not in {-1, 0}:
            return
        trained = self.trained_state(self.ema.ema)
        trained = restore_frozen(trained, self.start, self.job, self.held)
        if not all(bool(tensor.isfinite().all()) for tensor in trained.to_tensors().values()):
            raise self._diverged("the trained weights are not finite")
        write_state(self.folder / TRAINED, trained)
        finish_job(
            self.folder, self.job, images_seen=self.images_seen * max(self.world_size, 1),
            fisher_images=self._write_fisher(trained), history=self.history,
            seconds=time.perf_counter() - self._began,
        )  # fmt: skip

    def _write_fisher(self, trained: DetectorState) -> int:
        """Store the diagonal Fisher of the stage's shared tensors; return its number of images.

        A stage that keeps its trunk has none: it says nothing about how to merge the trunk.
        """
        wanted = self.job.schedule.fisher_images
        if not wanted or keeps_trunk(self.job):
            return 0
        # A model of its own: the one in training has hooks, the EMA's lacks what was put back.
        model = self.training_model(trained).to(self.device)
        model.args = self.args
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in self.frozen)
        dataset = self.build_dataset("slice", mode="val", batch=1)
        chosen = evenly_spaced(len(dataset), wanted)

        def loss(index: int) -> torch.Tensor:
            batch = self.preprocess_batch(dataset.collate_fn([dataset[index]]))
            return cast("torch.Tensor", model(batch)[0].sum())

        losses = (functools.partial(loss, index) for index in chosen)
        fisher = diagonal_fisher(model, trained.shared, losses)
        if not all(bool(tensor.isfinite().all()) for tensor in fisher.values()):
            raise self._diverged("the squared gradients at the end are not finite")
        write_fisher(self.folder / FISHER, fisher)
        return len(chosen)

    def _diverged(self, how: str) -> ModelError:
        return ModelError(
            f"training diverged in epoch {self.epoch + 1}: {how}",
            where=str(self.folder),
            remedy="lower the learning rate or the loss weights of the method",
        )
