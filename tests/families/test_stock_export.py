"""Exported class towers: the engine's own layers, the same numbers, no duet needed."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from factories_detectors import SIZE
from factories_detectors import make_state as lively_state
from factories_heads import CASES, every_pair, exported, lively, same_picks, towers_of
from factories_series import write_image
from factories_states import images
from factories_yolo import YOLO11N, YOLOV8N, make_state
from torch import nn
from ultralytics.nn.modules.head import Detect
from ultralytics.nn.tasks import DetectionModel

from duet.errors import ModelError
from duet.families.ultralytics.checkpoint import open_checkpoint
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import inference_model, stock_model
from duet.families.yolo.stock import join_towers, stock_detector
from duet.families.yolo.towers import ClassTowers
from duet.images import read_image
from duet.increments.guard import load_pt

architectures = pytest.mark.parametrize("architecture", [YOLO11N, YOLOV8N])
cases = pytest.mark.parametrize(("sizes", "widths"), CASES.values(), ids=CASES)


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.slow
@cases
@architectures
@torch.no_grad()
def test_joined_towers_give_the_same_logits(
    architecture: str, sizes: tuple[int, ...], widths: tuple[int, ...]
) -> None:
    state = towers_of(architecture, sizes, widths)
    # In float64, where the order of a sum no longer shows: it is the processor's, the function not.
    model, plain = inference_model(state).double(), stock_detector(state).double()
    head, stock = model.model[-1], plain.model[-1]
    assert type(stock) is Detect
    assert (stock.nc, stock.no) == (sum(sizes), sum(sizes) + 64)
    assert plain.names == dict(enumerate(state.labels))
    assert not any(type(module).__module__.startswith("duet") for module in plain.modules())
    for level in range(3):
        towers, joined = head.cv3[level], stock.cv3[level]
        assert [type(m) for m in joined] == [type(m) for m in stock_towers(architecture)]
        channels = next(m for m in joined.modules() if isinstance(m, nn.Conv2d)).in_channels
        x = torch.randn((2, channels, 9, 7), generator=torch.Generator().manual_seed(level))
        expected = towers(x.double())
        assert expected.shape[1] == sum(sizes)
        spread = expected.std((0, 2, 3), keepdim=True)  # the bias would hide differences
        assert float(((joined(x.double()) - expected).abs() / spread).max()) <= 1e-10
    pixels = images().double()
    decoded, raw = plain(pixels)
    decoded_in_turn, raw_in_turn = model(pixels)
    assert relative(raw["scores"], raw_in_turn["scores"]) <= 1e-10
    assert torch.equal(raw["boxes"], raw_in_turn["boxes"])
    assert torch.equal(decoded[:, :4], decoded_in_turn[:, :4])
    folded, folded_in_turn = plain.fuse(verbose=False), model.fuse(verbose=False)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    scores, in_turn = (m(pixels)[1]["scores"] for m in (folded, folded_in_turn))
    assert relative(scores, in_turn) <= 1e-10
    assert relative(scores, raw_in_turn["scores"]) <= 1e-10


def stock_towers(architecture: str) -> nn.Module:
    tower: nn.Module = stock_model(architecture, 1, 64).model[-1].cv3[0]
    return tower


@pytest.mark.slow
@architectures
def test_statistics_are_the_towers_own_bits(architecture: str) -> None:
    state = towers_of(architecture, (2, 1, 3), (64, 64, 80))
    model, plain = inference_model(state), stock_detector(state)
    for in_turn, joined in zip(model.model[-1].cv3, plain.model[-1].cv3, strict=True):
        norms = [
            [m for m in tower.modules() if isinstance(m, nn.BatchNorm2d)]
            for tower in in_turn.towers
        ]
        found = [m for m in joined.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(found) == len(norms[0])
        for place, norm in enumerate(found):
            group = [layers[place] for layers in norms]
            assert (norm.eps, norm.momentum) == (group[0].eps, group[0].momentum) == (1e-3, 0.03)
            for kind in ("weight", "bias", "running_mean", "running_var"):
                expected = torch.cat([getattr(one, kind) for one in group])
                assert torch.equal(getattr(norm, kind).sort()[0], expected.sort()[0])


@pytest.mark.slow
def test_rows_stay_as_they_are_and_parallel_needs_duet() -> None:
    rows = make_state("rows", (2, 1))
    assert type(stock_detector(rows).model[-1]) is Detect
    parallel = make_state("parallel", (2, 1))
    assert type(stock_detector(parallel).model[-1]).__module__ == "duet.families.yolo.heads"


def test_inside_duet_towers_run_in_turn() -> None:
    detector = FAMILY.detector(make_state("towers", (2, 1)), image_size=64)
    assert all(isinstance(tower, ClassTowers) for tower in detector.module.model[-1].cv3)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["yolo26n.yaml", "yolov10n.yaml"])
@torch.no_grad()
def test_both_branches_of_an_end_to_end_head_are_joined(architecture: str) -> None:
    state = towers_of(architecture, (2, 1, 3), (64, 64, 80))
    model, plain = inference_model(state), stock_detector(state)
    assert not any(type(module).__module__.startswith("duet") for module in plain.modules())
    picked, raw = plain(images())
    picked_in_turn, raw_in_turn = model(images())
    assert picked.shape == (2, 84, 6)
    assert relative(picked[..., 4], picked_in_turn[..., 4]) <= 1e-4
    for branch in ("one2many", "one2one"):
        scores, in_turn = raw[branch]["scores"], raw_in_turn[branch]["scores"]
        assert relative(scores, in_turn) <= 1e-5
        assert torch.equal(raw[branch]["boxes"], raw_in_turn[branch]["boxes"])
    rows = stock_detector(make_state("rows", (2, 1), architecture=architecture))
    assert not any(type(module).__module__.startswith("duet") for module in rows.modules())


END_TO_END = """
import sys
sys.modules["duet"] = None
import json
import torch
from ultralytics import YOLO

