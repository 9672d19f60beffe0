"""Exports: the file computes what the detector computes, says where it comes from, or is absent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from factories_detectors import SIZE, make_detector, make_state
from factories_series import write_image

from duet.cli.export import export as command
from duet.errors import ConfigError, DataError, DuetError, MissingExtraError, ModelError
from duet.export import export as export_module
from duet.export import parity as parity_module
from duet.export.export import export_detector
from duet.export.parity import Parity, measure, sample_images
from duet.families.yolo import export as yolo_export
from duet.families.yolo.adapter import FAMILY
from duet.increments.guard import load_pt

ALL = [(head, count) for head in ("rows", "towers", "parallel") for count in (1, 2, 3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_detector(tmp_path_factory.mktemp("export") / "detector")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], standalone_mode=False)


def failure(result: Result) -> DuetError:
    assert isinstance(result.exception, DuetError), result.exception
    return result.exception


def test_outputs_of_the_test_detector_depend_on_the_image() -> None:
    run = yolo_export.raw_module(make_state("towers", 2))
    one, two = (run(yolo_export.squares([image], SIZE)) for image in sample_images(SIZE, 2))
    assert (one - two)[:, :4].abs().max() > 0.1  # otherwise parity would compare constants
    assert (one - two)[:, 4:].abs().max() > 1e-3
    assert 0.01 < float(one[:, 4:].mean()) < 0.99


@pytest.mark.parametrize(("head", "increments"), ALL)
def test_pt_is_the_same_detector(head: str, increments: int, tmp_path: Path) -> None:
    state = make_state(head, increments)
    path = FAMILY.export(state, tmp_path / "m.pt", image_size=SIZE, form="pt")
    parity = measure(state, path, "pt", sample_images(SIZE), image_size=SIZE)
    assert parity.max_box_px <= 1e-6
    joined = head == "towers" and increments > 1  # plain layers sum in another order
    assert parity.max_score <= (2e-6 if joined else 1e-7)


@pytest.mark.parametrize(
    ("head", "increments"), [("rows", 1), ("rows", 3), ("towers", 3), ("parallel", 3)]
)
def test_onnx_is_the_same_detector(head: str, increments: int, tmp_path: Path) -> None:
    state = make_state(head, increments)
    path = FAMILY.export(state, tmp_path / "m.onnx", image_size=SIZE, form="onnx")
    parity = measure(state, path, "onnx", sample_images(SIZE), image_size=SIZE)
    assert parity.ok, parity
    assert list(tmp_path.iterdir()) == [path]

    import onnx

    graph = onnx.load(str(path))
    said = {item.key: item.value for item in graph.metadata_props}
    assert said["names"] == str(dict(enumerate(state.labels)))
    facts = json.loads(said["duet"])
    assert facts["licence"] == said["licence"] == "AGPL-3.0-or-later"
    assert facts["fingerprint"] == state.fingerprint()
    assert [p["increment"] for p in facts["increments"]] == [p.increment for p in state.parts]
    shape = [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [1, 3, SIZE, SIZE]


def test_pt_is_float32_unfused_trainable_and_says_where_it_comes_from(tmp_path: Path) -> None:
    state = make_state("rows", 2)
    paths = [
        FAMILY.export(state, tmp_path / name, image_size=SIZE, form="pt")
        for name in ("a.pt", "b.pt")
    ]
    checkpoint = load_pt(paths[0])  # the guarded door accepts it: no class of duet inside
    model = checkpoint["model"]
    assert not model.is_fused()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters())
    assert model.names == {0: "cat", 1: "dog", 2: "bus"}
    assert checkpoint["train_args"]["imgsz"] == SIZE
    assert checkpoint["duet"]["fingerprint"] == state.fingerprint()
    assert checkpoint["duet"]["licence"] == "AGPL-3.0-or-later"
    stem = "model.0.conv.weight"
    assert torch.equal(model.state_dict()[stem], state.shared[stem])
    first, second = (load_pt(path)["model"].state_dict() for path in paths)
    assert all(torch.equal(first[name], second[name]) for name in first)


USE = """
import sys
if {blocked}:
    sys.modules["duet"] = None
