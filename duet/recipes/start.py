"""θ_0 as a file or a detector folder: read the way it is stored, and known by its fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from duet.errors import ModelError
from duet.families.table import resolve_family
from duet.increments.base import StartWeights, map_base
from duet.increments.manifest import MANIFEST
from duet.increments.state import DetectorState
from duet.increments.store import load_detector
from duet.vectors.tensors import Tensors, fingerprint


def read_start(path: Path, family: str) -> Tensors:
    """Return all tensors of θ_0, float16 or float32; base files are mapped, not read.

    Raises:
        ModelError: The file is missing, damaged, refused, or holds no start weights.
    """
    if path.suffix == ".safetensors":
        return map_base(path)
    return start_weights(path, family).tensors


def start_weights(path: Path, family: str) -> StartWeights:
    """Read θ_0 with the classes that it knows: what the family reads, or a detector folder.

    Raises:
        ModelError: It is missing, damaged, refused, or of another family.
    """
    if not (path / MANIFEST).is_file():
        return resolve_family(family).weights(path)
    state = load_detector(path).state
    if state.family != family:
        raise ModelError(
            f"a detector of the family '{state.family}', expected '{family}'", where=str(path),
            remedy="give start weights of the increments' own family",
        )  # fmt: skip
    return start_weights_of(state)


def start_weights_of(state: DetectorState) -> StartWeights:
    """Return a detector as start weights: its shared tensors and its last head part."""
    whole = resolve_family(state.family).whole(state)
    return StartWeights(whole, state.parts[-1].classes)


def start_fingerprint(shared: Tensors) -> str:
    """Return the fingerprint of θ_0's shared tensors: that of their exact float32 upcast."""
    return fingerprint(_Upcast(shared))


class _Upcast(Mapping[str, torch.Tensor]):
    """Float16 tensors as float32, one at a time."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._tensors[name]
        return tensor.float() if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
