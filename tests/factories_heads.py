"""Detectors whose heads all differ: end-to-end heads (v10, 26) and class towers."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from factories_yolo import (
    alone,
    make_state,
    shaken,
    shaken_part,
)

from duet.export.export import export_detector
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import (
    inference_model,
    stock_model,
)
from duet.increments.base import StartWeights
from duet.increments.manifest import DetectorManifest
from duet.increments.state import DetectorState
from duet.increments.store import save_detector

YOLO26N, YOLOV10N = "yolo26n.yaml", "yolov10n.yaml"


@functools.cache
def lively(
    form: str, counts: tuple[int, ...] = (2, 1), architecture: str = YOLO26N
) -> DetectorState:
    """Return a detector whose branches all differ and whose scores spread over (0, 1)."""
    state = make_state(form, counts, architecture=architecture)
    parts = []
    for number, part in enumerate(state.parts):
        tensors = shaken(part.tensors, 50 + number)
        generator = torch.Generator().manual_seed(number)
        for name, tensor in tensors.items():
            if split_rows(name):
                tensors[name] = torch.randn(tensor.shape, generator=generator)
        parts.append(replace(part, tensors=tensors))
    shared = shaken(state.shared, 60)  # branches are built as copies of each other
    return replace(state, shared=shared, parts=tuple(parts))


def split_rows(name: str) -> bool:
    return "cv3" in name and name.split(".")[2] == "2"


@torch.no_grad()
def every_pair(state: DetectorState, x: torch.Tensor) -> list[np.ndarray]:
    """Return all (xyxy, score, class) of each image, best first, from the heads one by one."""
    found = []
    for index, part in enumerate(state.parts):
        model = inference_model(alone(state, index))
        head = model.model[-1]
        y_BCA = head._inference(model(x)[1]["one2one"])
        first = sum(len(one.classes) for one in state.parts[:index])
        for number in range(len(part.classes)):
            ids = torch.full_like(y_BCA[:, :1], first + number)
            found.append(torch.cat((y_BCA[:, :4], y_BCA[:, 4 + number : 5 + number], ids), 1))
    rows = torch.cat(found, 2).transpose(1, 2)
    return [row[row[:, 4].argsort(descending=True)].numpy() for row in rows]


def same_picks(
    picked: torch.Tensor, pairs: np.ndarray, tolerance: float = 1e-4, pixels: int | None = None
) -> bool:
    """Compare picks with the best pairs, cut to the image; equal scores may change places."""
    if pixels is not None:
        pairs = np.concatenate((pairs[:, :4].clip(0, pixels), pairs[:, 4:]), 1)
    expected = pairs[: len(picked)]
    rows = picked.numpy()
    if np.abs(rows[:, 4] - expected[:, 4]).max() > tolerance:
        return False
    for row in rows:
        near = np.abs(pairs[:, 4] - row[4]) < tolerance
        near &= (pairs[:, 5] == row[5]) & (np.abs(pairs[:, :4] - row[:4]).max(1) < 0.05)
        if not near.any():
            return False
    return True


CASES = {
    "T=1": ((2,), (64,)),
    "T=2": ((2, 1), (64, 64)),
    "T=3": ((1, 4, 2), (64, 64, 64)),
    "T=2, widths differ": ((2, 90), (64, 90)),
    "T=3, widths differ": ((80, 4, 2), (80, 64, 72)),
}


def towers_of(architecture: str, sizes: tuple[int, ...], widths: tuple[int, ...]) -> DetectorState:
    """Return a `towers` detector whose parts all differ, also in their BatchNorm statistics."""
    state = make_state("towers", (1,), architecture=architecture)
    parts = []
    groups = [tuple(f"{t}-{c}" for c in range(size)) for t, size in enumerate(sizes)]
    for number, (classes, width) in enumerate(zip(groups, widths, strict=True)):
        tensors = shaken(stock_model(architecture, 1, width).state_dict(), number, scale=0.5)
        one = FAMILY.start_state(
            StartWeights(tensors), architecture=architecture, head="towers", classes=classes,
            increment=f"t{number}", seed=number,
        )  # fmt: skip
        parts.append(shaken_part(one.parts[0], 10 + number, scale=0.5))
    return replace(state, parts=tuple(parts))


def exported(state: DetectorState, target: Path, *, image_size: int) -> Path:
    """Store a detector beside ``target`` and export it there."""
    manifest = DetectorManifest.for_state(
        state, lineage=(), image_size=image_size, licence=FAMILY.licence
    )
    save_detector(target.parent / "detector", state, manifest)
    export_detector(target.parent / "detector", target, "pt")
    return target