from pathlib import Path
import numpy as np
from ultralytics import YOLO
for path in {paths}:
    model = YOLO(path)
    names = dict(model.names)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    found = model.predict(image, conf=0.001, imgsz=64, verbose=False, device="cpu")
    assert len(found[0].boxes) > 0
    metrics = YOLO(path).val(data={data}, imgsz=64, batch=1, plots=False, verbose=False,
                             device="cpu", project={project}, workers=0)
    assert metrics.box.map50 >= 0
    print(names, sorted(m for m in sys.modules if m.startswith("duet") and sys.modules[m]))
"""


def use_in_ultralytics(tmp_path: Path, paths: list[str], *, blocked: bool) -> str:
    """Predict and validate in a fresh process that knows duet's settings only by environment."""
    for split in ("train", "val"):
        write_image(tmp_path / f"data/images/{split}/0.png", seed=1, size=(64, 64))
        label = tmp_path / f"data/labels/{split}/0.txt"
        label.parent.mkdir(parents=True)
        label.write_text("0 0.5 0.5 0.5 0.5\n")
    data = tmp_path / "data/data.yaml"
    names = ["cat", "dog", "bus"]
    split = "images/{}"
    data.write_text(
        json.dumps(
            {
                "path": str(data.parent),
                "train": split.format("train"),
                "val": split.format("val"),
                "names": names,
            }
        )
    )
    code = USE.format(
        blocked=blocked, paths=paths, data=repr(str(data)), project=repr(str(tmp_path / "runs"))
    )
    kept = {k: v for k, v in os.environ.items() if k != "ULTRALYTICS_SAFE_LOAD"}
    done = subprocess.run(
        [sys.executable, *(["-I"] if blocked else []), "-c", code],
        cwd=tmp_path,
        env=kept | {"OMP_NUM_THREADS": "1"}
        | ({} if blocked else {"PYTHONPATH": str(Path(__file__).parents[1])}),
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_pt_works_in_stock_ultralytics_without_duet(tmp_path: Path) -> None:
    paths = [
        str(FAMILY.export(make_state(h, n), tmp_path / f"{h}.pt", image_size=SIZE, form="pt"))
        for h, n in (("rows", 2), ("towers", 2), ("parallel", 1))
    ]
    lines = use_in_ultralytics(tmp_path, paths[:2], blocked=True).strip().splitlines()
    assert lines[-2:] == ["{0: 'cat', 1: 'dog', 2: 'bus'} []"] * 2
    for path in paths:
        load_pt(Path(path))  # one increment: stock in every form


def test_parallel_heads_work_in_ultralytics_where_duet_is_importable(tmp_path: Path) -> None:
    state = make_state("parallel", 2)
    path = FAMILY.export(state, tmp_path / "parallel.pt", image_size=SIZE, form="pt")
    printed = use_in_ultralytics(tmp_path, [str(path)], blocked=False)
    assert "'duet.families.yolo.heads'" in printed
    with pytest.raises(ModelError, match="duet"):  # the guarded door stays narrow
        load_pt(path)


def test_report_and_parity_file(folder: Path, tmp_path: Path) -> None:
    photo = write_image(tmp_path / "photo.png", seed=3, size=(90, 50))
    report = export_detector(folder, tmp_path / "x" / "m.pt", "pt", images=[photo])
    kept = json.loads((tmp_path / "x" / "parity.json").read_text())
    assert kept["format"] == "duet-parity"
    entry = kept["exports"][0]
    assert entry == report.as_dict()
    assert entry["parity"]["images"] == 1
    assert entry["classes"] == ["cat", "dog", "bus"]
    assert entry["lineage"][0]["merge"] == {"method": "duet"}
    assert entry["needs_duet"] is False
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["m.pt", "parity.json"]
    export_detector(folder, tmp_path / "x" / "n.pt", "pt")
    export_detector(folder, tmp_path / "x" / "m.pt", "pt", overwrite=True)
    kept = json.loads((tmp_path / "x" / "parity.json").read_text())
    assert [item["file"] for item in kept["exports"]] == ["n.pt", "m.pt"]


@pytest.mark.parametrize(
    "parity", [Parity(2e-3, 0.0, 1), Parity(0.0, 2e-5, 1), Parity(float("nan"), 0.0, 1)]
)
def test_a_file_that_differs_is_not_left_behind(
    parity: Parity, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "measure", lambda *_, **__: parity)
    with pytest.raises(ModelError, match="not the same detector"):
        export_detector(folder, tmp_path / "m.pt", "pt")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_weight_is_noticed(tmp_path: Path) -> None:
    one = make_state("rows", 1)
    changed = {"model.0.conv.weight": one.shared["model.0.conv.weight"] * 1.01}
    other = replace(one, shared={**one.shared, **changed})
    path = FAMILY.export(other, tmp_path / "m.pt", image_size=SIZE, form="pt")
    assert not measure(one, path, "pt", sample_images(SIZE), image_size=SIZE).ok
    with pytest.raises(ModelError, match="shape"):
        measure(make_state("rows", 2), path, "pt", sample_images(SIZE), image_size=SIZE)


def test_a_broken_file_does_not_load(tmp_path: Path) -> None:
    for form in ("pt", "onnx"):
        path = tmp_path / f"m.{form}"
        path.write_bytes(b"nothing")
        with pytest.raises(ModelError, match="does not load"):
            measure(make_state("rows", 1), path, form, sample_images(SIZE), image_size=SIZE)


def test_missing_packages_are_named_before_any_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yolo_export, "find_spec", lambda name: None if name == "onnx" else True)
    monkeypatch.setattr(yolo_export, "inference_model", lambda _: pytest.fail("work was done"))
    with pytest.raises(MissingExtraError) as caught:
        export_detector(folder, tmp_path / "m.onnx", "onnx")
    assert caught.value.exit_code == 5
    assert 'pip install "duet-detect[onnx]"' in str(caught.value)
    assert "onnxslim" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "form", "error"),
    [
        ("m.onnx", "pt", ConfigError),
        ("m.engine", "engine", ConfigError),
        ("folder", "pt", ConfigError),
    ],
)
def test_impossible_targets(
    name: str, form: str, error: type[DuetError], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(error):
        export_detector(folder, tmp_path / name, form)


def test_foreign_parity_file_is_kept(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "parity.json").write_text("[1]")
    with pytest.raises(ConfigError, match="not written by duet"):
        export_detector(folder, tmp_path / "m.pt", "pt")
    assert (tmp_path / "parity.json").read_text() == "[1]"


def test_unwritable_target(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DuetError, match="cannot write") as caught:
        export_detector(folder, tmp_path / "file" / "m.pt", "pt")
    assert caught.value.exit_code == 1


def test_sample_images_are_deterministic() -> None:
    first, second = sample_images(SIZE), sample_images(SIZE)
    assert [image.shape[:2] for image in first] == [(32, 64), (64, 48), (64, 64)]
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    with pytest.raises(DataError, match="at least one"):
        measure(make_state("rows", 1), Path("x"), "pt", [], image_size=SIZE)


def test_command(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.pt"
    planned = invoke(folder, "--to", "pt", "--out", target, "--dry-run", "--json")
    assert json.loads(planned.stdout)["classes"] == ["cat", "dog", "bus"]
    assert list(tmp_path.iterdir()) == []

    photo = write_image(tmp_path / "photos" / "a.png", seed=1, size=(70, 64))
    done = invoke(folder, "--to", "pt", "--out", target, "--check", photo.parent, "--json")
    assert done.exception is None, done.exception
    result: dict[str, Any] = json.loads(done.stdout)
    assert (result["path"], result["parity"]["images"]) == (str(target), 1)
    assert "next: yolo predict" in done.stderr

    assert failure(invoke(folder, "--to", "pt", "--out", target)).exit_code == 2
    again = invoke(folder, "--to", "pt", "--out", target, "--overwrite")
    assert "same detector" in again.stdout


def test_command_errors(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "m.pt"
    assert failure(invoke(tmp_path / "no", "--to", "pt", "--out", out)).exit_code == 4
    assert failure(invoke(folder, "--to", "pt", "--out", out, "--check", empty)).exit_code == 3
    assert not out.exists()


def test_default_target_lies_in_the_detector_folder(tmp_path: Path) -> None:
    from duet.increments import load_detector

    folder = make_detector(tmp_path / "detector", increments=1)
    done = invoke(folder / "manifest.json", "--to", "pt", "--json")
    assert json.loads(done.stdout)["path"] == str(folder / "export" / "model.pt")
    load_detector(folder)  # an export inside does not disturb it


def test_tolerances_are_the_promised_ones() -> None:
    assert (parity_module.BOX_TOLERANCE_PX, parity_module.SCORE_TOLERANCE) == (1e-3, 1e-5)
