"""Chains that go on from a detector, and what people do to them that nobody asked for."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from factories_detectors import make_detector
from factories_foreign import original, stored
from factories_onto import Desk, made_desk, refused
from factories_run import duet_here
from factories_series import make_dataset

from duet.increments.manifest import MANIFEST, DetectorManifest, read_manifest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with made_desk(tmp_path_factory.mktemp("odd")) as desk:
        shutil.copy(desk / "best.pt", desk / "night.pt")
        stored(desk / "theta.pt", original(count=5))
        yield desk


@pytest.fixture
def chain(desk: Desk, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> str:
    """Name of a folder with a chain that learned `night` on `best.pt`."""
    words = desk.increment("night", "frozen", "chain", "--onto", desk / "best.pt")
    assert duet_here(capsys, *words).code == 0
    shutil.copytree(desk / "chain", tmp_path / "chain")
    return str(tmp_path / "chain")


def prints(run: Path, method: str) -> list[str]:
    """Return the fingerprints of a chain's detectors."""
    folders = sorted((run / "models" / method).iterdir())
    return [read_manifest(folder, DetectorManifest).fingerprint for folder in folders]


def written(desk: Desk, file: str, *domains: tuple[str, str, str], **start: str) -> Path:
    """Write a series of `(name, domain, data)`."""
    increments = [
        {"name": one, "domain": domain, "data": f"{data}/data.yaml", "classes": [f"{data} cup"]}
        for one, domain, data in domains
    ]
    content = {"schema": 1, "name": "odd", "increments": increments, "start": start or None}
    path = desk / f"{file}.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value}))
    return path


def run(desk: Desk, series: Path, out: object, *options: object) -> list[object]:
    chosen = ["--strategy", desk / "frozen.yaml", "--train", desk / "train.yaml", "--jobs", 1]
    return ["run", series, *chosen, "--no-references", "--out", desk / str(out), *options]


