"""Exports: the file computes what the detector computes, says where it comes from, or is absent."""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from factories_detectors import SIZE, make_detector, make_state
from factories_exports import exportable_of
from factories_series import write_image
from places import REPO

from duet.cli.main import cli
from duet.errors import ConfigError, DataError, DuetError, MissingExtraError, ModelError
from duet.export import export as export_module
from duet.export import formats
from duet.export.export import export_detector, whole_export
from duet.export.formats import FORMATS, Tolerance
from duet.export.formats.machines import require_coreml
from duet.export.matching import FLOOR, differences
from duet.export.parity import Parity, as_function, measure, sample_images
from duet.families.detector import prepare_batch
from duet.families.exportable import ExportFacts
from duet.families.ultralytics.checkpoint import open_checkpoint
from duet.families.yolo import build
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import stock_model
from duet.files import sha256_path
from duet.increments.base import StartWeights
from duet.increments.guard import load_pt
from duet.increments.manifest import Lineage
from duet.increments.state import DetectorState, HeadPart

ALL = [(head, count) for head in ("rows", "towers", "parallel") for count in (1, 2, 3)]
LINEAGE = (Lineage(increment="flat", manifest="0" * 64, merge=None),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_detector(tmp_path_factory.mktemp("export") / "detector")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, arguments)], standalone_mode=False)


def failure(result: Result) -> DuetError:
    assert isinstance(result.exception, DuetError), result.exception
    return result.exception


def facts_of(state: DetectorState, size: int = SIZE, *, dynamic: bool = False) -> ExportFacts:
    return ExportFacts.of(
        state, exportable_of(state), image_size=size, licence="AGPL-3.0-or-later",
        lineage=LINEAGE, dynamic=dynamic,
    )  # fmt: skip


def write(
    state: DetectorState, form: str, folder: Path, facts: ExportFacts, *, name: str = "m"
) -> Path:
    """Write an export without comparing it."""
    target = folder / f"{name}{FORMATS[form].suffix}"
    if FORMATS[form].folder:
        target.mkdir()
    formats.write(FORMATS[form], exportable_of(state), target, facts)
    return target


def parity_of(
    state: DetectorState, form: str, folder: Path, size: int = SIZE, *, dynamic: bool = False
) -> Parity:
    facts = facts_of(state, size, dynamic=dynamic)
    path = write(state, form, folder, facts)
    assert list(folder.iterdir()) == [path]
    return measure(exportable_of(state), facts, path, form, sample_images(size))


def test_outputs_of_the_test_detector_depend_on_the_image() -> None:
    run = as_function(exportable_of(make_state("towers", 2)).build())
    images = sample_images(SIZE, 2)
    one, two = (run(prepare_batch([image], SIZE, "letterbox")) for image in images)
    assert (one - two)[:, :4].abs().max() > 0.1  # otherwise parity would compare constants
    assert (one - two)[:, 4:].abs().max() > 1e-3
    assert 0.01 < float(one[:, 4:].mean()) < 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("head", "increments"), ALL)
def test_pt_is_the_same_detector(head: str, increments: int, tmp_path: Path) -> None:
    parity = parity_of(make_state(head, increments), "pt", tmp_path)
    assert parity.max_box_px <= 1e-6
    joined = head == "towers" and increments > 1  # plain layers sum in another order
    assert parity.max_score <= (2e-6 if joined else 1e-7)


GRAPHS = [
    ("onnx", "rows", 2, 320, False),
    ("onnx", "towers", 3, SIZE, True),
    ("onnx", "parallel", 2, SIZE, False),
    ("torchscript", "rows", 1, SIZE, True),
    ("torchscript", "towers", 2, 320, False),
    ("torchscript", "parallel", 2, SIZE, False),
    ("openvino", "towers", 2, 320, False),
    ("openvino", "parallel", 2, SIZE, True),
]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "head", "increments", "size", "dynamic"), GRAPHS)
def test_graphs_are_the_same_detector(
    form: str, head: str, increments: int, size: int, dynamic: bool, tmp_path: Path
) -> None:
    parity = parity_of(make_state(head, increments), form, tmp_path, size, dynamic=dynamic)
    assert parity.ok, parity
    if form == "torchscript":
        assert max(parity.max_box_px, parity.max_score) <= 1e-6
    if parity.lowered is not None:  # only processors with bfloat16 have it
        assert form == "openvino"
        assert parity.lowered.max_box_px > 10 * parity.tolerance_box_px


