"""A stranger's detector on a stranger's data: what is refused, what is said, what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from factories_detectors import make_detector
from factories_foreign import stored
from factories_run import Outcome, duet_here
from factories_series import listing, make_dataset, write_image

from duet.devices import Device, require_device
from duet.errors import ConfigError


class Desk:
    """A detector, a model of another program and a data set, and the command line."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.model = make_detector(folder / "model")
        self.data = make_dataset(folder / "shop")

    def __call__(self, *words: object) -> Outcome:
        return duet_here(self.capsys, *words)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


@pytest.mark.parametrize("content", ["0 0.5 0.5 0.25 0.5\n", '{"indices": {}}', "[]"])
def test_an_evaluation_replaces_nothing_but_an_evaluation(desk: Desk, content: str) -> None:
    out = desk.folder / "mine.json"
    out.write_text(content)
    done = desk("eval", desk.model, desk.data, "--out", out)
    assert done.code == 1
    assert "already exists and is no evaluation that `duet eval` wrote" in done.err
    assert out.read_text() == content
    assert done.out == ""  # before anything was measured


def test_an_evaluation_replaces_an_older_one_and_an_empty_file(desk: Desk) -> None:
    out = desk.folder / "new" / "mine.json"
    assert desk("eval", desk.model, desk.data, "--out", out).code == 0
    first = out.read_text()
    assert desk("eval", desk.model, desk.data, "--out", out).code == 0
    assert out.read_text() == first
    out.write_text("")
    assert desk("eval", desk.model, desk.data, "--out", out).code == 0
    assert json.loads(out.read_text())["cells"]


def test_a_dash_is_no_file(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk.folder)
    done = desk("eval", desk.model, desk.data, "--out", "-")
    assert done.code == 2
    assert "--json prints it" in done.err
    assert not (desk.folder / "-").exists()


def test_a_missing_evaluation_is_not_to_be_taken_from_its_source(desk: Desk) -> None:
    gone = desk.folder / "gone.json"
    done = desk("eval", desk.model, desk.data, "--max-drop", 5, "--against", gone)
    assert done.code == 3
    assert f"{gone}: cannot read: No such file or directory\n  give what `duet eval" in done.err


@pytest.mark.parametrize("command", ["eval", "calibrate"])
def test_results_that_cannot_be_written_are_told_before_the_work(desk: Desk, command: str) -> None:
    (desk.folder / "file").write_text("mine")
    before = listing(desk.folder)
    data = [desk.data] if command == "eval" else ["--series", desk.data]
    done = desk(command, desk.folder / "gone.pt", *data, "--out", desk.folder / "file" / "in")
    assert done.code == 1  # not that the model is missing
    assert "cannot write: File exists" in done.err
    assert listing(desk.folder) == before


def test_a_folder_of_something_else_is_told_before_the_work(desk: Desk) -> None:
    words = ["calibrate", desk.folder / "gone.pt", "--series", desk.data, "--out"]
    done = desk(*words, desk.data.parent)
    assert done.code == 1
    assert "already exists and is not empty" in done.err
    assert desk(*words, desk.folder / "new").code == 4  # then the model is looked for
    assert not (desk.folder / "new").exists()


@pytest.mark.parametrize("name", ["photo.png", "best.pt"])
def test_what_is_no_description_is_not_to_be_saved_in_another_encoding(
    desk: Desk, name: str
) -> None:
    path = desk.folder / name
    if name == "photo.png":
        write_image(path, seed=1)
    else:
        stored(path)
    done = desk("eval", desk.model, path)
    assert done.code == 3
    assert "name a data.yaml, or the folder of a data set" in done.err
    assert "UTF-8\n" not in done.err


def test_calibration_says_which_classes_it_left_alone(desk: Desk) -> None:
    mine, out = stored(desk.folder / "best.pt"), desk.folder / "out"
    for labels in (desk.data.parent / "labels").rglob("*.txt"):  # smaller than any box of a network
        labels.write_text(labels.read_text().replace("0.25 0.5", "0.01 0.01"))
    done = desk("calibrate", mine, "--series", desk.data, "--out", out)
    assert done.code == 0, done.err
    assert "warning: cat: not found on these images" in done.err
    assert "not looked for, their scores stay as they are: traffic light, Ärger" in done.err
    assert "not calibrated, the detector does not know them: dog, bus" in done.err
    assert done.out == f"no class was calibrated\n-> {out}\n"


def test_a_device_that_is_not_there_is_called_as_torch_calls_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="got device 'cuda:0'"):
        require_device(Device("cuda", (0,)))


def test_an_option_without_its_value_names_its_own_help(desk: Desk) -> None:
    done = desk("predict", desk.model, desk.folder, "--agnostic-nms")
    assert done.code == 2
    assert "see `duet predict --help`" in done.err
    done = desk("data", "convert", desk.data, desk.folder / "out", "--to")
    assert "see `duet data convert --help`" in done.err


@pytest.mark.parametrize("out", [".", "..", "sub/.."])
@pytest.mark.parametrize("command", ["calibrate", "convert"])
def test_the_folder_that_one_is_in_is_not_replaced(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, command: str, out: str
) -> None:
    here = desk.folder / "empty" / "here"
    (here / "sub" if out == "sub/.." else here).mkdir(parents=True)
    monkeypatch.chdir(here)
    words = ["calibrate", desk.model, "--overwrite", "--series", desk.data, "--out", out]
    if command == "convert":
        words = ["data", "convert", desk.data, out, "--to", "coco"]
    done = desk(*words)
    assert done.code == 1
    taken = command == "convert" and out != "."  # it holds something
    told = "already exists and is not empty" if taken else "cannot be replaced by results"
    assert told in done.err
    assert here.is_dir()


def test_an_exported_file_can_be_looked_with_and_nothing_else(desk: Desk) -> None:
    exported = desk.folder / "model.onnx"
    exported.write_bytes(b"whatever")
    done = desk("eval", exported, desk.data)
    assert done.code == 4
    assert "an exported file can be looked with (`duet predict`) and nothing else" in done.err
