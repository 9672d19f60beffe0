"""Detectors of every family and head form with any number of classes, whose outputs are lively."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from factories_dfine import TINY as DFINE
from factories_dfine import theta_0 as dfine_start

from duet.export.parity import sample_images
from duet.families.detector import prepare_batch
from duet.families.exportable import Exportable
from duet.families.rtdetr import build as rtdetr
from duet.families.table import family_of, resolve_family
from duet.families.yolo import build as yolo
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState, HeadForm, HeadPart

SIZE = 64


@functools.cache
def start_weights(architecture: str) -> StartWeights:
    """Return a stock detector of random weights; BatchNorm knows the images that exports see."""
    if architecture == DFINE:
        return dfine_start()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if family_of(architecture) == "rtdetr":
            model = rtdetr.stock_model(architecture, 3)
        else:
            model = yolo.stock_model(architecture, 3, yolo.narrowest_towers(architecture))
        model.eval()
        norms = [one for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)]
        for norm in norms:  # the head, which asks for targets while it is trained, is not
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            for _ in range(4):
                model(prepare_batch(sample_images(SIZE, 6), SIZE, "letterbox"))
    return StartWeights({k: v.detach().clone() for k, v in model.state_dict().items()})


def make_state(architecture: str, head: HeadForm, sizes: Sequence[int]) -> DetectorState:
    """Return a detector with ``sizes[t]`` classes in increment t."""
    engine = resolve_family(family_of(architecture))
    ends = list(itertools.accumulate(sizes))
    groups = [
        tuple(f"class {index}" for index in range(end - size, end))
        for end, size in zip(ends, sizes, strict=True)
    ]
    state = engine.start_state(
        start_weights(architecture), architecture=architecture, head=head, classes=groups[0],
        increment="t0", seed=0,
    )  # fmt: skip
    for number, classes in enumerate(groups[1:], start=1):
        state = engine.grow(
            state, classes=classes, increment=f"t{number}", seed=number, source=None
        )
    parts = tuple(_lively(part, seed) for seed, part in enumerate(state.parts))
    return replace(state, parts=parts)


def exportable_of(state: DetectorState) -> Exportable:
    """Return how a detector is exported: its family says it."""
    return resolve_family(state.family).exportable(state)


def _lively(part: HeadPart, seed: int) -> HeadPart:
    """Return a part whose classes all differ, with scores on both sides of a half."""
    generator, count = torch.Generator().manual_seed(seed), len(part.classes)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or not tensor.ndim or tensor.shape[0] != count:
            return tensor
        noise = torch.randn(tensor.shape, generator=generator)
        return noise if tensor.ndim == 1 else tensor + 0.05 * noise

    return replace(part, tensors={name: moved(tensor) for name, tensor in part.tensors.items()})
