"""BatchNorm fusion: the moments of the pooled data, for any number of stages and any weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from duet.errors import ModelError
from duet.merging.batchnorm import BatchNormFusion, fuse_buffers, fuse_statistics
from duet.merging.weights import together

quick = settings(deadline=None, max_examples=120)
LARGEST = torch.finfo(torch.float32).max


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().view(torch.int32).flatten().tolist()


samples = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12)
means = st.floats(width=32, allow_nan=False, allow_infinity=False)
variances = st.floats(min_value=0, width=32, allow_nan=False, allow_infinity=False)
weights = st.floats(0, 1e300)
stage = st.tuples(means, variances, weights)


def test_fusion_by_hand() -> None:
    # a = (3/4, 1/4): mu = 0.75 * 0 + 0.25 * 4 = 1
    # var = 0.75 * (1 + (0 - 1)^2) + 0.25 * (5 + (4 - 1)^2) = 1.5 + 3.5 = 5
    mean, var = fuse_statistics([(t(0), t(1)), (t(4), t(5))], [3, 1])
    assert (mean.item(), var.item()) == (1.0, 5.0)


@quick
@given(st.lists(samples, min_size=1, max_size=6))
def test_fusion_is_the_statistics_of_the_pooled_samples(groups: list[list[float]]) -> None:
    tensors = [torch.tensor(group, dtype=torch.float64) for group in groups]
    stats = [(x.mean().reshape(1), x.var(correction=0).reshape(1)) for x in tensors]
    mean, var = fuse_statistics(stats, [len(group) for group in groups])
    pooled = torch.cat(tensors)
    scale = max(1.0, float(pooled.abs().max()) ** 2)
    assert abs(float(mean) - float(pooled.mean())) <= 1e-12 * scale
    assert abs(float(var) - float(pooled.var(correction=0))) <= 1e-12 * scale


@quick
@given(st.lists(stage, min_size=1, max_size=6))
@example([(LARGEST, 0.0, 1.0), (-LARGEST, 0.0, 1.0)])
@example([(0.0, LARGEST, 1.0), (0.0, LARGEST, 1e-320)])
@example([(3.0, 0.0, 1.0), (3.0, 0.0, 2.0), (3.0, 0.0, 5e-324)])
def test_variance_is_finite_and_never_negative_or_refused(
    rows: list[tuple[float, float, float]],
) -> None:
    assume(any(weight for _, _, weight in rows))
    stats = [(t(mean), t(var)) for mean, var, _ in rows]
    shares = [weight for _, _, weight in rows]
    # Such means, or such variances of stages with unequal means, may have no float32 variance.
    if max(abs(mean) for mean, _, _ in rows) > 1e18 or max(var for _, var, _ in rows) > 1e37:
        try:
            mean, var = fuse_statistics(stats, shares)
        except ModelError:
            return
    mean, var = fuse_statistics(stats, shares)
    used = [(m, v) for m, v, weight in rows if weight > 0]
    assert math.isfinite(mean.item())
    assert math.isfinite(var.item())
    assert var.item() >= min(v for _, v in used) * (1 - 1e-6)
    assert mean.item() <= max(m for m, _ in used)
    assert mean.item() >= min(m for m, _ in used)


@quick
@given(st.lists(st.tuples(means, variances), min_size=1, max_size=5), st.data())
@example([(-0.0, 0.0), (LARGEST, 1.0)], None)
def test_one_hot_weight_gives_that_stage(rows: list[tuple[float, float]], data: Any) -> None:
    chosen = data.draw(st.integers(0, len(rows) - 1)) if data is not None else 0
    stats = [(t(mean), t(var)) for mean, var in rows]
    one_hot = [float(k == chosen) * 7 for k in range(len(rows))]
    mean, var = fuse_statistics(stats, one_hot)
    assert bits(mean) == bits(stats[chosen][0])
    assert bits(var) == bits(stats[chosen][1])


@quick
@given(means, variances, st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6))
def test_equal_stages_come_back(mean: float, var: float, shares: list[float]) -> None:
    fused = fuse_statistics([(t(mean), t(var))] * len(shares), shares)
    assert torch.equal(fused[0], t(mean))
    assert torch.equal(fused[1], t(var))  # no spread appears from rounding, also for variance 0


@quick
@given(st.lists(stage, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_order_does_not_matter(rows: list[tuple[float, float, float]], shuffle: Any) -> None:
    rows = [(mean / 1e20, var / 1e20, weight) for mean, var, weight in rows]
    assume(any(weight for _, _, weight in rows))
    other = list(rows)
    shuffle.shuffle(other)
    a, b = (
        fuse_statistics([(t(m), t(v)) for m, v, _ in order], [w for _, _, w in order])
        for order in (rows, other)
    )
    spread = max(abs(mean) for mean, _, _ in rows)
    assert abs(a[0].item() - b[0].item()) <= 1e-6 * spread + 1e-44
    assert math.isclose(a[1].item(), b[1].item(), rel_tol=1e-6, abs_tol=1e-44)


@pytest.mark.parametrize(
    ("stats", "shares", "match"),
    [
        pytest.param([], [], "0 stages", id="empty"),
        pytest.param([(t(1), t(1))], [0], "not all zero", id="all zero"),
        pytest.param([(t(1), t(1))] * 2, [1], "1 weights for 2 stages", id="too few weights"),
        pytest.param([(t(1), t(-1))], [1], "negative variance", id="negative variance"),
        pytest.param([(t(math.nan), t(1))], [1], "finite", id="nan"),
        pytest.param([(t(1), t(math.inf))], [1], "finite", id="inf"),
        pytest.param([(t(1), t(1)), (t(1, 2), t(1, 2))], [1, 1], "expected", id="shapes"),
        pytest.param([(t(1), t(1).double())], [1], "expected", id="dtypes"),
    ],
)
def test_unusable_statistics_are_refused(stats: Any, shares: list[float], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        fuse_statistics(stats, shares)


# --- buffers -------------------------------------------------------------------------------------


def buffers(mean: float, var: float, count: int) -> dict[str, torch.Tensor]:
    return {
        "bn.num_batches_tracked": torch.tensor(count),
        "bn.running_var": t(var, var),
        "bn.running_mean": t(mean, 0),
        "anchors": t(8, 16),
    }


@pytest.mark.parametrize(
    ("rule", "mean", "var"),
    [
        # mixture: variance of the first channel 2 + (1^2 + 1^2) / 2 = 3, of the second 2
        pytest.param("mixture", [1.0, 0.0], [3.0, 2.0], id="mixture"),
        pytest.param("average", [1.0, 0.0], [2.0, 2.0], id="average"),
        pytest.param("newest", [2.0, 0.0], [3.0, 3.0], id="newest"),
        pytest.param("oldest", [0.0, 0.0], [1.0, 1.0], id="oldest"),
    ],
)
def test_buffers_are_fused_by_role(rule: Any, mean: list[float], var: list[float]) -> None:
    stages = [buffers(0, 1, 5), buffers(2, 3, 7)]
    fused = fuse_buffers(stages, BatchNormFusion(rule=rule))
    assert list(fused) == list(stages[0])
    assert fused["bn.running_mean"].tolist() == mean
    assert fused["bn.running_var"].tolist() == var
    assert fused["bn.num_batches_tracked"].item() == 12
    assert fused["bn.num_batches_tracked"].dtype == torch.int64
    assert fused["anchors"].tolist() == [8.0, 16.0]
    fused["anchors"].zero_()
    assert stages[0]["anchors"].tolist() == [8.0, 16.0]  # copies, never views


def test_no_buffers_is_fine() -> None:
    assert fuse_buffers([{}, {}], BatchNormFusion()) == {}


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        pytest.param({"anchors": t(1)}, {"anchors": t(2)}, "anchors: differs", id="other buffer"),
        pytest.param(
            {"bn.running_mean": t(1)},
            {"bn.running_mean": t(1)},
            "running_var is missing",
            id="pair",
        ),
        pytest.param(
            {"bn.running_var": t(1)}, {"bn.running_var": t(1)}, "running_mean is missing", id="var"
        ),
        pytest.param({"anchors": t(1)}, {}, "missing: anchors", id="layout"),
        pytest.param(
            {"bn.running_mean": t(1), "bn.running_var": t(-1)},
            {"bn.running_mean": t(1), "bn.running_var": t(1)},
            "bn.running_mean: negative variance",
            id="names the layer",
        ),
    ],
)
def test_buffers_without_a_rule_are_refused(first: Any, second: Any, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        fuse_buffers([first, second], BatchNormFusion())


@pytest.mark.parametrize(
    ("config", "images", "expected"),
    [
        pytest.param({}, None, (0.5, 0.5), id="uniform is the default"),
        pytest.param({"weights": "images"}, [300, 100], (0.75, 0.25), id="images"),
        pytest.param({"weights": "images"}, [0, 100], (0.5, 0.5), id="of one not known"),
        pytest.param({"weights": "images"}, [0, 0], (0.5, 0.5), id="of none known"),
        pytest.param({"weights": (1, 4)}, None, (0.2, 0.8), id="numbers"),
        pytest.param({"rule": "newest", "weights": (1, 0)}, None, (0.0, 1.0), id="newest"),
        pytest.param({"rule": "oldest"}, None, (1.0, 0.0), id="oldest"),
    ],
)
def test_weights_for(config: dict[str, Any], images: Any, expected: tuple[float, ...]) -> None:
    assert BatchNormFusion(**config).weights_for(2, images) == expected


@pytest.mark.parametrize(
    ("images", "expected"),
    [((30, 10), 40), ((0, 30), 60), ((0, 30, 10), 60), ((0,), 0), ((), 0)],
)
def test_what_is_not_known_of_a_stage_counts_as_the_others(
    images: tuple[int, ...], expected: int
) -> None:
    assert together(images) == expected


@pytest.mark.parametrize(
    ("config", "images", "match"),
    [
        pytest.param({"weights": "images"}, None, "not known", id="images unknown"),
        pytest.param({"weights": (1.0,)}, None, "1 weights for 2", id="count"),
    ],
)
def test_weights_for_refuses(config: dict[str, Any], images: Any, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        BatchNormFusion(**config).weights_for(2, images)
