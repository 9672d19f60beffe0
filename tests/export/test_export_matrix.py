"""Exports of every family, head form and number of classes find what the detector finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories_exports import SIZE, exportable_of, make_state

import duet
from duet.detections import Detections
from duet.errors import ModelError
from duet.export import parity
from duet.export.export import export_detector
from duet.export.formats import FORMATS, Tolerance
from duet.export.matching import differences
from duet.export.parity import Parity, require, sample_images
from duet.export.reference import CEILING, FACTOR, Noise, Reference, allowed
from duet.families.detector import prepare_batch
from duet.families.exportable import Exportable, ExportFacts
from duet.families.outputs import Layout
from duet.families.runtimes import as_function, open_file
from duet.families.table import resolve_family
from duet.images import PAD
from duet.increments.manifest import DetectorManifest, Lineage
from duet.increments.state import DetectorState
from duet.increments.store import DetectorFile, save_detector

pytestmark = pytest.mark.slow

YOLO = ("yolov8n.yaml", "yolov10n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolo26n.yaml")
HEADS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(YOLO, ("rows", "towers", "parallel")),
    "rtdetr-tiny.yaml": ("rows", "parallel"),
    "dfine-tiny": ("rows",),
}
SIZES = ((1,), (2,), (3,), (80,), (1, 1), (2, 1), (60, 20))
FORMS = ("onnx", "torchscript", "openvino", "pt")

MATRIX = [
    (architecture, head, sizes, form)
    for architecture, heads in HEADS.items()
    for head in heads
    for sizes in SIZES
    for form in FORMS
    if not (architecture.startswith("dfine") and form == "pt")
    and not (form in ("torchscript", "openvino") and sizes in ((3,), (60, 20)))  # twice is enough
    and not (len(sizes) == 1 and head != heads[0])  # one increment is the same in every form
]
FAST = [
    ("yolo11n.yaml", "rows", (1,), "torchscript"),
    ("yolo11n.yaml", "towers", (1, 1), "onnx"),
    ("yolo11n.yaml", "rows", (80,), "torchscript"),
    ("yolov8n.yaml", "rows", (2,), "pt"),
    ("yolo26n.yaml", "rows", (2,), "onnx"),
    ("yolo26n.yaml", "parallel", (1, 1), "openvino"),
    ("rtdetr-tiny.yaml", "rows", (2,), "torchscript"),
    ("dfine-tiny", "rows", (2,), "torchscript"),
]


def kept(state: DetectorState, size: int = SIZE) -> DetectorFile:
    lineage = tuple(
        Lineage(increment=part.increment, manifest="0" * 64, merge=None) for part in state.parts
    )
    licence = resolve_family(state.family).licence
    return DetectorFile(
        state,
        DetectorManifest.for_state(state, lineage=lineage, image_size=size, licence=licence),
    )


def pictures() -> list[Any]:
    return sample_images(SIZE, 3)


def squared(picture: Any) -> Any:
    tall, wide = (SIZE - side for side in picture.shape[:2])
    return np.pad(picture, ((0, tall), (0, wide), (0, 0)), constant_values=PAD)


def takes_rectangles(target: Path, form: str) -> bool:
    stamp = None if form == "pt" else open_file(target, form, trust=True).stamp
    return stamp is not None and ExportFacts.from_json(stamp, "here").fit == "rectangle"


def require_equal(one: Detections, other: Detections, tolerance: Tolerance) -> None:
    """Each object has its like on the other side; near ties may stand in another order."""
    assert len(one) == len(other)
    for here, there in ((one, other), (other, one)):
        for box, score, name in zip(here.xyxy, here.scores, here.names, strict=True):
            alike = np.array(there.names) == name
            box_off = np.abs(there.xyxy[alike] - box).max(1) / (2 * tolerance.box_px)
            score_off = np.abs(there.scores[alike] - score) / (2 * tolerance.score)
            assert np.maximum(box_off, score_off).min() < 1, (box, score, name)


def run_plainly(path: Path, form: str, batch: torch.Tensor) -> tuple[int, ...]:
    """Run a file in the program it is for, without duet; return the shape of its output."""
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        return tuple(session.run(None, {given.name: batch.numpy()})[0].shape)
    from ultralytics import YOLO

    image = np.full((SIZE, SIZE, 3), 90, np.uint8)
    found = YOLO(path).predict(image, imgsz=SIZE, conf=0.5, verbose=False, device="cpu")[0]
    return (1, len(found.names))


def check_cell(architecture: str, head: Any, sizes: tuple[int, ...], form: str, tmp: Path) -> None:
    state = make_state(architecture, head, sizes)
    file = kept(state)
    save_detector(tmp / "detector", state, file.manifest)
    target = tmp / f"model{FORMATS[form].suffix}"
    report = export_detector(file, target, form)
    assert report.parity is not None
    assert report.parity.ok
    limit = Tolerance(report.parity.tolerance_box_px, report.parity.tolerance_score)
    detector = duet.load(tmp / "detector")
    if form == "pt" and head == "parallel" and len(sizes) > 1:
        return  # a head of duet's own: the guarded door stays narrow
    opened = duet.load(target)
    assert opened.classes == detector.classes
    found = 0
    for picture in pictures() if takes_rectangles(target, form) else map(squared, pictures()):
        one, other = (d(picture, confidence=0.3, iou=1.0) for d in (detector, opened))
        require_equal(one, other, limit)
        found += len(one)
    assert found > 0
    if form in ("onnx", "pt"):
        batch = prepare_batch(pictures()[:1], SIZE, "letterbox")
        shape = run_plainly(target, form, batch)
        assert shape[0] == 1
        assert form == "onnx" or shape[1] == sum(sizes)


def cell_name(cell: tuple[str, str, tuple[int, ...], str]) -> str:
    architecture, head, sizes, form = cell
    return f"{architecture.removesuffix('.yaml')}-{head}-{'+'.join(map(str, sizes))}-{form}"


@pytest.mark.parametrize("cell", FAST, ids=cell_name)
def test_an_export_is_opened_and_finds_the_same(cell: Any, tmp_path: Path) -> None:
    check_cell(*cell, tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("cell", MATRIX, ids=cell_name)
def test_the_whole_matrix(cell: Any, tmp_path: Path) -> None:
    check_cell(*cell, tmp_path)


# ---- the limit ----------------------------------------------------------------------------------


def reference_of(state: DetectorState, size: int, count: int = 1) -> Reference:
    exportable = exportable_of(state)
    images = sample_images(size, count)
    return Reference.of(exportable, [prepare_batch([one], size, exportable.fit) for one in images])


def compared(run: Any, reference: Reference, state: DetectorState, size: int) -> Parity:
    exportable = exportable_of(state)
    facts = ExportFacts.of(state, exportable, image_size=size, licence="x")
    tolerance = allowed(Tolerance(), reference.noise)
    off = parity._compare(run, reference, facts, tolerance)
    return parity_of(*off, tolerance, reference.noise)


def parity_of(box: float, score: float, tolerance: Tolerance, noise: Noise | None) -> Parity:
    return Parity(
        max_box_px=box, max_score=score, images=1, noise=noise, tolerance_box_px=tolerance.box_px,
        tolerance_score=tolerance.score, tolerance_why=tolerance.why or None,
    )  # fmt: skip


def shifted(output: torch.Tensor, place: int, by: float) -> torch.Tensor:
    """Return an output of the layout `anchors` with one coordinate of one box moved."""
    moved = output.clone()
    moved[0, 2, place] += by
    return moved


def test_what_is_no_number_equals_nothing() -> None:
    state = make_state("yolov8n.yaml", "rows", (2,))
    reference = reference_of(state, SIZE)
    nan = reference.outputs[0].clone()
    nan[0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match="the exported file gives NaN"):
        compared(lambda _: nan, reference, state, SIZE)


class Wild(torch.nn.Module):
    """A network that answers, in one place, what depends on the number format."""

    def __init__(self, answer: float) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        output = batch.new_ones(1, 6, 6)
        output[0, 0, 0] = self.answer
        return output * self.answer


@pytest.mark.parametrize("layout", ["anchors", "queries", "picked"])
@pytest.mark.parametrize("answer", [torch.nan, 1e30], ids=["NaN", "more than float32 holds"])
def test_a_detector_that_answers_no_number_equals_nothing(answer: float, layout: Layout) -> None:
    exportable = Exportable(lambda: Wild(answer), layout, "letterbox")
    with pytest.raises(ModelError, match="the detector gives NaN or infinite"):
        Reference.of(exportable, [torch.rand(1, 3, 8, 8)])


@pytest.mark.parametrize("architecture", ["yolov8n.yaml", "yolo26n.yaml", "rtdetr-tiny.yaml"])
def test_rounding_passes_and_a_changed_weight_does_not(architecture: str) -> None:
    state = make_state(architecture, "rows", (2,))
    reference = reference_of(state, SIZE)
    assert reference.noise is not None
    assert 0 < reference.noise.max_box_px < CEILING.box_px
    exact = as_function(exportable_of(state).build().eval().double())
    got = compared(lambda batch: exact(batch.double()).float(), reference, state, SIZE)
    assert got.ok
    assert got.max_box_px + got.max_score > 0
    name = next(name for name, tensor in state.shared.items() if tensor.ndim == 4)
    weight = state.shared[name].clone()
    weight[0, 0, 0, 0] *= 1.1
    changed = exportable_of(
        DetectorState(
            state.family, state.architecture, state.head, {**state.shared, name: weight},
            state.buffers, state.parts,
        )
    )  # fmt: skip
    got = compared(as_function(changed.build().eval()), reference, state, SIZE)
    assert not got.ok
    with pytest.raises(ModelError, match="not the same detector"):
        require(got, "file")


def test_a_yolov8s_at_640_px_is_wrong_by_a_twentieth_of_a_pixel() -> None:
    """Its own noise is above the usual limit; one wrong coordinate of 8400 boxes still shows."""
    size, state = 640, make_state("yolov8s.yaml", "rows", (2,))
    reference = reference_of(state, size)
    (output,) = reference.outputs
    assert output.shape == (1, 6, 8400)
    assert reference.noise is not None
    for by, fits in ((0.0, True), (5e-4, True), (0.05, False)):
        got = compared(lambda _, by=by: shifted(output, 8000, by), reference, state, size)
        assert got.ok == fits, got
    assert got.max_box_px == pytest.approx(0.05, rel=0.01)


def test_the_limit_is_the_usual_one_or_what_the_noise_explains() -> None:
    usual = Tolerance()
    assert allowed(usual, None) is usual
    assert allowed(usual, Noise(max_box_px=usual.box_px / FACTOR, max_score=0.0)) is usual
    noise = Noise(max_box_px=2e-3, max_score=1e-7)
    more = allowed(usual, noise)
    assert (more.box_px, more.score) == (2e-3 * FACTOR, usual.score)
    assert "rounding" in more.why
    most = allowed(usual, Noise(max_box_px=300.0, max_score=0.5))
    assert (most.box_px, most.score) == (CEILING.box_px, CEILING.score)
    assert CEILING.box_px < 0.05
    said = parity_of(2e-3, 1e-7, more, noise).model_dump(mode="json")
    assert said["noise"] == {"max_box_px": 2e-3, "max_score": 1e-7, "factor": FACTOR}
    assert said["tolerance_box_px"] == 2e-3 * FACTOR
    assert said["tolerance_why"]


def test_answers_that_rounding_decides_are_refused_with_the_reason() -> None:
    noise = Noise(max_box_px=300.0, max_score=0.006)
    with pytest.raises(ModelError, match="rounding decides what it answers") as caught:
        require(parity_of(200.0, 0.006, allowed(Tolerance(), noise), noise), "file")
    assert "--check" in str(caught.value.remedy)


class Single(torch.nn.Module):
    """A network with a layer that runs in float32 alone."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.flatten(2)[:, :, :9] @ torch.eye(9)


