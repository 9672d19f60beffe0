"""Copies of the embedded series in other formats: the same labels, the same trained detectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from factories_training import trained_here
from factories_yolo import YOLO11N, micro_schedule, theta_0
from places import REPO

from duet.cli.main import cli
from duet.emoji.build import build
from duet.emoji.vocabulary import FOCI
from duet.increments.base import StartWeights
from duet.runs.evaluate import evaluate_state
from duet.runs.inputs import read_strategies
from duet.runs.lab import Lab
from duet.runs.learn import run_chain
from duet.runs.setting import Setting
from duet.series import Series, eval_slice, read_series, train_slice
from duet.training.job import read_slice


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Series]:
    """The embedded two-phase series, small, as YOLO, VOC and COCO."""
    folder = tmp_path_factory.mktemp("copies")
    build(folder / "yolo", train=10, val=2, test=6, focus=FOCI["2-phase"])
    written = folder / "yolo" / "series.yaml"
    text = (REPO / "configs" / "series" / "emoji-2phase.yaml").read_text()
    text = text.replace("root: ../../datasets/emoji", "root: .").split("defaults:")[0]
    # Ten scenes do not show all twenty classes.
    text = text.replace("bird, boat, bottle, bus, car, cat, chair, cow", "bird")
    text = text.replace(
        "horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor", "person"
    )
    written.write_text(text)
    found = {"yolo": read_series(written)}
    for form in ("voc", "coco"):
        words = ["data", "convert", str(written), str(folder / form), "--to", form, "--json"]
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)
        found[form] = read_series(folder / form / "series.yaml")
    return found


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_labels_are_the_same_to_the_bit(copies: dict[str, Series], form: str) -> None:
    for ours, theirs in zip(copies["yolo"].increments, copies[form].increments, strict=True):
        assert theirs.classes == ours.classes
        for cut in (
            lambda item: train_slice(item.data, item.classes),
            lambda item: eval_slice(item.data, item.classes, "test"),
        ):
            a, b = cut(ours), cut(theirs)
            assert len(a) > 0
            assert a.sha256 == b.sha256
            # In the same order too; VOC keeps all splits in one folder, under other names.
            for mine, other in zip(a.images, b.images, strict=True):
                assert mine.read_bytes() == other.read_bytes()
            for mine, other in zip(a.boxes, b.boxes, strict=True):
                assert np.array_equal(mine, other)


@pytest.mark.slow
def test_trained_detectors_are_the_same_to_the_bit(
    copies: dict[str, Series], tmp_path: Path
) -> None:
    """Each copy is trained on its own, in its own lab, and measured on its own images."""
    results = {name: _learn(series, tmp_path / name) for name, series in copies.items()}
    assert results["voc"] == results["yolo"]
    assert results["coco"] == results["yolo"]


def _learn(series: Series, folder: Path) -> dict[str, Any]:
    (method,) = read_strategies(("pseudo",), family="yolo")
    with trained_here() as here:
        setting = Setting(
            series, "yolo", YOLO11N, StartWeights(theta_0()), micro_schedule(lr=5e-3), 3,
            Lab(folder / "lab", run=here),
        )  # fmt: skip
        last = run_chain(setting, method)[-1].merged
    jobs = sorted((folder / "lab").iterdir())
    assert len(jobs) == 2
    own = series.increments[0].data.source.parent.parent
    for job in jobs:  # each copy really read its own files
        assert all(image.is_relative_to(own) for image in read_slice(job / "slice.npz").images)
    data = series.increments[0].data
    cut = eval_slice(data, series.increments[0].classes, "test")
    ap = evaluate_state(last, cut, image_size=64)
    return {
        "keys": [job.name for job in jobs],
        "detector": last.fingerprint(),
        "ap": (dict(ap.ap50), dict(ap.ap)),
    }
