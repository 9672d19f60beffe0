"""The processes of a training over several GPUs: ranks of the engine's own DDP.

Several GPUs of one machine (``device: 0,1``): the engine's launcher starts them. Between the worker
of a job and its ranks then stands torch's launcher, which puts each rank into a session of its own.
A worker that is killed takes none of them along: each rank looks after it.

Several machines (``ranks: 2``): each rank is the worker of its machine, which found ``RANK``,
``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT`` in its environment and has one GPU, or the CPU.
The engine counts the devices of a machine and asks for CUDA: that is what is put right here.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from duet.errors import DuetError
from duet.vectors.tensors import fingerprint

WORKER_VARIABLE = "DUET_WORKER"
POLL = 0.5  # seconds between looks at the worker


def name_worker() -> None:
    """Tell the processes that this one starts who their worker is."""
    os.environ[WORKER_VARIABLE] = str(os.getpid())


def end_with_worker() -> None:
    """End this process as soon as its worker is gone; the launcher then ends by itself.

    Nothing happens where no worker was named, or in the worker itself.
    """
    worker = int(os.environ.get(WORKER_VARIABLE, os.getpid()))
    if worker == os.getpid():
        return
    import psutil

    try:
        process: psutil.Process | None = psutil.Process(worker)
    except psutil.NoSuchProcess:
        process = None

    def alive() -> bool:
        # By its number and its time of birth; a zombie waits to be collected and does nothing.
        try:
            return process is not None and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def watch() -> None:
        while alive():
            time.sleep(POLL)
        os._exit(130)

    threading.Thread(target=watch, daemon=True).start()


# ---- ranks on several machines -------------------------------------------------------------------


def join(device: torch.device) -> None:
    """Meet the other ranks where the environment says; returns when all are there."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def leave() -> None:
    """Part from the other ranks, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def without_devices(device: torch.device) -> Iterator[None]:
    """Let the engine wrap a network on a CPU, of whose number it would tell torch."""
    usual = nn.parallel.DistributedDataParallel
    if device.type == "cpu":

        def wrapped(module: nn.Module, device_ids: Any = None, **options: Any) -> nn.Module:
            return usual(module, **options)

        nn.parallel.DistributedDataParallel = wrapped  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        nn.parallel.DistributedDataParallel = usual  # type: ignore[misc]


def require_equal(model: nn.Module) -> None:
    """Refuse a training whose ranks ended with different weights.

    Raises:
        DuetError: On all ranks.
    """
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, fingerprint(dict(model.named_parameters())))
    if len(set(found)) > 1:
        raise DuetError(
            f"{len(found)} ranks of one training ended with {len(set(found))} different weights",
            remedy="have the same libraries and the same kind of GPU on every machine; the same "
            "command trains again",
        )
