"""The losses of an epoch, added up where they are computed.

To look at a number is to wait for the device that makes it. A CPU has no queue, so there every step
is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

LOOK_EVERY = 16
"""Steps of a GPU between two looks."""


class Seen:
    """Sums of losses.

    Attributes:
        last: Loss of the newest step that was looked at.
        total: Sum of the losses up to there: infinite or NaN once one of them is.

    Args:
        device: Where the losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self.last = self.total = 0.0
        self._every = 1 if device.type == "cpu" else LOOK_EVERY
        self._exact = torch.float32 if device.type == "mps" else torch.float64
        self._sums: dict[str, torch.Tensor] = {}
        self._total = torch.zeros((), dtype=self._exact, device=device)
        self._steps = 0

    def add(self, losses: Mapping[str, torch.Tensor], total: torch.Tensor) -> None:
        """Add the losses of a step; look at them now and then.

        Args:
            losses: The parts, scalars.
            total: Their sum.
        """
        for name, part in losses.items():
            part = part.detach().to(self._exact)
            self._sums[name] = self._sums[name] + part if name in self._sums else part
        self._total = self._total + total.detach()
        if self._steps % self._every == 0:
            self.last, self.total = torch.stack(
                [total.detach().to(self._exact), self._total]
            ).tolist()
        self._steps += 1

    def means(self) -> dict[str, float]:
        """Return the mean of each part over the steps, after a last look."""
        self.total = float(self._total)
        return {name: float(sum_) / self._steps for name, sum_ in self._sums.items()}
