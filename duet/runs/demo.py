"""The demonstration: the embedded series, drawn and planned."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from duet.emoji.build import build
from duet.runs.inputs import read_inputs
from duet.runs.plan import RunPlan, plan_run
from duet.runs.walls import require_writable
from duet.shipped import shipped
from duet.text import shell_line
from duet.weights import find

VALIDATION = 150
"""Scenes of the validation split: no result is chosen on it, so a few do."""


def plan_demo(
    out: Path,
    strategies: Sequence[str],
    *,
    train: int,
    test: int,
    seed: int = 0,
    jobs: int | None = None,
    weights: str | None = None,
    epochs: int | None = None,
    listen: Callable[[int, int], None] | None = None,
) -> RunPlan:
    """Draw the embedded two-phase series into ``out/data`` and plan a run over it.

    Args:
        out: Run folder.
        strategies: Shipped names or paths.
        train: Training scenes of a domain.
        test: Test scenes of a domain.
        seed: Of everything random but the scenes.
        jobs: See `plan_run`.
        weights: θ_0, a path or a name of `duet weights ls`; default YOLO11n's.
        epochs: Replaces the schedule's.
        listen: Progress of the drawing.

    Raises:
        DuetError: Weights or folder are of no use, or see `plan_run`.
    """
    if weights:
        find(weights)  # before minutes of drawing
    require_writable(out)
    build(out / "data", train=train, val=VALIDATION, test=test, progress=listen)
    inputs = read_inputs(
        shipped("configs", "series", "emoji-2phase.yaml"),
        data_root=out / "data",
        weights=weights,
        # Who wants it short does not wait for references to converge.
        changes={"epochs": epochs, "reference_steps": 0} if epochs else None,
    )
    command = shell_line("duet", *sys.argv[1:])
    return plan_run(inputs, strategies, seed=seed, out=out, jobs=jobs, command=command)
