"""The losses against their equations, written out slowly in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from duet.training.losses.distillation.duet import box_distillation, class_distillation
from duet.training.losses.weights import Pull, Steps, directional_steps, ewc_steps

quick = settings(deadline=None, max_examples=200)
# Up to 2^60 the product of two differences stays finite in float32.
numbers = st.one_of(
    st.floats(-(2.0**60), 2.0**60, width=32), st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0])
)
triples = st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=30)


def columns(rows: list[tuple[float, float, float]]) -> list[torch.Tensor]:
    return [torch.tensor([row[k] for row in rows], dtype=torch.float32) for k in range(3)]


def random_outputs(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(shape, generator=generator) * 2,
        torch.randn(shape, generator=generator) * 2,
    )


# ---- L_DC -------------------------------------------------------------------------------------


def directional_gradient(p: torch.Tensor, q: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Return what a pull with λ = 1 adds to a gradient of 0."""
    return pulled(directional_steps, [(p, q, d)])[0]


def pulled(
    steps: Steps, rows: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], weight: float = 1.0
) -> list[torch.Tensor]:
    """Return what a pull adds to gradients of 0."""
    p, q, factors = zip(*rows, strict=True)
    parameters = tuple(torch.nn.Parameter(tensor.detach().clone()) for tensor in p)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    Pull(parameters, q, factors, weight, steps).add(1.0)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def directional_loss(p: torch.Tensor, q: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    return torch.relu(-(p - q) * d).sum()


@pytest.mark.slow
@quick
@given(triples)
@example([(0.0, 0.0, 0.0)])
@example([(1.0, 0.0, -1.0), (1.0, 0.0, 1.0), (0.0, 1.0, 0.0)])
def test_closed_form_gradient_is_autograds(rows: list[tuple[float, float, float]]) -> None:
    p, q, d = columns(rows)
    p.requires_grad_(True)
    directional_loss(p, q, d).backward()
    assert p.grad is not None
    assert torch.equal(p.grad, directional_gradient(p.detach(), q, d))


@quick
@given(triples)
@pytest.mark.slow
def test_start_of_a_stage_costs_nothing(rows: list[tuple[float, float, float]]) -> None:
    _, q, d = columns(rows)
    assert directional_loss(q, q, d) == 0
    assert not directional_gradient(q, q, d).any()


@pytest.mark.parametrize(
    ("p", "q", "d", "loss", "gradient"),
    [
        pytest.param([], [], [], 0.0, [], id="empty"),
        pytest.param([1.0], [0.0], [2.0], 0.0, [0.0], id="with the previous direction"),
        pytest.param([-1.0], [0.0], [2.0], 2.0, [-2.0], id="against it"),
        pytest.param([1.0], [3.0], [-0.5], 0.0, [0.0], id="both negative"),
        pytest.param([5.0], [3.0], [-0.5], 1.0, [0.5], id="up against down"),
        pytest.param([7.0], [3.0], [0.0], 0.0, [0.0], id="no direction"),
        pytest.param(
            [-1.0, 1.0, -3.0], [0.0] * 3, [1.0, 1.0, 2.0], 7.0, [-1.0, 0.0, -2.0], id="sum"
        ),
    ],
)
def test_directional_values(
    p: list[float], q: list[float], d: list[float], loss: float, gradient: list[float]
) -> None:
    tensors = [torch.tensor(values, dtype=torch.float32) for values in (p, q, d)]
    assert directional_loss(*tensors).item() == loss
    assert directional_gradient(*tensors).tolist() == gradient


def ewc_loss(p: torch.Tensor, q: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
    return (importance * (p - q).square()).sum() / 2


@pytest.mark.parametrize("format_", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("steps", "loss"), [(directional_steps, directional_loss), (ewc_steps, ewc_loss)]
)
def test_pulls_on_many_tensors_are_autograds(
    steps: Steps, loss: Callable[..., torch.Tensor], format_: torch.memory_format
) -> None:
    shapes = [(4, 3, 3, 3), (7,), (5, 4), (2, 8, 1, 1), ()]
    generator = torch.Generator().manual_seed(3)
    rows = []
    for shape in shapes:
        p, q, factor = (torch.randn(shape, generator=generator) for _ in range(3))
        if len(shape) == 4:
            p = p.contiguous(memory_format=format_)
        rows.append((p, q, factor.abs() if steps is ewc_steps else factor))
    for row, found in zip(rows, pulled(steps, rows, weight=0.5), strict=True):
        p = row[0].clone().requires_grad_(True)
        loss(p, *row[1:]).backward()
        assert p.grad is not None
        torch.testing.assert_close(found, 0.5 * p.grad)


# ---- L*_Distill against numpy -----------------------------------------------------------------


def slow_class_loss(student: np.ndarray, teacher: np.ndarray, quantile: float) -> float:
    """Mean over M_cls of ‖c_curr − c_old‖²; M_cls from each image's largest logits."""
    distances = []
    for s_CA, t_CA in zip(student, teacher, strict=True):
        peaks = np.array([max(t_CA[:, a]) for a in range(t_CA.shape[1])])
        threshold = np.quantile(peaks, quantile)
        for a, peak in enumerate(peaks):
            if peak >= threshold:
                distances.append(sum((s_CA[c, a] - t_CA[c, a]) ** 2 for c in range(len(t_CA))))
    return float(np.mean(distances))


def slow_box_loss(student: np.ndarray, teacher: np.ndarray, bins: int, quantile: float) -> float:
    """Mean over M_box of KL(softmax(b_curr) ‖ softmax(b_old)), side by side."""
    divergences = []
    for s_XA, t_XA in zip(student, teacher, strict=True):
        anchors = t_XA.shape[1]
        spread = np.array([np.var(t_XA[:, a], ddof=1) for a in range(anchors)])
        threshold = np.quantile(spread, quantile)
        for a in range(anchors):
            if spread[a] > threshold:
                continue
            if bins == 1:
                divergences.append(np.mean((s_XA[:, a] - t_XA[:, a]) ** 2))
                continue
            sides = []
            for side in range(s_XA.shape[0] // bins):
                cut = slice(side * bins, (side + 1) * bins)
                p, q = softmax(s_XA[cut, a]), softmax(t_XA[cut, a])
                sides.append(sum(p * (np.log(p) - np.log(q))))
            divergences.append(np.mean(sides))
    return float(np.mean(divergences))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


QUANTILES = pytest.mark.parametrize("quantile", [0.0, 0.25, 0.75, 0.9, 1.0], ids="q={}".format)


@QUANTILES
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 8), (3, 2, 22), (2, 1, 84)], ids=str)
def test_class_loss_equals_the_equation(shape: tuple[int, ...], quantile: float) -> None:
    student, teacher = random_outputs(*shape)
    expected = slow_class_loss(student.double().numpy(), teacher.double().numpy(), quantile)
    got = class_distillation(student, teacher, quantile)
    assert got.shape == ()
    assert got.item() == pytest.approx(expected, rel=1e-5)