answers = []
for nms in (False, None):
    model = YOLO({path!r})
    options = dict(conf=0.3, iou=1.0, imgsz={size}, verbose=False, device="cpu", nms=nms)
    found = model.predict(torch.load({images!r}), **options)
    answers.append([one.boxes.data.tolist() for one in found])
print("RESULT" + json.dumps([type(model.model.model[-1]).__module__, answers]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["rows", "towers"])
@pytest.mark.parametrize("architecture", ["yolo26n.yaml", "yolov10n.yaml"])
def test_end_to_end_files_work_where_duet_is_not_installed(
    architecture: str, form: str, tmp_path: Path
) -> None:
    state = lively(form, (2, 1), architecture)
    path, x = tmp_path / "m.pt", images()
    torch.save({"model": stock_detector(state), "train_args": {"task": "detect"}}, path)
    torch.save(x, tmp_path / "x.pt")
    code = END_TO_END.format(path=str(path), images=str(tmp_path / "x.pt"), size=64)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    module, (picked, suppressed) = json.loads(done.stdout.rpartition("RESULT")[2])
    assert module == "ultralytics.nn.modules.head"
    pairs = every_pair(state, x)
    for boxes, expected in zip(picked, pairs, strict=True):
        assert len(boxes) > 3
        assert same_picks(torch.tensor(boxes), expected, 1e-3, pixels=64)
    assert picked != suppressed  # by default the engine takes the one-to-many branch


@architectures
def test_one_tower_stays_as_it_is(architecture: str) -> None:
    tower = stock_towers(architecture)
    joined = join_towers([tower])
    expected, found = tower.state_dict(), joined.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert str(joined) == str(tower)


def test_towers_of_other_layers_are_refused() -> None:
    eleven, eight = stock_towers(YOLO11N), stock_towers(YOLOV8N)
    with pytest.raises(ModelError, match="not built alike: Conv, Sequential"):
        join_towers([eleven, eight])
    changed = copy.deepcopy(eleven)
    changed[0][0] = nn.ReLU()
    with pytest.raises(ModelError, match="unexpected layer: ReLU"):
        join_towers([changed, changed])


USE = """
import sys
sys.modules["duet"] = None

class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] != "duet", name

sys.meta_path.insert(0, Refuse())
import json
import cv2
from ultralytics import YOLO
from ultralytics.nn.modules.head import Detect
from ultralytics.utils import SAFE_LOAD

model = YOLO({path!r})
image = cv2.imread({image!r})
found = model.predict(image, conf=0.3, iou=1.0, imgsz={size}, verbose=False, device="cpu")[0].boxes
exported = YOLO({path!r}).export(format="torchscript", imgsz={size}, device="cpu", verbose=False)
boxes = found.data.tolist()
again = YOLO(exported, task="detect").predict(image, conf=0.3, iou=1.0, imgsz={size},
                                              verbose=False, device="cpu")[0].boxes.data
assert abs(again - found.data).max() < 0.05
print("RESULT" + json.dumps([SAFE_LOAD, type(model.model.model[-1]) is Detect, model.names, boxes]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("safe", ["0", "1"], ids=["default", "safe load"])
def test_the_file_works_where_duet_is_not_installed(safe: str, tmp_path: Path) -> None:
    state = lively_state("towers", 3)
    path = exported(state, tmp_path / "m.pt", image_size=SIZE)
    load_pt(path)  # no class of duet inside
    picture = write_image(tmp_path / "a.png", seed=1, size=(SIZE, SIZE))
    environment = {**os.environ, "ULTRALYTICS_SAFE_LOAD": safe, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", USE.format(path=str(path), image=str(picture), size=SIZE)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.rpartition("RESULT")[2])
    restricted, stock, names, boxes = result
    assert restricted is (safe == "1")
    assert stock
    assert names == {str(index): name for index, name in enumerate(state.labels)}
    # Without suppression: the engine drops all but the best class of a box before, duet does not.
    detector, image = FAMILY.detector(state, image_size=SIZE), read_image(picture)
    own = detector([image], confidence=0.29, iou=1.0, limit=1000)[0]
    assert len(boxes) >= 3
    assert len({int(row[5]) for row in boxes}) >= 2
    for *box, score, class_id in boxes:
        off = np.abs(own.xyxy - np.array(box)).max(1) / 0.05 + np.abs(own.scores - score) / 1e-4
        assert (off[own.class_ids == int(class_id)] < 1).any()


@pytest.mark.slow
def test_an_equal_detector_gives_an_equal_file(tmp_path: Path) -> None:
    state = make_state("towers", (2, 1))
    paths = [exported(state, tmp_path / stem / "m.pt", image_size=64) for stem in ("a", "b")]
    one, two = (open_checkpoint(path).network.tensors for path in paths)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@architectures
@pytest.mark.slow
def test_fine_tuning_starts_from_all_towers(architecture: str) -> None:
    plain = stock_detector(towers_of(architecture, (2, 1), (64, 64)))
    other = DetectionModel(architecture, nc=3, verbose=False)
    other.names = dict(plain.names)
    other.load(plain, verbose=False)  # how the engine starts a training from a file
    found, expected = other.state_dict(), plain.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
