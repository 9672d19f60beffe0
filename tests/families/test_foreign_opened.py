"""A model of another program, given where a detector folder goes, is opened as an import."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from factories_foreign import CLASSES, Payload, original, stored
from factories_series import listing, make_dataset, make_series, write_image

import duet
from duet.cli.main import cli
from duet.errors import ConfigError, DuetError, ModelError
from duet.families import opened
from duet.families.ultralytics import family
from duet.increments import guard
from duet.increments.store import load_detector

SAID = "opened as yolo11n, 3 classes, in memory; `duet import "


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a stranger's file in a folder of its own; the working folder is another."""
    (tmp_path / "downloads").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    sizes = {"task": "detect", "imgsz": 64}
    return stored(tmp_path / "downloads" / "shop.pt", original(), train_args=sizes)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False)


def told(result: Result) -> Any:
    assert result.exception is None, result.exception
    return json.loads(result.stdout)


def failure(result: Result) -> DuetError:
    assert isinstance(result.exception, DuetError), result.exception
    return result.exception


@pytest.mark.slow
def test_it_is_the_detector_that_an_import_keeps(model: Path, tmp_path: Path) -> None:
    before = listing(model.parent)
    imported = told(invoke("import", model, "--json"))
    photo = write_image(tmp_path / "photo.png", seed=1, size=(90, 50))
    seen = []
    for given in (model, "shop"):
        result = invoke("predict", given, photo, "--conf", "0.05", "--json")
        assert (SAID in result.stderr) == (given == model)
        seen.append(told(result))
    one, other = seen
    assert one == other
    assert one["images"][0]["detections"]
    assert (
        one["model"] == imported["fingerprint"] == load_detector(Path("shop")).state.fingerprint()
    )
    assert [item["name"] for item in one["classes"]] == list(CLASSES)
    assert listing(model.parent) == before


@pytest.mark.slow
def test_in_python(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    detector = duet.load(model, notify=lines.append)
    assert detector.classes == CLASSES
    assert detector.facts.increments == (("shop", CLASSES),)
    assert detector.facts.image_size == 64
    assert len(lines) == 1
    assert SAID in lines[0]
    duet.load(str(model))
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["import", "merge", "eval", "predict", "export"])
def test_a_file_is_read_compared_and_hashed_once(
    command: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[tuple[str, str]] = Counter()

    def counted(module: Any, name: str, where: Callable[..., object]) -> None:
        real = getattr(module, name)

        def spy(*args: Any, **options: Any) -> Any:
            counts[name, Path(str(where(*args, **options))).name] += 1
            return real(*args, **options)

        monkeypatch.setattr(module, name, spy)

    counted(guard, "read_archive", lambda path: path)
    counted(opened, "sha256_file", lambda path: path)
    counted(family, "require_same_network", lambda *_, where, **__: where)
    other = stored(model.parent / "other.pt", change=rename, train_args={"imgsz": 64})
    make_dataset(Path("day"), names=CLASSES)
    item = {"domain": "day", "data": "day/data.yaml", "classes": list(CLASSES)}
    lines: dict[str, list[object]] = {
        "import": ["--as", "shop"],
        "merge": [other, "--out", "both"],
        "eval": [make_series(Path(), [item])],
        "predict": [write_image(tmp_path / "a.png", seed=0)],
        "export": ["--to", "torchscript"],
    }
    result = invoke(command, model, *lines[command])
    assert result.exception is None, result.exception
    files = ["shop.pt", "other.pt"] if command == "merge" else ["shop.pt"]
    kinds = ("read_archive", "sha256_file", "require_same_network")
    assert counts == {(kind, file): 1 for kind in kinds for file in files}


def rename(network: Any) -> None:
    network.names = dict(enumerate(("cup", "fork", "bolt")))


@pytest.mark.slow
def test_an_export_lies_in_the_working_folder(model: Path) -> None:
    before = listing(model.parent)
    planned = told(invoke("export", model, "--to", "torchscript", "--dry-run", "--json"))
    assert planned["path"] == "export/shop.torchscript"
    assert not Path("export").exists()
    result = invoke("export", model, "--to", "torchscript", "--json")
    assert result.stderr.count(SAID) == 1
    assert told(result)["model"] == planned["model"]
    names = [path.name for path in sorted(Path("export").iterdir())]
    assert names == ["parity.json", "shop.torchscript"]
    again = invoke("export", model, "--to", "torchscript", "--json")
    assert "held this very result" in again.stderr
    assert listing(model.parent) == before
    assert duet.load("export/shop.torchscript").facts == duet.load(model).facts


def test_an_export_never_replaces_the_file_itself(model: Path) -> None:
    before = listing(model.parent)
    error = failure(invoke("export", model, "--to", "pt", "--out", model, "--overwrite"))
    assert isinstance(error, ConfigError)
    assert "the model itself" in str(error)
    assert listing(model.parent) == before


@pytest.mark.slow
def test_it_can_be_evaluated(model: Path) -> None:
    make_dataset(Path("day"), names=CLASSES)
    item = {"domain": "day", "data": "day/data.yaml", "classes": list(CLASSES)}
    series = make_series(Path(), [item])
    result = invoke("eval", model, series, "--json")
    assert SAID in result.stderr
    found = told(result)
    assert found["fingerprint"] == duet.load(model).facts.fingerprint
    assert [cell["domain"] for cell in found["cells"]] == ["day"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "eval", "export"])
def test_programs_stay_behind_the_door(command: str, model: Path, tmp_path: Path) -> None:
    canary, sizes = tmp_path / "canary", {"task": "detect", "imgsz": 64}
    evil = stored(model.parent / "evil.pt", optimizer=Payload(canary), train_args=sizes)
    make_dataset(Path("day"), names=CLASSES)
    item = {"domain": "day", "data": "day/data.yaml", "classes": list(CLASSES)}
    rest: dict[str, list[object]] = {
        "predict": [write_image(tmp_path / "a.png", seed=0)],
        "eval": [make_series(Path(), [item])],
        "export": ["--to", "pt"],
    }
    result = invoke(command, evil, *rest[command])
    assert "Nothing of it was run" in str(failure(result))
    assert not canary.exists()
    trusting = invoke(command, evil, *rest[command], "--trust")
    assert trusting.exception is None, trusting.exception
    assert canary.exists()
    assert "DANGER" in trusting.stderr


def test_what_is_no_model_is_told_as_such(tmp_path: Path) -> None:
    photo = write_image(tmp_path / "a.png", seed=0)
    (tmp_path / "notes.txt").write_text("x")
    torch.save({"a": torch.zeros(2)}, tmp_path / "tensors.pt")
    for name, problem in (
        ("notes.txt", "this is a file"),
        ("no.pt", "no such file"),
        ("no", "no such file or folder"),
        ("tensors.pt", "tensors.pt"),
    ):
        error = failure(invoke("predict", tmp_path / name, photo))
        assert isinstance(error, ModelError)
        assert problem in str(error)
