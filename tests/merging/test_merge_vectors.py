"""Methods that add task vectors to θ_0 (TIES apart): values by hand, other ways to compute them."""

from __future__ import annotations

import math

import pytest
import torch
from factories_merging import (
    LARGEST,
    MATRIX,
    SHAPES,
    floats32,
    inputs_of,
    merge_inputs,
    quick,
    random_models,
    run,
    same_bits,
    t,
)
from hypothesis import example, given
from hypothesis import strategies as st

from duet.errors import ModelError
from duet.merging.chunks import Span
from duet.merging.dropped import BLOCK, DroppedStage
from duet.merging.layers import Layer
from duet.merging.matrices import leading, polar
from duet.merging.operand import Operand

# --- sums of task vectors: task-arithmetic, lines, dare ------------------------------------------


def test_task_arithmetic_by_hand() -> None:
    base, stages = {"w": t(1, 1)}, [{"w": t(2, 0)}, {"w": t(1, 4)}]
    # 1 + 0.5 (1 + 0), 1 + 0.5 (-1 + 3)
    merged, notes = run("task-arithmetic", base, stages, weight=0.5)
    assert merged["w"].tolist() == [1.5, 2.0]
    assert dict(notes.tensors["w"]) == {"weight": 0.5}
    assert run("task-arithmetic", base, stages)[0]["w"].tolist() == pytest.approx([1.3, 1.6])


def test_lines_by_hand() -> None:
    base = {"first": t(0), "middle": t(0), "last": t(0)}
    stages = [{name: t(1) for name in base}, {name: t(3) for name in base}]
    # K = 2: factors 1/2, 1/2 + 1/2 * 1/2 and 1/2 + 1/2, of the sum 4
    merged, notes = run("lines", base, stages)
    assert {name: x.item() for name, x in merged.items()} == {"first": 2, "middle": 3, "last": 4}
    assert notes.tensors["middle"] == {"weight": 0.75}
    merged, _ = run("lines", base, stages, alpha=1.0, beta=-1.0)
    assert {name: x.item() for name, x in merged.items()} == {"first": 4, "middle": 2, "last": 0}


def test_lines_needs_the_depth_of_every_tensor() -> None:
    known = {"a": Layer("neck", 0.5)}
    with pytest.raises(ModelError, match="depth of 'b'"):
        merge_inputs(
            "lines", inputs_of({"a": t(0), "b": t(0)}, [{"a": t(1), "b": t(1)}], layers=known)
        )


def test_dare_divides_what_it_keeps_and_adds_up() -> None:
    base, models = (
        {"w": torch.zeros(2000)},
        [{"w": torch.ones(2000)}, {"w": torch.full((2000,), 2.0)}],
    )
    merged, _ = run("dare", base, models, drop=0.75, weight=1.0)
    # Every vector is 0 or 4 times itself: 0, 4, 8 or 12, each stage kept in a quarter.
    assert set(merged["w"].tolist()) == {0.0, 4.0, 8.0, 12.0}
    kept = {value: float((merged["w"] == value).float().mean()) for value in (0.0, 4.0, 8.0, 12.0)}
    for value, share in {0.0: 9 / 16, 4.0: 3 / 16, 8.0: 3 / 16, 12.0: 1 / 16}.items():
        assert kept[value] == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 2000))


def test_the_draw_of_dare_is_part_of_its_seed() -> None:
    """The meaning of a seed must not change: results would no longer be reproducible."""
    merged, _ = run("dare", {"w": torch.zeros(16)}, [{"w": torch.ones(16)}], drop=0.5, weight=1)
    assert "".join(str(int(value > 0)) for value in merged["w"]) == "1101010011010111"


def test_the_draw_of_dare_depends_on_names_only() -> None:
    base = {"a": torch.zeros(500), "b": torch.zeros(500)}
    ones = {name: torch.ones(500) for name in base}
    x, y = Operand("x", weights=ones), Operand("y", weights={n: 8 * v for n, v in ones.items()})
    forward, _ = run("dare", base, [x, y], drop=0.5)
    backward, _ = run("dare", dict(reversed(base.items())), [y, x], drop=0.5)
    assert all(torch.equal(forward[name], backward[name]) for name in base)
    alone = {s.name: run("dare", base, [s], drop=0.5, weight=1)[0] for s in (x, y)}
    masks = [alone["x"]["a"] > 0, alone["x"]["b"] > 0, alone["y"]["a"] > 0]
    other, _ = run("dare", base, [x], drop=0.5, weight=1, seed=1)
    masks.append(other["a"] > 0)
    for k, mask in enumerate(masks):  # all independent: they agree in half of the places
        for earlier in masks[:k]:
            assert 0.35 < float((mask == earlier).float().mean()) < 0.65


