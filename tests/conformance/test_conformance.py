"""Every detector family does what `duet.conformance` asks of a family."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


LONG = (
    "rows-survive", "scores", "stored", "merge", "learns", "adapts", "refines", "resumes",
    "exported",
)  # fmt: skip
ALIKE = ("yolov8n", "yolov10n", "yolo12n")
"""Heads and losses of yolo11n and yolo26n: what takes them long repeats those."""


def rows() -> Iterator[Any]:
    """Every check of every family; what is long and repeats another's only in `make test-all`."""
    for case, check in itertools.product(CASES, CHECKS):
        marks = [pytest.mark.slow] if check in LONG else []
        if marks and case in ALIKE:
            marks.append(pytest.mark.thorough)
        yield pytest.param(case, check, marks=marks)


@pytest.mark.parametrize(("case", "check"), rows())
@pytest.mark.slow
def test_family(case: str, check: str, tmp_path: Path) -> None:
    CHECKS[check](CASES[case], tmp_path)
