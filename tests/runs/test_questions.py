"""What a run asks of detectors: answered anywhere, kept once, no more at a time than trainings."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from factories_detectors import SIZE, doubled
from factories_series import make_dataset, make_series

from duet.errors import DataError, DuetError
from duet.increments.scores import ScoreMap
from duet.increments.state import DetectorState, rescored
from duet.runs.asked import Asked
from duet.runs.evaluator import Evaluator
from duet.runs.look import FirstLook
from duet.runs.questions import Measuring, Question, answer_here
from duet.runs.slots import CHAIN, LOOK, REFERENCE, Slots
from duet.series import Slice
from duet.series.reader import read_series

ELSEWHERE = """
import pickle, sys, threading
from pathlib import Path
question = pickle.loads(sys.stdin.buffer.read())
answer = question.answer(Path(sys.argv[1]), threading.Event())
sys.stdout.buffer.write(pickle.dumps(answer))
"""


def in_another_process(question: Question, folder: Path, stopped: threading.Event) -> Any:
    """Answer a question as another machine would: from its bytes, in another folder."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder)], input=pickle.dumps(question),
        stdout=subprocess.PIPE, check=True, cwd="/",
    )  # fmt: skip
    return pickle.loads(done.stdout)


@pytest.fixture(scope="module")
def state() -> DetectorState:
    return doubled()


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, state: DetectorState) -> Slice:
    """Six images of day with an object each, of classes that the detector knows."""
    root, names = tmp_path_factory.mktemp("asked"), state.labels.names
    make_dataset(root / "day", names=names, counts={"train": 6, "test": 6})
    one = {"domain": "day", "data": "day/data.yaml", "classes": list(names)}
    return read_series(make_series(root, [one])).domain("day").evaluate(names)


def calibrated(state: DetectorState) -> DetectorState:
    maps = {name: ScoreMap(scale=0.9, offset=0.3, threshold=0.4) for name in state.labels}
    return replace(state, parts=rescored(state.parts, maps))


@pytest.mark.parametrize("maps", [False, True], ids=["raw", "calibrated"])
def test_another_process_answers_the_same(
    tmp_path: Path, state: DetectorState, cut: Slice, maps: bool
) -> None:
    asked = calibrated(state) if maps else state
    folders = [tmp_path / name for name in ("here", "there")]
    for folder, answer in zip(folders, (answer_here, in_another_process), strict=True):
        evaluator = Evaluator(folder / "evaluations", SIZE, Asked(answer=answer))
        scores = evaluator(asked, cut)
        assert scores.ap50.keys() == set(cut.classes)
        assert sum(scores.objects.values()) == 6
    here, there = (sorted((one / "evaluations").iterdir()) for one in folders)
    assert [one.name for one in here] == [one.name for one in there]
    assert len(here) == (5 if maps else 3)
    assert [one.read_bytes() for one in here] == [one.read_bytes() for one in there]


@dataclass(frozen=True)
class Waiting:
    """A question that is answered with the number of those who were at it."""

    at_it: list[int] = field(default_factory=list)
    most: list[int] = field(default_factory=list)

    def answer(self, folder: Path, stopped: threading.Event) -> dict[str, Any]:
        self.at_it.append(1)
        self.most.append(len(self.at_it))
        time.sleep(0.02)
        self.at_it.pop()
        return {"found": len(self.most)}


def test_one_question_is_answered_once_whoever_asks(tmp_path: Path) -> None:
    asked, question = Asked(Slots(4)), Waiting()
    with ThreadPoolExecutor(8) as pool:
        path = tmp_path / "a.json"
        found = list(pool.map(lambda _: asked(path, "one", question), range(8)))
    assert question.most == [1]
    assert [one["found"] for one in found] == [1] * 8
    assert Asked()(tmp_path / "a.json", "one", question)["found"] == 1  # a later run


def test_so_many_at_a_time(tmp_path: Path) -> None:
    asked, question = Asked(Slots(2)), Waiting()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: asked(tmp_path / f"{n}.json", str(n), question), range(8)))
    assert len(question.most) == 8
    assert max(question.most) == 2


def test_chains_go_before_references_and_looks() -> None:
    slots, came = Slots(1), list[int]()

    def come(rank: int) -> None:
        with slots.taken(rank):
            came.append(rank)

    ranks = [LOOK, REFERENCE, LOOK, CHAIN, REFERENCE, CHAIN]
    with ThreadPoolExecutor(len(ranks)) as pool, slots.taken(LOOK):
        for number, rank in enumerate(ranks, start=1):
            pool.submit(come, rank)
            while len(slots._waiting) < number:
                time.sleep(0.001)
    assert came == sorted(ranks)


def test_an_answer_about_other_images_is_not_kept(
    tmp_path: Path, state: DetectorState, cut: Slice
) -> None:
    copies = [tmp_path / f"{place}.png" for place in range(len(cut))]
    for copy, image in zip(copies, cut.images, strict=True):
        copy.write_bytes(image.read_bytes())
    data = replace(cut, images=tuple(copies))
    look = FirstLook({one: (one.stat().st_size, one.stat().st_mtime_ns) for one in copies})

    def exchange(question: Question, folder: Path, stopped: threading.Event) -> dict[str, Any]:
        found = answer_here(question, folder, stopped)
        copies[0].write_bytes(copies[1].read_bytes())
        return found

    evaluator = Evaluator(tmp_path / "evaluations", SIZE, Asked(answer=exchange), look)
    with pytest.raises(DataError, match="1 images changed since their labels were read"):
        evaluator(state, data)
    assert not list((tmp_path / "evaluations").iterdir())


def test_a_stopped_run_answers_nothing(tmp_path: Path, state: DetectorState, cut: Slice) -> None:
    asked = Asked()
    asked.stopped.set()
    with pytest.raises(DuetError, match="stopped"):
        Evaluator(tmp_path / "evaluations", SIZE, asked)(state, cut)
    assert not list((tmp_path / "evaluations").iterdir())


def test_a_question_does_not_hang_on_the_working_folder(
    tmp_path: Path, state: DetectorState, cut: Slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Question] = []

    def hear(question: Question, folder: Path, stopped: threading.Event) -> dict[str, Any]:
        heard.append(question)
        return answer_here(question, folder, stopped)

    monkeypatch.chdir(cut.images[0].parent)
    near = replace(cut, images=tuple(Path(image.name) for image in cut.images))
    Evaluator(tmp_path, SIZE, Asked(answer=hear))(state, near)
    (question,) = heard
    assert isinstance(question, Measuring)
    assert question.data.images == cut.images