def test_a_dropped_stage_reads_the_same_in_parts() -> None:
    size = 2 * BLOCK + 100
    stage = DroppedStage.of_stage(Operand("s", vector={"w": torch.randn(size)}), drop=0.3, seed=4)
    zero = torch.zeros(size)
    whole = stage.tau(Span("w", 0, size), zero, torch.empty(size)).clone()
    share = float((whole == 0).float().mean())
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / size))
    for lo, hi in ((0, 16), (5, 6), (BLOCK - 3, BLOCK + 3), (BLOCK, size), (100, size - 7)):
        part = stage.tau(Span("w", lo, hi), zero[lo:hi], torch.empty(hi - lo))
        assert torch.equal(part, whole[lo:hi])
        theta = stage.theta(Span("w", lo, hi), zero[lo:hi] + 1, torch.empty(hi - lo))
        assert torch.equal(theta, whole[lo:hi] + 1)


def test_dare_without_dropping_is_what_follows() -> None:
    base, *models = random_models(3, 3, SHAPES)
    for then, method in (("sum", "task-arithmetic"), ("ties", "ties")):
        dropped, notes = run("dare", base, models, drop=0, then=then)
        plain, plain_notes = run(method, base, models)
        assert same_bits(dropped, plain)
        assert notes == plain_notes
    dropped, _ = run(
        "dare", base, models, drop=0, then="ties", weight=0.5, density=0.4, merge="sum"
    )
    assert same_bits(dropped, run("ties", base, models, weight=0.5, density=0.4, merge="sum")[0])


def test_dare_before_ties_gives_ties_the_dropped_vectors() -> None:
    base, *models = random_models(4, 2, {"w": (400,)})
    dropped = []
    for k, model in enumerate(models):
        alone, _ = run("dare", base, [Operand(f"s{k}", weights=model)], drop=0.5, weight=1)
        dropped.append(Operand(f"s{k}", vector={"w": alone["w"] - base["w"]}))
    merged, _ = run("dare", base, models, drop=0.5, then="ties", density=0.3)
    expected, _ = run("ties", base, dropped, density=0.3)
    assert torch.allclose(merged["w"], expected["w"], atol=1e-6)


# --- MagMax --------------------------------------------------------------------------------------


def test_magmax_by_hand() -> None:
    base = {"w": t(1, 1, 1, 1, 1)}
    stages = [{"w": t(4, 0, 3, -1, 1)}, {"w": t(-2, 3, 2, 3, 1)}, {"w": t(2, 1, 1, 1, 1)}]
    # tau: (3, -1, 2, -2, 0), (-3, 2, 1, 2, 0), (1, 0, 0, 0, 0); later wins ties: (-3, 2, 2, 2, 0)
    assert run("magmax", base, stages, weight=1)[0]["w"].tolist() == [-2, 3, 3, 3, 1]
    assert run("magmax", base, stages)[0]["w"].tolist() == [-0.5, 2, 2, 2, 1]
    reverse, _ = run("magmax", base, stages[::-1], weight=1)
    assert reverse["w"].tolist() == [4, 3, 3, -1, 1]


@quick
@given(st.lists(st.tuples(floats32, floats32, floats32, floats32), max_size=30))
@example([(LARGEST, -LARGEST, LARGEST, 0.0), (1e-45, -1e-45, 0.0, -0.0), (-1.0, -3.0, -2.0, 0.0)])
def test_magmax_against_comparing_one_by_one(rows: list[tuple[float, ...]]) -> None:
    taus = [t(*(row[k] for row in rows)) for k in range(4)]
    merged, _ = run(
        "magmax", None, [Operand(f"{k}", vector={"w": x}) for k, x in enumerate(taus)], weight=1
    )
    expected = taus[0]
    for tau in taus[1:]:
        expected = torch.where(tau.abs() >= expected.abs(), tau, expected)
    assert torch.equal(merged["w"], expected)


# --- matrix methods ------------------------------------------------------------------------------


def matrix(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows).reshape(len(rows), 1, 1, -1)


def test_iso_c_by_hand() -> None:
    base = {"conv": matrix((1, 1), (1, 1)), "bias": t(1, 1)}
    stages = [
        {"conv": matrix((3, 1), (1, 1)), "bias": t(2, 1)},
        {"conv": matrix((2, 1), (1, 2)), "bias": t(1, 4)},
    ]
    # Sum of tau: diag(3, 1), both singular values become 2; the bias takes the mean of tau.
    merged, _ = run("iso-c", base, stages)
    assert merged["conv"].shape == (2, 1, 1, 2)
    assert merged["conv"].flatten().tolist() == pytest.approx([3, 1, 1, 3])
    assert merged["bias"].tolist() == pytest.approx([1.5, 2.5])
    merged, _ = run("iso-c", base, stages, weight=0.5)
    assert merged["conv"].flatten().tolist() == pytest.approx([2, 1, 1, 2])
    assert merged["bias"].tolist() == pytest.approx([1.25, 1.75])


