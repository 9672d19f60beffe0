"""Images in rectangles: what the network reads is, pixel by pixel, what the engine's own reads."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from factories_detectors import make_state
from factories_yolo import make_state as make_yolo
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox

from duet.detections import Detections
from duet.families.detector import ImageDetector, prepare_batch
from duet.families.table import resolve_family
from duet.families.yolo.adapter import FAMILY
from duet.images import Fit, fit_image, input_shape
from duet.runs.evaluate import looked_at

SIDES = [(72, 128), (128, 72), (31, 7), (5, 300), (720, 1280), (427, 640), (33, 33), (1, 900)]
"""Heights and widths: wide, tall, square, tiny, and some whose scaled sides have to be rounded."""


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("stride", [32, 64])
@pytest.mark.parametrize(("height", "width"), SIDES)
def test_a_rectangle_is_the_engine_s(height: int, width: int, stride: int) -> None:
    for size in (192, 640):
        theirs = LetterBox(new_shape=(size, size), auto=True, stride=stride)
        if min(height, width) * size / max(height, width) < 0.5:
            continue  # the engine asks OpenCV for a picture without pixels
        image = picture(height, width)
        fitted = fit_image(image, size, "rectangle", stride)
        assert np.array_equal(fitted.pixels, theirs(image=image)), size
        shape = fitted.pixels.shape[:2]
        assert shape == input_shape((height, width), size, "rectangle", stride)
        assert max(shape) == size
        assert not shape[0] % stride
        assert not shape[1] % stride


@pytest.mark.parametrize(("height", "width"), [(24, 32), (31, 7), (5, 50), (32, 32)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox", "rectangle"])
def test_boxes_there_and_back(fit: Fit, height: int, width: int) -> None:
    """Labels are where a detector that sees the same input would find them."""
    sides = np.random.default_rng(0).uniform(0, 0.5, (50, 4)).astype(np.float32)
    fitted = fit_image(np.zeros((height, width, 3), np.uint8), 64, fit)
    tall, wide = fitted.pixels.shape[:2]
    cx, cy, w, h = fitted.to_input(sides).T * np.array([[wide], [tall]] * 2)
    back = fitted.to_original(np.stack((cx, cy, cx + w, cy + h), 1))  # all inside the image
    expected = sides * [width, height, width, height]
    np.testing.assert_allclose(back[:, :2], expected[:, :2], atol=1e-4)
    np.testing.assert_allclose(back[:, 2:] - back[:, :2], expected[:, 2:], atol=1e-4)


@pytest.mark.parametrize(
    ("family", "fit"), [("yolo", "rectangle"), ("rtdetr", "stretch"), ("dfine", "stretch")]
)
def test_how_each_family_sees(family: str, fit: Fit) -> None:
    assert resolve_family(family).fit == fit


def test_what_was_kept_of_squares_answers_for_squares_alone() -> None:
    """Keys of evaluations of an older duet, which padded every image to a square."""
    state = make_state("rows", 1)
    assert looked_at(replace(state, family="rtdetr"), 64) == [64]
    assert looked_at(state, 64) == [64, "rectangle"]


def detector(size: int = 64) -> ImageDetector:
    return FAMILY.detector(make_state("towers", 2), image_size=size)


def same(one: Detections, other: Detections) -> bool:
    return (
        bool(len(one))
        and np.array_equal(one.class_ids, other.class_ids)
        and np.allclose(one.scores, other.scores, atol=1e-5)
        and np.allclose(one.xyxy, other.xyxy, atol=1e-2)
    )


def test_what_stands_beside_an_image_changes_nothing() -> None:
    """Each has its own rectangle; the order of the answers is that of the images."""
    looks, shapes = detector(), [(40, 64), (64, 30), (64, 64), (20, 64), (40, 64), (33, 64)]
    images = [picture(*shape, seed=index) for index, shape in enumerate(shapes)]
    together = looks(images, confidence=0.2)
    alone = [looks([image], confidence=0.2)[0] for image in images]
    assert all(same(one, other) for one, other in zip(together, alone, strict=True))
    assert not any(same(one, other) for one, other in itertools.pairwise(alone))
    seen: list[tuple[int, ...]] = []
    hook = looks.module.register_forward_pre_hook(  # type: ignore[attr-defined]
        lambda _, inputs: seen.append(tuple(inputs[0].shape))
    )
    looks(images)
    hook.remove()
    assert sorted(seen) == [(1, 3, 32, 64), (1, 3, 64, 32), (4, 3, 64, 64)]


def test_a_network_of_a_coarser_stride_gets_its_own_multiples() -> None:
    looks = FAMILY.detector(make_yolo("towers", architecture="yolov8n-p6.yaml"), image_size=128)
    assert looks.stride == 64
    assert looks([picture(70, 128)], confidence=0.0)[0].labels.names


def test_squares_of_prepare_stay() -> None:
    """What learned merges and exported files look at."""
    images = [picture(40, 64), picture(64, 20)]
    batch = FAMILY.prepare(images, image_size=64)
    assert batch.shape == (2, 3, 64, 64)
    assert torch.equal(batch, prepare_batch(images, 64, "letterbox"))


def test_answers_are_those_of_yolo_predict(tmp_path: Path) -> None:
    """Same picture, same input: the engine's default, rectangles."""
    state = make_state("rows", 1)
    model = FAMILY.stock_detector(state)
    model.names, model.task, path = dict(enumerate(state.labels)), "detect", tmp_path / "m.pt"
    torch.save({"model": model.float(), "train_args": {}}, path)
    looks = FAMILY.detector(state, image_size=160)
    for height, width in ((90, 160), (160, 93)):
        image = np.kron(picture(height // 10 + 1, width // 10 + 1), np.ones((10, 10, 1), np.uint8))
        image = np.ascontiguousarray(image[:height, :width])
        (theirs,) = YOLO(path).predict(image, imgsz=160, conf=0.2, verbose=False, device="cpu")
        ours = looks([image], confidence=0.2, iou=0.7)[0]
        boxes, scores = theirs.boxes.xyxy.numpy(), theirs.boxes.conf.numpy()
        order = np.lexsort((*boxes.T, -scores.round(3)))
        mine = np.lexsort((*ours.xyxy.T, -ours.scores.round(3)))
        assert len(ours) == len(scores) > 3
        np.testing.assert_allclose(ours.scores[mine], scores[order], atol=1e-3)
        np.testing.assert_allclose(np.sort(ours.scores), np.sort(scores), atol=1e-4)
