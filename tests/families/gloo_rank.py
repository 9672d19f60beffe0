"""One rank of a training over two processes on the CPU; see `test_several_processes`.

The engine's own DDP, to which it would send a training on two GPUs: only that it wants CUDA is
taken from it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def main(folder: Path) -> None:
    """Train the job in ``folder``; leave the parameters of this rank."""
    import ultralytics.engine.trainer as engine_trainer

    from duet.families.ultralytics.arguments import engine_overrides
    from duet.families.yolo.train import IncrementTrainer
    from duet.training.job import read_job

    class OnCpu(IncrementTrainer):
        def _setup_ddp(self) -> None:
            dist.init_process_group("gloo")

    def without_devices(module: Any, device_ids: Any = None, **options: Any) -> Any:
        return DistributedDataParallel(module, **options)

    engine_trainer.nn.parallel.DistributedDataParallel = without_devices
    os.environ["DUET_JOB"] = str(folder)
    torch.set_num_threads(1)
    trainer = OnCpu(overrides=engine_overrides(read_job(folder), folder))
    trainer.world_size = dist_size = int(os.environ["WORLD_SIZE"])
    trainer._do_train()
    assert dist.get_world_size() == dist_size
    assert len(trainer._pulls) >= 2  # L_DC's and EWC's
    parameters = {name: p.detach().clone() for name, p in trainer.model.module.named_parameters()}
    torch.save(parameters, folder / f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
