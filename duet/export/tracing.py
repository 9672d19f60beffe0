"""Trace a network for the formats that duet writes itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from duet.errors import ModelError, in_short
from duet.families.exportable import Exportable, ExportFacts


def example(facts: ExportFacts) -> torch.Tensor:
    """Return an input to trace with: a grey image, which no branch treats specially."""
    return torch.full((1, 3, facts.image_size, facts.image_size), 0.5)


def trace(exportable: Exportable, facts: ExportFacts) -> Any:
    """Return the network as TorchScript.

    Raises:
        ModelError: It cannot be traced.
    """
    jit: Any = torch.jit  # untyped
    try:
        with quiet(), torch.no_grad():
            module = exportable.build().eval()
            return jit.trace(module, example(facts), strict=False, check_trace=False)
    except Exception as error:  # tracing runs the engine's code: any type may come out
        raise ModelError(f"this detector cannot be traced: {in_short(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of tracing: parity tells whether the trace is right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