def test_iso_c_leaves_directions_alone_that_no_stage_changed() -> None:
    base = {"w": torch.zeros(2, 3)}
    stages = [{"w": torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 0.0]])}]
    merged, _ = run("iso-c", base, stages)  # singular values 3 and 0, mean 1.5
    assert merged["w"].flatten().tolist() == pytest.approx([0, 1.5, 0, 0, 0, 0])


def test_tsv_m_by_hand() -> None:
    base = {"w": matrix((1, 1), (1, 1))}
    # tau: diag(3, 1) and diag(1, 5). K = 2, r = 2: one triple each, 3 e1 e1 and 5 e2 e2.
    stages = [{"w": matrix((4, 1), (1, 2))}, {"w": matrix((2, 1), (1, 6))}]
    assert run("tsv-m", base, stages)[0]["w"].flatten().tolist() == pytest.approx([4, 1, 1, 6])
    # U = e1 and (e1 + e2) / sqrt(2), 45 degrees apart, V = e1 and e2. The nearest orthogonal pair
    # has the same bisector: -22.5 and 67.5 degrees. W = 2 u1 e1' + 1 u2 e2'.
    root = math.sqrt(0.5)
    zero = {"w": torch.zeros(2, 2)}
    stages = [{"w": torch.tensor([[2.0, 0], [0, 0]])}, {"w": torch.tensor([[0, root], [0, root]])}]
    c, s = math.cos(math.pi / 8), math.sin(math.pi / 8)
    merged, _ = run("tsv-m", zero, stages)
    assert merged["w"].flatten().tolist() == pytest.approx([2 * c, s, -2 * s, c], abs=1e-6)


def test_tsv_m_counts_a_shared_direction_once() -> None:
    tau = {"w": torch.diag(t(5, 4, 3, 1)), "bias": t(1, 2)}
    base = {"w": torch.zeros(4, 4), "bias": t(0, 0)}
    merged, _ = run("tsv-m", base, [tau, tau])
    assert torch.allclose(merged["w"], torch.diag(t(5, 4, 0, 0)), atol=1e-5)  # rank 4 // 2
    assert torch.equal(merged["bias"], tau["bias"])
    alone, _ = run("tsv-m", base, [tau])
    assert torch.allclose(alone["w"], tau["w"], atol=1e-6)


@pytest.mark.parametrize("method", MATRIX)
@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (3, 1, 1, 1), (1, 1), (5,), ()], ids=str)
def test_matrices_of_one_row_or_nothing(method: str, shape: tuple[int, ...]) -> None:
    base, *models = random_models(5, 3, {"w": shape})
    merged, _ = run(method, base, models)
    assert bool(merged["w"].isfinite().all())
    still, _ = run(method, base, [base, base])
    assert torch.equal(still["w"], base["w"])


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)], ids=str)
def test_matrix_methods_against_singular_value_decompositions(shape: tuple[int, int]) -> None:
    base, *models = random_models(6, 3, {"w": shape})
    taus = [(model["w"] - base["w"]).double() for model in models]
    u, s, v = torch.linalg.svd(sum(taus), full_matrices=False)
    merged, _ = run("iso-c", base, models)
    assert torch.allclose(merged["w"], (base["w"] + (u * s.mean()) @ v).float(), atol=1e-6)

    keep = min(shape) // 3
    parts = [torch.linalg.svd(tau, full_matrices=False) for tau in taus]
    left, right = (
        torch.cat([u[:, :keep] for u, _, _ in parts], 1),
        torch.cat([v[:keep] for _, _, v in parts]),
    )
    (p, _, q), (x, _, y) = (torch.linalg.svd(m, full_matrices=False) for m in (left, right))
    literal = p @ q @ torch.diag(torch.cat([s[:keep] for _, s, _ in parts])) @ x @ y
    merged, _ = run("tsv-m", base, models)
    assert torch.allclose(merged["w"], (base["w"] + literal).float(), atol=1e-6)


def test_singular_vectors_from_squares_beat_float32() -> None:
    """Singular values over four orders of magnitude, where a float32 SVD loses four digits."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(40, 40, generator=generator))[0]
    tau = turn @ (torch.randn(40, 90, generator=generator) * torch.logspace(0, -4, 40)[:, None])
    u, s, v = torch.linalg.svd(tau.double(), full_matrices=False)
    directions, values = polar(tau)
    assert torch.allclose(directions, u @ v, atol=1e-7)
    assert torch.allclose(values.flip(0), s, rtol=1e-7)
    left, values, right = leading(tau, 7)
    assert torch.allclose((left * values) @ right, (u[:, :7] * s[:7]) @ v[:7], atol=1e-7)
