"""Exported files as detectors: the same objects, the facts along with it, clear refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from click.testing import CliRunner
from factories_detectors import SIZE, make_detector
from factories_series import write_image

from duet.cli.main import cli
from duet.errors import ConfigError, MissingExtraError, ModelError
from duet.export.export import export_detector
from duet.export.formats import FORMATS
from duet.families import runtimes
from duet.families.exportable import STAMP
from duet.inference.detector import LoadedDetector
from duet.inference.load import load

pytestmark = pytest.mark.slow  # the exported files that all look at take ten seconds

RUN = ("onnx", "torchscript", "openvino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_detector(tmp_path_factory.mktemp("exported") / "detector", head="parallel")


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, Path]:
    """Return one export of each format that duet runs; OpenVINO's takes any batch."""
    made = {}
    for form in RUN:
        target = folder / "export" / f"model{FORMATS[form].suffix}"
        export_detector(folder, target, form, dynamic=form == "openvino")
        made[form] = target
    return made


def pictures() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (h, w, 3), np.uint8) for h, w in ((50, 90), (70, 64), (64, 64))]


def copy_of(path: Path, folder: Path) -> Path:
    """Return a copy that may be damaged."""
    target = folder / path.name
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        shutil.copyfile(path, target)
    return target


def restamp(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the facts in an ONNX file."""
    graph = onnx.load(str(path))
    (item,) = (item for item in graph.metadata_props if item.key == STAMP)
    facts = json.loads(item.value)
    changed = change(facts)
    item.value = changed if isinstance(changed, str) else json.dumps(facts)
    onnx.save(graph, str(path))


@pytest.mark.slow
@pytest.mark.parametrize("form", RUN)
def test_the_same_objects_are_found(form: str, files: dict[str, Path], folder: Path) -> None:
    detector, exported = load(folder), load(files[form])
    assert isinstance(exported, LoadedDetector)
    assert exported.facts == detector.facts
    assert exported.increments == ("flat", "flat", "comic")
    expected = detector.many(pictures(), confidence=0.3, iou=1.0)
    found = exported.many(pictures(), confidence=0.3, iou=1.0)
    assert sum(len(one) for one in expected) > 10
    for one, other in zip(expected, found, strict=True):
        assert other.names == one.names
        assert np.abs(other.xyxy - one.xyxy).max() < 1e-2
        assert np.abs(other.scores - one.scores).max() < 1e-5


def test_the_command_reads_exported_files(
    files: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    photo = write_image(tmp_path / "photos" / "a.png", seed=3, size=(90, 50))
    documents = []
    for model in (folder, files["onnx"]):
        arguments = ["predict", str(model), str(photo), "--conf", "0.3", "--json"]
        done = CliRunner().invoke(cli, arguments, standalone_mode=False)
        assert done.exception is None, done.exception
        documents.append(json.loads(done.stdout))
    one, other = documents
    assert other["model"] == one["model"]
    assert other["classes"] == one["classes"]
    seen = [d["images"][0]["detections"] for d in documents]
    assert [d["name"] for d in seen[0]] == [d["name"] for d in seen[1]]
    assert len(seen[0]) > 0


ALONE = """
import sys
sys.modules["ultralytics"] = sys.modules["onnx"] = None
import numpy as np
import duet
detector = duet.load({path!r})
print(len(detector(np.full((64, 64, 3), 90, np.uint8), confidence=0.001)), detector.classes)
"""


@pytest.mark.slow
def test_neither_the_engine_nor_duets_weights_are_needed(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path = copy_of(files["onnx"], tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(path=str(path))],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "('cat', 'dog', 'bus')" in done.stdout


def test_files_of_other_programs_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    path = copy_of(files["onnx"], tmp_path)
    graph = onnx.load(str(path))
    del graph.metadata_props[:]
    onnx.save(graph, str(path))
    script = tmp_path / "m.torchscript"
    torch.jit.trace(torch.nn.Identity(), torch.zeros(1)).save(str(script))
    vino = copy_of(files["openvino"], tmp_path)
    (vino / "metadata.yaml").unlink()
    for foreign in (path, script, vino):
        with pytest.raises(ModelError, match="duet did not export this file") as caught:
            load(foreign)
        assert "duet export MODEL" in str(caught.value)
        assert caught.value.where == str(foreign)


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
@pytest.mark.parametrize("form", RUN)
def test_truncated_files(form: str, share: float, files: dict[str, Path], tmp_path: Path) -> None:
    path = copy_of(files[form], tmp_path)
    weights = path / "model.bin" if path.is_dir() else path
    os.truncate(weights, int(weights.stat().st_size * share))
    with pytest.raises(ModelError, match=r"does not (load|run)"):
        load(path)


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_a_file_beside_its_hash_must_be_the_one(
    form: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path = copy_of(files[form], tmp_path)
    shutil.copyfile(files[form].parent / "parity.json", tmp_path / "parity.json")
    assert load(path).facts
    weights = path / "model.bin" if path.is_dir() else path
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of one number: it loads and runs
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="changed since parity"):
        load(path)
    (tmp_path / "parity.json").write_text("[")
    with pytest.raises(ModelError, match="not valid JSON"):
        load(path)
    (tmp_path / "parity.json").unlink()
    assert load(path).facts  # a file that travels alone


def test_metadata_that_cannot_be_read(files: dict[str, Path], tmp_path: Path) -> None:
    path = copy_of(files["openvino"], tmp_path)
    (path / "metadata.yaml").write_text("duet: [1, 2")
    with pytest.raises(ModelError, match="not valid YAML"):
        load(path)
    (path / "metadata.yaml").write_text(yaml.safe_dump({"duet": "{"}))
    with pytest.raises(ModelError, match="not valid JSON"):
        load(path)
    shutil.copyfile(path / "model.xml", path / "second.xml")
    with pytest.raises(ModelError, match=r"one \.xml file, got 2"):
        load(path)


def one_more_class(facts: dict[str, Any]) -> None:
    facts["increments"][0]["classes"].append("horse")


def same_class_twice(facts: dict[str, Any]) -> None:
    facts["increments"][1]["classes"] = ["cat"]


def other_layout(facts: dict[str, Any]) -> None:
    facts["layout"] = "picked"


def unknown_layout(facts: dict[str, Any]) -> None:
    facts["layout"] = "boxes"


def newer(facts: dict[str, Any]) -> None:
    facts["schema_version"] = 99


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (one_more_class, r"names 4 classes .* must have shape \(1, 8, anchors\), but got \(1, 7"),
        (same_class_twice, "occur twice: cat"),
        (other_layout, "must have shape"),
        (unknown_layout, "layout"),
        (newer, "newer duet: schema version 99"),
        (lambda _: "[1]", "cannot be used"),
        (lambda _: "null", "cannot be used"),
        (lambda _: "[" * 100_000, "not valid JSON"),
    ],
)
def test_metadata_that_disagrees(
    change: Callable[[dict[str, Any]], object], problem: str, files: dict[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    path = copy_of(files["onnx"], tmp_path)
    restamp(path, change)
    with pytest.raises(ModelError, match=problem) as caught:
        load(path)
    assert caught.value.where == str(path)


def as_square(facts: dict[str, Any]) -> None:
    """Say what files said before there were rectangles."""
    del facts["stride"]
    facts |= {"schema_version": 2, "fit": "letterbox", "dynamic": False}


def fixed(path: Path) -> None:
    """Close the sides of an ONNX file."""
    graph = onnx.load(str(path))
    sides = graph.graph.input[0].type.tensor_type.shape.dim
    for dim, side in zip(sides, (1, 3, SIZE, SIZE), strict=True):
        dim.dim_value = side
    onnx.save(graph, str(path))


def test_a_file_of_squares(files: dict[str, Path], tmp_path: Path) -> None:
    path = copy_of(files["onnx"], tmp_path)
    fixed(path)
    with pytest.raises(ModelError, match="does not run on an input of 32 x 64"):
        load(path)  # a closed file says that it is open
    restamp(path, as_square)
    square = load(path)
    for picture in pictures():  # it looks at the same pixels with more grey around them
        found = square(picture, confidence=0.3)
        assert len(found) > 0
        assert found.xyxy.max() <= max(picture.shape[:2])
    restamp(path, lambda facts: facts.update(image_size=96))
    with pytest.raises(ModelError, match="does not run on an input of 96 x 96"):
        load(path)


def test_paths_that_are_no_exports(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(ModelError, match="got a folder"):
        load(tmp_path / "m.onnx")
    (tmp_path / "m_openvino_model").write_text("x")
    with pytest.raises(ModelError, match="expected a folder"):
        load(tmp_path / "m_openvino_model")


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
@pytest.mark.parametrize("form", RUN)
def test_devices_that_do_not_exist(form: str, device: str, files: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="device") as caught:
        load(files[form], device)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("form", "extra"), [("onnx", "onnx"), ("openvino", "openvino")])
def test_a_missing_program_is_named(
    form: str, extra: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError) as caught:
        load(files[form])
    assert f'pip install "duet-detect[{extra}]"' in str(caught.value)


@pytest.mark.parametrize("location", ["../secret.bin", "ABSOLUTE", "link.bin"])
def test_onnx_reads_no_file_outside_its_folder(location: str, tmp_path: Path) -> None:
    inside, secret = tmp_path / "in", tmp_path / "secret.bin"
    inside.mkdir()
    np.arange(4, dtype=np.float32).tofile(secret)
    (inside / "link.bin").symlink_to(secret)
    weights = onnx.TensorProto(name="w", dims=[4], data_type=onnx.TensorProto.FLOAT)
    weights.data_location = onnx.TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key = "location"
    entry.value = str(secret) if location == "ABSOLUTE" else location
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in "xy"]
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 10
    path = inside / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="does not load"):
        load(path)


@pytest.mark.slow
def test_batches(files: dict[str, Path]) -> None:
    one, other = load(files["torchscript"]), load(files["openvino"])
    assert one.detector.batch == 1  # type: ignore[attr-defined]
    assert other.detector.batch > 1  # type: ignore[attr-defined]
    assert runtimes.open_openvino(files["openvino"], "cpu").precision == "f32"
    size = torch.zeros(3, 3, SIZE, SIZE)
    assert len(runtimes.open_file(files["openvino"], "openvino").run(size)) == 3


@pytest.mark.slow
def test_onnx_runtime_reports_nothing_to_its_maker(folder: Path, tmp_path: Path) -> None:
    """It looked up its maker's address, and kept an id of the machine in the user's folders."""
    script = """
import sys
from duet.cli.main import _run
model, target, image = sys.argv[1:]
assert _run(["export", model, "--to", "onnx", "--out", target]) == 0
assert _run(["predict", target, image, "--out", target + ".found"]) == 0
"""
    home = tmp_path / "home"
    home.mkdir()
    write_image(tmp_path / "a.png", seed=0)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("XDG_")}
    arguments = [folder, tmp_path / "x.onnx", tmp_path / "a.png"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True,
        env={**environment, "HOME": str(home)}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    left = {path.relative_to(home).parts[:2] for path in home.rglob("*") if path.is_file()}
    assert left <= {(".cache", "duet"), (".cache", "matplotlib")}


@pytest.mark.slow
def test_openvino_reports_nothing_to_its_maker(tmp_path: Path) -> None:
    """Its converter sends statistics unless its own stand-in is used."""
    script = """
import socket, sys
def refuse(*args, **kwargs):
    raise SystemExit("a connection was tried")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import duet
import openvino, torch
from openvino.tools.ovc import telemetry_utils
assert telemetry_utils.tm.__name__.endswith("telemetry_stub"), telemetry_utils.tm
openvino.convert_model(torch.nn.Linear(2, 2), example_input=torch.zeros(1, 2))
assert sys.modules["openvino_telemetry"] is None
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
