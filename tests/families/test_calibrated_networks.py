"""Whoever looks with a detector gets the scores that its score maps say; who learns, raw ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories_detectors import SIZE as DETECTOR_SIZE
from factories_detectors import make_state as lively_state
from factories_exports import SIZE, exportable_of, make_state
from factories_states import images, moved, same_bits, scored

from duet.errors import ModelError
from duet.export.export import export_detector
from duet.export.formats import FORMATS
from duet.export.parity import sample_images
from duet.families.detector import prepare_batch
from duet.families.outputs import Layout
from duet.families.rows import apply_scores, drop_classes, rename_classes
from duet.families.runtimes import as_function, open_file
from duet.families.table import resolve_family, resolve_roles
from duet.increments.manifest import DetectorManifest
from duet.increments.scores import ScoreMap
from duet.increments.state import DetectorState, HeadPart
from duet.increments.store import DetectorFile, save_detector
from duet.inference.load import load
from duet.runs.evaluate import detector_of

MAPS = {
    "class 0": ScoreMap(scale=0.6, offset=-0.4, threshold=0.3),
    "class 2": ScoreMap(scale=1.4, offset=0.5),
}
NETWORKS = [
    *(("yolo11n.yaml", head) for head in ("rows", "towers", "parallel")),
    *(("yolo26n.yaml", head) for head in ("rows", "towers", "parallel")),
    ("yolov10n.yaml", "rows"),
    *(("rtdetr-tiny.yaml", head) for head in ("rows", "parallel")),
    ("dfine-tiny", "rows"),
]
networks = pytest.mark.parametrize(
    ("architecture", "head"), NETWORKS, ids=["-".join(one) for one in NETWORKS]
)


def mapped(scores: np.ndarray, one: ScoreMap) -> np.ndarray:
    """Return sigmoid(scale · logit(s) + offset), float64."""
    wide = scores.astype(np.float64)
    found: np.ndarray = 1 / (1 + np.exp(-one.scale * np.log(wide / (1 - wide)) - one.offset))
    return found


def by_class(output: torch.Tensor, layout: Layout, classes: int) -> list[np.ndarray]:
    """Return the scores of each class in one image's output, best first; 0 is no answer."""
    if layout in ("picked", "picked-n"):
        found = [output[output[:, 5].round() == index, 4] for index in range(classes)]
    else:
        found = list(output[4:] if layout == "anchors" else output[:, 4:].T)
    return [rows[rows > 0].sort(descending=True).values.numpy() for rows in found]


def require_mapped(raw: torch.Tensor, seen: torch.Tensor, layout: Layout, limit: float) -> None:
    """Compare outputs of a detector of classes 0, 1, 2 with and without `MAPS`, batch first."""
    compared = 0
    for one, other in zip(raw, seen, strict=True):
        rows = zip(by_class(one, layout, 3), by_class(other, layout, 3), strict=True)
        for index, (before, after) in enumerate(rows):
            count = min(len(before), len(after))  # of some networks only the best come out
            expected = mapped(before[:count], MAPS.get(f"class {index}", ScoreMap()))
            assert np.abs(after[:count] - expected).max(initial=0) <= limit, f"class {index}"
            compared += count * (index != 1)
    assert compared > 5


def batch_of(state: DetectorState, size: int = SIZE) -> torch.Tensor:
    return prepare_batch(sample_images(size, 2), size, resolve_family(state.family).fit)


@pytest.mark.slow
@networks
@torch.no_grad()
def test_every_network_gives_mapped_scores(architecture: str, head: Any) -> None:
    plain = make_state(architecture, head, (2, 1))
    state, batch = scored(plain, MAPS), batch_of(plain)
    exportables = [exportable_of(one) for one in (plain, state)]
    models = [one.build().eval() for one in exportables]
    layout, unpick = exportables[0].layout, exportables[0].unpick
    if unpick is not None:  # every place, not the best alone
        for model in models:
            unpick(model)
        layout = "queries"
    raw, seen = (as_function(model)(batch) for model in models)
    require_mapped(raw, seen, layout, 1e-5)
    if layout == "anchors":  # nothing but scores of mapped classes changed, to the bit
        assert same_bits(raw[:, :4], seen[:, :4])
        assert same_bits(raw[:, 5], seen[:, 5])
    again = [as_function(exportable_of(one).build())(batch) for one in (plain, plain)]
    assert same_bits(*again)