@pytest.mark.slow
def test_onnx_says_where_it_comes_from(tmp_path: Path) -> None:
    import onnx

    state = make_state("rows", 2)
    facts = facts_of(state)
    graph = onnx.load(str(write(state, "onnx", tmp_path, facts)))
    said = {item.key: item.value for item in graph.metadata_props}
    assert said["names"] == str(dict(enumerate(state.labels)))
    assert said["task"] == "detect"  # what YOLO("model.onnx") reads
    kept = json.loads(said["duet"])
    assert kept["licence"] == said["licence"] == "AGPL-3.0-or-later"
    assert kept["fingerprint"] == said["fingerprint"] == state.fingerprint()
    assert [p["increment"] for p in kept["increments"]] == [p.increment for p in state.parts]
    assert kept["lineage"] == [item.model_dump(mode="json") for item in LINEAGE]
    assert (kept["layout"], kept["fit"], kept["image_size"]) == ("anchors", "letterbox", SIZE)
    assert ExportFacts.from_json(said["duet"], "x") == facts
    shape = [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [1, 3, SIZE, SIZE]

    from ultralytics import YOLO

    model = YOLO(tmp_path / "m.onnx")
    image = sample_images(SIZE)[2]
    found = model.predict(image, conf=0.3, imgsz=SIZE, verbose=False, device="cpu")[0]
    assert found.names == dict(enumerate(state.labels))
    assert len(found.boxes) > 0


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_planted_link_is_not_exported_through(tmp_path: Path) -> None:
    model, elsewhere = make_detector(tmp_path / "model"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (model / "export").symlink_to(elsewhere)
    result = invoke(model, "--to", "pt")
    assert isinstance(result.exception, DuetError)
    assert "export is one" in str(result.exception)
    assert not list(elsewhere.iterdir())


@functools.cache
def end_to_end_state() -> DetectorState:
    """Return a YOLO26 detector whose outputs depend on the image: BatchNorm knows the images."""
    architecture = "yolo26n.yaml"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = stock_model(architecture, 3, 64).train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        with torch.no_grad():
            for _ in range(4):
                model(prepare_batch(sample_images(SIZE, 6), SIZE, "letterbox"))
        start = StartWeights({k: v.detach().clone() for k, v in model.state_dict().items()})
    state = FAMILY.start_state(
        start, architecture=architecture, head="rows", classes=("cat", "dog"), increment="flat",
        seed=0,
    )  # fmt: skip
    state = FAMILY.grow(state, classes=("bus",), increment="comic", seed=1, source=None)
    generator = torch.Generator().manual_seed(1)
    return replace(state, parts=tuple(lively(part, generator) for part in state.parts))


def lively(part: HeadPart, generator: torch.Generator) -> HeadPart:
    """Return a part whose class scores spread between 0 and 1."""
    bias = re.compile(r"(one2one_)?cv3\.\d\.2\.bias")
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) - 1 if bias.match(name) else tensor
        for name, tensor in part.tensors.items()
    }
    return replace(part, tensors=tensors)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_end_to_end_heads(form: str, tmp_path: Path) -> None:
    state = end_to_end_state()
    facts, exportable = facts_of(state), exportable_of(state)
    assert facts.layout == "picked"
    path = write(state, form, tmp_path, facts)
    parity = measure(exportable, facts, path, form, sample_images(SIZE))
    assert parity.max_box_px <= 5e-3  # random weights magnify rounding
    assert parity.max_score <= 5e-5
    name = "model.0.conv.weight"
    shared = {**state.shared, name: state.shared[name] * 1.01}
    other = exportable_of(replace(state, shared=shared))
    assert measure(other, facts, path, form, sample_images(SIZE)).max_box_px > 1


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torchscript", "openvino"])
def test_a_family_whose_engine_has_no_exporter(form: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from factories_dfine import make_state as make_dfine

    state = make_dfine((2, 1))
    parity = parity_of(state, form, tmp_path)
    assert parity.ok, parity
    assert facts_of(state).layout == "queries"
    shared = dict(state.shared)
    name = next(n for n, t in shared.items() if t.ndim == 4 and t.abs().sum() > 0)
    shared[name] = shared[name] * 1.01
    other = exportable_of(replace(state, shared=shared))
    path = next(tmp_path.iterdir())
    assert not measure(other, facts_of(state), path, form, sample_images(SIZE)).ok


@pytest.mark.slow
def test_a_family_without_a_format_says_which_it_has(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from factories_dfine import make_state as make_dfine

    state = make_dfine((2, 1))
    with pytest.raises(ConfigError, match="dfine cannot be exported as pt") as caught:
        formats.write(FORMATS["pt"], exportable_of(state), tmp_path / "m.pt", facts_of(state))
    assert caught.value.remedy == "it has: onnx, torchscript, openvino"


def rows(*values: Sequence[float]) -> torch.Tensor:
    """Return 30 rows of the layout `picked`: those given, then an ever lower tail."""
    tail = [[5 + k, 5, 9 + k, 9, 0.01 - 1e-4 * k, 0] for k in range(30 - len(values))]
    return torch.tensor([*values, *tail], dtype=torch.float64)


A, B = (1, 1, 8, 8, 0.9, 0), (20, 2, 30, 9, 0.8, 1)


def off(expected: torch.Tensor, got: torch.Tensor) -> tuple[float, float]:
    return differences(expected, got, "picked", size=64, tolerance=Tolerance())


def test_sets_of_rows_are_compared_without_regard_to_order() -> None:
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert off(rows(A, B), rows(A, B)[order]) == (0, 0)
    other = rows((1, 1, 8.0005, 8, 0.9, 0), (20, 2, 30, 9, 0.800004, 1))[order]
    assert off(rows(A, B), other) == pytest.approx((5e-4, 4e-6), rel=1e-3)


def test_a_lower_row_at_the_cut_off_may_differ() -> None:
    one, other = rows(A, B), rows(A, B)
    one[-1] = torch.tensor([40, 40, 50, 50, 0.005, 1])
    other[-1] = torch.tensor([10, 50, 12, 60, 0.005, 0])
    assert off(one, other) == (0, 0)
    one[15:, 4], other[15:, 4] = FLOOR / 2, FLOOR / 3  # noise
    assert off(one, other) == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        (20, 2, 30, 9, 0.8, 0),
        (20, 2, 30, 9, 0.79, 1),
        (20, 2, 30.1, 9, 0.8, 1),
        (40, 2, 50, 9, 0.8, 1),
        (20, 2, 30, 9, 1e-4, 1),
    ],
    ids=["class", "score", "box", "place", "lost"],
)
def test_a_wrong_row_is_noticed(wrong: tuple[float, ...]) -> None:
    for pair in ((rows(A, B), rows(A, wrong)), (rows(A, wrong), rows(A, B))):
        box, score = off(*pair)
        assert box > 0.05 or score > 5e-3


