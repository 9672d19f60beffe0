"""What the detector in memory answers, and how far rounding to float32 alone moves it.

Two programs that compute one network in float32 add in different orders, so their answers differ
even where both are right. How much depends on the network: it is measured, as the difference of
the detector in memory from itself in float64, on the same images. An exported file may differ by
`FACTOR` times that: each program has such an error of its own, one that adds in a worse order has
up to three of them, and what a few small images tell is half of it at times. Above `CEILING` no
difference is taken for rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from duet.config import Config
from duet.errors import ModelError
from duet.export.formats import Tolerance
from duet.export.matching import apart, differences
from duet.families.exportable import Exportable
from duet.families.outputs import Layout
from duet.families.runtimes import as_function

FACTOR = 8
"""So many times the measured noise may an exported file differ."""

CEILING = Tolerance(box_px=0.03, score=3e-4)
"""The most that noise can allow: a file that is wrong by 0.05 px is refused whatever the noise."""


class Noise(Config):
    """How far the detector in memory is from itself in float64: as `duet.export.parity.Parity`."""

    max_box_px: float
    max_score: float
    factor: int = FACTOR

    @property
    def decides(self) -> bool:
        """Whether it is more than `CEILING`: such answers are chance, as where all scores tie."""
        return not (self.max_box_px <= CEILING.box_px and self.max_score <= CEILING.score)


def allowed(usual: Tolerance, noise: Noise | None) -> Tolerance:
    """Return how far an exported file may differ: the usual, or more where the noise is more."""
    if noise is None:
        return usual
    box_px = max(usual.box_px, min(FACTOR * noise.max_box_px, CEILING.box_px))
    score = max(usual.score, min(FACTOR * noise.max_score, CEILING.score))
    if (box_px, score) == (usual.box_px, usual.score):
        return usual
    why = f"{FACTOR} times what float32 rounding alone moves (see noise)"
    return replace(usual, box_px=box_px, score=score, why="; ".join(filter(None, (usual.why, why))))


@dataclass(frozen=True)
class Reference:
    """The detector in memory on some inputs.

    Attributes:
        inputs: ``(B, 3, S, S)`` each.
        outputs: What the network gives for each, batch first.
        places: All places that it picked those outputs from, ``(B, A, 4 + C)``; None if it cannot
            be told. Where scores tie, any of them may be picked.
        noise: See `Noise`; None if the network does not run in float64.
    """

    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    places: tuple[torch.Tensor, ...] | None
    noise: Noise | None

    @classmethod
    def of(cls, exportable: Exportable, inputs: Sequence[torch.Tensor]) -> Reference:
        """Run a detector on ``(B, 3, S, S)`` float32 inputs on the CPU.

        Raises:
            ModelError: It answers NaN or infinity.
        """
        whole = model = exportable.build().eval()
        if exportable.unpick is not None:
            whole = copy.deepcopy(model)
            exportable.unpick(whole)
        exact = copy.deepcopy(whole).double()  # before it runs: networks keep tensors of a run
        outputs = _answers(model, inputs)
        if whole is model:
            return cls(
                tuple(inputs), outputs, None, _noise(exact, inputs, outputs, exportable.layout)
            )
        places = _answers(whole, inputs)
        return cls(tuple(inputs), outputs, places, _noise(exact, inputs, places, None))


def _answers(model: nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    outputs = tuple(as_function(model)(batch) for batch in inputs)
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise ModelError(
            "the detector gives NaN or infinite outputs",
            remedy="its weights diverged or are damaged: train or merge it again",
        )
    return outputs


def _noise(
    exact: nn.Module,
    inputs: Sequence[torch.Tensor],
    seen: Sequence[torch.Tensor],
    layout: Layout | None,
) -> Noise | None:
    """Return the noise; None where the network does not run in float64.

    Args:
        exact: The network in float64.
        inputs: Float32.
        seen: What it gave in float32.
        layout: Of what it gave; None for `Reference.places`.
    """
    box = score = 0.0
    for batch, given in zip(inputs, seen, strict=True):
        try:
            wanted = as_function(exact)(batch.double())
        except (RuntimeError, TypeError):  # a layer for float32 alone, in a family of others
            return None
        for one, other in zip(wanted, given, strict=True):
            off = (
                apart(one, other) if layout is None
                else differences(one, other, layout, size=batch.shape[-1], tolerance=Tolerance())
            )  # fmt: skip
            box, score = max(box, off[0]), max(score, off[1])
    return Noise(max_box_px=box, max_score=score)
