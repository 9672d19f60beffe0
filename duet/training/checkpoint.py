"""The state of an unfinished job, from which it is resumed bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duet.errors import ModelError
from duet.files import atomic_path, sha256_file, write_text
from duet.training.job import Job, identity

if TYPE_CHECKING:
    import torch

CHECKPOINT, HASHES = "checkpoint.pt", "checkpoint.sha256"


def write_checkpoint(folder: Path, job: Job, state: dict[str, Any]) -> None:
    """Store a state of tensors, numbers and containers of them; float32 stays float32."""
    import torch

    with atomic_path(folder / CHECKPOINT) as temporary:
        torch.save(state | {"job": json.dumps(identity(job))}, temporary)
        newest = sha256_file(temporary)
        # What is listed stays for now: kills in between leave one of those in its place.
        write_text(folder / HASHES, "\n".join([newest, *_hashes(folder), ""]))
    write_text(folder / HASHES, f"{newest}\n")


def is_whole(folder: Path) -> bool:
    """Tell whether the checkpoint is as it was written, or there is none."""
    path = folder / CHECKPOINT
    return not os.path.lexists(path) or (path.is_file() and sha256_file(path) in _hashes(folder))


def _hashes(folder: Path) -> list[str]:
    """Return the hashes that the checkpoint may have, the newest first."""
    try:
        return (folder / HASHES).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


def read_checkpoint(folder: Path, job: Job, device: torch.device) -> dict[str, Any] | None:
    """Return the stored state of a job; None if it has none.

    Raises:
        ModelError: The file is damaged, or belongs to another job.
    """
    import torch

    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    if not is_whole(folder):
        raise _damaged(path, "its content is not the one that was written")
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # any unreadable checkpoint: torch raises half a dozen types
        raise _damaged(path, type(error).__name__) from error
    if json.loads(state["job"]) != identity(job):
        raise ModelError(
            "the checkpoint belongs to another job", where=str(path), remedy="delete the folder"
        )
    return state


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(
        f"the checkpoint cannot be read ({why})",
        where=str(path),
        remedy="delete it; the stage then starts from its first epoch",
    )


def remove_checkpoint(folder: Path) -> None:
    """Forget the state of a job that is finished or begins anew."""
    for name in (CHECKPOINT, HASHES):
        (folder / name).unlink(missing_ok=True)