def test_the_best_rows_are_compared_even_if_they_score_nothing() -> None:
    one, other = rows(A, B), rows(A, B)
    one[:, 4] *= FLOOR / 10
    other[:, 4] *= FLOOR / 10
    assert off(one, other) == (0, 0)
    other[1, 0] += 0.1
    assert off(one, other)[0] == pytest.approx(0.1)


def test_queries_are_paired_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(20, 4 + 3, generator=generator)
    other = one.flip(0)
    usual = {"layout": "queries", "size": 64, "tolerance": Tolerance()}
    assert differences(one, other, **usual) == (0, 0)
    other[3, 0] += 1 / 64
    other[5, 6] += 0.25
    assert differences(one, other, **usual) == pytest.approx((1, 0.25), rel=1e-4)


@pytest.mark.slow
def test_pt_is_float32_unfused_trainable_and_says_where_it_comes_from(tmp_path: Path) -> None:
    state = make_state("rows", 2)
    paths = [write(state, "pt", tmp_path, facts_of(state), name=name) for name in ("a", "b")]
    load_pt(paths[0])  # the guarded door accepts it: no class of duet inside
    checkpoint = torch.load(paths[0], weights_only=False)
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
    first, second = (open_checkpoint(path).network.tensors for path in paths)
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
        | ({} if blocked else {"PYTHONPATH": str(REPO)}),
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_pt_works_in_stock_ultralytics_without_duet(tmp_path: Path) -> None:
    paths = []
    for head, count in (("rows", 2), ("towers", 2), ("parallel", 1)):
        state = make_state(head, count)
        paths.append(str(write(state, "pt", tmp_path, facts_of(state), name=head)))
    lines = use_in_ultralytics(tmp_path, paths[:2], blocked=True).strip().splitlines()
    assert lines[-2:] == ["{0: 'cat', 1: 'dog', 2: 'bus'} []"] * 2
    for path in paths:
        load_pt(Path(path))  # one increment: stock in every form


