"""Small models to merge, and one call that merges them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st

from duet.merging.inputs import Inputs
from duet.merging.layers import Layer
from duet.merging.operand import Operand
from duet.merging.table import METHODS, resolve
from duet.merging.trace import Notes

Model = dict[str, torch.Tensor]

quick = settings(
    deadline=None,
    max_examples=80,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),  # explaining takes minutes
)
brief = settings(quick, max_examples=25)
"""For properties of every method."""
LARGEST = torch.finfo(torch.float32).max
floats32 = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1.0, LARGEST, -LARGEST]),
)
triples = st.lists(st.tuples(floats32, floats32, floats32), max_size=30)
small = st.one_of(
    st.floats(-8, 8, width=32), st.sampled_from([0.0, 1e-45, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0])
)
small_triples = st.lists(st.tuples(small, small, small), max_size=30)

PLAIN = [name for name, row in METHODS.items() if "images" not in row.needs]
"""Methods that need no images."""
MATRIX = ("iso-c", "tsv-m")


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def columns(rows: list[tuple[float, ...]]) -> list[Model]:
    return [{"w": t(*(row[k] for row in rows))} for k in range(3)]


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().view(torch.int32).flatten().tolist()


def same_bits(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name].view(torch.int32), b[name].view(torch.int32)) for name in a
    )


def layers_of(base: Mapping[str, torch.Tensor]) -> dict[str, Layer]:
    last = max(len(base) - 1, 1)
    return {name: Layer("backbone", index / last) for index, name in enumerate(base)}


def inputs_of(base: Model | None, stages: Sequence[Model | Operand], **more: Any) -> Inputs:
    made = [
        s if isinstance(s, Operand) else Operand(f"s{k}", weights=s) for k, s in enumerate(stages)
    ]
    first = base if base is not None else (made[0].tensors if made else {})
    return Inputs(stages=tuple(made), start=base, **{"layers": layers_of(first)} | more)


def merge_inputs(method: str, inputs: Inputs, **params: Any) -> tuple[Model, Notes]:
    row = resolve(method)
    # What a method leaves out shows.
    out = {name: torch.full(shape, torch.nan) for name, shape in inputs.shapes.items()}
    return out, row.merge(inputs, row.params(**params), out)


def run(
    method: str, base: Model | None, stages: Sequence[Model | Operand], **params: Any
) -> tuple[Model, Notes]:
    return merge_inputs(method, inputs_of(base, stages), **params)


def random_models(seed: int, count: int, shapes: Mapping[str, tuple[int, ...]]) -> list[Model]:
    """θ_0 and ``count`` models near it."""
    generator = torch.Generator().manual_seed(seed)
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    models = [
        {n: x + 0.1 * torch.randn(x.shape, generator=generator) for n, x in base.items()}
        for _ in range(count)
    ]
    return [base, *models]


def random_stages(seed: int, models: Sequence[Model]) -> list[Operand]:
    """Stages with everything that any method asks for."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Operand(
            f"s{k}",
            weights=model,
            images=10 + k,
            fisher={n: torch.rand(x.shape, generator=generator) for n, x in model.items()},
        )
        for k, model in enumerate(models)
    ]


SHAPES = {"stem": (6, 3, 3, 3), "norm": (6,), "deep": (8, 6, 1, 1), "depthwise": (8, 1, 3, 3)}
