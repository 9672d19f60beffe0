"""Resampling many runs holds one file and few weights, and gives the same numbers."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from factories_compare import write_run
from factories_results import FOUR_PHASE

from duet.comparison import samples
from duet.comparison.runs import Entry, find_runs
from duet.comparison.samples import Sampler
from duet.evaluation.matches import Matches, load_matches


def entries(folder: Path) -> list[Entry]:
    return [Entry(run, one) for run in find_runs([folder]) for one in run.results.strategies]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, of which the second lists its images in another order."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "seed-0", steps=FOUR_PHASE)
    write_run(folder / "seed-1", steps=FOUR_PHASE, seed=1, order=[*range(79, -1, -1)])
    return folder


def values(folder: Path) -> dict[tuple[str, str, str], np.ndarray]:
    sampler = Sampler(20, 0)
    return {
        (str(entry.run.folder), entry.strategy.name, name): column
        for entry in entries(folder)
        for name, column in sampler.indices(entry).items()
    }


def test_no_weights_kept_give_the_same_numbers(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = values(runs)
    monkeypatch.setattr(samples, "KEPT", 0)
    again = values(runs)
    assert expected.keys() == again.keys()
    assert all(np.array_equal(one, again[key], equal_nan=True) for key, one in expected.items())


def test_one_file_and_few_weights_are_held(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "KEPT", 0)
    most: list[int] = []

    def counted(path: Path) -> Matches:
        most.append(sum(isinstance(one, Matches) for one in gc.get_objects()))
        return load_matches(path)

    monkeypatch.setattr(samples, "load_matches", counted)
    sampler = Sampler(20, 0)
    gc.collect()
    there = sum(isinstance(one, Matches) for one in gc.get_objects())
    sampler.read(entries(runs))
    assert len(most) > 10
    assert max(most) <= there  # none is left when the next one is read
    assert len(sampler._weights) == 1
    assert sampler.images.keys() == {path for path, _ in sampler._ap50}


def test_a_class_is_resampled_once(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(*arguments: object) -> object:
        calls.append(1)
        return weighted(*arguments)  # type: ignore[arg-type]

    weighted = samples.weighted_ap50
    monkeypatch.setattr(samples, "weighted_ap50", counted)
    sampler = Sampler(20, 0)
    sampler.read(entries(runs))
    assert len(calls) == len(sampler._ap50) > 0
    sampler.read(entries(runs))
    assert len(calls) == len(sampler._ap50)