@pytest.mark.slow
@networks
@torch.no_grad()
def test_what_learns_and_what_is_measured_sees_raw_scores(architecture: str, head: Any) -> None:
    plain = make_state(architecture, head, (2, 1))
    state, family = scored(plain, MAPS), resolve_family(plain.family)
    one, other = (family.class_logits(each)({}, images()) for each in (plain, state))
    assert same_bits(one, other)
    pictures = sample_images(SIZE, 2)
    for detector in (detector_of, family.detector):
        found, again = (
            detector(each, image_size=SIZE)(pictures, confidence=0.0) for each in (plain, state)
        )
        equal = [np.array_equal(a.scores, b.scores) for a, b in zip(found, again, strict=True)]
        assert all(equal) == (detector is detector_of)


@networks
def test_only_rows_that_answer_are_folded(architecture: str, head: Any) -> None:
    plain = make_state(architecture, head, (2, 1))
    state, family = scored(plain, MAPS), resolve_family(plain.family)
    assert family.calibrated(plain) is plain
    folded = family.calibrated(state)
    assert not moved({**plain.shared, **plain.buffers}, {**folded.shared, **folded.buffers})
    changed = moved(plain.parts[0].tensors, folded.parts[0].tensors)
    if plain.family == "dfine":
        assert folded is state
        return
    assert folded.scores == {"class 0": ScoreMap(threshold=0.3)}
    if plain.family == "rtdetr":
        layers = [n for n in plain.parts[0].tensors if n.startswith("dec_score_head.")]
        last = max(name.split(".")[1] for name in layers)
        assert len(layers) > 2
        assert changed == {f"dec_score_head.{last}.{kind}" for kind in ("weight", "bias")}
    else:
        rows = {n for n in plain.parts[0].tensors if family.rules.CLASS_ROWS.match(n)}
        assert changed == rows
        assert len(rows) == (12 if family.layout_of(plain) == "picked" else 6)


# ---- exported files -----------------------------------------------------------------------------

EXPORTS = [
    *(("yolo11n", "rows", form) for form in ("onnx", "torchscript", "openvino", "pt")),
    ("yolo11n", "towers", "pt"),
    ("yolo11n", "parallel", "onnx"),
    ("yolo26n.yaml", "towers", "onnx"),
    ("yolo26n.yaml", "rows", "pt"),
    ("rtdetr-tiny.yaml", "rows", "onnx"),
    ("rtdetr-tiny.yaml", "rows", "pt"),
    ("dfine-tiny", "rows", "torchscript"),
]
LONG = [
    ("rtdetr-tiny.yaml", "parallel", "torchscript"),
    ("dfine-tiny", "rows", "onnx"),
    ("dfine-tiny", "rows", "openvino"),
]


def export_cells() -> Iterator[Any]:
    for cells, marks in ((EXPORTS, []), (LONG, [pytest.mark.thorough])):
        yield from (pytest.param(*cell, id="-".join(cell), marks=marks) for cell in cells)


def trained_like(head: str) -> DetectorState:
    """Return the detector whose trunk was trained, with classes called as everywhere here."""
    state = lively_state(head, 2)
    first, second = state.parts
    parts = (replace(first, classes=("class 0", "class 1")), replace(second, classes=("class 2",)))
    return replace(state, parts=parts)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "head", "form"), export_cells())
