"""From tensors to modules and back (`roles` names the tensors).

Shapes: B images, S pixels, N places of the encoder, Q queries, C classes of all increments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from duet.aliases import match_classes
from duet.errors import ModelError, together
from duet.families.dfine.architectures import architecture as read_architecture
from duet.families.dfine.engine import prepare

prepare()

from transformers import DFineConfig, DFineForObjectDetection  # noqa: E402  (tamed first)

from duet.families.dfine.roles import (  # noqa: E402
    cut_rows,
    head_form,
    join_rows,
    split_roles,
    stock_names,
    without_aliases,
)
from duet.increments.base import StartWeights  # noqa: E402
from duet.increments.state import DetectorState, HeadPart  # noqa: E402
from duet.vectors.tensors import Tensors  # noqa: E402

PRIOR = 0.01
"""Score of a fresh class row. The engine's own 1 / (C + 1) would make few new classes shout."""


def stock_config(architecture: str, classes: int) -> DFineConfig:
    """Return the engine's configuration of a shipped architecture.

    Raises:
        ModelError: No such architecture.
    """
    return DFineConfig(**read_architecture(architecture), num_labels=classes)


def stock_model(architecture: str, classes: int) -> DFineForObjectDetection:
    """Build a stock detector with random weights, as the engine starts it.

    Raises:
        ModelError: No such architecture.
    """
    return DFineForObjectDetection(stock_config(architecture, classes))


def random_tensors(architecture: str, classes: int, *, seed: int) -> dict[str, torch.Tensor]:
    """Return the tensors of a stock detector that has learned nothing.

    Convolutions keep the variance of what they read. The engine's own, far smaller, would leave
    running statistics, which start at 1, wrong for the first hundred steps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = stock_model(architecture, classes)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    return {
        name: tensor.detach().clone()
        for name, tensor in without_aliases(model.state_dict()).items()
    }


def initial_part(
    start: StartWeights, classes: Sequence[str], *, increment: str, seed: int
) -> HeadPart:
    """Return a head part whose rows are taken over by class name where they can, else fresh.

    Args:
        start: A stock detector; it gives the shapes, and the rows of the classes that it knows.
        classes: Classes of the part.
        increment: Name of the increment.
        seed: Of the fresh rows.

    Raises:
        ModelError: The tensors are not a detector's, or have other rows than ``start`` names.
    """
    own, known = split_roles(start.tensors, "rows").own, start.classes
    if known and len(known) != len(own["enc_score_head.weight"]):
        raise ModelError(
            f"the start weights have rows for {len(own['enc_score_head.weight'])} classes, but "
            f"name {len(known)}",
            remedy="the file is damaged: take it from its source again",
        )
    # A generator of its own: chains run in threads, and the global one would mix their draws.
    generator = torch.Generator().manual_seed(seed)
    rows = {name: _fresh(own[name], len(classes), generator) for name in sorted(own)}
    for wanted, found in match_classes(classes, known).items():
        for name, tensor in rows.items():
            tensor[list(classes).index(wanted)] = own[name][known.index(found)]
    return HeadPart(tuple(classes), rows, increment)


def _fresh(like: torch.Tensor, classes: int, generator: torch.Generator) -> torch.Tensor:
    if like.ndim == 1:
        return torch.full((classes,), -math.log((1 - PRIOR) / PRIOR))
    rows = torch.empty((classes, like.shape[1]))
    return nn.init.xavier_uniform_(rows, generator=generator)


def model_of(state: DetectorState) -> DFineForObjectDetection:
    """Build the detector of a state: a stock one, with the class rows of all increments.

    Raises:
        ModelError: Tensors are missing, unexpected or of another shape (all named).
    """
    head_form(state.head)
    model = stock_model(state.architecture, len(state.labels))
    tensors = stock_names(join_rows(state))
    _require_fit(tensors, model.state_dict(), state.architecture)
    model.load_state_dict(tensors)
    return model


def state_of(tensors: Tensors, like: DetectorState) -> DetectorState:
    """Return the state whose `model_of` holds ``tensors``; classes and names as in ``like``."""
    roles = split_roles(tensors, like.head)
    rows = cut_rows(roles.own, [len(part.classes) for part in like.parts])
    parts = tuple(
        HeadPart(part.classes, own, part.increment)
        for part, own in zip(like.parts, rows, strict=True)
    )
    return DetectorState(
        like.family, like.architecture, like.head, roles.shared, roles.buffers, parts
    )


def _require_fit(tensors: Tensors, expected: Tensors, architecture: str) -> None:
    """Raise unless names and shapes agree; up to 20 problems are named."""
    problems = [f"missing: {name}" for name in expected.keys() - tensors.keys()]
    problems += [f"unexpected: {name}" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name}: got {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    if problems:
        raise ModelError(
            together(sorted(problems)[:20], summary=f"tensors do not fit {architecture}"),
            remedy="the file belongs to another architecture, is damaged, or was written with "
            "another version of transformers",
        )


class Queries(nn.Module):
    """A detector as one traceable function.

    Args:
        model: The engine's detector.
    """

    def __init__(self, model: DFineForObjectDetection) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        """Map float32 RGB in [0, 1] to ``(B, Q, 4 + C)``: cxcywh normalised, sigmoid scores."""
        output = self.model(images_B3SS)
        return torch.cat((output.pred_boxes, output.logits.sigmoid()), -1)


def inference_model(state: DetectorState) -> Queries:
    """Build the detector of a state for inference; errors as `model_of`."""
    return Queries(model_of(state)).eval().requires_grad_(False)


def class_logits(state: DetectorState) -> Callable[[Tensors, torch.Tensor], torch.Tensor]:
    """Return ``scores(shared, images)`` of a detector; see `Family.class_logits`.

    The places are those of the encoder: its scores decide which of them the decoder looks at, and
    unlike the decoder's answers they do not depend on that choice.
    """
    model = model_of(state).eval().requires_grad_(False)

    def scores(shared: Tensors, images_B3SS: torch.Tensor) -> torch.Tensor:
        unknown = sorted(set(shared) - set(state.shared))
        if unknown:
            raise ModelError(
                f"not shared tensors of this detector: {', '.join(unknown[:5])}",
                where=f"{state.family} {state.architecture}, class scores",
            )
        output: Any = functional_call(model, dict(shared), (images_B3SS,))
        logits_BCN: torch.Tensor = output.enc_outputs_class.transpose(1, 2)
        return logits_BCN

    return scores
