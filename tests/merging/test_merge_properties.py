"""What every merge method must keep to."""

from __future__ import annotations

import pytest
import torch
from factories_merging import (
    MATRIX,
    PLAIN,
    SHAPES,
    Model,
    brief,
    columns,
    inputs_of,
    merge_inputs,
    random_models,
    random_stages,
    run,
    same_bits,
    small_triples,
    t,
)
from hypothesis import given
from hypothesis import strategies as st

from duet.merging.inputs import Inputs
from duet.merging.operand import Operand
from duet.vectors.task_vector import TaskVector

# --- all methods ---------------------------------------------------------------------------------


def everything(count: int = 3, seed: int = 0) -> tuple[Model, list[Operand]]:
    base, *models = random_models(seed, count, SHAPES)
    return base, random_stages(seed, models)


@pytest.mark.parametrize("method", PLAIN)
def test_kept_vectors_merge_like_the_models(method: str) -> None:
    base, stages = everything()
    kept = [
        Operand(s.name, vector=v.delta, correction=v.correction, images=s.images, fisher=s.fisher)
        for s in stages
        for v in [TaskVector.between(base, dict(s.weights or {}))]
    ]
    models, vectors = run(method, base, stages)[0], run(method, base, kept)[0]
    if (
        method == "duet"
    ):  # folds three vectors as such: the last place of numbers below 8 may differ
        assert all(torch.allclose(models[name], vectors[name], rtol=0, atol=1e-6) for name in base)
        stages, kept = stages[:2], kept[:2]
        models, vectors = run(method, base, stages)[0], run(method, base, kept)[0]
    assert same_bits(models, vectors)


