"""Old images that are gone: base, increment, eval, report, compare and gates all work on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import factories_run as make
import numpy as np
import pytest
from factories_run import NEW, OLD, duet_here

from duet.evaluation.deployment import load_deployed
from duet.evaluation.histograms import STEPS
from duet.increments.manifest import IncrementManifest, read_manifest
from duet.increments.store import load_detector, load_increment
from duet.results.files import load_results
from duet.results.remembered import EVALUATION, EVIDENCE, remembered

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Gone:
    """A base and an increment, learned one after the other; the base's images went in between."""

    series: make.Tiny
    run: Path
    base: make.Outcome
    increment: make.Outcome

    def model(self, name: str) -> Path:
        return self.run / "models" / "duet-plus" / name

    def folder(self, name: str) -> Path:
        return self.run / "increments" / "duet-plus" / name


@pytest.fixture(scope="module")
def gone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Gone:
    folder = tmp_path_factory.mktemp("gone")
    own, run = make.copy_tiny(make.tiny(base), folder / "own"), folder / "run"
    words = ["--out", run, "--strategy", own.method, "--json"]
    first = make.duet(base, "base", own.series, *words)
    assert first.code == 0, first.err
    (own.folder / "data" / "flat").rename(folder / "moved-away")
    second = make.duet(base, "increment", own.series, "comic", *words)
    assert second.code == 0, second.err
    return Gone(own, run, first, second)


def memory(gone: Gone, name: str) -> Any:
    folder, told = gone.folder(name), list[str]()
    found = remembered(folder, read_manifest(folder, IncrementManifest).fingerprint(), told.append)
    assert not told
    assert found is not None
    return found


def test_every_increment_remembers_its_stage(gone: Gone) -> None:
    for name, stage, classes in (("flat", 1, OLD), ("comic", 2, NEW)):
        kept = memory(gone, name)
        cell = kept.cell
        assert (cell.domain, cell.increment, cell.taught, cell.split) == (name, name, True, "test")
        assert cell.images == 16
        assert set(cell.ap50) == set(cell.ap) == set(classes)
        assert kept.fingerprint == load_detector(gone.model(f"{stage}-{name}")).state.fingerprint()
        seen = load_deployed(gone.folder(name) / EVIDENCE)
        assert seen.matches.keys.tolist() == list(range(16))  # nothing of the images
        assert set(seen.matches.classes) == set(kept.scores) <= set(classes)
        for label, found in seen.matches.classes.items():
            statistics, shown = kept.scores[label], cell.deployed.classes[label]
            assert len(statistics.right) == len(statistics.wrong) == STEPS
            assert sum(statistics.right) == int(found.hit.sum())
            assert sum(statistics.wrong) == int((~found.hit & ~found.ignored).sum())
            assert shown.objects == int(found.truths.sum())
            sure = found.scores >= np.float32(shown.threshold)
            assert shown.found == int((found.hit & sure).sum())


def test_what_another_increment_left_is_not_remembered(gone: Gone, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(gone.folder("flat"), tmp_path / "flat"))
    mark = read_manifest(folder, IncrementManifest).fingerprint()
    told: list[str] = []
    assert remembered(folder, "0" * 64, told.append) is None
    assert not told
    document = json.loads((folder / EVALUATION).read_text())
    document["cells"][0]["images"] += 1
    (folder / EVALUATION).write_text(json.dumps(document))
    assert remembered(folder, mark, told.append) is None
    damaged = "its content is not the one that was written; nothing is remembered of that stage"
    assert told == [f"{folder / EVALUATION}: {damaged}"]
    (folder / EVALUATION).unlink()
    (folder / EVIDENCE).unlink()
    assert remembered(folder, mark, told.append) is None
    assert load_increment(folder).manifest.fingerprint() == mark
    assert len(told) == 1


def test_a_run_remembers_too(base: Path) -> None:
    run = make.finished_run(base)[0]
    for name in ("flat", "comic"):
        folder = run / "increments" / "duet-plus" / name
        kept = remembered(folder, read_manifest(folder, IncrementManifest).fingerprint(), print)
        assert kept is not None
        assert kept.cell.domain == name