@torch.no_grad()
def test_exported_files_give_mapped_scores(
    architecture: str, head: Any, form: str, tmp_path: Path
) -> None:
    shipped = architecture == "yolo11n"
    plain = trained_like(head) if shipped else make_state(architecture, head, (2, 1))
    state, size = scored(plain, MAPS), DETECTOR_SIZE if shipped else SIZE
    manifest = DetectorManifest.for_state(state, lineage=(), image_size=size, licence="AGPL-3.0")
    target = tmp_path / f"model{FORMATS[form].suffix}"
    report = export_detector(DetectorFile(state, manifest), target, form)
    assert report.parity is not None
    exportable = exportable_of(plain)
    if form == "pt":
        assert exportable.engine is not None
        run = as_function(exportable.engine.open(target))
    else:
        session = open_file(target, form, trust=True)

        def run(batch: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.run(batch.numpy()))

    # A stock file is opened as one of the engine's: the maps in its rows are not applied again.
    opened = load(target, trust=form != "pt")
    assert dict(opened.facts.thresholds) == {"class 0": 0.3}
    raw, seen = (
        torch.cat([each(batch[None]) for batch in batch_of(plain, size)])
        for each in (as_function(exportable.build()), run)
    )
    # A random trunk magnifies rounding, which the export measures; a trained one does not.
    require_mapped(raw, seen, exportable.layout, 1e-5 if shipped else report.parity.tolerance_score)


@pytest.mark.slow
def test_a_folder_is_opened_calibrated(tmp_path: Path) -> None:
    state = scored(trained_like("towers"), MAPS)
    manifest = DetectorManifest.for_state(
        state, lineage=(), image_size=DETECTOR_SIZE, licence="AGPL-3.0"
    )
    save_detector(tmp_path / "d", state, manifest)
    detector, picture = load(tmp_path / "d"), sample_images(DETECTOR_SIZE, 1)
    assert dict(detector.facts.thresholds) == {"class 0": 0.3}
    raw = detector_of(state, DETECTOR_SIZE)(picture, confidence=0.0, iou=1.0, limit=9999)[0]
    found = detector.detector(picture, confidence=0.0, iou=1.0, limit=9999)[0]
    assert found.scores.max() != raw.scores.max()
    assert detector.many(picture, confidence=0.1)[0].scores.max() == found.scores.max()


# ---- rows ---------------------------------------------------------------------------------------


def part_of(**changes: Any) -> HeadPart:
    tensors = {
        "cv3.0.2.weight": torch.tensor([[1.0, -2.0], [3.0, 4.0]]).view(2, 2, 1, 1),
        "cv3.0.2.bias": torch.tensor([0.5, -1.0]),
        "cv3.0.0.weight": torch.ones(3),
    }
    fields = {"classes": ("cat", "dog"), "tensors": tensors, "increment": "flat"}
    return HeadPart(**{**fields, "scores": {"dog": ScoreMap(scale=2, offset=0.25)}, **changes})


def test_rows_are_scaled_and_biases_moved() -> None:
    part = part_of()
    folded = apply_scores(part, ["cv3.0.2.weight", "cv3.0.2.bias"])
    weight, bias = (folded.tensors[f"cv3.0.2.{kind}"] for kind in ("weight", "bias"))
    assert weight.flatten(1).tolist() == [[1.0, -2.0], [6.0, 8.0]]
    assert bias.tolist() == [0.5, -1.75]
    assert folded.tensors["cv3.0.0.weight"] is part.tensors["cv3.0.0.weight"]
    assert not folded.scores
    with pytest.raises(ModelError, match="has 3 rows, expected 2"):
        apply_scores(part, ["cv3.0.0.weight"])


def test_dropped_and_renamed_classes_take_their_maps_along() -> None:
    rules, maps = resolve_roles("yolo"), {"cat": ScoreMap(offset=1), "dog": ScoreMap(scale=2)}
    part = part_of(scores=maps)
    kept = drop_classes(rules, part, ["cat"])
    assert kept is not None
    assert kept.scores == {"dog": maps["dog"]}
    turned = rename_classes(part, {"cat": "dog", "dog": "cat"})
    assert turned.scores == {"dog": maps["cat"], "cat": maps["dog"]}
