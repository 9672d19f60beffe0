"""Methods that average models: values worked out by hand, and algebra that must hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from factories_merging import (
    LARGEST,
    SHAPES,
    Model,
    bits,
    columns,
    inputs_of,
    quick,
    random_models,
    run,
    same_bits,
    t,
    triples,
)
from hypothesis import example, given
from hypothesis import strategies as st

from duet.errors import ConfigError, ModelError
from duet.merging.operand import Operand
from duet.merging.shared import merge_shared
from duet.vectors.task_vector import TaskVector

gammas = st.floats(0, 0.5)


# --- DuET module ---------------------------------------------------------------------------------


def test_duet_by_hand() -> None:
    # theta_0 = (1, 1); tau_old = (2, -1), l1 = 3; tau_curr = (1, 0), l1 = 1; sum = (3, -1), l1 = 4
    # p = (3 - 1) / 4 = 0.5; delta = 0.1 tanh(0.5) = 0.0462117157; alpha = 0.5462117157
    # theta = alpha (3, 0) + beta (2, 1) = (2 + alpha, 1 - alpha) = (2.5462117, 0.4537883)
    merged, notes = run("duet", {"w": t(1, 1)}, [{"w": t(3, 0)}, {"w": t(2, 1)}])
    assert notes.tensors["w"]["p"] == pytest.approx(0.5, abs=1e-8)
    assert notes.tensors["w"]["alpha"] == pytest.approx(0.5462117157, abs=1e-9)
    assert merged["w"].tolist() == pytest.approx([2.5462117, 0.4537883], abs=1e-6)


def test_duet_is_per_tensor() -> None:
    base = {"a": t(0), "b": t(0), "still": t(0)}
    old, new = {"a": t(1), "b": t(0), "still": t(0)}, {"a": t(0), "b": t(1), "still": t(0)}
    _, notes = run("duet", base, [old, new])
    # Only one of them moved: p = +-1 / (1 + eps), alpha = 0.5 +- 0.1 tanh(1) = 0.5 +- 0.0761594
    assert notes.tensors["a"]["alpha"] == pytest.approx(0.5761594, abs=1e-6)
    assert notes.tensors["b"]["alpha"] == pytest.approx(0.4238406, abs=1e-6)
    assert dict(notes.tensors["still"]) == {"alpha": 0.5, "p": 0.0}


def test_duet_folds_from_the_oldest() -> None:
    base, *models = random_models(1, 3, SHAPES)
    two, _ = run("duet", base, models[:2])
    folded, notes = run("duet", base, [two, models[2]])
    at_once, all_notes = run("duet", base, models)
    assert same_bits(folded, at_once)
    assert notes == all_notes
    alone, _ = run("duet", base, models[:1])
    assert same_bits(alone, models[0])


@quick
@given(triples, gammas)
@example([(0.0, -0.0, 0.0), (LARGEST, -LARGEST, LARGEST)], 0.1)
def test_duet_against_the_equation(rows: list[tuple[float, ...]], gamma: float) -> None:
    """theta_0 + alpha tau_old + beta tau_curr in float64 is what the interpolation gives."""
    base, old, new = columns(rows)
    merged, notes = run("duet", base, [old, new], gamma=gamma)
    alpha, p = notes.tensors["w"]["alpha"], notes.tensors["w"]["p"]
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
    only_old, _ = run("duet", base, [old, new], gamma=0, alpha_base=1)
    only_new, _ = run("duet", base, [old, new], gamma=0, alpha_base=0)
    assert bits(only_old["w"]) == bits(old["w"])
    assert bits(only_new["w"]) == bits(new["w"])


@quick
@given(triples)
def test_duet_with_gamma_zero_is_averaging(rows: list[tuple[float, ...]]) -> None:
    # Near the end of float32 both go by float64, for a tensor or for a piece of it.
    rows = [tuple(math.copysign(min(abs(x), 1e30), x) for x in row) for row in rows]
    base, old, new = columns(rows)
    merged, _ = run("duet", base, [old, new], gamma=0)
    mean, _ = run("average", base, [old, new])
    assert torch.equal(merged["w"], mean["w"])


@quick
@given(triples, gammas)
def test_duet_swaps_with_its_inputs(rows: list[tuple[float, ...]], gamma: float) -> None:
    base, old, new = columns(rows)
    forward, a = run("duet", base, [old, new], gamma=gamma)
    backward, b = run("duet", base, [new, old], gamma=gamma)
    assert a.tensors["w"]["p"] == -b.tensors["w"]["p"]
    assert a.tensors["w"]["alpha"] == pytest.approx(1 - b.tensors["w"]["alpha"])
    scale = (old["w"].double().abs() + new["w"].double().abs()) * 2**-23 + 1e-44
    assert bool(((forward["w"].double() - backward["w"].double()).abs() <= scale).all())


# --- more than two task vectors are folded as such ------------------------------------------------


def stored(base: Model, models: Sequence[Model]) -> list[Operand]:
    """Return models as increments hold them: task vectors with corrections."""
    vectors = [TaskVector.between(base, model) for model in models]
    return [
        Operand(f"s{k}", vector=vector.delta, correction=vector.correction)
        for k, vector in enumerate(vectors)
    ]


def rounded(seed: int) -> tuple[Model, list[Model]]:
    """Return θ_0 and models that float32 cannot reach from it by adding, in one tensor of two."""
    base, *models = random_models(seed, 5, {"w": (300,), "v": (40, 7)})
    base["w"][::3] = 1.0
    for number, model in enumerate(models):
        model["w"][::3] = 1e-10 * (number + 1)
        model["w"][1::3] = models[0]["w"][1::3]  # where all agree
        model["w"][::6] = 3e-10
    assert all("w" in each.correction for each in stored(base, models))
    return base, models


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5])
def test_duet_folds_task_vectors_as_models(
    count: int, gamma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, models = rounded(7)
    models = models[:count]
    with monkeypatch.context() as patch:
        patch.delattr("duet.merging.methods.duet._fold")  # which folds models
        folded, notes = run("duet", base, stored(base, models), gamma=gamma)
    as_models, others = run("duet", base, models, gamma=gamma)
    for name, facts in notes.tensors.items():
        assert facts["alpha"] == pytest.approx(others.tensors[name]["alpha"], abs=1e-6)
        # Interpolated between magnitudes below 8, and added to them: a few roundings.
        assert torch.allclose(folded[name], as_models[name], rtol=0, atol=2e-6)
    hard = torch.arange(300) % 3 != 2
    assert torch.allclose(folded["w"][hard], as_models["w"][hard], rtol=1e-5, atol=0)
    assert torch.equal(folded["w"][1::3], models[0]["w"][1::3])
    assert torch.equal(folded["w"][::6], models[0]["w"][::6])


@pytest.mark.parametrize(("alpha", "which"), [(1, 0), (0, 3)])
def test_duet_ends_of_alpha_are_the_models_of_task_vectors(alpha: float, which: int) -> None:
    base, models = rounded(8)
    only, _ = run("duet", base, stored(base, models[:4]), gamma=0, alpha_base=alpha)
    assert same_bits(only, models[which])


def test_duet_gives_equal_task_vectors_back() -> None:
    base, (model, *_) = rounded(9)
    merged, _ = run("duet", base, stored(base, [model] * 4))
    assert all(torch.equal(merged[name], model[name]) for name in model)


def test_duet_folds_task_vectors_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    base, models = rounded(10)
    whole, notes = run("duet", base, stored(base, models))
    monkeypatch.setattr("duet.merging.inputs.CHUNK", 64)
    pieces, others = run("duet", base, stored(base, models))
    for name in whole:
        assert torch.allclose(whole[name], pieces[name], rtol=0, atol=1e-6)
        assert notes.tensors[name]["p"] == pytest.approx(others.tensors[name]["p"], abs=1e-6)


def test_duet_folds_task_vectors_at_the_end_of_float32() -> None:
    base = {"w": t(0, 1, -1)}
    models = [{"w": t(LARGEST, 2, 3)}, {"w": t(-LARGEST, 1, 1)}, {"w": t(LARGEST, 0, 1)}]
    merged, notes = run("duet", base, stored(base, models))
    as_models, others = run("duet", base, models)
    assert same_bits(merged, as_models)
    assert notes == others


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
    one = {"w": t(1)}
    with pytest.raises(ConfigError, match="parameters of 'duet'"):
        merge_shared("duet", params, inputs_of(one, [one, one]), buffers=[{}, {}])


# --- means: average, mtda, newest ----------------------------------------------------------------


def test_average_by_hand() -> None:
    stages = [{"w": t(1, 2)}, {"w": t(3, 6)}, {"w": t(8, 1)}]
    uniform, notes = run("average", None, stages)
    assert uniform["w"].tolist() == [4.0, 3.0]
    assert notes.tensors["w"]["alpha"] == pytest.approx(1 / 3)
    # (1 * (1, 2) + 3 * (3, 6) + 0 * (8, 1)) / 4
    assert run("average", None, stages, weights=(1, 3, 0))[0]["w"].tolist() == [2.5, 5.0]


def test_mtda_by_hand() -> None:
    models = [t(1, 2), t(5, 6)]
    stages = [
        Operand(f"s{k}", weights={"w": m}, images=n)
        for k, (m, n) in enumerate(zip(models, (30, 10), strict=True))
    ]
    assert run("mtda", None, stages)[0]["w"].tolist() == [3.0, 4.0]
    # 30 and 10 images: 3/4 (1, 2) + 1/4 (5, 6)
    merged, notes = run("mtda", None, stages, weights="images")
    assert merged["w"].tolist() == [2.0, 3.0]
    assert notes.facts == {"weights": {"s0": 0.75, "s1": 0.25}}
    assert run("mtda", None, stages, weights=(1, 3))[0]["w"].tolist() == [4.0, 5.0]
    with pytest.raises(ModelError, match="images is not known of: s1"):
        run("mtda", None, [stages[0], Operand("s1", weights={"w": t(0, 0)})], weights="images")


@pytest.mark.parametrize("method", ["average", "mtda"])
@pytest.mark.parametrize("weights", [(1,), (1, -1), (0, 0)], ids=["too few", "negative", "zero"])
def test_unusable_weights_of_a_mean(method: str, weights: tuple[float, ...]) -> None:
    with pytest.raises(ModelError, match=f"merge '{method}'"):
        run(method, None, [{"w": t(1)}] * 2, weights=weights)


@quick
@given(triples, st.sampled_from(["duet", "average", "mtda", "fisher"]), st.integers(1, 6))
def test_a_mean_of_equal_models_is_the_model(
    rows: list[tuple[float, ...]], method: str, count: int
) -> None:
    base, model, fisher = columns(rows)
    depends = {"w": fisher["w"].abs().clamp(max=1e30)}
    stages = [Operand(f"s{k}", weights=model, fisher=depends) for k in range(count)]
    merged, _ = run(method, base, stages)
    assert torch.equal(merged["w"], model["w"])


@quick
@given(triples, st.integers(0, 2), st.floats(1e-300, 1e300))
def test_one_hot_average_is_that_model(
    rows: list[tuple[float, ...]], chosen: int, size: float
) -> None:
    models = columns(rows)
    weights = tuple(size if k == chosen else 0.0 for k in range(3))
    for method in ("average", "mtda"):
        merged, _ = run(method, None, models, weights=weights)
        assert bits(merged["w"]) == bits(models[chosen]["w"])


@quick
@given(triples)
def test_an_average_lies_between_its_models(rows: list[tuple[float, ...]]) -> None:
    models = columns(rows)
    merged, _ = run("average", None, models)
    exact = sum(m["w"].double() for m in models) / 3
    scale = sum(m["w"].double().abs() for m in models) * 2**-23 + 1e-44
    assert bool(((merged["w"].double() - exact).abs() <= scale).all())


@quick
@given(triples)
def test_newest_is_the_last_stage(rows: list[tuple[float, ...]]) -> None:
    models = columns(rows)
    merged, notes = run("newest", models[0], models)
    assert bits(merged["w"]) == bits(models[2]["w"])
    assert merged["w"] is not models[2]["w"]
    assert notes.tensors["w"]["alpha"] == 0.0


# --- Fisher --------------------------------------------------------------------------------------


def fisher_stages(dtype: torch.dtype = torch.float32) -> list[Operand]:
    return [
        Operand("a", weights={"w": t(0, 0, 0)}, fisher={"w": t(1, 3, 0).to(dtype)}),
        Operand("b", weights={"w": t(4, 4, 4)}, fisher={"w": t(6, 2, 0).to(dtype)}),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fisher_by_hand(dtype: torch.dtype) -> None:
    # As it is: 4 * 6 / 7 and 4 * 2 / 5; no stage depends on the third scalar: the plain mean.
    merged, notes = run("fisher", None, fisher_stages(dtype), normalise=False)
    assert merged["w"].tolist() == pytest.approx([24 / 7, 1.6, 2.0], abs=2e-5)
    assert notes.facts["mean_fisher"] == pytest.approx({"a": 4 / 3, "b": 8 / 3})
    # Means 4/3 and 8/3, so F becomes (3/4, 9/4, 0) and (9/4, 3/4, 0): shares 3/4 and 1/4.
    merged, _ = run("fisher", None, fisher_stages(dtype))
    assert merged["w"].tolist() == pytest.approx([3.0, 1.0, 2.0], abs=2e-5)


def test_a_large_floor_is_the_plain_mean_and_a_stage_without_fisher_hardly_counts() -> None:
    merged, _ = run("fisher", None, fisher_stages(), floor=1.0)
    # (F + 1): (7/4, 13/4, 1) and (13/4, 7/4, 1) of 5
    assert merged["w"].tolist() == pytest.approx([4 * 3.25 / 5, 4 * 1.75 / 5, 2.0])
    nothing = Operand("c", weights={"w": t(9, 9, 9)}, fisher={"w": t(0, 0, 0)})
    merged, _ = run("fisher", None, [*fisher_stages(), nothing])
    assert merged["w"].tolist() == pytest.approx([3.0, 1.0, 13 / 3], abs=2e-5)
    merged, _ = run("fisher", None, [nothing])
    assert merged["w"].tolist() == [9.0, 9.0, 9.0]


def test_fisher_that_does_not_fit_is_refused() -> None:
    wrong = Operand("b", weights={"w": t(1, 1, 1)}, fisher={"w": t(1)})
    with pytest.raises(ModelError, match=r"(?s)stage 'b'.*does not fit"):
        run("fisher", None, [fisher_stages()[0], wrong])
    missing = Operand("b", weights={"w": t(1, 1, 1)})
    with pytest.raises(ModelError, match="no Fisher information is kept in: b"):
        merge_shared("fisher", {}, inputs_of(None, [fisher_stages()[0], missing]), buffers=[{}, {}])
