"""Chains that go on from a detector that people have, in place of a first increment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from factories_detectors import make_detector
from factories_foreign import CLASSES, original, stored
from factories_onto import Desk, made_desk, refused, scores, state
from factories_run import duet_here
from factories_states import moved

from duet.cli.main import _run
from duet.detections import Detections
from duet.errors import DataError
from duet.evaluation.agreement import Agreement, agreement
from duet.families.opened import ForeignModel
from duet.families.yolo.adapter import FAMILY
from duet.increments.manifest import IncrementManifest, read_manifest
from duet.increments.store import load_detector, load_increment
from duet.labels import LabelSpace
from duet.recipes.apply import merge_plan
from duet.recipes.edits import kept_recipe, located
from duet.recipes.plan import make_plan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with made_desk(tmp_path_factory.mktemp("desk")) as desk:
        yield desk


@pytest.fixture(scope="module")
def chain(desk: Desk) -> Path:
    """Learn `night` on `best.pt`, and `dusk` on both, without a word of the detector."""
    words = desk.increment("night", "towers", "run", "--onto", desk / "best.pt")
    assert _run([str(word) for word in words]) == 0
    assert _run([str(word) for word in desk.increment("dusk", "towers", "run")]) == 0
    return desk / "run" / "models" / "towers"


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    """More class rows in one convolution are added up in another order."""
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# ---- one increment after the other -----------------------------------------------------------


def test_a_chain_goes_on_from_a_file(desk: Desk, chain: Path) -> None:
    assert sorted(path.name for path in chain.iterdir()) == ["0-best", "1-night", "2-dusk"]
    before, night, dusk = (state(chain / name) for name in ("0-best", "1-night", "2-dusk"))
    assert before.labels.names == CLASSES
    assert dusk.labels.names == (*CLASSES, "night cup", "dusk cup")
    stock, _ = FAMILY.foreign(ForeignModel(desk / "best.pt"), name="best", head="towers")
    assert before.fingerprint() == stock.fingerprint()
    for later in (night, dusk):  # its head is kept bit for bit, its trunk was trained and merged
        assert not moved(before.parts[0].tensors, later.parts[0].tensors)
        assert moved(before.shared, later.shared)


def test_increments_belong_to_the_detector(desk: Desk, chain: Path) -> None:
    folder = desk / "run" / "increments" / "towers"
    night, dusk = (read_manifest(folder / n, IncrementManifest) for n in ("night", "dusk"))
    assert (night.index, dusk.index) == (1, 2)
    assert night.parent == state(chain / "0-best").fingerprint()
    assert dusk.parent == state(chain / "1-night").fingerprint()
    assert night.base == dusk.base == load_increment(folder / "night").vector.base


@pytest.mark.parametrize("name", ["0-best", "1-night", "2-dusk"])
def test_what_was_kept_merges_to_the_same_bits(chain: Path, name: str) -> None:
    file = load_detector(chain / name)
    recipe = located(kept_recipe(file.manifest, chain / name), chain / name)
    again = merge_plan(make_plan(recipe))
    assert again.state.fingerprint() == file.manifest.fingerprint
    assert not again.remarks


def test_its_history_is_found(desk: Desk, chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = duet_here(capsys, "log", chain / "2-dusk", "--json").json()
    assert [step["name"] for step in told["increments"]] == ["best", "night", "dusk"]
    assert all(step["intact"] for step in told["increments"])
    assert told["weights"] == {"path": str(chain / "0-best"), "found": True}
    out = desk / "without-dusk"
    assert duet_here(capsys, "revert", chain / "2-dusk", "dusk", "--out", out).code == 0
    assert state(out).fingerprint() == state(chain / "1-night").fingerprint()


def test_it_says_what_was_kept_and_learned(
    desk: Desk, chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = duet_here(capsys, *desk.increment("dusk", "towers", "run", "--json"))
    told = done.json()
    assert told["detector"] == str(chain / "2-dusk")
    seen = told["seen"]
    assert (seen["split"], seen["classes"], seen["before"]) == ("val", ["dusk cup"], None)
    assert seen["after"]["objects"] == 3
    assert seen["kept"]["images"] == 3


@pytest.mark.parametrize("method", ["rows", "parallel", "frozen"])
def test_every_head_form_goes_on(
    desk: Desk, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = duet_here(capsys, *desk.increment("night", method, "forms", "--onto", desk / "best.pt"))
    assert done.code == 0, done.err
    folder = desk / "forms" / "models" / method
    before, after = state(folder / "0-best"), state(folder / "1-night")
    assert after.labels.names == (*CLASSES, "night cup")
    assert not moved(before.parts[0].tensors, after.parts[0].tensors)
    if method == "frozen":
        close(scores(before, 3), scores(after, 3))


def test_a_folder_and_an_export_are_the_same_start(
    desk: Desk, chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert duet_here(capsys, "import", desk / "best.pt", "--out", desk / "det").code == 0
    assert duet_here(capsys, "export", desk / "det", "--to", "torchscript").code == 0
    for number, start in enumerate(("det", "det/export/model.torchscript")):
        out = f"same-{number}"
        words = desk.increment("night", "frozen", out, "--onto", desk / start)
        assert duet_here(capsys, *words).code == 0
        kept = desk / out / "models" / "frozen" / "0-best"
        assert state(kept).fingerprint() == state(chain / "0-best").fingerprint()


def test_a_detector_of_several_increments_keeps_its_head_form(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_detector(desk / "several", head="rows", increments=2)
    words = desk.increment("night", "frozen", "many", "--onto", made)
    done = duet_here(capsys, *words)
    assert done.code == 0, done.err
    before, after = state(made), state(desk / "many" / "models" / "frozen" / "1-night")
    assert after.head == "rows"
    assert len(after.parts) == len(before.parts) + 1
    count = len(before.labels)
    close(scores(before, count), scores(after, count))


# ---- what is refused -------------------------------------------------------------------------


def test_another_start_needs_another_folder(
    desk: Desk, chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = stored(desk / "other.pt", original(count=4))
    done = duet_here(capsys, *desk.increment("night", "towers", "run", "--onto", other))
    refused(done, "does not go on from 'other'", "0-best")
    done = duet_here(
        capsys, "base", desk / "mine.yaml", "--strategy", desk / "towers.yaml", "--train",
        desk / "train.yaml", "--weights", desk / "best.pt", "--out", desk / "run",
    )  # fmt: skip
    refused(done, "goes on from 0-best")
    assert sorted(path.name for path in chain.iterdir()) == ["0-best", "1-night", "2-dusk"]


def test_what_cannot_go_on_is_refused_before_anything_is_written(
    desk: Desk, chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    increment = desk / "run" / "increments" / "towers" / "night"
    cases = {
        ("towers", increment): "expected a detector",
        ("towers", desk / "nothing.pt"): "nothing.pt",
        ("towers", desk / "best.onnx"): "cannot be trained further",
        ("ewc", desk / "best.pt"): "the Fisher of every increment",
    }
    for (method, start), words in cases.items():
        done = duet_here(capsys, *desk.increment("night", method, "none", "--onto", start))
        refused(done, words)
    for method in ("joint-full", "joint-partial"):
        words = ["--strategy", method, "--onto", desk / "best.pt", "--out", desk / "none"]
        done = duet_here(capsys, "increment", desk / "mine.yaml", "night", *words)
        refused(done, f"'{method}' needs the images of all increments", "duet-plus")
    merge = {"method": "mtda", "params": {"weights": "images"}}
    (desk / "counted.yaml").write_text(json.dumps({"name": "counted", "merge": merge}))
    done = duet_here(
        capsys, *desk.increment("night", "counted", "none", "--onto", desk / "best.pt")
    )
    refused(done, "the number of images of every increment")
    done = duet_here(
        capsys,
        *desk.increment("night", "towers", "none", "--onto", desk / "best.pt", "--independent"),
    )
    refused(done, "--independent --onto")
    assert not (desk / "none").exists()


def test_without_a_start_it_is_named(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    done = duet_here(capsys, *desk.increment("night", "towers", "none"))
    refused(done, "--onto DETECTOR")


# ---- increments trained apart ----------------------------------------------------------------


def test_an_independent_increment_obeys_its_method(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {}
    for method in ("frozen", "towers"):
        words = desk.increment("night", method, "apart", "--weights", desk / "best.pt")
        assert duet_here(capsys, *words, "--independent").code == 0
        folder = desk / "apart" / "increments" / method / "night"
        item = load_increment(folder)
        moves = any(bool(tensor.any()) for tensor in item.vector.delta.values())
        assert moves is (method == "towers")
        parts[method] = item.part
    assert parts["frozen"] is not None
    assert parts["towers"] is not None
    assert moved(parts["frozen"].tensors, parts["towers"].tensors)
    out = desk / "joined"
    done = duet_here(
        capsys, "merge", desk / "best.pt", desk / "apart/increments/frozen/night", "--weights",
        desk / "best.pt", "--out", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    before, after = state(desk / "run/models/towers/0-best"), state(out)
    assert not moved(before.shared, after.shared)
    close(scores(before, 3), scores(after, 3))


@pytest.mark.parametrize("start", ["best.pt", "run/models/towers/0-best"])
def test_increments_of_several_people_on_one_detector_merge_at_once(
    desk: Desk, chain: Path, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [desk / "run/increments/towers/night"]
    assert (
        duet_here(capsys, *desk.increment("dusk", "towers", "they", "--onto", desk / start)).code
        == 0
    )
    folders.append(desk / "they/increments/towers/dusk")
    out = desk / f"together-{Path(start).name}"
    done = duet_here(
        capsys, "merge", desk / start, *folders, "--weights", chain / "0-best", "--method",
        "task-arithmetic", "--out", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "on top of" not in done.err
    theta, night, dusk = state(chain / "0-best"), *map(load_increment, folders)
    for name, tensor in state(out).shared.items():
        moved_by = night.vector.delta[name] + dusk.vector.delta[name]
        torch.testing.assert_close(
            tensor, theta.shared[name] + 0.3 * moved_by, rtol=1e-5, atol=1e-6
        )
    without = desk / f"without-{Path(start).name}"
    assert duet_here(capsys, "revert", out, "night", "--out", without).code == 0
    assert state(without).labels.names == (*CLASSES, "dusk cup")


# ---- whole series ----------------------------------------------------------------------------


def series_with_start(desk: Desk, name: str, **start: str) -> Path:
    content = yaml.safe_load((desk / "mine.yaml").read_text())
    content["increments"] = content["increments"][:1]
    content["start"] = {"detector": "best.pt", **start}
    path = desk / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(desk: Desk, series: Path, out: str, *options: object) -> list[object]:
    methods = ["--strategy", desk / "frozen.yaml", "--strategy", desk / "fine.yaml"]
    train = ["--train", desk / "train.yaml", "--jobs", 1]
    return ["run", series, *methods, *train, "--out", desk / out, *options]


def test_a_series_may_begin_with_a_detector(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    series = series_with_start(desk, "measured", domain="day", data="own/data.yaml")
    done = duet_here(capsys, *run(desk, series, "measured", "--json"))
    assert done.code == 0, done.err
    results = json.loads((desk / "measured" / "results.json").read_text())
    steps = results["series"]["increments"]
    assert [step["domain"] for step in steps] == ["day", "night"]
    assert list(steps[0]["counts"]) == ["val"]
    frozen = next(one for one in results["strategies"] if one["name"] == "frozen")
    stages = {row["stage"]: row["map50"] for row in frozen["matrix"] if row["domain"] == "day"}
    assert stages[1] == stages[2]  # nothing that it detects has changed
    for name in ("frozen", "fine"):
        kept = sorted(path.name for path in (desk / "measured" / "models" / name).iterdir())
        assert kept == ["0-best", "1-night"]
    assert "1-night" in results["commands"]["next"][0]


def test_a_series_with_a_start_is_not_trained_jointly(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    series = series_with_start(desk, "jointly", domain="day", data="own/data.yaml")
    words = ["--strategies", "frozen-long,joint-full", "--out", desk / "none", "--dry-run"]
    refused(duet_here(capsys, "run", series, *words), "'joint-full' needs the images")
    assert not (desk / "none").exists()


def test_without_images_of_its_own_the_agreement_is_told(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    series = series_with_start(desk, "unseen")
    dry = duet_here(capsys, *run(desk, series, "unseen", "--dry-run", "--json")).json()
    assert dry["left_out"][0]["domain"] == "best"
    assert not any(stage["title"] == "base" for stage in dry["stages"])
    done = duet_here(capsys, *run(desk, series, "unseen"))
    assert done.code == 0, done.err
    results = json.loads((desk / "unseen" / "results.json").read_text())
    frozen = next(one for one in results["strategies"] if one["name"] == "frozen")
    assert frozen["indices"]["ri"] is None
    (kept,) = frozen["kept"]
    assert (kept["domain"], kept["images"]) == ("night", 3)
    # Noise: 300 boxes an image are the most, and those of the new class push old ones out.
    assert 0.8 * kept["before"] < kept["kept"] <= kept["before"]
    report = (desk / "unseen" / "report.md").read_text()
    assert f"{kept['kept']} of {kept['before']}" in report


def test_base_is_not_for_a_series_with_a_start(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    series = series_with_start(desk, "based")
    refused(duet_here(capsys, "base", series, "--out", desk / "none"), "use `duet increment`")
    words = ["increment", series, "night", "--strategy", desk / "frozen.yaml"]
    words += ["--train", desk / "train.yaml", "--out", desk / "begun"]
    assert duet_here(capsys, *words).code == 0
    assert (desk / "begun" / "models" / "frozen" / "0-best").is_dir()


# ---- agreement -------------------------------------------------------------------------------


def found(*rows: tuple[str, float, tuple[float, float, float, float]]) -> Detections:
    labels = LabelSpace(("cat", "dog", "owl"))
    return Detections(
        np.array([box for _, _, box in rows]).reshape(-1, 4),
        np.array([score for _, score, _ in rows]),
        np.array([labels.index(name) for name, _, _ in rows], np.int64),
        labels,
    )


HERE, NEAR, AWAY = (0, 0, 10, 10), (0, 0, 10, 8), (50, 50, 60, 60)


def test_agreement_counts_what_is_still_found() -> None:
    before = [found(("cat", 0.9, HERE), ("dog", 0.5, HERE)), found()]
    after = [found(("cat", 0.3, NEAR), ("dog", 0.9, AWAY)), found(("owl", 0.9, HERE))]
    told = agreement(before, after)
    rows = {"cat": (1, 1, 0, 0), "dog": (1, 0, 0, 1), "owl": (0, 0, 0, 1)}
    assert told == Agreement(2, 2, 1, 0, 2, rows)
    assert told.share == 0.5
    assert agreement(before, after, ("cat",)) == Agreement(2, 1, 1, 0, 0, {"cat": (1, 1, 0, 0)})
    assert agreement([found()], [found()]).share is None
    with pytest.raises(DataError, match="of 1 images, got 0"):
        agreement([found()], [])


def test_a_new_class_in_the_place_of_an_old_one_is_told() -> None:
    labels = LabelSpace(("cat", "dog", "owl", "raccoon"))
    new = Detections(np.array([NEAR]), np.array([0.9]), np.array([3]), labels)
    before = [found(("cat", 0.9, HERE), ("cat", 0.9, AWAY))]
    assert agreement(before, [new]) == Agreement(1, 2, 0, 1, 0, {"cat": (2, 0, 1, 0)})


def test_one_detection_keeps_one_other() -> None:
    before = [found(("cat", 0.9, HERE), ("cat", 0.8, NEAR))]
    assert agreement(before, [found(("cat", 0.9, HERE))]).kept == 1
    # The closest first would leave the second without a partner.
    wide = [found(("cat", 0.9, (0, 0, 10, 9)), ("cat", 0.8, (0, 0, 10, 15)))]
    assert agreement(before, wide).kept == 2