@pytest.mark.slow
def test_parallel_heads_work_in_ultralytics_where_duet_is_importable(tmp_path: Path) -> None:
    state = make_state("parallel", 2)
    path = write(state, "pt", tmp_path, facts_of(state), name="parallel")
    printed = use_in_ultralytics(tmp_path, [str(path)], blocked=False)
    assert "'duet.families.yolo.heads'" in printed
    with pytest.raises(ModelError, match="duet"):  # the guarded door stays narrow
        load_pt(path)


@pytest.mark.slow
def test_report_and_parity_file(folder: Path, tmp_path: Path) -> None:
    photo = write_image(tmp_path / "photo.png", seed=3, size=(90, 50))
    report = export_detector(folder, tmp_path / "x" / "m.pt", "pt", images=[photo])
    kept = json.loads((tmp_path / "x" / "parity.json").read_text())
    assert kept["format"] == "duet-parity"
    entry = kept["exports"][0]
    assert entry == report.model_dump(mode="json")
    assert entry["parity"]["images"] == 1
    assert entry["classes"] == ["cat", "dog", "bus"]
    assert entry["lineage"][0]["merge"] == {"method": "duet"}
    assert entry["needs_duet"] is False
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["m.pt", "parity.json"]
    export_detector(folder, tmp_path / "x" / "n.pt", "pt")
    export_detector(folder, tmp_path / "x" / "m.pt", "pt", overwrite=True)
    kept = json.loads((tmp_path / "x" / "parity.json").read_text())
    assert [item["file"] for item in kept["exports"]] == ["n.pt", "m.pt"]


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "as it was": lambda entry: None,
    **{f"without {key}": lambda entry, key=key: entry.pop(key)  # type: ignore[misc]
       for key in ("bytes", "licence", "image_size", "classes", "needs_duet", "parity")},
    "odd size": lambda entry: entry.update(bytes="many"),
    "odd parity": lambda entry: entry.update(parity=[1]),
    "another detector": lambda entry: entry["parity"].update(max_box_px=12345),
    "no limit": lambda entry: entry["parity"].update(tolerance_box_px=math.inf),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS)
def test_only_an_entry_as_duet_writes_it_says_that_all_is_there(
    folder: Path, tmp_path: Path, edit: str
) -> None:
    export_detector(folder, tmp_path / "m.pt", "pt")
    kept = json.loads((tmp_path / "parity.json").read_text())
    EDITS[edit](kept["exports"][0])
    (tmp_path / "parity.json").write_text(json.dumps(kept))
    found = whole_export(folder, tmp_path / "m.pt", "pt")
    assert (found is None) == (edit != "as it was")


