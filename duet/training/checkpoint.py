"""The state of an unfinished job, from which it is resumed bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duet.errors import ModelError
from duet.files import atomic_path
from duet.training.job import Job, identity

if TYPE_CHECKING:
    import torch

CHECKPOINT = "checkpoint.pt"


def write_checkpoint(folder: Path, job: Job, state: dict[str, Any]) -> None:
    """Store a state of tensors, numbers and containers of them; float32 stays float32."""
    import torch

    with atomic_path(folder / CHECKPOINT) as temporary:
        torch.save(state | {"job": json.dumps(identity(job))}, temporary)


def read_checkpoint(folder: Path, job: Job, device: torch.device) -> dict[str, Any] | None:
    """Return the stored state of a job; None if it has none.

    Raises:
        ModelError: The file is damaged, or belongs to another job.
    """
    import torch

    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # any unreadable checkpoint: torch raises half a dozen types
        raise ModelError(
            f"the checkpoint cannot be read ({type(error).__name__})",
            where=str(path),
            remedy="delete it; the stage then starts from its first epoch",
        ) from error
    if state["job"] != json.dumps(identity(job)):
        raise ModelError(
            "the checkpoint belongs to another job", where=str(path), remedy="delete the folder"
        )
    return state


def remove_checkpoint(folder: Path) -> None:
    """Forget the state of a finished job."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
