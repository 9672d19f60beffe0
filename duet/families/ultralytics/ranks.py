"""The processes of a training over several GPUs, which the engine's launcher starts.

Between the worker of a job and its ranks stands torch's launcher, which puts each rank into a
session of its own. A worker that is killed takes none of them along: each rank looks after it.
"""

from __future__ import annotations

import os
import threading
import time

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
