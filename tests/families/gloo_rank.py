"""One rank of a training over two processes on the CPU; see `test_several_processes`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from duet.families.ultralytics.run import run_job
from duet.families.yolo.train import IncrementTrainer


class Watched(IncrementTrainer):
    """Leaves the parameters of its rank beside the job."""

    def final_eval(self) -> None:
        assert len(self._pulls) >= 2  # L_DC's and EWC's
        found = {name: p.detach().clone() for name, p in self.model.module.named_parameters()}
        torch.save(found, self.session.folder / f"rank{os.environ['RANK']}.pt")
        super().final_eval()


if __name__ == "__main__":
    run_job(Watched, Path(sys.argv[1]), lambda record: None)
