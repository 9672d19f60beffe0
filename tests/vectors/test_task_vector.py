"""Task vectors: exact to the last bit for any finite float32, and bound to their base."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from factories_increments import applied
from hypothesis import example, given, settings
from hypothesis import strategies as st

from duet.errors import ModelError
from duet.vectors.similarity import cosine
from duet.vectors.task_vector import Correction, TaskVector
from duet.vectors.tensors import fingerprint, require_finite, require_same_layout

quick = settings(deadline=None, max_examples=150)
LARGEST = torch.finfo(torch.float32).max
TINY = 1.401298464324817e-45  # the smallest denormal

floats32 = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, TINY, -TINY, 1.0, -1.0, 1.0 + 2**-23, LARGEST, -LARGEST]),
)
pairs = st.lists(st.tuples(floats32, floats32), max_size=40)


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def columns(rows: Sequence[tuple[float, ...]], width: int) -> list[torch.Tensor]:
    return [t(*(row[k] for row in rows)) for k in range(width)]


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().view(torch.int32).flatten().tolist()


# --- exactness -----------------------------------------------------------------------------------


@quick
@given(pairs)
@example([(1.0, 1e-10)])  # 1e-10 - 1.0 rounds to -1.0, and 1.0 + -1.0 is 0.0
@example([(LARGEST, -LARGEST)])  # the difference overflows
@example([(0.0, -0.0), (-0.0, 0.0), (-0.0, -0.0), (0.0, 0.0)])
@example([(TINY, -TINY), (1.0, TINY), (-LARGEST, TINY)])
@pytest.mark.slow
def test_base_plus_vector_is_the_stage_bit_for_bit(rows: list[tuple[float, float]]) -> None:
    base, stage = columns(rows, 2)
    vector = TaskVector.between({"w": base}, {"w": stage})
    assert bits(applied(vector, {"w": base})["w"]) == bits(stage)
    again = TaskVector.from_tensors(vector.to_tensors(), vector.base)
    assert bits(applied(again, {"w": base})["w"]) == bits(stage)


@quick
@given(pairs)
def test_vector_of_an_untrained_stage_is_exactly_zero(rows: list[tuple[float, float]]) -> None:
    base, _ = columns(rows, 2)
    vector = TaskVector.between({"w": base}, {"w": base.clone()})
    assert not vector.delta["w"].any()
    assert not vector.correction  # also for -0.0


def test_shapes_strides_and_scalars_survive() -> None:
    base = {"conv": torch.randn(4, 3, 2), "scalar": torch.tensor(1.0), "none": torch.zeros(0, 3)}
    stage = {
        "conv": torch.randn(2, 3, 4).permute(2, 1, 0) * 1e-6,  # not contiguous, needs corrections
        "scalar": torch.tensor(1e-10),
        "none": torch.zeros(0, 3),
    }
    vector = TaskVector.between(base, stage)
    assert set(vector.correction) == {"conv", "scalar"}
    for name, tensor in applied(vector, base).items():
        assert tensor.shape == stage[name].shape
        assert bits(tensor) == bits(stage[name])


def test_small_updates_need_few_corrections() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(20_000, generator=generator) * 0.05
    stage = base.clone()
    for _ in range(20):  # one addition would round to the grid of the base and need no correction
        stage = stage * (1 - 1e-4) + torch.randn(20_000, generator=generator) * 0.001
    vector = TaskVector.between({"w": base}, {"w": stage})
    assert 0 < len(vector.correction["w"].indices) < 1000  # files stay about as large as weights
    assert bits(applied(vector, {"w": base})["w"]) == bits(stage)


def test_integer_buffers_are_not_part_of_vectors() -> None:
    base = {"w": t(1.0), "bn.num_batches_tracked": torch.tensor(3)}
    stage = {"w": t(2.0), "bn.num_batches_tracked": torch.tensor(9)}
    vector = TaskVector.between(base, stage)
    assert list(vector.delta) == ["w"]
    assert vector.base == fingerprint({"w": t(1.0)})
    assert applied(vector, stage | {"w": t(1.0)})["w"] == 2.0  # the counter does not bind the base


def test_vector_keeps_no_link_to_the_inputs() -> None:
    base, stage = {"w": t(1.0, 1.0)}, {"w": t(2.0, 1e-10)}
    vector = TaskVector.between(base, stage)
    stage["w"].zero_()
    restored = applied(vector, base)
    restored["w"].zero_()
    assert bits(applied(vector, base)["w"]) == bits(t(2.0, 1e-10))
    assert base["w"].tolist() == [1.0, 1.0]


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "stage", "match"),
    [
        pytest.param({"a": t(1), "b": t(1)}, {"a": t(1)}, "missing: b", id="missing"),
        pytest.param({"a": t(1)}, {"a": t(1), "c": t(1)}, "unexpected: c", id="unexpected"),
        pytest.param({"a": t(1)}, {"a": t(1, 2)}, r"a: shape \(2,\), expected \(1,\)", id="shape"),
        pytest.param({"a": t(1)}, {"a": t(1).double()}, "float64, expected .*float32", id="dtype"),
        pytest.param({"a": t(1).half()}, {"a": t(1).half()}, "must not be subtracted", id="half"),
        pytest.param({"a": t(1).double()}, {"a": t(1).double()}, "expected float32", id="double"),
        pytest.param({"a": t(1)}, {"a": t(math.nan)}, "a: 1 of 1 values", id="nan"),
        pytest.param({"a": t(math.inf)}, {"a": t(1)}, "base: NaN or infinite", id="inf"),
    ],
)
def test_unusable_inputs_are_refused(
    base: dict[str, torch.Tensor], stage: dict[str, torch.Tensor], match: str
) -> None:
    with pytest.raises(ModelError, match=match):
        TaskVector.between(base, stage)


ZERO = "0" * 64


@pytest.mark.parametrize(
    ("build", "match"),
    [
        pytest.param(lambda: TaskVector({"a": t(1)}, "abc"), "64 hexadecimal", id="fingerprint"),
        pytest.param(lambda: TaskVector({"a": t(1).half()}, ZERO), "float32", id="half delta"),
        pytest.param(lambda: TaskVector({"a": t(math.nan)}, ZERO), "NaN", id="nan delta"),
        pytest.param(
            lambda: TaskVector({"a": t(1)}, ZERO, {"a": Correction(torch.tensor([1]), t(1))}),
            "outside the vector",
            id="index out of range",
        ),
        pytest.param(
            lambda: TaskVector({"a": t(1)}, ZERO, {"b": Correction(torch.tensor([0]), t(1))}),
            "outside the vector",
            id="correction of an unknown tensor",
        ),
        pytest.param(lambda: Correction(t(0), t(1)), "int64", id="float indices"),
        pytest.param(lambda: Correction(torch.tensor([0, 0]), t(1, 2)), "ascend", id="repeated"),
        pytest.param(
            lambda: TaskVector.from_tensors({"correction/a.indices": torch.tensor([0])}, ZERO),
            "half of the correction is missing for: a",
            id="half a correction",
        ),
        pytest.param(
            lambda: TaskVector.from_tensors({"a": t(1)}, ZERO), "not part of", id="unknown key"
        ),
    ],
)
def test_inconsistent_vectors_are_refused(build: object, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        build()  # type: ignore[operator]


def test_layout_error_names_every_kind_and_counts_the_rest() -> None:
    expected = {f"layer{k:02}": t(1) for k in range(20)}
    with pytest.raises(ModelError) as caught:
        require_same_layout(expected, {"x": t(1)}, "here")
    assert "missing: layer00" in str(caught.value)
    assert "12 more" in str(caught.value)
    assert "unexpected: x" in str(caught.value)


def test_require_finite_lists_all_tensors() -> None:
    with pytest.raises(ModelError, match=r"(?s)file\.pt.*a: 1 of 2.*c: 1 of 1"):
        require_finite({"a": t(1, math.nan), "b": t(1), "c": t(-math.inf)}, "file.pt")
    require_finite({"counter": torch.tensor(3)}, "integers pass")


# --- fingerprints --------------------------------------------------------------------------------


def test_fingerprint_ignores_order_and_memory_layout() -> None:
    square = torch.arange(6.0).reshape(2, 3)
    view = torch.arange(6.0).reshape(2, 3).t().contiguous().t()  # same values, other strides
    assert not view.is_contiguous()
    assert fingerprint({"a": square, "b": t(1)}) == fingerprint({"b": t(1), "a": view})


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"b": t(1, 2)}, id="name"),
        pytest.param({"a": t(1, 2).double()}, id="dtype"),
        pytest.param({"a": t(1, 2).reshape(2, 1)}, id="shape"),
        pytest.param({"a": t(1, 2.0000002)}, id="last bit"),
        pytest.param({"a": t(1, 2), "b": torch.zeros(0)}, id="an empty tensor more"),
        pytest.param({}, id="empty"),
    ],
)
def test_fingerprint_sees_every_difference(other: dict[str, torch.Tensor]) -> None:
    assert fingerprint({"a": t(1, 2)}) != fingerprint(other)


def test_fingerprint_tells_zero_from_negative_zero_and_bfloat16_works() -> None:
    assert fingerprint({"a": t(0.0)}) != fingerprint({"a": t(-0.0)})
    assert len(fingerprint({"a": t(1).bfloat16(), "b": torch.tensor(True)})) == 64


# --- similarity ----------------------------------------------------------------------------------


def test_similarity_by_hand() -> None:
    a, b = {"x": t(3, -4), "y": t(0, 0)}, {"x": t(4, 3), "y": t(1, 0)}
    # dot = 12 - 12 = 0
    assert cosine(a, b) == 0.0
    # dot = 9 + 16 = 25 of 5 * 5
    assert cosine(a, a) == 1.0
    assert cosine({"x": t(0)}, {"x": t(1)}) == 0.0


@quick
@given(pairs)
@example([(LARGEST, LARGEST)] * 3)
def test_similarity_is_symmetric_and_in_range(rows: list[tuple[float, float]]) -> None:
    x, y = columns(rows, 2)
    a, b = {"w": x}, {"w": y}
    assert cosine(a, b) == cosine(b, a)
    assert -1 <= cosine(a, b) <= 1
