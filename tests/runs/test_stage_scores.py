"""What a chain keeps of score maps: an increment its own, a detector all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from factories_states import job_of, scored
from factories_yolo import (
    NAMES,
    YOLO11N,
    make_domain,
    make_slice,
    make_state,
    micro_schedule,
    theta_0,
)

from duet.increments.base import load_start, save_base
from duet.increments.colours import Colours
from duet.increments.scores import ScoreMap
from duet.increments.state import DetectorState, HeadPart
from duet.increments.store import load_detector, load_increment
from duet.recipes.refined import refined
from duet.runs.keep import keep_chain
from duet.runs.lab import Lab, Trained
from duet.runs.setting import Setting, StageResult
from duet.series import Increment, Series
from duet.training.config import MergeChoice, Strategy
from duet.training.job import read_state

OLD = ScoreMap(scale=0.5, offset=-0.5)
NEW = ScoreMap(scale=2.0, threshold=0.4)


def seen_in(state: DetectorState) -> DetectorState:
    """Return a detector whose last part remembers colours."""
    *older, last = state.parts
    colours = Colours(mean=(1, 2, 3), spread=(4, 5, 6))
    return replace(state, parts=(*older, replace(last, colours=colours)))


@pytest.mark.slow
def test_an_increment_keeps_the_maps_of_its_stage(tmp_path: Path) -> None:
    save_base(tmp_path / "base.safetensors", theta_0())
    steps = tuple(
        Increment(name, name, classes, make_domain(tmp_path, name, classes=NAMES[:3], count=3))
        for name, classes in (("t0", NAMES[:2]), ("t1", NAMES[2:3]))
    )
    setting = Setting(
        series=Series("toy", "", steps), family="yolo", architecture=YOLO11N,
        theta_0=load_start(tmp_path / "base.safetensors"), schedule=micro_schedule(), seed=3,
        lab=Lab(tmp_path / "lab"), weights=tmp_path / "base.safetensors",
    )  # fmt: skip
    both = make_state("towers", (2, 1))
    first = replace(both, parts=both.parts[:1])
    maps = {NAMES[0]: OLD, NAMES[2]: NEW}
    stages = [
        StageResult(
            step,
            Trained(state, 2, 0.0, (), "", reused=False),
            seen_in(scored(state, maps)),
        )
        for step, state in zip(steps, (first, both), strict=True)
    ]
    strategy = Strategy(name="mine", head="towers", merge=MergeChoice(method="newest"))
    keep_chain(tmp_path / "run", setting, strategy, stages)
    for name, own in (("t0", {NAMES[0]: OLD}), ("t1", {NAMES[2]: NEW})):
        kept = load_increment(tmp_path / "run" / "increments" / "mine" / name)
        assert kept.part is not None
        assert kept.part.scores == kept.manifest.scores == own
        assert kept.manifest.schema_version == 2
        assert kept.part.colours == kept.manifest.colours is not None
    last = load_detector(tmp_path / "run" / "models" / "mine" / "2-t1")
    assert last.state.scores == maps
    assert last.state.parts[-1].colours == kept.manifest.colours


class EnoughError(Exception):
    """Ends a training that has been looked at."""


def test_training_starts_from_raw_scores(tmp_path: Path) -> None:
    """So a calibrated detector goes on as a raw one does, and its trainings are known again."""
    plain, seen = make_state("towers", (2, 1)), []
    data = make_slice(tmp_path / "data", NAMES[2:3], images=2)

    def look(folder: Path, *_: object) -> None:
        seen.append((folder, read_state(folder / "start.safetensors").fingerprint()))
        raise EnoughError

    for start in (plain, scored(plain, {NAMES[0]: OLD})):
        lab = Lab(tmp_path / "lab", run=look)
        with pytest.raises(EnoughError):
            lab.train("t", job_of(start, micro_schedule()), start, data)
    assert seen[0] == seen[1]
    assert seen[0][1] == plain.fingerprint()


def test_refined_rows_bring_their_maps() -> None:
    def part(name: str, classes: tuple[str, ...], **maps: ScoreMap) -> HeadPart:
        return HeadPart(classes, {"b": torch.zeros(len(classes))}, name, maps)

    parts = (part("a", ("cat", "dog"), cat=OLD, dog=OLD), part("b", ("bus",), bus=OLD))
    rows = part("more", ("bus", "dog", "gone"), dog=NEW, gone=NEW)
    now = refined(parts, rows, "newest", {}, images=(0, 6))
    assert [dict(one.scores) for one in now] == [{"cat": OLD, "dog": NEW}, {"bus": OLD}]
