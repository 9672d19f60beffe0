"""A small increment in memory, and its manifest changed on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from duet.increments.manifest import IncrementManifest
from duet.increments.state import HeadPart
from duet.increments.store import IncrementFile
from duet.merging.chunks import Span
from duet.merging.operand import Operand
from duet.sealed import sealed, unsealed
from duet.vectors.task_vector import TaskVector
from duet.vectors.tensors import Tensors, fingerprint

BASE = {"conv.weight": torch.tensor([[1.0, -2.0], [0.5, -0.0]]), "bn.weight": torch.ones(2)}


STAGE = {"conv.weight": torch.tensor([[1e-10, -2.5], [0.25, -0.0]]), "bn.weight": torch.ones(2)}


BUFFERS = {
    "bn.running_mean": torch.tensor([0.1, 0.2]),
    "bn.running_var": torch.tensor([1.0, 2.0]),
    "bn.num_batches_tracked": torch.tensor(7),
}


def make_part(seed: int = 0, increment: str = "comic") -> HeadPart:
    generator = torch.Generator().manual_seed(seed)
    tensors = {"cls.weight": torch.randn(2, 3, generator=generator), "n": torch.tensor(seed)}
    return HeadPart(("cat", "dog"), tensors, increment)


def make_increment(*, refit: HeadPart | None = None, **changes: Any) -> IncrementFile:
    facts: dict[str, Any] = {
        "kind": "increment",
        "name": "comic",
        "family": "yolo",
        "architecture": "yolo11n",
        "head": "towers",
        "classes": ("cat", "dog"),
        "domain": "comic",
        "index": 2,
        "base": fingerprint(BASE),
        "parent": "1" * 64,
        "config": {"epochs": 8, "losses": [{"name": "distill", "weight": 0.01}], "none": None},
        "seed": 3,
        "versions": {"torch": torch.__version__},
        "data": "2" * 64,
        "images": 450,
        "metrics": {"mAP50": 0.93},
        "bn_weight": 450.0,
        "licence": "AGPL-3.0",
    }
    manifest = IncrementManifest(**(facts | changes))
    vector = TaskVector.between(BASE, STAGE)
    return IncrementFile(manifest, vector, BUFFERS, make_part(), refit)


def applied(vector: TaskVector, base: Tensors) -> dict[str, torch.Tensor]:
    """Return base + vector as every merge computes it."""
    operand = Operand("stage", vector=vector.delta, correction=vector.correction)
    return {
        name: operand.theta(
            Span(name, 0, delta.numel()), base[name].reshape(-1), torch.empty(delta.numel())
        ).view(delta.shape)
        for name, delta in vector.delta.items()
    }


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and seal it again, so that only its meaning can give it away."""
    path = folder / "manifest.json"
    data = unsealed(json.loads(path.read_text()))
    change(data)
    path.write_text(json.dumps(sealed(data)))
