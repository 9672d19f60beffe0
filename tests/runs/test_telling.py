"""Which images a report shows: those on which most was lost and most was gained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from factories_detectors import ARCHITECTURE, SIZE, make_state
from factories_series import make_dataset, make_series
from places import REPO

from duet.evaluation.ap import ClassAP
from duet.evaluation.deployment import Deployed, save_deployed
from duet.evaluation.doubles import Doubles
from duet.evaluation.matches import ClassMatches, Matches
from duet.increments.state import DetectorState, HeadPart
from duet.runs.assemble import StrategyOutcome
from duet.runs.gallery import gallery, telling
from duet.runs.inputs import read_inputs
from duet.runs.plan import RunPlan, plan_run
from duet.runs.setting import FinishedStage
from duet.series import Slice, eval_slice, read_series
from duet.series.images import image_sha256
from duet.training.config import Strategy

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


@pytest.mark.parametrize(("most", "expected"), [(1, [1]), (2, [1, 0])])
def test_of_many_domains_each_shows_fewer(cut: Slice, most: int, expected: list[int]) -> None:
    before = counts((3, 0), (5, 0), (1, 0), (0, 0), (0, 0), (0, 0))
    after = counts((1, 0), (1, 0), (0, 0), (0, 2), (0, 3), (0, 0))
    assert telling(cut, before, after, most) == expected


def test_where_nothing_changed_images_with_many_classes_are_shown(cut: Slice) -> None:
    kinds = [len(set(ids.tolist())) for ids in cut.class_ids]
    chosen = telling(cut, NONE, NONE)
    assert [kinds[i] for i in chosen] == sorted(kinds, reverse=True)[: len(chosen)]


def test_images_without_objects_are_not_shown(cut: Slice) -> None:
    bare = (found.take(np.zeros(len(found.class_ids), np.bool_)) for found in cut.annotations)
    assert telling(replace(cut, annotations=tuple(bare)), NONE, NONE) == []


# The pictures of a whole run

KNOWN = (("cat", "dog"), ("bus",))
LOST, GAINED = 4, 1


def find(**rows: list[int]) -> Matches:
    """Return what finds one object of a class in each of those of five images."""
    classes = {
        name: ClassMatches.counted(
            np.full(len(at), 0.9, np.float32), np.array(at, np.int64), np.ones(len(at), np.bool_),
            np.zeros(len(at), np.bool_), np.ones(5, np.int64), np.ones(len(at), np.float32),
        )
        for name, at in rows.items()
    }  # fmt: skip
    return Matches(np.arange(5, dtype=np.uint64), classes)


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    for seed, domain in enumerate(("day", "night")):
        make_dataset(tmp_path / domain, seed=seed, counts={"train": 3, "val": 5})
    inputs = read_inputs(
        make_series(tmp_path), weights=REPO / "weights" / "yolo11n-emoji.safetensors",
        architecture=ARCHITECTURE, changes={"image_size": SIZE},
    )  # fmt: skip
    return plan_run(inputs, ["duet-plus", "seq-ft", "frozen"], out=tmp_path / "run")


def outcome(plan: RunPlan, strategy: Strategy, last: DetectorState) -> StrategyOutcome:
    """Return a chain that lost the cat of one image of each domain, and gained a bus in one."""
    none, scores = np.zeros((0, 2)), {}
    for stage, found in enumerate((find(cat=[2, LOST]), find(cat=[2], bus=[GAINED])), start=1):
        path = plan.out / f"{stage}.npz"
        path.parent.mkdir(exist_ok=True)
        pairs = Doubles(("cat",), none.astype(np.int64), none.astype(np.float32), 5)
        save_deployed(path, Deployed(found, pairs))
        scores |= {(stage, one): ClassAP({}, {}, seen=path.name) for one in ("day", "night")}
    results = tuple(
        FinishedStage(step, state)
        for step, state in zip(plan.series.increments, (make_state("rows", 1), last), strict=True)
    )
    return StrategyOutcome(strategy, results, scores, {}, 0.0)


def blind(part: HeadPart) -> HeadPart:
    rows = {name: t - 20 for name, t in part.tensors.items() if name.endswith("2.bias")}
    assert rows
    return replace(part, tensors={**part.tensors, **rows})


def test_a_run_shows_what_was_lost_and_gained_and_plain_fine_tuning_beside(plan: RunPlan) -> None:
    last = make_state("rows", 2)
    forgot = replace(last, parts=tuple(map(blind, last.parts)))
    care, plain, other = plan.strategies
    outcomes = [outcome(plan, care, last), outcome(plan, plain, forgot), outcome(plan, other, last)]
    pictures = gallery(plan, outcomes)
    files = []
    for name in ("day", "night"):
        images = plan.series.domain(name).evaluate(("cat", "dog", "bus")).images
        files += [image_sha256(images[n])[:12] for n in (LOST, GAINED, 0)]
    assert [one.file.split("-")[1].split(".")[0] for one in pictures] == files
    assert [one.domain for one in pictures] == ["day"] * 3 + ["night"] * 3
    for one in pictures:
        assert (one.before.title, one.after.title) == ("after increment 1", "after increment 2")
        assert (one.before.classes, one.after.classes) == (KNOWN[0], (*KNOWN[0], *KNOWN[1]))
        assert len(one.truths) == 1
        assert one.beside is not None
        assert one.beside.title == f"{plain.title}, after increment 2"
        assert one.beside.detections == ()  # of its own detector, which forgot all
    assert any(one.after.detections for one in pictures)