def test_a_network_that_does_not_run_in_float64_keeps_the_usual_limit() -> None:
    exportable = Exportable(Single, "queries", "letterbox")
    reference = Reference.of(exportable, [torch.rand(1, 3, 8, 8)])
    assert reference.noise is None
    said = parity_of(0.0, 0.0, Tolerance(), None).model_dump(mode="json")
    assert "noise" not in said


# ---- picked rows and their places ---------------------------------------------------------------


def places() -> torch.Tensor:
    """Return 40 places with two classes; the last twenty tie with each other."""
    generator = torch.Generator().manual_seed(0)
    boxes = 60 * torch.rand(40, 4, generator=generator)
    scores = torch.rand(40, 2, generator=generator)
    scores[20:] = 0.001
    return torch.cat((boxes, scores), 1).double()


def picked(given: torch.Tensor, count: int, *, last: bool = False) -> torch.Tensor:
    """Return the best rows; of those that tie the first or the last."""
    order = given[:, 4:].flatten().flip(0) if last else given[:, 4:].flatten()
    scores, which = order.sort(descending=True, stable=True)
    which = len(order) - 1 - which if last else which
    rows = [
        torch.cat((given[k // 2, :4], torch.stack((scores[n], k % 2))))
        for n, k in enumerate(which[:count])
    ]
    return torch.stack(rows)


def off(rows: torch.Tensor, given: torch.Tensor) -> tuple[float, float]:
    expected = picked(given, len(rows))
    return differences(
        expected, rows, "picked", size=64, tolerance=Tolerance(), places=given
    )  # fmt: skip


def test_ties_may_be_picked_either_way() -> None:
    given = places()
    one, other = picked(given, 60), picked(given, 60, last=True)
    assert not torch.equal(one, other)
    assert off(one, given) == off(other, given) == (0, 0)
    level = given.clone()
    level[:, 4:] = 0.006  # an untrained head: nothing but ties
    assert off(picked(level, 30, last=True), level) == (0, 0)


@pytest.mark.parametrize("row", [0, 20, 59])
@pytest.mark.parametrize(
    ("column", "by"), [(0, 0.05), (3, -0.05), (4, 1e-3)], ids=["left", "bottom", "score"]
)
def test_a_wrong_number_in_any_row_is_noticed(row: int, column: int, by: float) -> None:
    given = places()
    rows = picked(given, 60)
    rows[row, column] += by
    box, score = off(rows, given)
    assert (score if column == 4 else box) == pytest.approx(abs(by), rel=1e-6)


def test_a_lost_a_repeated_and_a_strange_row_are_noticed() -> None:
    given = places()
    rows = picked(given, 60)
    assert off(torch.cat((rows[1:], rows[1:2])), given)[0] > 1
    assert off(rows[:1].repeat(60, 1), given)[1] > 0.5
    for number in (-1, 2):
        strange = rows.clone()
        strange[5, 5] = number
        assert off(strange, given)[1] > 1
    other = rows.clone()
    other[0, 5] = 1 - other[0, 5]
    assert off(other, given)[1] > 0.1