# ---- later increments -------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "method"), [("rows", "towers"), ("parallel", "frozen")])
def test_a_chain_keeps_the_head_form_of_its_detector(
    desk: Desk, head: str, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start, out = make_detector(desk / f"two-{head}", head=head, increments=2), f"out-{head}"
    for words in (("night", "--onto", start), ("dusk",)):
        done = duet_here(capsys, *desk.increment(words[0], method, out, *words[1:]))
        assert done.code == 0, done.err
    kept = prints(desk / out, method)
    told = duet_here(capsys, "log", sorted((desk / out / "models" / method).iterdir())[0])
    assert "plain merge by average" in told.out
    for name in ("night", "dusk"):  # the same detector named again is the same chain
        words = desk.increment(name, method, out, "--onto", start)
        assert duet_here(capsys, *words).code == 0
    assert prints(desk / out, method) == kept


def test_a_chain_keeps_its_start_weights(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    theta = desk / "theta.pt"
    first = desk.increment("night", "towers", "theta", "--onto", desk / "best.pt")
    assert duet_here(capsys, *first, "--weights", theta).code == 0
    other = desk.increment("dusk", "towers", "theta", "--weights", desk / "best.pt")
    refused(duet_here(capsys, *other), "'night' was trained with", "--weights")
    again = desk.increment("dusk", "towers", "theta", "--onto", desk / "best.pt")
    assert duet_here(capsys, *again).code == 0
    told = duet_here(capsys, "log", desk / "theta/models/towers/2-dusk", "--json").json()
    assert told["weights"] == {"path": str(theta), "found": True}
    theta.rename(desk / "moved.pt")
    try:
        refused(duet_here(capsys, *desk.increment("dusk", "towers", "theta")), "theta.pt")
    finally:
        (desk / "moved.pt").rename(theta)


def test_later_increments_see_images_of_the_same_size(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    small = stored(desk / "small.pt", train_args={"imgsz": 96})
    for name, more in (("night", ("--onto", small)), ("dusk", ())):
        words = desk.increment(name, "frozen", "sizes", *more)
        place = words.index("--train")
        del words[place : place + 2]
        assert duet_here(capsys, *words, "--epochs", 1, "--batch", 4).code == 0
    folders = sorted((desk / "sizes/models/frozen").iterdir())
    assert {read_manifest(one, DetectorManifest).image_size for one in folders} == {96}


def test_another_name_of_a_known_class_is_found_in_later_increments(
    desk: Desk, chain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(desk / "Cat", names=["Cat cup"], counts={"train": 4, "val": 2})
    series = written(desk, "alias", ("more", "more", "Cat"))
    series.write_text(series.read_text().replace("Cat cup", "Night cup"))
    words = ["increment", series, "more", *desk.increment("", "frozen", chain)[3:]]
    refused(duet_here(capsys, *words), "class.alias-clash", "night cup")


# ---- names and weights that do not fit --------------------------------------------------------


def test_a_detector_called_as_an_increment_is_refused_with_a_way_out(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    words = desk.increment("night", "frozen", "clash", "--onto", desk / "night.pt")
    refused(duet_here(capsys, *words), "'night'", "'name'", "start")
    series = written(desk, "clash", ("NIGHT", "night", "night"), detector="night.pt")
    refused(duet_here(capsys, *run(desk, series, "clash", "--dry-run")), "'NIGHT'")
    assert not (desk / "clash").exists()
    series = written(desk, "clash", ("night", "x", "night"), detector="night.pt", name="old")
    assert duet_here(capsys, *run(desk, series, "clash", "--dry-run")).code == 0


def test_the_detector_of_a_chain_cannot_be_learned_again(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(desk / "best.pt", desk / "dusk.pt")
    words = desk.increment("night", "frozen", "base", "--onto", desk / "dusk.pt")
    assert duet_here(capsys, *words).code == 0
    words = desk.increment("dusk", "frozen", "base")
    refused(duet_here(capsys, *words), "goes on from", "another name")


def test_another_architecture_is_refused(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    stored(desk / "v8.pt", original("yolov8n.yaml"))
    words = desk.increment("night", "frozen", "none", "--onto", desk / "best.pt")
    refused(duet_here(capsys, *words, "--weights", desk / "v8.pt"), "yolov8n", "yolo11n")
    refused(duet_here(capsys, *words, "--architecture", "yolov8n.yaml"), "--architecture")
    assert not (desk / "none").exists()


# ---- what a run needs of the data -------------------------------------------------------------


def test_images_of_the_detector_may_be_gone_where_one_increment_is_learned(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    night = ("night", "night", "night")
    series = written(desk, "gone", night, detector="best.pt", domain="day", data="gone/data.yaml")
    words = ["increment", series, "night", *desk.increment("", "frozen", "gone")[3:]]
    assert duet_here(capsys, *words).code == 0
    refused(duet_here(capsys, *run(desk, series, "gone-run", "--dry-run")), "gone/data.yaml")


def test_a_detector_without_images_may_be_of_the_domain_of_an_increment(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    series = written(desk, "same", ("n", "night", "night"))
    words = ["increment", series, "n", *desk.increment("", "frozen", "same")[3:]]
    done = duet_here(capsys, *words, "--onto", desk / "night.pt")
    assert done.code == 0, done.err
    series = written(desk, "same", ("n", "night", "night"), detector="best.pt", domain="night")
    done = duet_here(capsys, *run(desk, series, "same-run"))
    assert done.code == 0, done.err


def test_other_orders_begin_with_the_detector_too(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    two = (("night", "night", "night"), ("dusk", "dusk", "dusk"))
    series = written(desk, "orders", *two, detector="best.pt")
    refused(duet_here(capsys, *run(desk, series, "orders", "--orders", 3)), "2 increments")
    done = duet_here(capsys, *run(desk, series, "orders", "--orders", 2, "--dry-run", "--json"))
    assert done.code == 0, done.err
    orders = itertools.permutations(("night", "dusk"))
    for one, names in zip(done.json()["runs"], orders, strict=True):
        trained = [stage["title"] for stage in one["stages"]]
        assert [title for title in trained if title.startswith("frozen: ")] == [
            f"frozen: {name}" for name in names
        ]
        assert "base" not in trained


# ---- run folders ------------------------------------------------------------------------------


def test_a_run_folder_of_another_start_is_refused_before_any_training(
    desk: Desk, chain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    night = ("night", "night", "night")
    series = written(desk, "plain", night, ("dusk", "dusk", "dusk"))
    shutil.copytree(chain, Path(chain) / "seed-1")
    for more in ((), ("--dry-run",), ("--seeds", 2), ("--dry-run", "--seeds", 2)):
        words = run(desk, series, chain, "--weights", desk / "theta.pt", *more)
        done = duet_here(capsys, *words)
        refused(done, "it goes on from 0-best")
        assert "started" not in done.err
    stored(desk / "changed.pt", original(count=4))
    series = written(desk, "changed", night, detector="changed.pt", name="best")
    for more in ((), ("--dry-run",)):
        done = duet_here(capsys, *run(desk, series, chain, *more))
        refused(done, "as it is now", "0-best")
        assert "started" not in done.err


def test_a_lost_start_is_written_anew(
    desk: Desk, chain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = prints(Path(chain), "frozen")
    (Path(chain) / "models/frozen/0-best" / MANIFEST).unlink()
    refused(duet_here(capsys, *desk.increment("dusk", "frozen", chain)), "command of that stage")
    words = desk.increment("night", "frozen", chain, "--onto", desk / "best.pt")
    done = duet_here(capsys, *words)
    assert done.code == 0, done.err
    (aside,) = (Path(chain) / "models/frozen").glob("damaged-*")
    shutil.rmtree(aside)
    assert prints(Path(chain), "frozen") == before


def test_what_was_trained_apart_and_a_chain_do_not_overwrite_each_other(
    desk: Desk, chain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = ("--independent", "--weights", desk / "best.pt")
    done = duet_here(capsys, *desk.increment("night", "frozen", chain, *alone))
    refused(done, "belongs to a chain", "--out")
    assert duet_here(capsys, *desk.increment("dusk", "frozen", chain, *alone)).code == 0
    refused(duet_here(capsys, *desk.increment("dusk", "frozen", chain)), "--independent")
    series = written(desk, "apart", ("dusk", "dusk", "dusk"), detector="best.pt")
    shutil.rmtree(Path(chain) / "models")
    refused(duet_here(capsys, *run(desk, series, chain, "--dry-run")), "--independent")
