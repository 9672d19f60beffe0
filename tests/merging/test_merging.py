"""The whole merge: inputs that are refused, BatchNorm beside parameters, the trace, the table."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from factories_merging import (
    PLAIN,
    SHAPES,
    Model,
    brief,
    inputs_of,
    quick,
    random_models,
    random_stages,
    run,
    same_bits,
    t,
)
from hypothesis import given
from hypothesis import strategies as st

from duet.errors import ConfigError, ModelError
from duet.merging.batchnorm import BatchNormFusion
from duet.merging.chunks import Scratch, Span, each, spans
from duet.merging.inputs import Inputs, require_mergeable
from duet.merging.methods.duet import Params
from duet.merging.operand import Operand
from duet.merging.shared import merge_shared
from duet.merging.table import METHODS, resolve
from duet.merging.trace import MergeTrace
from duet.merging.weights import normalised
from duet.vectors.task_vector import Correction, TaskVector

GOOD = {"w": t(1, 2)}


# --- inputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "base", "stages", "match"),
    [
        pytest.param("average", GOOD, [], "got 0 stages", id="no stages"),
        pytest.param("newest", GOOD, [GOOD, {}], "missing: w", id="missing tensor"),
        pytest.param("newest", GOOD, [{**GOOD, "x": t(1)}], "unexpected: x", id="more tensors"),
        pytest.param("average", GOOD, [{"w": t(1)}], "shape", id="shape"),
        pytest.param("average", GOOD, [{"w": t(1, math.nan)}], "NaN", id="nan"),
        pytest.param("duet", {"w": t(1, math.inf)}, [GOOD, GOOD], "base.*NaN", id="base infinite"),
        pytest.param(
            "average", {"n": torch.tensor(1)}, [{"n": torch.tensor(1)}], "float32", id="counter"
        ),
        pytest.param("newest", GOOD, [{"w": t(1, 2).half()}], "float16, expected", id="half"),
        pytest.param("newest", None, [{"w": t(1).half()}], "only float32", id="half, no base"),
        pytest.param("ties", None, [GOOD, GOOD], "not given", id="no base"),
        pytest.param("fisher", GOOD, [GOOD, GOOD], "kept in: s0, s1", id="no fisher"),
        pytest.param("concrete", GOOD, [GOOD, GOOD], "unlabelled images", id="no images"),
        pytest.param(
            "average", None, [Operand("v", vector=GOOD)], "not given: v", id="vector without base"
        ),
        pytest.param(
            "average", GOOD, [Operand("a", weights=GOOD)] * 2, "occur twice: a, a", id="same name"
        ),
        pytest.param("newest", GOOD, [{"w": t(3e38, 0)}] * 2, None, id="large but finite"),
    ],
)
def test_what_a_merge_refuses(
    method: str, base: Model | None, stages: list[Any], match: str | None
) -> None:
    inputs = inputs_of(base, stages)
    if match is None:
        merge_shared(method, {}, inputs, buffers=[{}])
        return
    with pytest.raises(ModelError, match=f"(?s){match}"):
        merge_shared(method, {}, inputs, buffers=[{}])


def test_a_result_that_is_not_finite_is_refused() -> None:
    stages = [{"w": t(3e38)}, {"w": t(3e38)}]
    with pytest.raises(ModelError, match="merge 'task-arithmetic', result"):
        merge_shared("task-arithmetic", {"weight": 2}, inputs_of({"w": t(0)}, stages), buffers=[{}])


@pytest.mark.parametrize("given_both", [{}, {"weights": GOOD, "vector": GOOD}], ids=["no", "both"])
def test_a_stage_is_weights_or_a_vector(given_both: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="stage 'x'"):
        Operand("x", **given_both)


def test_require_mergeable_accepts_views_and_parameters() -> None:
    weights = {"w": torch.nn.Parameter(torch.arange(12.0).reshape(3, 4)).t()}
    inputs = inputs_of(weights, [weights, {"w": 2 * weights["w"].detach()}])
    require_mergeable(inputs, method="average")
    merged, _ = run("average", weights, [s.tensors for s in inputs.stages])
    assert torch.equal(merged["w"], 1.5 * weights["w"].detach())


@pytest.mark.parametrize("name", PLAIN)
def test_an_empty_shared_part_merges_to_nothing(name: str) -> None:
    assert run(name, {}, random_stages(0, [{}, {}]))[0] == {}


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


# --- stages --------------------------------------------------------------------------------------


def read(stage: Operand, base: torch.Tensor, lo: int, hi: int) -> tuple[list[float], list[float]]:
    span, piece = Span("w", lo, hi), base[lo:hi]
    theta = stage.theta(span, piece, torch.empty(hi - lo)).clone()
    return theta.tolist(), stage.tau(span, piece, torch.empty(hi - lo)).tolist()


def test_a_scaled_stage_by_hand() -> None:
    base = t(1, 1, 1)
    stage = Operand("s", weights={"w": t(3, 1, -1)}, scale=0.5)
    assert read(stage, base, 0, 3) == ([2, 1, 0], [1, 0, -1])
    assert read(replace(stage, weights=None, vector={"w": t(2, 0, -2)}), base, 1, 3) == (
        [1, 0],
        [0, -1],
    )
    # Around (5, 1, 3): 5 + 0.5 (3 - 5), 1, 3 + 0.5 (-1 - 3)
    around = replace(stage, centre={"w": t(5, 1, 3)})
    assert read(around, base, 0, 3) == ([4, 1, 1], [3, 0, 0])


def test_a_vector_of_another_origin() -> None:
    stage = Operand("s", vector={"w": t(2, 0)}, origin={"w": t(10, 20)})
    assert read(stage, t(1, 1), 0, 2) == ([12, 20], [11, 19])


def test_corrections_are_read_in_every_piece() -> None:
    fix = Correction(torch.tensor([1, 4, 5]), t(10, 40, 50))
    stage = Operand("s", vector={"w": torch.ones(7)}, correction={"w": fix})
    base = torch.zeros(7)
    whole = [1, 10, 1, 1, 40, 50, 1]
    for lo, hi in ((0, 7), (1, 5), (2, 4), (5, 7), (3, 3)):
        assert read(stage, base, lo, hi)[0] == whole[lo:hi]


@quick
@given(st.integers(0, 2**31), st.sampled_from([1e-3, 1.0, 1e6]))
def test_a_kept_vector_gives_its_model_back_bit_for_bit(seed: int, size: float) -> None:
    base, model = random_models(seed, 1, {"w": (50,)})
    model = {"w": size * model["w"]}
    vector = TaskVector.between(base, model)
    stage = Operand("s", vector=vector.delta, correction=vector.correction)
    assert same_bits(run("newest", base, [stage])[0], model)


# --- pieces and threads --------------------------------------------------------------------------


def test_spans_cover_every_scalar_once() -> None:
    cut = spans({"a": 7, "none": 0, "b": 3}, 3)
    assert cut == [Span("a", 0, 3), Span("a", 3, 6), Span("a", 6, 7), Span("b", 0, 3)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_and_progress_is_complete(threads: int) -> None:
    heard: list[tuple[int, int]] = []
    items = list(range(40))
    results = each(
        items, lambda item, _: item * item, size=lambda _: 1 << 17, threads=threads,
        listen=lambda done, total: heard.append((done, total)),
    )  # fmt: skip
    assert results == [item * item for item in items]
    assert [done for done, _ in heard] == [(k + 1) << 17 for k in items]
    assert {total for _, total in heard} == {40 << 17}


def test_an_error_in_a_thread_arrives() -> None:
    def work(item: int, scratch: Scratch) -> None:
        scratch("x", item)
        if item == 7:
            raise ModelError("seven")

    with pytest.raises(ModelError, match="seven"):
        each(list(range(20)), work, size=lambda _: 1 << 20, threads=2)


# --- one whole merge -----------------------------------------------------------------------------


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
        inputs_of(base, stages),
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
    assert data["params"] == {
        "gamma": 0.0,
        "alpha_base": 0.5,
        "weights": "fixed",
        "eps": 1e-8,
    }
    assert MergeTrace.from_dict(data) == merged.trace


def test_the_trace_compares_the_oldest_with_the_newest_whatever_their_names() -> None:
    base = {"w": t(1, 1)}
    stages = [Operand("z", weights={"w": t(3, 0)}), Operand("a", weights={"w": t(2, 1)})]
    merged = merge_shared("average", {"weights": (3, 1)}, inputs_of(base, stages), buffers=[{}])
    # (3 (3, 0) + (2, 1)) / 4; tau (2, -1) and (1, 0)
    assert merged.tensors["w"].tolist() == [2.75, 0.25]
    trace = merged.trace.tensors["w"]
    assert (trace.norm_old, trace.norm_new, trace.scalars) == (3.0, 1.0, 2)
    assert (trace.sign_conflict, trace.alpha) == (0.0, 0.75)  # -1 against 0 is no conflict
    assert trace.cosine == pytest.approx(2 / math.sqrt(5))
    assert merged.trace.stages == ("z", "a")
    assert merged.trace.facts == {"weights": {"z": 0.75, "a": 0.25}}


def test_merge_shared_writes_where_it_is_told() -> None:
    place = {"w": torch.full((2,), math.nan)}
    inputs = inputs_of(GOOD, [GOOD, {"w": t(3, 4)}])
    assert merge_shared("average", {}, inputs, buffers=[{}], out=place).tensors is place
    assert place["w"].tolist() == [2, 3]


@pytest.mark.parametrize("name", PLAIN)
def test_every_trace_is_json(name: str) -> None:
    base, *models = random_models(0, 3, SHAPES)
    merged = merge_shared(name, {}, inputs_of(base, random_stages(0, models)), buffers=[{}])
    data = json.loads(json.dumps(merged.trace.as_dict(), allow_nan=False))
    assert MergeTrace.from_dict(data).as_dict() == data
    assert list(data["tensors"]) == list(base)


@pytest.mark.parametrize("name", [n for n in PLAIN if not METHODS[n].ordered])
@brief
@given(order=st.permutations(range(4)), seed=st.integers(0, 3))
def test_unordered_methods_do_not_depend_on_the_order(
    name: str, order: list[int], seed: int
) -> None:
    base, *models = random_models(seed, 4, {"w": (4, 5), "b": (3,)})
    stages = random_stages(seed, models)
    buffers = [{"m.running_mean": t(k), "m.running_var": t(1)} for k in range(4)]
    first = merge_shared(name, {}, inputs_of(base, stages), buffers=buffers)
    other = merge_shared(name, {}, inputs_of(base, [stages[k] for k in order]), buffers=buffers)
    assert same_bits(first.tensors, other.tensors)
    assert first.trace.facts == other.trace.facts


@pytest.mark.parametrize("name", PLAIN)
@brief
@given(
    rows=st.lists(
        st.tuples(
            st.floats(-(2.0**60), 2.0**60, width=32),
            st.one_of(st.floats(0, 2.0**100, width=32), st.sampled_from([0.0, 1e-45])),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_variances_stay_finite_and_nonnegative(name: str, rows: list[tuple[float, float]]) -> None:
    base, *models = random_models(0, len(rows), {"w": (2, 2)})
    buffers = [
        {
            "bn.running_mean": t(mean),
            "bn.running_var": t(var),
            "bn.num_batches_tracked": torch.tensor(3),
        }
        for mean, var in rows
    ]
    merged = merge_shared(name, {}, inputs_of(base, random_stages(0, models)), buffers=buffers)
    assert merged.buffers.keys() == buffers[0].keys()
    var = merged.buffers["bn.running_var"]
    assert bool(var.isfinite().all())
    assert bool((var >= 0).all())
    assert int(merged.buffers["bn.num_batches_tracked"]) == 3 * len(rows)


@pytest.mark.parametrize(
    ("images", "alpha"),
    [
        ((30, 10), 0.75),  # the share of the older images
        ((10, 30), 0.6),  # never below alpha_base
        ((990, 10), 0.9),  # gamma keeps its room
        ((0, 10), 0.6),  # not known: as it stands
    ],
)
def test_few_new_images_move_duet_little(images: tuple[int, int], alpha: float) -> None:
    stages = tuple(
        Operand(name, weights={"a": t(value)}, images=count)
        for name, value, count in zip("ab", (1.0, -1.0), images, strict=True)
    )
    params = {"gamma": 0.1, "alpha_base": 0.6, "weights": "images"}
    inputs = Inputs(stages, start={"a": t(0)})
    merged = merge_shared("duet", params, inputs, buffers=[{}, {}])
    # both moved equally far, so that nothing tilts alpha
    assert merged.trace.summary().alpha_mean == pytest.approx(alpha)
    assert merged.tensors["a"].item() == pytest.approx(2 * alpha - 1)


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.idempotent])
def test_copies_merge_to_themselves_where_the_table_says_so(name: str) -> None:
    """`min_retention` relies on it: a stage that did not move leaves the detector as it was."""
    generator = torch.Generator().manual_seed(2)
    start, model = ({"a": torch.randn(50, 3, generator=generator)} for _ in range(2))
    stages = tuple(Operand(key, weights=model) for key in ("before", "after"))
    merged = merge_shared(name, {}, Inputs(stages, start=start), buffers=[{}, {}])
    assert torch.equal(merged.tensors["a"], model["a"])


def test_every_increment_weighs_the_same_in_duet() -> None:
    """alpha_t is (t-1)/t, never falls, and folds the mean of all, whoever does the folding."""
    params = {"gamma": 0, "alpha_base": 0.5, "weights": "uniform"}
    values = torch.randn(7, 9, generator=torch.Generator().manual_seed(1))
    stages = tuple(Operand(str(k), weights={"a": row}) for k, row in enumerate(values))
    so_far, alphas = values[0], []
    for number, stage in enumerate(stages[1:], start=1):
        old = Operand("so far", weights={"a": so_far}, increments=number)
        inputs = Inputs((old, stage), start={"a": torch.zeros(9)})
        merged = merge_shared("duet", params, inputs, buffers=[{}, {}])
        so_far = merged.tensors["a"]
        alphas.append(merged.trace.summary().alpha_mean)
    assert alphas == pytest.approx([k / (k + 1) for k in range(1, 7)])
    assert alphas == sorted(alphas)
    torch.testing.assert_close(so_far, values.mean(0), rtol=1e-5, atol=1e-6)
    at_once = Inputs(stages, start={"a": torch.zeros(9)})
    whole = merge_shared("duet", params, at_once, buffers=[{}] * 7).tensors["a"]
    assert torch.equal(whole, so_far)


@pytest.mark.parametrize(
    ("gamma", "before", "alpha"),
    [
        (0.1, 1, 0.6),  # never below alpha_base
        (0.1, 4, 0.8),
        (0.1, 30, 0.9),  # gamma keeps its room
        (0.0, 30, 30 / 31),
    ],
)
def test_the_schedule_keeps_its_limits(gamma: float, before: int, alpha: float) -> None:
    params = Params(gamma=gamma, alpha_base=0.6, weights="uniform")
    old = Operand("old", weights={}, increments=before)
    assert params.alpha((old, Operand("new", weights={}))) == pytest.approx(alpha)


# --- table and trace -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(METHODS))
def test_every_row_is_complete(name: str) -> None:
    method = METHODS[name]
    assert method.name == name
    assert method.summary.endswith(".")
    assert method.reference
    for parameter in method.parameters():
        assert all(parameter[key] for key in ("description", "source", "range"))
    assert callable(resolve(name).merge)
    assert method.params().model_dump(mode="json") is not None


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'average'"):
        resolve("avrage")


def test_the_table_does_not_import_torch() -> None:
    code = (
        "import sys; from duet.merging.table import METHODS;"
        "from duet.merging.batchnorm import BatchNormFusion;"
        "[m.parameters() for m in METHODS.values()];"
        "import duet.vectors; from duet.increments.manifest import IncrementManifest;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("data", [{}, {"method": "x"}, {"tensors": 3}], ids=str)
def test_broken_traces_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="not a merge trace"):
        MergeTrace.from_dict(data)
