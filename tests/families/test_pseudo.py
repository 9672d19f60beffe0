"""Pseudo-labels and query distillation, on numbers that a reader can check by eye."""

from __future__ import annotations

import pytest
import torch

from duet.training.config import PseudoLabels
from duet.training.losses.distillation.duet import query_box_distillation
from duet.training.pseudo import Found, Target, add_pseudo_labels, overlap

LEFT, RIGHT, SHIFTED = (0.25, 0.5, 0.2, 0.2), (0.75, 0.5, 0.2, 0.2), (0.27, 0.5, 0.2, 0.2)

CHOICE = PseudoLabels(confidence=0.4, iou=0.5)


def target(*rows: tuple[tuple[float, ...], int]) -> Target:
    boxes = torch.tensor([box for box, _ in rows]).reshape(-1, 4)
    return Target(boxes, torch.tensor([label for _, label in rows], dtype=torch.int64))


def found(*rows: tuple[tuple[float, ...], float, int]) -> Found:
    boxes = torch.tensor([box for box, _, _ in rows]).reshape(-1, 4)
    scores = torch.tensor([score for _, score, _ in rows]).reshape(-1)
    return Found(boxes, scores, torch.tensor([label for *_, label in rows], dtype=torch.int64))


@pytest.mark.parametrize(
    ("labels", "objects", "expected"),
    [
        pytest.param([], [], [], id="nothing at all"),
        pytest.param([(LEFT, 7)], [], [7], id="nothing found"),
        pytest.param([], [(LEFT, 0.9, 1)], [1], id="image without labels"),
        pytest.param([(LEFT, 7)], [(RIGHT, 0.9, 1)], [7, 1], id="apart from the label"),
        pytest.param([(LEFT, 7)], [(SHIFTED, 0.9, 1)], [7], id="on the label"),
        pytest.param([], [(LEFT, 0.4, 1)], [], id="not above the confidence"),
        pytest.param([], [(LEFT, 0.6, 1), (SHIFTED, 0.9, 2)], [2], id="twice found, best wins"),
        pytest.param([], [(LEFT, 0.6, 1), (RIGHT, 0.9, 2)], [2, 1], id="two objects, best first"),
    ],
)
def test_who_joins(
    labels: list[tuple[tuple[float, ...], int]],
    objects: list[tuple[tuple[float, ...], float, int]],
    expected: list[int],
) -> None:
    [extended] = add_pseudo_labels([target(*labels)], [found(*objects)], CHOICE, (1, 2))
    assert extended.labels.tolist() == expected
    assert torch.equal(extended.boxes[: len(labels)], target(*labels).boxes)
    by_class = {label: box for box, _, label in objects} | {label: box for box, label in labels}
    assert torch.equal(extended.boxes, torch.tensor([by_class[k] for k in expected]).reshape(-1, 4))


def test_images_do_not_mix() -> None:
    both = add_pseudo_labels(
        [target((LEFT, 7)), target()], [found((LEFT, 0.9, 1)), found((LEFT, 0.9, 1))],
        CHOICE, (1,),
    )  # fmt: skip
    assert [one.labels.tolist() for one in both] == [[7], [1]]


def test_labelled_classes_get_no_other_labels() -> None:
    """Of a class that people labelled here, what the old detector sees besides is a mistake."""
    objects = found((LEFT, 0.9, 1), (RIGHT, 0.8, 2))
    [extended] = add_pseudo_labels([target()], [objects], CHOICE, (2,))
    assert extended.labels.tolist() == [2]


def test_overlap_is_the_iou() -> None:
    boxes = torch.tensor([LEFT, SHIFTED, RIGHT, (0.5, 0.5, 0.0, 0.0)])
    expected = torch.tensor([[1, 0.18 / 0.22, 0, 0]])
    torch.testing.assert_close(overlap(boxes[:1], boxes), expected)


# ---- distillation of boxes --------------------------------------------------------------------


def test_only_the_best_places_count() -> None:
    teacher = torch.rand(2, 8, 4)
    scores = torch.stack((torch.arange(8.0), torch.arange(8.0).flip(0)))
    student = teacher.clone()
    student[0, :6] += 1  # places below the quantile: no cost
    student[1, :2] += 0.1  # the two best places of the second image
    loss = query_box_distillation(student, teacher, scores, 6 / 7)
    torch.testing.assert_close(loss, torch.tensor(2 * 4 * 0.1 / 4))


def test_gradients_reach_the_student_alone() -> None:
    teacher = torch.rand(1, 8, 4, requires_grad=True)
    scores = torch.rand(1, 8, requires_grad=True)
    student = torch.rand(1, 8, 4, requires_grad=True)
    query_box_distillation(student, teacher, scores, 0.75).backward()
    assert student.grad is not None
    assert int((student.grad.abs().sum(-1) > 0).sum()) == 2
    assert teacher.grad is None
    assert scores.grad is None


def test_the_teacher_itself_costs_nothing() -> None:
    boxes = torch.rand(2, 8, 4)
    assert float(query_box_distillation(boxes, boxes, torch.rand(2, 8), 0.75)) == 0