def test_an_evaluation_leaves_out_what_is_gone_and_shows_what_is_remembered(
    gone: Gone, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["eval", gone.model("2-comic"), gone.series.series]
    done = duet_here(capsys, *words, "--json", "--out", tmp_path / "now.json")
    assert done.code == 0, done.err
    assert "warning: flat (flat) is left out, its data cannot be read: " in done.err
    found = done.json()
    assert json.loads((tmp_path / "now.json").read_text()) == found
    assert [(one["domain"], one["increment"]) for one in found["cells"]] == [("comic", "comic")]
    assert set(found["unread"]) == {"flat"}
    then = {one["increment"]: one for one in found["remembered"]}
    assert then == {
        name: memory(gone, name).cell.model_dump(mode="json") for name in ("flat", "comic")
    }
    assert found["cells"][0] == then["comic"]  # the same detector on the same images
    text = duet_here(capsys, *words).out
    rows = [line.split()[:4] for line in text.splitlines()]
    assert ["flat", "flat", "when", "learned"] in rows
    assert ["comic", "comic", "now", "test"] in rows
    assert ["flat", "flat", "now", "test"] not in rows
    for name in (*OLD, *NEW):
        assert sum(row[:1] == [name] for row in rows) == 1


def test_a_detector_that_was_copied_alone_says_what_it_does_not_remember(
    gone: Gone, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    whole = duet_here(capsys, "eval", gone.model("2-comic"), gone.series.series, "--json")
    assert whole.json()["not_remembered"] == {}
    assert "nothing is remembered" not in whole.err
    for kept in ((), ("comic",)):
        run = tmp_path / f"kept-{len(kept)}" / "a" / "run"
        alone = run / "models" / "duet-plus" / "copy"
        shutil.copytree(gone.model("2-comic"), alone)
        for name in kept:
            shutil.copytree(gone.folder(name), run / "increments" / "duet-plus" / name)
        lost = [name for name in ("flat", "comic") if name not in kept]
        places = {name: str(run / "increments" / "duet-plus" / name) for name in lost}
        done = duet_here(capsys, "eval", alone, gone.series.series, "--json")
        assert done.code == 0, done.err
        assert done.json()["not_remembered"] == places
        assert [one["increment"] for one in done.json()["remembered"]] == list(kept)
        (line,) = [one for one in done.err.splitlines() if "nothing is remembered of" in one]
        assert line == (
            f"warning: nothing is remembered of {', '.join(lost)}: the folders of these "
            f"increments were not found, looked for at {', '.join(places.values())}; copy the "
            "whole run folder, not the detector alone, or name what was measured before with "
            "--against"
        )
    moved = tmp_path / "moved"
    shutil.copytree(gone.run, moved)  # the remedy
    done = duet_here(
        capsys, "eval", moved / "models" / "duet-plus" / "2-comic", gone.series.series, "--json"
    )
    assert done.json()["remembered"] == whole.json()["remembered"]
    assert done.json()["not_remembered"] == {}


def test_a_gate_says_what_is_gone(gone: Gone, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", gone.model("2-comic"), gone.series.series, "--json"]
    assert duet_here(capsys, *words, "--max-double", 10000, "--min", "map50=0").code == 0
    done = duet_here(capsys, *words, "--max-drop", 5)
    assert done.code == 6
    rows = {one["about"]: one for one in done.json()["gate"]}
    assert set(rows) == {f"{name} in flat" for name in OLD}
    assert all(one["found"] is None and not one["passed"] for one in rows.values())
    words += ["--max-drop", 5, "--against", gone.folder("comic") / EVALUATION]
    known = [name for name, ap in memory(gone, "comic").cell.ap50.items() if ap is not None]
    rows = {one["about"]: one["found"] for one in duet_here(capsys, *words).json()["gate"]}
    assert {rows[f"{name} in comic"] for name in known} == {0.0}
    stage = ["increment", gone.series.series, "comic", "--out", gone.run, "--json"]
    done = duet_here(capsys, *stage, "--strategy", gone.series.method, "--max-drop", 5)
    assert done.code == 6
    assert "flat: not measured, its data cannot be read" in done.err
    assert {one["about"] for one in done.json()["gate"]} == {f"{name} in flat" for name in OLD}


def test_a_data_set_alone_needs_no_training_images(
    gone: Gone, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = Path(shutil.copytree(gone.series.folder / "data" / "comic", tmp_path / "photos"))
    shutil.rmtree(data / "images" / "train")
    shutil.rmtree(data / "labels" / "train")
    for source, domain in ((data, "photos"), (data / "data.yaml", "comic")):
        words = ["eval", gone.model("2-comic"), source, "--json"]
        done = duet_here(capsys, *words, *(["--domain", "comic"] if domain == "comic" else []))
        assert done.code == 0, done.err
        (cell,) = done.json()["cells"]
        assert cell["domain"] == domain
        assert set(cell["ap50"]) == {*OLD, *NEW}
        learned = memory(gone, "comic").cell
        assert {name: cell["ap50"][name] for name in NEW} == learned.ap50
        assert cell["deployed"]["doubles_between"] == learned.deployed.doubles_between
    done = duet_here(capsys, "eval", gone.model("2-comic"), data, "--data-root", data, "--json")
    assert done.code == 2
    done = duet_here(
        capsys, "eval", gone.model("2-comic"), gone.series.series, "--domain", "x", "--json"
    )
    assert done.code == 2


def test_nothing_left_is_an_error(
    gone: Gone, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["eval", gone.model("2-comic"), gone.series.series, "--data-root", tmp_path, "--json"]
    done = duet_here(capsys, *words)
    assert done.code == 3
    assert "flat" in done.error()["message"]
    assert "comic" in done.error()["message"]


def test_the_folder_has_results_and_a_report(
    gone: Gone, capsys: pytest.CaptureFixture[str]
) -> None:
    results = load_results(gone.run)
    assert results.series.steps == (("flat", OLD), ("comic", NEW))
    why = "the images of flat cannot be read any more"
    assert results.stagewise is not None
    assert results.stagewise.unread == {"flat": why}
    (without,) = results.stagewise.without_maps
    assert without is not None
    assert 0 <= without <= memory(gone, "flat").cell.deployed.total(OLD).objects
    main = results.main
    assert {(one.stage, one.domain) for one in main.class_scores} == {
        (1, "flat"), (1, "comic"), (2, "comic"),
    }  # fmt: skip
    kept = memory(gone, "flat").cell
    then = main.scores_at(1, "flat")
    assert then is not None
    assert {name: then.ap50[name] for name in OLD} == kept.ap50
    assert then.deployed is not None
    assert then.deployed.total(OLD) == kept.deployed.total(OLD)
    assert main.indices.ri is None
    assert main.indices.fr is None
    assert any(line.endswith(f": {why}") for line in main.indices.left_out)
    assert [one.title for one in main.costs] == ["flat", "comic"]
    for step in results.series.increments:
        assert set(step.counts) == {"train", "test"}
        for count in step.counts.values():
            assert list(count.classes) == list(step.classes)
            assert sum(count.classes.values()) == count.boxes > 0
    assert len(main.merges) == 1
    done = duet_here(capsys, "report", gone.run)
    assert done.code == 0, done.err
    text = (gone.run / "report.md").read_text()
    assert f"C1 in flat: not measured now: {why}. As remembered from its stage: mAP50" in text
    assert "was not measured (RI of stage 2 on flat" in text
    assert "Nothing was forgotten" not in text


def test_the_folder_can_be_compared(gone: Gone, capsys: pytest.CaptureFixture[str]) -> None:
    done = duet_here(capsys, "compare", gone.run, "--bootstrap", 50, "--json")
    assert done.code == 0, done.err
    assert duet_here(capsys, "compare", gone.run, "--bootstrap", 50).code == 0
    done = duet_here(capsys, "compare", gone.run, "--bootstrap", 0, "--max-drop", 5, "--json")
    assert done.code == 6
    assert all(one["found"] is None for one in done.json()["gate"])


def test_images_that_are_there_are_measured_now(
    gone: Gone, base: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(gone.run, tmp_path / "run"))
    whole = make.tiny(base)
    words = ["increment", whole.series, "comic", "--out", run, "--strategy", whole.method]
    done = duet_here(capsys, *words, "--json")
    assert done.code == 0, done.err
    results = load_results(run)
    assert results.stagewise is not None
    assert results.stagewise.unread == {}
    now = {(one.stage, one.domain) for one in results.main.class_scores}
    assert now == {(stage, domain) for stage in (1, 2) for domain in ("flat", "comic")}
    assert {one.name for one in results.strategies} == {"duet-plus"}
    assert duet_here(capsys, "report", run).code == 0
    assert "C1 in flat: measured now, in its own images." in (run / "report.md").read_text()
    assert duet_here(capsys, "compare", run, "--bootstrap", 50).code == 0


def test_results_of_a_run_are_left_alone(
    base: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(make.finished_run(base)[0], tmp_path / "run"))
    before = (run / "results.json").read_bytes()
    own = make.tiny(base)
    done = duet_here(capsys, "base", own.series, "--out", run, "--strategy", own.method)
    assert done.code == 0, done.err
    assert "is that of `duet run` and stays as it is" in done.err
    assert (run / "results.json").read_bytes() == before