@QUANTILES
@pytest.mark.parametrize("bins", [1, 2, 16])
@pytest.mark.parametrize(("batch", "anchors"), [(1, 1), (1, 8), (3, 22)])
def test_box_loss_equals_the_equation(batch: int, anchors: int, bins: int, quantile: float) -> None:
    student, teacher = random_outputs(batch, 4 * bins, anchors)
    expected = slow_box_loss(student.double().numpy(), teacher.double().numpy(), bins, quantile)
    got = box_distillation(student, teacher, bins, quantile)
    assert got.shape == ()
    assert got.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


# ---- what the equations imply -----------------------------------------------------------------


@QUANTILES
@pytest.mark.parametrize("bins", [1, 16])
def test_no_loss_where_the_student_is_the_teacher(bins: int, quantile: float) -> None:
    _, teacher = random_outputs(2, 4 * bins, 8)
    assert class_distillation(teacher.clone(), teacher, quantile) == 0
    assert box_distillation(teacher.clone(), teacher, bins, quantile) == 0


@pytest.mark.parametrize(
    ("quantile", "chosen"),
    [
        pytest.param(0.0, {0, 1, 2, 3, 4, 5, 6, 7}, id="0: all anchors"),
        pytest.param(0.75, {3, 7}, id="0.75: the top quarter"),
        pytest.param(1.0, {7}, id="1: the best anchor"),
    ],
)
def test_class_loss_touches_only_the_surest_anchors(quantile: float, chosen: set[int]) -> None:
    teacher = torch.tensor([[[0.0, 3, 1, 6, 2, 4, -1, -9], [0, 0, 0, 0, 5, 0, 0, 7]]])
    student = (teacher + 1).requires_grad_(True)
    class_distillation(student, teacher, quantile).backward()
    assert student.grad is not None
    assert set(student.grad[0].abs().sum(0).nonzero().flatten().tolist()) == chosen