@pytest.mark.slow
def test_exports_at_the_same_time_keep_each_others_entries(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = export_module.write_json

    def slowly(target: Path, value: Any) -> None:
        time.sleep(0.3)  # all have read the file by then, if they may
        real(target, value)

    monkeypatch.setattr(export_module, "write_json", slowly)
    names = [f"{number}.pt" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: export_detector(folder, tmp_path / name, "pt"), names))
    kept = json.loads((tmp_path / "parity.json").read_text())
    assert sorted(item["file"] for item in kept["exports"]) == names


@pytest.mark.parametrize("off", [(2e-3, 0.0), (0.0, 2e-5), (float("nan"), 0.0)])
def test_a_file_that_differs_is_not_left_behind(
    off: tuple[float, float], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parity = Parity(
        max_box_px=off[0], max_score=off[1], images=1, tolerance_box_px=1e-3, tolerance_score=1e-5
    )
    monkeypatch.setattr(export_module, "measure", lambda *_, **__: parity)
    with pytest.raises(ModelError, match="not the same detector"):
        export_detector(folder, tmp_path / "m.pt", "pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["pt", "torchscript"])
@pytest.mark.slow
def test_a_changed_weight_is_noticed(form: str, tmp_path: Path) -> None:
    one = make_state("rows", 1)
    changed = {"model.0.conv.weight": one.shared["model.0.conv.weight"] * 1.01}
    other = replace(one, shared={**one.shared, **changed})
    path = write(other, form, tmp_path, facts_of(one))
    images = sample_images(SIZE)
    assert not measure(exportable_of(one), facts_of(one), path, form, images).ok
    with pytest.raises(ModelError, match="shape"):
        measure(exportable_of(make_state("rows", 2)), facts_of(one), path, form, images)
    if form != "pt":
        with pytest.raises(ModelError, match="not what was written"):
            measure(exportable_of(other), facts_of(other), path, form, images)


EXPORT_ALL = """
import sys
from pathlib import Path
from duet.export.export import export_detector
from duet.increments.store import load_detector
for name in ("m.pt", "m.onnx", "m.torchscript", "m_openvino_model"):
    form = {".pt": "pt", ".onnx": "onnx", ".torchscript": "torchscript"}.get(Path(name).suffix)
    export_detector(load_detector(Path(sys.argv[1])), Path(sys.argv[2]) / name, form or "openvino")
"""


@pytest.mark.slow
def test_equal_detectors_give_equal_files_in_any_process(folder: Path, tmp_path: Path) -> None:
    made = []
    for seed in "12":
        (out := tmp_path / seed).mkdir()
        subprocess.run(
            [sys.executable, "-c", EXPORT_ALL, str(folder), str(out)], check=True,
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True,
        )  # fmt: skip
        files = [path for path in sorted(out.rglob("*")) if path.is_file()]
        made.append({str(one.relative_to(out)): sha256_path(one) for one in files})
    assert {"m.pt", "m.onnx", "m.torchscript"} < made[0].keys()
    assert made[0] == made[1]


@pytest.mark.slow
def test_a_broken_file_does_not_load(tmp_path: Path) -> None:
    state = make_state("rows", 1)
    for form in ("pt", "onnx", "torchscript"):
        path = tmp_path / f"m.{form}"
        path.write_bytes(b"nothing")
        with pytest.raises(ModelError, match="does not load"):
            measure(exportable_of(state), facts_of(state), path, form, sample_images(SIZE))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that notes every process that is started, and refuse it."""
    seen: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        seen.append(arguments)
        raise OSError("no processes in this test")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(os, "system", refuse)
    return seen


@pytest.mark.parametrize(
    ("form", "lacking", "line"),
    [
        ("onnx", "onnx", 'pip install "duet-detect[onnx]"'),
        ("openvino", "openvino", 'pip install "duet-detect[openvino]"'),
        ("engine", "tensorrt", 'pip install tensorrt "duet-detect[onnx]"'),
        ("coreml", "coremltools", 'pip install "coremltools>=9" "numpy<=2.3.5"'),
        ("tflite", "litert_torch", 'pip install "litert-torch>=0.10" "ai-edge-litert>=2.3"'),
    ],
)
def test_missing_packages_are_named_before_any_work(
    form: str, lacking: str, line: str, folder: Path, tmp_path: Path, started: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == lacking else True)
    monkeypatch.setattr(build, "inference_model", lambda _: pytest.fail("work was done"))
    with pytest.raises(MissingExtraError) as caught:
        export_detector(folder, tmp_path / f"m{FORMATS[form].suffix}", form)
    assert caught.value.exit_code == 5
    assert line in str(caught.value)
    assert "onnxslim" not in str(caught.value)
    assert started == []
    assert list(tmp_path.iterdir()) == []


def test_the_engine_installs_nothing_by_itself(tmp_path: Path, started: list[object]) -> None:
    state = make_state("rows", 1)
    for form in ("tflite", "coreml"):
        if FORMATS[form].missing:
            with pytest.raises(ModelError, match="the engine cannot export"):
                write(state, form, tmp_path, facts_of(state))
    assert started == []


def test_machines_that_cannot_write_a_format(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda _: True)
    monkeypatch.setattr(build, "inference_model", lambda _: pytest.fail("work was done"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(np, "__version__", "2.4.6")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(sys, "platform", "linux")
    for form, problem in (("engine", "NVIDIA GPU"), ("coreml", "numpy"), ("tflite", "riscv64")):
        with pytest.raises(ConfigError, match=problem):
            export_detector(folder, tmp_path / f"m{FORMATS[form].suffix}", form)


@pytest.mark.parametrize("version", ["2.4.0rc1", "2.4.0.dev0"])
def test_a_numpy_to_come_is_too_new_for_core_ml(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "__version__", version)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ConfigError, match=version):
        require_coreml()


@pytest.mark.parametrize(
    ("form", "device", "words"),
    [
        ("onnx", "cuda:0", "onnx files are written on the CPU"),
        ("onnx", "toaster", "'toaster' is no device"),
        ("engine", "cpu", "engine files are written on an NVIDIA GPU"),
        ("engine", "0,1", "a file is written on one device"),
        ("engine", "cuda:99", "cuda:99"),
    ],
)
def test_a_device_that_does_not_fit_a_format_is_refused(
    form: str, device: str, words: str, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(formats, "find_spec", lambda _: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    target = tmp_path / f"m{FORMATS[form].suffix}"
    error = failure(invoke(folder, "--to", form, "--out", target, "--device", device))
    assert words in str(error)
    assert error.exit_code == 2
    assert not target.exists()


@pytest.mark.slow
def test_an_engine_is_built_for_the_gpu_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.engine import exporter

    asked: list[dict[str, Any]] = []

    def refused(overrides: dict[str, Any], _callbacks: object) -> None:
        asked.append(overrides)
        raise RuntimeError("no such GPU here")

    monkeypatch.setattr(exporter, "Exporter", refused)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    state = make_state("rows", 1)
    for device, place in ((None, "0"), ("cuda:1", "1"), ("1", "1")):
        chosen = formats.device_for(FORMATS["engine"], device)
        with pytest.raises(ModelError, match="no such GPU here"):
            formats.write(
                FORMATS["engine"], exportable_of(state), tmp_path / "m.engine", facts_of(state),
                device=chosen,
            )  # fmt: skip
        assert asked[-1]["device"] == place


def test_only_graphs_take_any_batch(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no dynamic batch"):
        export_detector(folder, tmp_path / "m.pt", "pt", dynamic=True)


@pytest.mark.parametrize(
    ("name", "form", "error"),
    [
        ("m.onnx", "pt", ConfigError),
        ("m.engine", "engines", ConfigError),
        ("_openvino_model", "openvino", ConfigError),
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


@pytest.mark.slow
def test_openvino_folders_are_replaced_and_others_are_not(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "thesis_openvino_model"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="no export"):
        export_detector(folder, mine, "openvino", overwrite=True)
    assert [p.name for p in mine.iterdir()] == ["thesis.tex"]

    target = tmp_path / "x" / "m_openvino_model"
    target.mkdir(parents=True)
    (target / "metadata.yaml").write_text("old: 1")
    with pytest.raises(ConfigError, match="already exists"):
        export_detector(folder, target, "openvino")
    report = export_detector(folder, target, "openvino", overwrite=True)
    names = ["metadata.yaml", "model.bin", "model.xml"]
    assert sorted(p.name for p in target.iterdir()) == names
    assert sorted(p.name for p in target.parent.iterdir()) == [target.name, "parity.json"]
    assert report.bytes == sum(p.stat().st_size for p in target.iterdir())
    entry = json.loads((target.parent / "parity.json").read_text())["exports"][0]
    assert entry == report.model_dump(mode="json")
    assert entry["parity"]["tolerance_box_px"] == 1e-2
    assert "float32" in entry["parity"]["tolerance_why"]


def test_sample_images_are_deterministic() -> None:
    first, second = sample_images(SIZE), sample_images(SIZE)
    assert [image.shape[:2] for image in first] == [(32, 64), (64, 48), (64, 64)]
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    state = make_state("rows", 1)
    with pytest.raises(DataError, match="at least one"):
        measure(exportable_of(state), facts_of(state), Path("x"), "pt", [])


@pytest.mark.slow
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


@pytest.mark.slow
def test_default_target_lies_in_the_detector_folder(tmp_path: Path) -> None:
    from duet.increments.store import load_detector

    folder = make_detector(tmp_path / "detector", increments=1)
    done = invoke(folder / "manifest.json", "--to", "pt", "--json")
    assert json.loads(done.stdout)["path"] == str(folder / "export" / "model.pt")
    load_detector(folder)  # an export inside does not disturb it


def test_the_list_of_formats_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "openvino" else True)
    listed = json.loads(invoke("--formats", "--json").stdout)["formats"]
    assert [row["name"] for row in listed] == list(FORMATS)
    assert {row["name"]: row["missing"] for row in listed}["openvino"] == ["openvino"]
    text = invoke("--list").stdout
    assert 'not installed: pip install "duet-detect[openvino]"' in text
    assert "needs an NVIDIA GPU" in text


def test_what_the_command_line_lacks(folder: Path) -> None:
    assert "MODEL" in str(invoke("--to", "pt").exception)
    assert "torchscript" in str(invoke(folder).exception)
    assert "did you mean 'onnx'" in str(failure(invoke(folder, "--to", "onx")))


def test_every_format_is_written_by_duet_or_by_an_engine() -> None:
    engine = exportable_of(make_state("rows", 1)).engine
    assert engine is not None
    for row in FORMATS.values():
        assert row.writer or row.name in engine.forms
        assert not row.writer or callable(FORMATS.load(row.name).write)


def test_tolerances_are_the_promised_ones() -> None:
    usual = {name for name, row in FORMATS.items() if row.tolerance == Tolerance()}
    assert usual == {"pt", "onnx", "torchscript"}
    assert (Tolerance().box_px, Tolerance().score) == (1e-3, 1e-5)


@pytest.mark.slow
def test_a_quote_in_the_path_is_no_way_around_the_file(tmp_path: Path) -> None:
    """The engine drops quotes from paths, finds nothing, and looks for official weights."""
    folder = make_detector(tmp_path / "detector")
    (tmp_path / "it's").mkdir()
    report = export_detector(folder, tmp_path / "it's" / "yolov5n.pt", "pt")
    assert report.parity is not None
    assert report.parity.ok
