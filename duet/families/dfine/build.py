"""From tensors to modules and back (`roles` names the tensors).

Shapes: B images, S pixels, N places of the encoder, Q queries, C classes of all increments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn
from transformers import DFineConfig, DFineForObjectDetection
from transformers.models.d_fine.modeling_d_fine import DFineConvNormLayer
from transformers.models.hgnet_v2.modeling_hgnet_v2 import HGNetV2ConvLayer

from duet.families.dfine.architectures import architecture as read_architecture
from duet.families.dfine.roles import PREFIX, head_form, split_roles, stock_names
from duet.families.packed import Block
from duet.families.rows import cut_rows, join_rows
from duet.families.tensors import require_fit
from duet.increments.scores import ScoreMap
from duet.increments.state import DetectorState
from duet.vectors.tensors import Tensors

BLOCKS: Mapping[type[nn.Module], Block] = {
    DFineConvNormLayer: Block("conv", "norm", "activation"),
    HGNetV2ConvLayer: Block("convolution", "normalization", "activation"),
}
"""What `duet.families.packed.pack` is told of the engine's layers."""


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


def model_of(state: DetectorState) -> DFineForObjectDetection:
    """Build the detector of a state: a stock one, with the class rows of all increments.

    Raises:
        ModelError: Tensors are missing, unexpected or of another shape (all named).
    """
    head_form(state.head)
    model = stock_model(state.architecture, len(state.labels))
    rows = {PREFIX + name: tensor for name, tensor in join_rows(state.parts).items()}
    tensors = stock_names({**state.shared, **state.buffers, **rows})
    require_fit(tensors, model.state_dict(), f"tensors do not fit {state.architecture}")
    model.load_state_dict(tensors)
    return model


def state_of(tensors: Tensors, like: DetectorState) -> DetectorState:
    """Return the state whose `model_of` holds ``tensors``; classes and names as in ``like``."""
    roles = split_roles(tensors, like.head)
    parts = cut_rows(roles.own, like.parts)
    return replace(like, shared=roles.shared, buffers=roles.buffers, parts=parts)


def score_maps(state: DetectorState) -> torch.Tensor | None:
    """Return ``(2, C)`` scale and offset of each class; None if all scores stay as they are."""
    maps = [state.scores.get(name, ScoreMap()) for name in state.labels]
    if all(one.identity for one in maps):
        return None
    return torch.tensor([[one.scale for one in maps], [one.offset for one in maps]])


class Queries(nn.Module):
    """A detector as one traceable function.

    Args:
        model: The engine's detector.
        maps: ``(2, C)`` scale and offset of the logits; None leaves them as they are.
    """

    maps: torch.Tensor | None

    def __init__(self, model: DFineForObjectDetection, maps: torch.Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("maps", maps)

    def forward(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        """Map float32 RGB in [0, 1] to ``(B, Q, 4 + C)``: cxcywh normalised, sigmoid scores."""
        output = self.model(images_B3SS)
        logits = output.logits if self.maps is None else output.logits * self.maps[0] + self.maps[1]
        return torch.cat((output.pred_boxes, logits.sigmoid()), -1)
