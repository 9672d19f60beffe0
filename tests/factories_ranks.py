"""A job for two ranks on the CPU, and the launcher that trains it on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from factories_yolo import class_groups, make_job, make_state, micro_schedule
from places import REPO, TESTS
from safetensors.torch import save_file

from duet.series import Slice
from duet.training.config import Directional, Distillation, Ewc
from duet.training.job import IMPORTANCE

OLD, NEW = class_groups((2, 1))
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def environment(scratch: Path) -> dict[str, str]:
    """Return the launcher's environment; it leaves a folder of logs in `scratch`."""
    paths = os.pathsep.join([str(REPO), str(TESTS)])
    more = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)}
    return {**os.environ, **more}


def ranked_job(folder: Path, data: Slice, *, weight: float, epochs: int) -> Path:
    """Write a job for two ranks, with L_DC and EWC of a weight."""
    start = make_state("towers")
    generator = torch.Generator().manual_seed(4)

    def noise() -> dict[str, torch.Tensor]:
        return {k: torch.randn(v.shape, generator=generator) for k, v in start.shared.items()}

    job = make_job(
        folder, start, data, direction={k: 0.01 * v for k, v in noise().items()},
        distill=Distillation(weight=0.1), directional=Directional(weight=weight),
        ewc=Ewc(weight=weight), schedule=micro_schedule(epochs=epochs, fisher_images=0, ranks=2),
    )  # fmt: skip
    save_file({k: v.square() for k, v in noise().items()}, job / IMPORTANCE)
    return job


def trained_by_two(job: Path) -> list[dict[str, torch.Tensor]]:
    """Train a job with two processes of this machine; return the parameters of both ranks."""
    done = subprocess.run(
        [*LAUNCH, str(TESTS / "families" / "gloo_rank.py"), str(job)], env=environment(job),
        cwd=job, timeout=600, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (job / "outcome.json").is_file()
    return [torch.load(job / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