@pytest.mark.parametrize("method", PLAIN)
def test_inputs_are_not_modified(method: str) -> None:
    base, stages = everything()
    tensors = [base, *(s.weights for s in stages), *(s.fisher for s in stages)]
    before = [{name: x.clone() for name, x in (model or {}).items()} for model in tensors]
    run(method, base, stages)
    assert all(same_bits(a or {}, b) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("method", PLAIN)
def test_a_float16_base_is_its_float32_values(method: str) -> None:
    base, stages = everything()
    half = {name: x.half() for name, x in base.items()}
    upcast = {name: x.float() for name, x in half.items()}
    assert same_bits(run(method, half, stages)[0], run(method, upcast, stages)[0])


ADDING: dict[str, dict[str, object]] = {
    "task-arithmetic": {"weight": 1}, "magmax": {"weight": 1}, "dare": {"weight": 1, "drop": 0},
    "ties": {"density": 1}, "lines": {"alpha": 1, "beta": 0}, "tsv-m": {},
}  # fmt: skip


@pytest.mark.parametrize("method", [*ADDING, "average", "mtda", "fisher", "duet", "newest"])
def test_one_stage_is_that_stage(method: str) -> None:
    base, stages = everything(1)
    theta = dict(stages[0].weights or {})
    merged, _ = run(method, base, stages, **ADDING.get(method, {}))
    if method not in ADDING:
        assert same_bits(merged, theta)
    for name, x in merged.items():  # adding theta_0 to theta - theta_0 rounds twice
        assert bool(((x - theta[name]).abs() <= 2**-22 * (base[name].abs() + 1)).all())


@pytest.mark.parametrize("method", [m for m in PLAIN if m not in ("duet", *MATRIX)])
@brief
@given(rows=small_triples, power=st.integers(-3, 3))
def test_the_merged_vector_grows_with_the_vectors(
    method: str, rows: list[tuple[float, ...]], power: int
) -> None:
    """Powers of two are exact, so the merged vectors must be equal to the bit."""
    rows = [tuple(0.0 if abs(x) < 1e-30 else x for x in row) for row in rows]
    models = columns(rows)
    base = {"w": torch.zeros(len(rows))}
    fisher = {"w": torch.ones(len(rows))}

    def stages(factor: float) -> list[Operand]:
        return [
            Operand(f"s{k}", weights={"w": m["w"] * factor}, images=1, fisher=fisher)
            for k, m in enumerate(models)
        ]

    once, _ = run(method, base, stages(1.0))
    scaled, _ = run(method, base, stages(2.0**power))
    assert torch.equal(scaled["w"], once["w"] * 2.0**power)


@pytest.mark.parametrize("method", ["duet", *MATRIX])
def test_the_merged_vector_grows_nearly_with_the_vectors(method: str) -> None:
    base, stages = everything()
    zero = {name: torch.zeros_like(x) for name, x in base.items()}
    once, _ = run(method, zero, stages)
    thrice, _ = run(
        method,
        zero,
        [Operand(s.name, weights={n: 3 * x for n, x in s.tensors.items()}) for s in stages],
    )
    assert all(torch.allclose(thrice[name], 3 * once[name], atol=1e-5) for name in base)


def test_equal_stages() -> None:
    """What theory says of K equal vectors, where it is not the model itself."""
    base, stages = everything(1)
    same = [Operand(f"s{k}", weights=stages[0].weights) for k in range(4)]
    tau = {name: x - base[name] for name, x in (stages[0].weights or {}).items()}
    one = {name: base[name] + 0.5 * x for name, x in tau.items()}
    close = {"atol": 1e-6}
    for method, params in {
        "task-arithmetic": {"weight": 0.125}, "magmax": {}, "dare": {"drop": 0, "weight": 0.125},
        "ties": {"weight": 0.5, "density": 1}, "lines": {"alpha": 0.125, "beta": 0},
    }.items():  # fmt: skip
        merged, _ = run(method, base, same, **params)
        assert all(torch.allclose(merged[name], one[name], **close) for name in base), method
    kept, _ = run("ties", base, same, weight=0.5)
    alone, _ = run("ties", base, same[:1], weight=0.5)
    assert all(torch.allclose(kept[name], alone[name], **close) for name in base)
    four, _ = run("iso-c", base, same, weight=0.25)
    alone, _ = run("iso-c", base, same[:1])
    conv = [name for name, x in base.items() if x.ndim > 1]
    assert all(torch.allclose(four[name], alone[name], atol=1e-5) for name in conv)


@pytest.mark.parametrize("method", PLAIN)
def test_tensors_without_scalars(method: str) -> None:
    base = {"none": torch.zeros(0), "flat": torch.zeros(0, 3), "w": t(1.0)}
    stages = random_stages(0, [base, {**base, "w": t(2.0)}])
    merged, _ = run(method, base, stages)
    assert {name: tuple(x.shape) for name, x in merged.items()} == {
        "none": (0,),
        "flat": (0, 3),
        "w": (1,),
    }
    assert bool(merged["w"].isfinite().all())


@pytest.mark.parametrize("method", PLAIN)
def test_small_pieces_give_the_same_result(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from duet.merging import chunks

    base, stages = everything()
    whole, _ = run(method, base, stages)
    each_span = Inputs.each_span
    monkeypatch.setattr(chunks.spans, "__defaults__", (7,))
    monkeypatch.setattr(Inputs, "each_span", lambda self, work, chunk=0: each_span(self, work, 5))
    pieces, _ = run(method, base, stages)
    if method in ("duet", "fisher"):  # sums over a tensor, in other parts
        assert all(torch.allclose(pieces[name], whole[name], atol=1e-6) for name in base)
    else:
        assert same_bits(pieces, whole)


LARGE = {"flat": (1_000_001,), "wide": (48, 1200), "tall": (700, 9)}


@pytest.fixture(scope="module")
def large() -> tuple[Model, list[Operand]]:
    base, *models = random_models(9, 3, LARGE)
    return base, random_stages(9, models)


@pytest.mark.parametrize("method", PLAIN)
def test_threads_do_not_change_a_bit(method: str, large: tuple[Model, list[Operand]]) -> None:
    base, stages = large
    results = []
    before = torch.get_num_threads()
    try:
        for engine, threads in ((1, 1), (2, 1), (2, 2), (1, 3)):
            torch.set_num_threads(engine)
            merged, notes = merge_inputs(method, inputs_of(base, stages, threads=threads))
            assert torch.get_num_threads() == engine
            results.append((merged, notes))
    finally:
        torch.set_num_threads(before)
    for merged, notes in results[1:]:
        assert same_bits(merged, results[0][0])
        assert notes == results[0][1]