@pytest.mark.parametrize(
    ("quantile", "chosen"),
    [
        pytest.param(0.0, {2}, id="0: the calmest anchor"),
        pytest.param(0.75, {0, 2, 3}, id="0.75: all but the top quarter"),
        pytest.param(1.0, {0, 1, 2, 3}, id="1: all anchors"),
    ],
)
@pytest.mark.parametrize("bins", [1, 4])
def test_box_loss_touches_only_the_calmest_anchors(
    bins: int, quantile: float, chosen: set[int]
) -> None:
    pattern = torch.linspace(-1, 1, 4 * bins)[:, None]
    teacher = (pattern * torch.tensor([2.0, 9.0, 1.0, 3.0]))[None]
    noise = torch.rand(teacher.shape, generator=torch.Generator().manual_seed(0))
    student = (teacher + noise).requires_grad_(True)
    box_distillation(student, teacher, bins, quantile).backward()
    assert student.grad is not None
    assert set(student.grad[0].abs().sum(0).nonzero().flatten().tolist()) == chosen


def test_images_choose_their_anchors_alone() -> None:
    student, teacher = random_outputs(2, 3, 16)
    teacher[1] += 100  # one sure image must not take the other's places
    together = class_distillation(student, teacher, 0.75)
    alone = [class_distillation(student[i : i + 1], teacher[i : i + 1], 0.75) for i in (0, 1)]
    assert together.item() == pytest.approx(sum(a.item() for a in alone) / 2, rel=1e-5)


@pytest.mark.parametrize("bins", [1, 16])
def test_gradient_flows_to_the_student_alone(bins: int) -> None:
    student, teacher = random_outputs(2, 4 * bins, 8)
    student.requires_grad_(True)
    teacher.requires_grad_(True)
    total = class_distillation(student, teacher, 0.75)
    (total + box_distillation(student, teacher, bins, 0.75)).backward()
    assert student.grad is not None
    assert student.grad.any()
    assert teacher.grad is None


def test_divergence_is_of_the_student_from_the_teacher() -> None:
    # KL is not symmetric: for p = (0.9, 0.1), q = (0.5, 0.5) the two directions differ.
    student = torch.tensor([0.9, 0.1]).log().repeat(4).reshape(1, 8, 1)
    teacher = torch.tensor([0.5, 0.5]).log().repeat(4).reshape(1, 8, 1)
    forward = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert box_distillation(student, teacher, 2, 1.0).item() == pytest.approx(forward, rel=1e-5)


def test_half_precision_does_not_overflow() -> None:
    # Under AMP both networks answer in float16, where 300² is infinite.
    student, teacher = torch.full((1, 4, 8), 300.0), torch.zeros(1, 4, 8)
    loss = class_distillation(student.half(), teacher.half(), 0.75)
    assert loss.item() == pytest.approx(4 * 300.0**2)
    assert box_distillation(student.half(), teacher.half(), 1, 0.75).item() == pytest.approx(90000)
