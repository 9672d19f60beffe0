"""Merge methods: algebra that must hold exactly, and values worked out by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from duet.errors import ConfigError, ModelError
from duet.merging import METHODS, BatchNormFusion, MergeTrace, merge_shared, resolve
from duet.merging import average as average_module
from duet.merging import duet as duet_module
from duet.merging import newest as newest_module
from duet.merging.weights import normalised

quick = settings(deadline=None, max_examples=120)
LARGEST = torch.finfo(torch.float32).max
floats32 = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1.0, LARGEST, -LARGEST]),
)
triples = st.lists(st.tuples(floats32, floats32, floats32), max_size=30)
gammas = st.floats(0, 0.5)


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def columns(rows: list[tuple[float, ...]]) -> list[dict[str, torch.Tensor]]:
    return [{"w": t(*(row[k] for row in rows))} for k in range(3)]


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().view(torch.int32).flatten().tolist()


def merge_duet(
    base: dict[str, torch.Tensor], stages: list[dict[str, torch.Tensor]], **params: float
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return duet_module.merge(base, stages, duet_module.Params(**params))


# --- DuET module ---------------------------------------------------------------------------------


def test_duet_by_hand() -> None:
    # theta_0 = (1, 1); tau_old = (2, -1), l1 = 3; tau_curr = (1, 0), l1 = 1; sum = (3, -1), l1 = 4
    # p = (3 - 1) / 4 = 0.5; delta = 0.1 tanh(0.5) = 0.0462117157; alpha = 0.5462117157
    # theta = alpha (3, 0) + beta (2, 1) = (2 + alpha, 1 - alpha) = (2.5462117, 0.4537883)
    merged, trace = merge_duet({"w": t(1, 1)}, [{"w": t(3, 0)}, {"w": t(2, 1)}])
    assert trace["w"].p == pytest.approx(0.5, abs=1e-8)
    assert trace["w"].alpha == pytest.approx(0.5462117157, abs=1e-9)
    assert merged["w"].tolist() == pytest.approx([2.5462117, 0.4537883], abs=1e-6)
    assert (trace["w"].norm_old, trace["w"].norm_new, trace["w"].scalars) == (3.0, 1.0, 2)
    assert trace["w"].sign_conflict == 0.0  # -1 against 0 is no conflict
    assert trace["w"].cosine == pytest.approx(2 / math.sqrt(5))


def test_duet_is_per_tensor() -> None:
    base = {"a": t(0), "b": t(0), "still": t(0)}
    old, new = {"a": t(1), "b": t(0), "still": t(0)}, {"a": t(0), "b": t(1), "still": t(0)}
    _, trace = merge_duet(base, [old, new])
    # Only one of them moved: p = +-1 / (1 + eps), alpha = 0.5 +- 0.1 tanh(1) = 0.5 +- 0.0761594
    assert trace["a"].alpha == pytest.approx(0.5761594, abs=1e-6)
    assert trace["b"].alpha == pytest.approx(0.4238406, abs=1e-6)
    assert (trace["still"].alpha, trace["still"].p) == (0.5, 0.0)


@quick
@given(triples, gammas)
@example([(0.0, -0.0, 0.0), (LARGEST, -LARGEST, LARGEST)], 0.1)
def test_duet_against_the_equation(rows: list[tuple[float, ...]], gamma: float) -> None:
    """theta_0 + alpha tau_old + beta tau_curr in float64 is what the interpolation gives."""
    base, old, new = columns(rows)
    merged, trace = merge_duet(base, [old, new], gamma=gamma)
    alpha, p = trace["w"].alpha, trace["w"].p
    assert -1 <= p <= 1  # triangle inequality
    assert 0.5 - gamma <= alpha <= 0.5 + gamma
    # theta_0 is subtracted and added again here, so its size bounds the error of the check.
    origin, x, y = (m["w"].double() for m in (base, old, new))
    literal = origin + alpha * (x - origin) + (1 - alpha) * (y - origin)
    scale = origin.abs() + x.abs() + y.abs()
    assert bool(((merged["w"].double() - literal).abs() <= scale * 2**-23 + 1e-44).all())
    assert bool((merged["w"] <= torch.maximum(old["w"], new["w"])).all())
    assert bool((merged["w"] >= torch.minimum(old["w"], new["w"])).all())


@quick
@given(triples)
@example([(1.0, -0.0, 0.0), (0.0, LARGEST, -LARGEST)])
def test_duet_ends_of_alpha_are_the_models(rows: list[tuple[float, ...]]) -> None:
    base, old, new = columns(rows)
    only_old, _ = merge_duet(base, [old, new], gamma=0, alpha_base=1)
    only_new, _ = merge_duet(base, [old, new], gamma=0, alpha_base=0)
    assert bits(only_old["w"]) == bits(old["w"])
    assert bits(only_new["w"]) == bits(new["w"])


@quick
@given(triples, gammas)
def test_merging_two_equal_models_gives_the_model(
    rows: list[tuple[float, ...]], gamma: float
) -> None:
    base, model, _ = columns(rows)
    merged, trace = merge_duet(base, [model, {"w": model["w"].clone()}], gamma=gamma)
    assert bits(merged["w"]) == bits(model["w"])
    assert trace["w"].alpha == 0.5


@quick
@given(triples)
def test_duet_with_gamma_zero_is_averaging(rows: list[tuple[float, ...]]) -> None:
    base, old, new = columns(rows)
    merged, _ = merge_duet(base, [old, new], gamma=0)
    mean, _ = average_module.merge(base, [old, new], average_module.Params())
    assert torch.equal(merged["w"], mean["w"])


@quick
@given(triples, gammas)
def test_duet_swaps_with_its_inputs(rows: list[tuple[float, ...]], gamma: float) -> None:
    base, old, new = columns(rows)
    forward, a = merge_duet(base, [old, new], gamma=gamma)
    backward, b = merge_duet(base, [new, old], gamma=gamma)
    assert a["w"].p == -b["w"].p
    assert a["w"].alpha == pytest.approx(1 - b["w"].alpha)
    scale = (old["w"].double().abs() + new["w"].double().abs()) * 2**-23 + 1e-44
    assert bool(((forward["w"].double() - backward["w"].double()).abs() <= scale).all())


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({"gamma": -0.1}, id="negative gamma"),
        pytest.param({"alpha_base": 1.1}, id="alpha above 1"),
        pytest.param({"alpha_base": 0.95}, id="extrapolates"),
        pytest.param({"eps": 0}, id="eps 0"),
        pytest.param({"gamma": math.nan}, id="nan"),
        pytest.param({"gama": 0.1}, id="unknown key"),
    ],
)
def test_duet_parameters_out_of_range(params: dict[str, float]) -> None:
    one = [{"w": t(1)}]
    with pytest.raises(ConfigError, match="parameters of 'duet'"):
        merge_shared("duet", params, base=one[0], stages=one * 2, buffers=[{}, {}])


# --- average and newest --------------------------------------------------------------------------


def test_average_by_hand() -> None:
    stages = [{"w": t(1, 2)}, {"w": t(3, 6)}, {"w": t(8, 1)}]
    uniform, trace = average_module.merge({"w": t(0, 0)}, stages, average_module.Params())
    assert uniform["w"].tolist() == [4.0, 3.0]
    assert trace["w"].alpha == pytest.approx(1 / 3)
    assert trace["w"].p is None
    # (1 * (1, 2) + 3 * (3, 6) + 0 * (8, 1)) / 4
    params = average_module.Params(weights=(1, 3, 0))
    assert average_module.merge({"w": t(0, 0)}, stages, params)[0]["w"].tolist() == [2.5, 5.0]


@quick
@given(triples, st.integers(1, 7))
def test_average_of_equal_models_is_the_model(rows: list[tuple[float, ...]], count: int) -> None:
    base, model, _ = columns(rows)
    merged, _ = average_module.merge(base, [model] * count, average_module.Params())
    assert bits(merged["w"]) == bits(model["w"])


@quick
@given(triples, st.permutations([0, 1, 2]))
def test_average_does_not_depend_on_the_order(
    rows: list[tuple[float, ...]], order: list[int]
) -> None:
    models = columns(rows)
    first, _ = average_module.merge(models[0], models, average_module.Params())
    other, _ = average_module.merge(models[0], [models[k] for k in order], average_module.Params())
    scale = sum(model["w"].double().abs() for model in models) * 2**-23 + 1e-44
    assert bool(((first["w"].double() - other["w"].double()).abs() <= scale).all())


@quick
@given(triples, st.integers(0, 2), st.floats(1e-300, 1e300))
def test_one_hot_average_is_that_model(
    rows: list[tuple[float, ...]], chosen: int, size: float
) -> None:
    models = columns(rows)
    weights = tuple(size if k == chosen else 0.0 for k in range(3))
    merged, _ = average_module.merge(models[0], models, average_module.Params(weights=weights))
    assert bits(merged["w"]) == bits(models[chosen]["w"])


@quick
@given(triples)
def test_newest_is_the_last_stage(rows: list[tuple[float, ...]]) -> None:
    models = columns(rows)
    merged, trace = newest_module.merge(models[0], models, newest_module.Params())
    assert bits(merged["w"]) == bits(models[2]["w"])
    assert merged["w"] is not models[2]["w"]
    assert trace["w"].alpha == 0.0


# --- inputs --------------------------------------------------------------------------------------

GOOD = {"w": t(1, 2)}


@pytest.mark.parametrize(
    ("method", "base", "stages", "match"),
    [
        pytest.param("average", GOOD, [], "got 0 stages", id="no stages"),
        pytest.param("duet", GOOD, [GOOD] * 3, "got 3 stages, expected 2", id="three stages"),
        pytest.param("duet", GOOD, [GOOD], "got 1 stages, expected 2", id="one stage"),
        pytest.param("newest", GOOD, [GOOD, {}], "missing: w", id="missing tensor"),
        pytest.param("average", GOOD, [{"w": t(1)}], "shape", id="shape"),
        pytest.param("average", GOOD, [{"w": t(1, math.nan)}], "NaN", id="nan"),
        pytest.param(
            "average", {"n": torch.tensor(1)}, [{"n": torch.tensor(1)}], "float32", id="counter"
        ),
        pytest.param("newest", {"w": t(1).half()}, [{"w": t(1).half()}], "only float32", id="half"),
    ],
)
def test_unusable_stages_are_refused(
    method: str, base: dict[str, torch.Tensor], stages: list[Any], match: str
) -> None:
    with pytest.raises(ModelError, match=match):
        resolve(method).merge(base, stages, resolve(method).params())


@pytest.mark.parametrize("name", list(METHODS))
def test_empty_shared_part_merges_to_nothing(name: str) -> None:
    assert resolve(name).merge({}, [{}, {}], resolve(name).params()) == ({}, {})


@pytest.mark.parametrize(
    ("weights", "count"),
    [((), 0), ((1,), 2), ((-1, 2), 2), ((0, 0), 2), ((math.nan, 1), 2), ((math.inf, 1), 2)],
    ids=["empty", "too few", "negative", "all zero", "nan", "inf"],
)
def test_unusable_weights_are_refused(weights: tuple[float, ...], count: int) -> None:
    with pytest.raises(ModelError):
        normalised(weights, count, "test")


@quick
@given(st.lists(st.floats(0, 1.7e308), min_size=1, max_size=6))
def test_normalised_weights_sum_to_one(weights: list[float]) -> None:
    if any(weights):
        assert math.fsum(normalised(weights, len(weights), "test")) == pytest.approx(1)


# --- table and trace -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(METHODS))
def test_every_row_is_complete(name: str) -> None:
    method = METHODS[name]
    assert method.name == name
    assert method.summary
    assert method.reference
    for parameter in method.parameters():
        assert parameter.description
        assert parameter.source
        assert parameter.range
    assert callable(resolve(name).merge)


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'average'"):
        resolve("avrage")


def test_the_table_does_not_import_torch() -> None:
    code = (
        "import sys; from duet.merging import METHODS, BatchNormFusion;"
        "[m.parameters() for m in METHODS.values()];"
        "import duet.vectors, duet.increments; from duet.increments import IncrementManifest;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_merge_shared_merges_parameters_and_statistics_and_traces_both() -> None:
    base = {"a": t(0, 0, 0), "b": t(0)}
    stages = [{"a": t(1, 1, 1), "b": t(1)}, {"a": t(-1, 1, 1), "b": t(-1)}]
    buffers = [
        {"bn.running_mean": t(0), "bn.running_var": t(1)},
        {"bn.running_mean": t(2), "bn.running_var": t(1)},
    ]
    merged = merge_shared(
        "duet",
        {"gamma": 0},
        base=base,
        stages=stages,
        buffers=buffers,
        fusion=BatchNormFusion(weights="images"),
        images=[30, 10],
    )
    assert merged.tensors["a"].tolist() == [0.0, 1.0, 1.0]
    # weights 3/4 and 1/4: mean 0.5; variance 1 + 3/4 * 0.25 + 1/4 * 2.25 = 1.75
    assert merged.buffers["bn.running_mean"].item() == 0.5
    assert merged.buffers["bn.running_var"].item() == 1.75
    summary = merged.trace.summary()
    # conflicts: 1 of 3 scalars in a, 1 of 1 in b: 2 of 4
    assert (summary.sign_conflict, summary.scalars, summary.tensors) == (0.5, 4, 2)
    assert (summary.alpha_mean, summary.alpha_min, summary.alpha_max) == (0.5, 0.5, 0.5)
    data = json.loads(json.dumps(merged.trace.as_dict(), allow_nan=False))
    assert data["batchnorm"] == {"rule": "mixture", "weights": [0.75, 0.25]}
    assert data["params"] == {"gamma": 0.0, "alpha_base": 0.5, "eps": 1e-8}
    assert MergeTrace.from_dict(data) == merged.trace


@pytest.mark.parametrize("data", [{}, {"method": "x"}, {"tensors": 3}], ids=str)
def test_broken_traces_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="not a merge trace"):
        MergeTrace.from_dict(data)
