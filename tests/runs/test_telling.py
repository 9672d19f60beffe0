"""Which images a report shows: those on which most was lost and most was gained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from factories_series import make_dataset, make_series

from duet.runs.gallery import telling
from duet.series import Slice, eval_slice, read_series

NAMES = ("cup", "plate")


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    """Six images of two classes."""
    folder = tmp_path_factory.mktemp("telling")
    make_dataset(folder / "day", names=NAMES, counts={"train": 2, "val": 6})
    step = {"domain": "day", "data": "day/data.yaml", "classes": list(NAMES)}
    series = read_series(make_series(folder, [step]))
    return eval_slice(series.increments[0].data, NAMES, "val")


def counts(*rows: tuple[int, int]) -> npt.NDArray[np.int64]:
    return np.array(rows, np.int64)


NONE = counts(*[(0, 0)] * 6)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(
            counts((3, 0), (5, 0), (1, 0), (0, 0), (0, 0), (0, 0)),
            counts((1, 0), (1, 0), (0, 0), (0, 2), (0, 3), (0, 0)),
            [1, 0, 4], id="two-largest-losses-then-the-largest-gain",
        ),
        pytest.param(
            counts((2, 0), (1, 0), (1, 0), (1, 0), (0, 0), (0, 0)), NONE, [0, 1, 2],
            id="losses-where-nothing-was-gained",
        ),
        pytest.param(
            NONE, counts((0, 1), (0, 4), (0, 0), (0, 2), (0, 3), (0, 0)), [1, 4, 3],
            id="gains-where-nothing-was-lost",
        ),
        pytest.param(
            counts((2, 0), (2, 2), (0, 0), (0, 0), (0, 0), (0, 0)),
            counts((0, 2), (2, 2), (0, 0), (0, 0), (0, 0), (0, 0)),
            [0], id="a-class-gained-makes-up-for-none-lost",
        ),
    ],
)  # fmt: skip
def test_what_changed_most_is_shown(
    cut: Slice, before: npt.NDArray[np.int64], after: npt.NDArray[np.int64], expected: list[int]
) -> None:
    chosen = telling(cut, before, after)
    assert chosen[: len(expected)] == expected
    assert len(set(chosen)) == len(chosen) == 3


def test_where_nothing_changed_images_with_many_classes_are_shown(cut: Slice) -> None:
    kinds = [len(set(ids.tolist())) for ids in cut.class_ids]
    chosen = telling(cut, NONE, NONE)
    assert [kinds[i] for i in chosen] == sorted(kinds, reverse=True)[: len(chosen)]


def test_images_without_objects_are_not_shown(cut: Slice) -> None:
    bare = (found.take(np.zeros(len(found.class_ids), np.bool_)) for found in cut.annotations)
    assert telling(replace(cut, annotations=tuple(bare)), NONE, NONE) == []
