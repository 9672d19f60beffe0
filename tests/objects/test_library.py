"""The library: what the commands do, as objects in memory, equal to the bit."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import factories_run as make
import pytest
from factories_foreign import CLASSES, stored
from factories_run import listing

import duet
from duet.errors import ConfigError, DataError, DuetError, ModelError
from duet.files import sha256_file
from duet.increments.store import load_increment, save_detector
from duet.objects.detector import Detector
from duet.objects.grid import Grid
from duet.recipes.find import start_of
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.write import stored_recipe
from duet.shipped import shipped

FUNCTIONS = (
    duet.read_series, duet.learn, duet.learn_increment, duet.load, duet.load_increment, duet.merge,
    duet.evaluate, duet.compare,
)  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(base: Path) -> duet.Run:
    return duet.Run(make.finished_run(base)[0])


@pytest.fixture(scope="module")
def merged(run: duet.Run) -> Detector:
    return duet.merge(run.increments, method="ties", density=0.5, progress=False)


def saved(detector: Detector, folder: Path) -> str:
    return sha256_file(detector.save(folder).path / "model.safetensors")  # type: ignore[operator]


# ---- a run ---------------------------------------------------------------------------------------


def test_a_run_gives_what_it_wrote(run: duet.Run) -> None:
    written = json.loads((run.path / "results.json").read_text())
    assert [one["name"] for one in written["strategies"]] == list(run.indices)
    assert [one["indices"]["ri"] for one in written["strategies"]] == [
        one.ri for one in run.indices.values()
    ]
    assert run.report.is_file()
    assert [one.name for one in run.increments] == ["flat", "comic"]
    assert run.increments[1].classes == make.NEW
    assert [one.increments for one in run.detectors()] == [("flat",), ("flat", "comic")]
    assert run.detector.facts == run.detectors()[-1].facts
    assert run.detector.classes == (*make.OLD, *make.NEW)
    with pytest.raises(DataError, match="did you mean 'duet-plus'"):
        run.detectors("duet-pluss")


def test_a_folder_without_results_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no results\.json here"):
        duet.Run(tmp_path)


def test_a_run_again_trains_nothing(base: Path, run: duet.Run, tmp_path: Path) -> None:
    tiny, heard = make.tiny(base), list[tuple[str, dict[str, Any]]]()
    before = listing(run.path / "lab")
    again = duet.learn(
        tiny.series, [str(tiny.method), "seq-ft"], out=run.path,
        progress=lambda title, record: heard.append((title, record)),
    )  # fmt: skip
    assert {name: one.ri for name, one in again.indices.items()} == {
        name: one.ri for name, one in run.indices.items()
    }
    assert listing(run.path / "lab") == before
    states = {record["state"] for _, record in heard if "state" in record}
    assert "reused" in states
    assert "started" not in states


def test_which_cells_is_one_of_two_words(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one of: needed, all, but got 'every'"):
        duet.learn(make.tiny(base).series, out=tmp_path / "run", cells="every", progress=False)
    assert not (tmp_path / "run").exists()


def test_what_is_odd_about_the_data_is_told(base: Path, run: duet.Run) -> None:
    tiny, heard = make.tiny(base), list[str]()
    duet.learn(
        tiny.series, [str(tiny.method), "seq-ft"], out=run.path,
        progress=lambda title, record: heard.append(f"{title}: {record.get('note', '')}"),
    )  # fmt: skip
    told = [line for line in heard if line.startswith("warning: ")]
    assert any("[slice." in line for line in told), heard


# ---- merging and editing -------------------------------------------------------------------------


def test_a_merge_is_that_of_the_command(
    run: duet.Run, merged: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [one.path for one in run.increments]
    done = make.duet_here(
        capsys, "merge", *folders, "--method", "ties", "--set", "density=0.5",
        "--out", tmp_path / "b", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "start weights" in done.err  # found by the fingerprint, and told
    assert saved(merged, tmp_path / "a") == sha256_file(tmp_path / "b" / "model.safetensors")
    assert merged.facts.fingerprint == done.json()["fingerprint"]
    (ours, theirs) = (duet.load(tmp_path / name) for name in "ab")
    assert ours.log().data["merges"] == theirs.log().data["merges"]
    assert ours.log()["weights"] == theirs.log()["weights"]
    assert [t.as_dict() for t in merged.traces] == [t.as_dict() for t in theirs.traces]


def test_a_pipe_that_a_recipe_names_is_not_waited_for(run: duet.Run, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "increments" / "duet-plus" / "flat"
    shutil.copytree(run.increments[0].path, folder)
    model = tmp_path / "run" / "models" / "duet-plus" / "1-flat"
    kept = run.detectors()[0]
    recipe = Recipe(increments=(Entry(path="x", name="flat"),), weights=str(tmp_path / "pipe.pt"))
    os.mkfifo(tmp_path / "pipe.pt")
    manifest = kept.model.manifest.model_copy(  # type: ignore[union-attr]
        update={"recipe": stored_recipe(recipe, model)}
    )
    save_detector(model, kept.model.state, manifest)  # type: ignore[union-attr]
    own = load_increment(folder).manifest
    assert start_of(own.family, own.head, "0" * 64, [folder]) is None


def test_a_factor_is_a_scale(run: duet.Run, tmp_path: Path) -> None:
    day, night = run.increments
    lighter = duet.merge([day, 0.5 * night], method="ties", progress=False)
    whole = duet.merge([day, night], method="ties", progress=False)
    assert (night * 0.5).scale == (0.5 * night).scale == 0.5
    assert saved(lighter, tmp_path / "a") == saved(
        whole.scale("comic", 0.5, progress=False), tmp_path / "b"
    )
    with pytest.raises(ConfigError, match="scale"):
        duet.merge([day, 3 * night], progress=False)


def test_edits_stay_in_memory_until_they_are_saved(
    run: duet.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = listing(run.path)
    detector = run.detector
    changed = detector.scale("comic", 0.5).drop(make.NEW[0])
    assert (changed.path, detector.path) == (None, run.path / "models" / "duet-plus" / "2-comic")
    assert make.NEW[0] not in changed.classes
    assert changed.diff(detector)["classes"]["only_b"] == [make.NEW[0]]
    assert changed.diff(detector)["a"]["path"] == changed.log()["detector"] == "in memory"
    assert [step["scale"] for step in changed.log()["increments"]] == [1, 0.5]
    assert "exact" in changed.remarks[0]  # the drop after it takes no remark away
    assert "comic" not in detector.revert("comic", progress=False).increments
    assert listing(run.path) == before
    assert list(tmp_path.iterdir()) == []

    out = changed.save("mine")
    assert out.path == Path("mine")
    done = make.duet_here(
        capsys, "scale", detector.path, "comic", 0.5, "--out", tmp_path / "half", "--json"
    )
    assert done.code == 0, done.err
    done = make.duet_here(
        capsys, "drop-class", tmp_path / "half", make.NEW[0], "--out", tmp_path / "theirs", "--json"
    )
    assert out.facts.fingerprint == done.json()["fingerprint"]
    kept = duet.load("mine")
    assert kept.facts == out.facts
    # What was saved elsewhere still finds its increments and θ_0.
    assert make.NEW[0] not in kept.scale("comic", 1, progress=False).classes


def test_an_edit_says_whether_it_is_exact(run: duet.Run) -> None:
    assert "exact: 'comic' was the last of the chain" in run.detector.revert("comic").remarks[0]
    with pytest.raises(ModelError, match="where it all began"):
        run.detector.revert("flat")
    with pytest.raises(ConfigError, match="no increment 'comik'"):
        run.detector.scale("comik", 1)


def test_a_detector_in_memory_is_kept_before_it_is_merged(
    merged: Detector, run: duet.Run, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="in memory") as caught:
        duet.merge([merged, run.detector])
    assert "save(FOLDER)" in str(caught.value.remedy)
    kept = merged.save(tmp_path / "kept")
    assert duet.merge([kept, run.detectors()[-1]], method="average", progress=False).classes


def test_strangers_files_are_merged_by_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    mine, theirs = stored(tmp_path / "best.pt"), stored(tmp_path / "other" / "best.pt")
    with pytest.raises(ModelError, match="'best' occurs 2 times"):
        duet.merge([mine, theirs])
    both = duet.merge({"mine": mine, "theirs": str(theirs)}, progress=False)
    assert both.classes == tuple(CLASSES)
    alone = duet.load(mine)
    assert (alone.path, "in memory" in repr(alone)) == (None, True)
    with pytest.raises(ModelError, match="keeps no recipe") as caught:
        alone.scale("best", 0.5)
    assert caught.value.where == str(mine)
    assert duet.load(alone.save(tmp_path / "kept").path).facts == alone.facts  # type: ignore[arg-type]


# ---- looking and measuring -----------------------------------------------------------------------


def test_one_image_or_many(base: Path, run: duet.Run) -> None:
    images = sorted((make.tiny(base).folder / "data" / "comic" / "images" / "val").iterdir())[:2]
    one = run.detector(images[0], confidence=0.001)
    many = run.detector(images, confidence=0.001)
    assert len(many[0]) == len(one)
    assert (one.xyxy == many[0].xyxy).all()
    assert repr(one).startswith(f"Detections: {len(one)} (name, score, xyxy)")
    assert len(repr(one).splitlines()) < 16


def test_an_evaluation_is_that_of_the_command(
    base: Path, run: duet.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    series = make.tiny(base).series
    found = duet.evaluate(run.detector, series, split="val")
    done = make.duet_here(capsys, "eval", run.detector.path, series, "--split", "val", "--json")
    assert list(found.rows) == done.json()["cells"]
    values = [ap for row in found.rows for ap in row["ap50"].values() if ap is not None]
    assert found.map50 == pytest.approx(sum(values) / len(values))
    assert set(found.ap50("comic")) == {*make.OLD, *make.NEW}
    with pytest.raises(KeyError, match="no domain 'moon'"):
        found.ap50("moon")


def test_a_data_set_alone_is_measured_as_the_command_does(
    base: Path, run: duet.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make.tiny(base).folder / "data" / "comic"
    found = run.detector.evaluate(folder, split="val", domain="shop")
    done = make.duet_here(
        capsys, "eval", run.detector.path, folder, "--split", "val", "--domain", "shop", "--json"
    )
    assert list(found.rows) == done.json()["cells"]
    assert {row["domain"] for row in found.rows} == {"shop"}
    assert (found.unread, found.unknown) == ({}, ())
    with pytest.raises(ConfigError, match="a series names its own"):
        run.detector.evaluate(make.tiny(base).series, domain="shop")


def test_domains_that_are_gone_are_left_out_and_fail_a_gate(
    base: Path, run: duet.Run, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(make.tiny(base).folder / "data", data)
    shutil.rmtree(data / "flat")
    series = duet.read_series(make.tiny(base).series, data_root=data)
    found = run.detector.evaluate(series, split="val")
    assert list(found.unread) == ["flat"]
    assert {row["domain"] for row in found.rows} == {"comic"}
    assert "flat is left out: " in str(found)
    gate = tmp_path / "gate.yaml"
    gate.write_text(
        "schema: 1\nmin: {map50: 0}\nstrategies: [x]\n"
        "domains: {flat: {min: {map50: 0}, max_double: 999}}\n"
    )
    rows = {(one.name, one.about): one for one in found.check(gate).checks}
    gone = [one for (_, about), one in rows.items() if about == "flat"]
    assert [one.passed for one in gone] == [False, False]
    assert all(one.passed for one in rows.values() if one not in gone)


def test_a_device_that_is_not_there_is_refused(run: duet.Run) -> None:
    with pytest.raises(ConfigError, match="device"):
        run.detector.to("cuda:7")
    with pytest.raises(ConfigError, match="is no device"):
        duet.load(run.detector.path, "gpu")("x.jpg")  # type: ignore[arg-type]


def test_an_exported_file_looks_and_nothing_else(run: duet.Run, tmp_path: Path) -> None:
    path = run.detector.export(tmp_path / "comic.torchscript", progress=False)
    opened = duet.load(path)
    assert opened.classes == run.detector.classes
    assert str(path) in repr(opened)
    for attempt in (
        lambda: opened.drop(make.NEW[0]), lambda: opened.save(tmp_path / "x"),
        lambda: opened.scale("comic", 1), lambda: opened.trace,
    ):  # fmt: skip
        with pytest.raises(ModelError, match="an exported file can be run"):
            attempt()
    with pytest.raises(ConfigError, match="no form of export is called like"):
        run.detector.export(tmp_path / "comic.xyz")


def test_runs_are_compared(run: duet.Run) -> None:
    found = duet.compare([run], bootstrap=20)
    assert {row["strategy"] for row in found["strategies"]} == set(run.indices)
    assert "H to best" in repr(found) or "Highest" in repr(found) or "No index" in repr(found)


# ---- what a prompt shows -------------------------------------------------------------------------


def test_everything_shows_itself_in_a_few_lines(
    base: Path, run: duet.Run, merged: Detector
) -> None:
    series = duet.read_series(make.tiny(base).series)
    shown = (series, run, run.increments[0], run.detector, merged)
    for one in shown:
        assert 2 <= len(repr(one).splitlines()) <= 16, repr(one)
        assert "<table>" in one._repr_html_()
    assert "ties" in repr(merged)
    assert "10 " in repr(run.detector)
    assert series.check() is not None
    assert series.data.name == series.name


def test_names_of_strangers_are_text_in_a_notebook() -> None:
    grid = Grid("<b>", ("a",), (("<script>\n",),), foot=("&",))
    assert "<script>" not in grid.html()
    assert "<b>&lt;b&gt;</b>" in grid.html()
    assert len(grid.text().splitlines()) == 4  # the name made no line of its own


@pytest.mark.parametrize("name", ["flat", "comic"])
def test_an_increment_is_refused_for_its_data_alone(name: str, tmp_path: Path) -> None:
    path = shipped("configs", "series", "emoji-2phase.yaml")
    series = duet.read_series(path, data_root=tmp_path / "nowhere")
    with pytest.raises(DuetError, match=r"emoji-2phase\.yaml: 1 problem"):
        duet.learn_increment(
            series, name, out=tmp_path / "run", strategy="duet-plus", epochs=1, progress=False
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_function_explains_itself(function: Any) -> None:
    text = inspect.getdoc(function) or ""
    assert "Example:" in text
    assert "Args:" in text or function is duet.load_increment
    assert function.__name__ in duet.__all__
    hints = inspect.get_annotations(function)
    assert set(hints) == {*inspect.signature(function).parameters, "return"}


def test_importing_the_library_is_light() -> None:
    program = (
        "import sys, duet; print([n for n in ('torch', 'numpy', 'pydantic') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
    assert issubclass(DuetError, Exception)
