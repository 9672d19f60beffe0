"""A tensor is kept once: inputs and results of trainings go when a run keeps them elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factories_toy import ToyLearner, make_job, schedule, start_state
from factories_toy import data as data

from duet.errors import ModelError
from duet.files import read_json
from duet.increments.state import DetectorState
from duet.runs.lab import INPUTS, Lab, Trained
from duet.sealed import unsealed, write_sealed
from duet.series import Slice
from duet.training.job import TRAINED, Job, read_job
from duet.training.loop import run_job
from duet.training.outcome import OUTCOME


@dataclasses.dataclass
class Kept:
    """A lab, a folder beside it that holds what was trained, and what was done and said."""

    root: Path
    data: Slice
    job: Job
    ran: list[Path] = dataclasses.field(default_factory=list)
    heard: list[str] = dataclasses.field(default_factory=list)
    held: dict[Path, DetectorState] = dataclasses.field(default_factory=dict)

    @property
    def lab(self) -> Lab:
        def listen(title: str, record: dict[str, Any]) -> None:
            self.heard += [record["note"]] if "note" in record else []

        def train(folder: Path, *_: Any) -> None:
            assert (folder / INPUTS[0]).is_file()
            self.ran.append(folder)
            run_job(folder, ToyLearner, lambda record: None)

        return Lab(self.root / "lab", listen=listen, run=train)

    def put_back(self, place: Path, start: DetectorState) -> DetectorState:
        if place not in self.held:
            raise ModelError("no such folder", where=str(place))
        return self.held[place]

    def train(self) -> Trained:
        return self.lab.train("stage", self.job, start_state(), self.data, put_back=self.put_back)


@pytest.fixture
def kept(tmp_path: Path, data: Slice) -> Kept:
    job = read_job(make_job(tmp_path / "job", data, schedule=schedule(fisher_images=2)))
    return Kept(tmp_path.resolve(), data, job)


def test_inputs_go_when_a_training_ends(kept: Kept) -> None:
    folder = kept.train().folder
    assert folder is not None
    assert not [name for name in INPUTS if (folder / name).exists()]
    assert not (folder / "engine").exists()
    assert {"job.json", "slice.npz", TRAINED, OUTCOME} <= {one.name for one in folder.iterdir()}


def test_those_of_an_older_duet_go_when_it_is_read(kept: Kept) -> None:
    folder = kept.train().folder
    assert folder is not None
    (folder / INPUTS[0]).write_bytes(b"what it started from")
    assert kept.train().reused
    assert not (folder / INPUTS[0]).exists()


def test_what_is_kept_elsewhere_goes_and_is_found_again(kept: Kept) -> None:
    trained = kept.train()
    assert trained.folder is not None
    place = kept.root / "models" / "a" / "1-day"
    kept.held[place] = trained.state
    kept.lab.let_go(trained, [kept.root / "missing", place], kept.put_back)
    assert not (trained.folder / TRAINED).exists()
    again = kept.train()
    assert (again.reused, len(kept.ran), kept.heard) == (True, 1, [])
    assert again.state.fingerprint() == trained.state.fingerprint()
    assert (again.images_seen, again.history) == (trained.images_seen, trained.history)
    assert again.fisher is not None
    kept.lab.let_go(again, [place], kept.put_back)  # once more: nothing left to do
    assert kept.train().reused


def shifted(state: DetectorState) -> DetectorState:
    moved = {name: tensor + 1e-7 for name, tensor in state.shared.items()}
    return dataclasses.replace(state, shared=moved)


@pytest.mark.parametrize("what", ["other bits", "missing", "outside"])
def test_nothing_goes_that_is_not_kept_to_the_last_bit(kept: Kept, what: str) -> None:
    trained = kept.train()
    assert trained.folder is not None
    place = kept.root / "models" / "a" / "1-day"
    if what == "other bits":
        kept.held[place] = shifted(trained.state)
    elif what == "outside":  # another disk may not be there next time
        place = kept.root.parent / "elsewhere"
        kept.held[place] = trained.state
    kept.lab.let_go(trained, [place], kept.put_back)
    assert (trained.folder / TRAINED).is_file()
    assert kept.train().reused


@pytest.mark.parametrize("change", [shifted, None], ids=["other bits", "gone"])
def test_what_is_no_longer_kept_is_trained_again(
    kept: Kept, change: Callable[[DetectorState], DetectorState] | None
) -> None:
    trained = kept.train()
    place = kept.root / "models" / "a" / "1-day"
    kept.held[place] = trained.state
    kept.lab.let_go(trained, [place], kept.put_back)
    if change is None:
        del kept.held[place]
    else:
        kept.held[place] = change(trained.state)
    again = kept.train()
    assert (again.reused, len(kept.ran)) == (False, 2)
    assert again.state.fingerprint() == trained.state.fingerprint()
    assert len(kept.heard) == 1
    assert str(place) in kept.heard[0]
    assert "trained again" in kept.heard[0]


def test_a_kill_between_both_steps_loses_nothing(kept: Kept) -> None:
    """The outcome says that the state is elsewhere, and its file is still there."""
    trained = kept.train()
    assert trained.folder is not None
    content = (trained.folder / TRAINED).read_bytes()
    place = kept.root / "models" / "a" / "1-day"
    kept.held[place] = trained.state
    kept.lab.let_go(trained, [place], kept.put_back)
    (trained.folder / TRAINED).write_bytes(content)
    assert kept.train().reused
    assert len(kept.ran) == 1
    assert not (trained.folder / TRAINED).exists()


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "models/../../x"])
def test_an_outcome_chooses_no_place_outside(kept: Kept, path: str) -> None:
    trained = kept.train()
    assert trained.folder is not None
    kept.held[kept.root / "models"] = trained.state
    kept.lab.let_go(trained, [kept.root / "models"], kept.put_back)
    told = unsealed(read_json(trained.folder / OUTCOME))
    write_sealed(trained.folder / OUTCOME, {**told, "kept": path})
    kept.held[(kept.root / path)] = trained.state
    assert not kept.train().reused
    assert "trained again" in kept.heard[0]
