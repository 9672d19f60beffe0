"""The D-FINE family: states in, trained states and detectors out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from duet.families.detector import ImageDetector
from duet.families.dfine import build, roles
from duet.families.dfine.architectures import require_queries
from duet.families.dfine.foreign import CONFIG, is_dfine, read_detector, read_folder
from duet.families.family import Family
from duet.families.opened import ForeignModel
from duet.families.rows import quiet_rows
from duet.families.scores import ClassLogits, class_scores
from duet.families.table import FAMILIES
from duet.increments.base import StartWeights, load_start
from duet.increments.state import DetectorState, HeadForm
from duet.training.job import Progress
from duet.vectors.tensors import Tensors


class DFineFamily(Family):
    """See `duet.families.family.Family`. The head form is `rows`; `towers` means the same."""

    name = "dfine"
    row = FAMILIES["dfine"]
    rules = roles
    layout = "queries"
    blocks = build.BLOCKS

    def random_tensors(self, architecture: str, classes: int) -> Tensors:
        """Return a stock detector that has learned nothing.

        Convolutions keep the variance of what they read. The engine's own, far smaller, would leave
        running statistics, which start at 1, wrong for the first hundred steps.
        """
        model = build.stock_model(architecture, classes)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        return {
            name: tensor.detach().clone()
            for name, tensor in roles.without_aliases(model.state_dict()).items()
        }

    def fresh_rows(self, like: Tensors, classes: int, *, architecture: str, seed: int) -> Tensors:
        """Return quiet class rows; see `Family.fresh_rows`."""

        def draw(name: str, rows: torch.Tensor, generator: torch.Generator) -> None:
            nn.init.xavier_uniform_(rows, generator=generator)

        return quiet_rows(like, classes, seed=seed, draw=draw)

    def network(self, state: DetectorState, device: str = "cpu") -> nn.Module:
        """Build ``(B, 3, S, S)`` in, ``(B, Q, 4 + C)`` out; see `Queries`."""
        whole = build.Queries(build.model_of(state), build.score_maps(state))
        return whole.eval().requires_grad_(False).to(device)

    def calibrated(self, state: DetectorState) -> DetectorState:
        """Return the state as it is: its network maps the scores.

        A logit is the sum of a class row's output and of the quality of the box, which all classes
        share, so that no row can take up a scale.
        """
        return state

    def head_of(self, architecture: str) -> str:
        """Return ``model.``."""
        return roles.PREFIX

    def weights(self, path: Path) -> StartWeights:
        """Read θ_0: duet's base safetensors, or a folder that transformers wrote.

        Raises:
            ModelError: The file is damaged, refused, or holds no D-FINE detector.
        """
        if not (path / CONFIG).is_file():
            return load_start(path)
        tensors, classes, _ = read_folder(ForeignModel(path))
        return StartWeights(tensors, classes)

    def recognises(self, model: ForeignModel) -> bool:
        """Tell whether a folder that transformers wrote holds a D-FINE."""
        return is_dfine(model)

    def foreign(
        self,
        model: ForeignModel,
        *,
        name: str,
        head: HeadForm = "rows",
        architecture: str | None = None,
    ) -> tuple[DetectorState, dict[str, Any]]:
        """Read a folder that transformers wrote; there is no code in it to trust."""
        roles.head_form(head)
        return read_detector(model, name=name, licence=self.licence)

    def train(self, folder: Path, progress: Progress) -> None:
        """Run one job (see `duet.training.job`) in this process."""
        from duet.families.dfine.train import DFineLearner
        from duet.training.loop import run_job

        run_job(folder, DFineLearner, progress, self.fit)

    def detector(
        self, state: DetectorState, *, image_size: int, device: str = "cpu"
    ) -> ImageDetector:
        """Build a detector for inference; boxes of one class all stay, ``iou`` has no effect."""
        require_queries(state.architecture, image_size)
        return super().detector(state, image_size=image_size, device=device)

    def class_logits(self, state: DetectorState) -> ClassLogits:
        """Return the encoder's class scores as a function of the shared tensors.

        They decide which places the decoder looks at, and unlike its answers they do not depend on
        that choice.
        """
        model = build.model_of(state).eval().requires_grad_(False)
        return class_scores(model, state, pick=lambda out: out.enc_outputs_class.transpose(1, 2))


FAMILY = DFineFamily()
