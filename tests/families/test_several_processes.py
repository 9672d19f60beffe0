"""Training over several processes: equal weights everywhere, nobody left when it is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from factories_ranks import LAUNCH, NEW, environment, ranked_job, trained_by_two
from factories_states import job_of
from factories_yolo import make_slice, make_state, micro_schedule

from duet.errors import ConfigError
from duet.families.ultralytics.run import run_job
from duet.families.yolo.train import IncrementTrainer
from duet.runs.engines.engine import HERE
from duet.series import Slice
from duet.training.job import identity, read_job
from duet.training.outcome import read_outcome

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    return make_slice(tmp_path_factory.mktemp("new"), NEW, images=8, seed=2)


def test_ranks_end_with_equal_weights(data: Slice, tmp_path: Path) -> None:
    job = ranked_job(tmp_path / "pulled", data, weight=50.0, epochs=2)
    one, other = trained_by_two(job)
    assert one.keys() == other.keys()
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    assert not differing
    assert read_outcome(job, read_job(job).key).images_seen == 2 * len(data)
    free, _ = trained_by_two(ranked_job(tmp_path / "free", data, weight=1e-12, epochs=2))
    assert any(not torch.equal(one[name], free[name]) for name in one)


def test_ranks_are_another_training() -> None:
    """Each rank sees the statistics of its share of a batch alone."""
    job = job_of(make_state("towers"), micro_schedule())

    def key(**changes: object) -> dict[str, Any]:
        return identity(job.model_copy(update={"schedule": micro_schedule(**changes)}))

    assert key(ranks=2) == key(device="0,1") == key(device="cuda", ranks=2)
    assert key() == key(device="3")
    assert len({str(key(ranks=number)) for number in (1, 2, 4)}) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ranks": 2, "device": "0,1"}, "each of 2 ranks has one GPU, or the CPU"),
        ({"ranks": 2, "device": "mps"}, "each of 2 ranks has one GPU, or the CPU"),
        ({"ranks": 3, "batch": 4}, "3 ranks cannot share a batch of 4 images evenly"),
    ],
)
def test_ranks_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        micro_schedule(**changes)


def test_ranks_need_a_cluster(data: Slice, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 ranks are for the machines of a cluster"):
        HERE.prepare((), micro_schedule(ranks=2), print)
    job = ranked_job(tmp_path / "alone", data, weight=1.0, epochs=1)
    with pytest.raises(ConfigError, match="2 ranks are for the machines of a cluster"):
        run_job(IncrementTrainer, job, lambda record: None)


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
