"""Training over several processes: equal weights everywhere, nobody left when it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from factories_yolo import class_groups, make_job, make_slice, make_state, micro_schedule
from places import REPO
from safetensors.torch import save_file

from duet.series import Slice
from duet.training.config import Directional, Distillation, Ewc
from duet.training.job import IMPORTANCE

pytestmark = pytest.mark.slow

OLD, NEW = class_groups((2, 1))
HERE = Path(__file__).parent
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    return make_slice(tmp_path_factory.mktemp("new"), NEW, images=8, seed=2)


def environment(scratch: Path) -> dict[str, str]:
    """Return the launcher's environment; it leaves a folder of logs in `scratch`."""
    paths = os.pathsep.join([str(REPO), str(REPO / "tests")])
    more = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)}
    return {**os.environ, **more}


def trained_by_two(folder: Path, data: Slice, weight: float) -> list[dict[str, torch.Tensor]]:
    """Train with L_DC and EWC of a weight; return the parameters of both ranks."""
    start = make_state("towers")
    generator = torch.Generator().manual_seed(4)

    def noise() -> dict[str, torch.Tensor]:
        return {k: torch.randn(v.shape, generator=generator) for k, v in start.shared.items()}

    job = make_job(
        folder, start, data, direction={k: 0.01 * v for k, v in noise().items()},
        distill=Distillation(weight=0.1), directional=Directional(weight=weight),
        ewc=Ewc(weight=weight), schedule=micro_schedule(epochs=2, fisher_images=0),
    )  # fmt: skip
    save_file({k: v.square() for k, v in noise().items()}, job / IMPORTANCE)
    done = subprocess.run(
        [*LAUNCH, str(HERE / "gloo_rank.py"), str(job)], env=environment(job), cwd=job, timeout=600,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (job / "outcome.json").is_file()
    return [torch.load(job / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_ranks_end_with_equal_weights(data: Slice, tmp_path: Path) -> None:
    one, other = trained_by_two(tmp_path / "pulled", data, 50.0)
    assert one.keys() == other.keys()
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    assert not differing
    free, _ = trained_by_two(tmp_path / "free", data, 1e-12)
    assert any(not torch.equal(one[name], free[name]) for name in one)


RANK = """
import time
from duet.families.ultralytics.ranks import end_with_worker
end_with_worker()
print("ready", flush=True)
time.sleep(600)
"""
WORKER = """
import subprocess, sys
from duet.families.ultralytics.ranks import name_worker
name_worker()
subprocess.run(sys.argv[1:])
"""


def test_ranks_end_with_a_killed_worker(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, *LAUNCH, str(tmp_path / "rank.py")],
        env=environment(tmp_path), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    assert worker.stdout is not None
    for _ in range(2):
        assert worker.stdout.readline() == "ready\n"
    family = psutil.Process(worker.pid).children(recursive=True)
    assert len(family) >= 3  # the launcher and two ranks
    worker.kill()
    worker.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, [_told(one) for one in alive]


def _told(process: Any) -> str:
    return f"{process.pid} after {time.time() - process.create_time():.0f} s"
