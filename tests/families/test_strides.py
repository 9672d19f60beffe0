"""Models that are made without a picture are the engine's own."""

from __future__ import annotations

import pytest
import torch
from ultralytics.nn.tasks import DetectionModel

from duet.families.ultralytics.names import description
from duet.families.yolo.roles import architecture_file
from duet.families.yolo.strides import detection_model


@pytest.mark.parametrize(
    "name", ["yolo11n.yaml", "yolov8n-p6.yaml", "yolov9t.yaml", "yolov10n.yaml", "yolo26n.yaml"]
)
def test_a_model_is_what_the_engine_makes(name: str) -> None:
    made = []
    for make in (lambda told: DetectionModel(told, nc=5, verbose=False),
                 lambda told: detection_model(told, 5)):  # fmt: skip
        torch.manual_seed(3)
        made.append((make(description(architecture_file(name), name)), torch.rand(1)))
    (theirs, after), (ours, after_ours) = made
    assert type(ours) is DetectionModel
    assert torch.equal(ours.stride, theirs.stride)
    assert torch.equal(after, after_ours), "other numbers were drawn"
    assert ours.training == theirs.training
    assert ours.__dict__.keys() == theirs.__dict__.keys()
    expected, got = theirs.state_dict(), ours.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(theirs.eval()(x)[0], ours.eval()(x)[0])
