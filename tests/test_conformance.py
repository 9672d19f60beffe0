"""Every detector family does what `duet.conformance` asks of a family."""

from __future__ import annotations

from pathlib import Path

import pytest

from duet.conformance import CHECKS, Case

CASES = {
    "yolov8n": Case("yolo", "yolov8n.yaml"),
    "yolov10n": Case("yolo", "yolov10n.yaml"),
    "yolo11n": Case("yolo", "yolo11n.yaml"),
    "yolo12n": Case("yolo", "yolo12n.yaml"),
    "yolo26n": Case("yolo", "yolo26n.yaml"),
    "rtdetr-tiny": Case("rtdetr", "rtdetr-tiny.yaml", lr=2e-3),
    "dfine-tiny": Case("dfine", "dfine-tiny", lr=3e-3),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", CASES)
def test_family(case: str, check: str, tmp_path: Path) -> None:
    CHECKS[check](CASES[case], tmp_path)
