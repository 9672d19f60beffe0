"""Detectors with the shipped trunk and random class rows: outputs depend on the image."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import torch

from duet.families.yolo.adapter import FAMILY
from duet.increments.base import StartWeights, load_start
from duet.increments.manifest import DetectorManifest, Lineage
from duet.increments.state import DetectorState
from duet.increments.store import save_detector
from duet.shipped import shipped
from duet.vectors.tensors import Tensors

ARCHITECTURE = "yolo11n.yaml"
SIZE = 64
CLASSES = (("cat", "dog"), ("bus",), ("ship", "kite", "tree"))
INCREMENTS = ("flat", "comic", "sketch")


@functools.cache
def pretrained() -> Tensors:
    """Return the shipped θ_0.

    A random trunk will not do: as it is built, its activations die out and parity compares
    constants; with BatchNorm calibrated, it magnifies float32 rounding a hundredfold.
    """
    return load_start(shipped("weights") / "yolo11n-emoji.safetensors").tensors


def make_state(head: str, increments: int) -> DetectorState:
    """Return a detector of 2, 1 and 3 classes per increment with lively class rows."""
    state = FAMILY.start_state(
        StartWeights(pretrained()), architecture=ARCHITECTURE, head=head, classes=CLASSES[0],
        increment=INCREMENTS[0], seed=0,
    )  # fmt: skip
    for index in range(1, increments):
        state = FAMILY.grow(
            state, classes=CLASSES[index], increment=INCREMENTS[index], seed=index, source=None
        )
    generator = torch.Generator().manual_seed(1)
    parts = []
    for part in state.parts:
        tensors = {name: _lively(name, tensor, generator) for name, tensor in part.tensors.items()}
        parts.append(replace(part, tensors=tensors))
    return replace(state, parts=tuple(parts))


def _lively(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a part's tensor with noise: parts differ, and scores lie between 0 and 1."""
    if name.endswith("2.bias") and name.startswith("cv3"):
        return torch.randn(tensor.shape, generator=generator) - 1.0
    if not tensor.is_floating_point() or "running_" in name:
        return tensor
    return tensor + 0.02 * torch.randn(tensor.shape, generator=generator)


def doubled() -> DetectorState:
    """Return a detector of two increments whose towers answer alike: a bus is what a cat is."""
    state = make_state("towers", 2)
    (old, new), generator = state.parts, torch.Generator().manual_seed(2)
    tensors = {
        name: old.tensors[name][: len(tensor)] if tensor.ndim else old.tensors[name]
        for name, tensor in new.tensors.items()
    }
    moved = {
        name: tensor + 0.02 * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point() and "running_" not in name
        else tensor.clone()
        for name, tensor in tensors.items()
    }
    return replace(state, parts=(old, replace(new, tensors=moved)))


def make_detector(
    folder: Path,
    *,
    head: str = "rows",
    increments: int = 2,
    state: DetectorState | None = None,
) -> Path:
    """Write a detector folder, of ``state`` or a new one, and return it."""
    state = state or make_state(head, increments)
    lineage = tuple(
        Lineage(increment=part.increment, manifest="0" * 64, merge={"method": "duet"})
        for part in state.parts
    )
    manifest = DetectorManifest.for_state(
        state, lineage=lineage, image_size=SIZE, licence=FAMILY.licence
    )
    save_detector(folder, state, manifest)
    return folder
