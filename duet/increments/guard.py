"""The one guarded door for `.pt` files, which are pickles and therefore programs.

Own files are safetensors, but for the checkpoint of an unfinished training, which
`duet.training.checkpoint` reads back as plain tensors (`weights_only`). Nothing else unpickles, but
for files that the user told duet to trust.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from duet.errors import ModelError
from duet.increments.door.archive import read_archive
from duet.increments.door.network import as_data
from duet.increments.door.values import RefusedError, told


def load_pt(path: Path, *, trust: bool = False) -> Any:
    """Read a `.pt` file as plain data, without running anything of it.

    The instructions of its pickle are read by a machine of duet's own that can build data and
    nothing else (`duet.increments.door`): no class of the file is looked up, no function, method,
    hook or constructor of it is called, whatever else this process has imported.

    Args:
        path: A local `.pt` or `.pth` file.
        trust: **Dangerous.** True unpickles the file without any check: whoever made it can run
            any program with your rights, silently, while it still loads like a model. Only for
            files that you made yourself on this machine. Never set it for a download, and never
            because an error message of another tool told you to.

    Returns:
        What is in the file: numbers, text, lists, tuples, dicts, sets, and tensors on the CPU as
        they are stored (Ultralytics stores float16: never subtract those). Each object, such as a
        network or a layer, is a `duet.increments.door.values.Stub`: the name of its class and its
        attributes; `duet.increments.door.network.read_network` reads layers and tensors from it.

    Raises:
        ModelError: The file is missing or damaged, would need more memory than it is worth, or
            wants a class or function that is not on the list of `duet.increments.door.known`; the
            error names it.
    """
    if not path.is_file():
        raise ModelError("no such file", where=str(path), remedy="check the path")
    if path.suffix not in (".pt", ".pth"):
        raise ModelError(
            f"expected a .pt or .pth file, got {told(path.suffix)}",
            where=str(path),
            remedy="duet's own weights are .safetensors files and have loaders of their own",
        )
    if trust:
        return _run(path)
    try:
        return read_archive(path)
    except RefusedError as error:
        raise ModelError(
            f"refused: {error}",
            where=str(path),
            remedy="a .pt file is a program; ask its author for a safetensors file or a plain "
            "state dict. Nothing of it was run",
        ) from None
    except OSError as error:
        raise ModelError(f"cannot read: {error.strerror or error}", where=str(path)) from None
    except Exception as error:  # a net below the checks: no file may end in a traceback
        detail = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise _damage(path, detail) from None


def _run(path: Path) -> Any:
    """Unpickle a file that the user trusts, which runs it, and return the same plain data."""
    try:
        return as_data(torch.load(path, map_location="cpu", weights_only=False))
    except MemoryError:
        raise
    except Exception as error:  # whatever the program in the file does: it is no bug of duet
        raise _damage(path, f"{type(error).__name__}: {error}") from None


def _damage(path: Path, detail: str) -> ModelError:
    return ModelError(
        f"not a readable checkpoint: {' '.join(detail.split())[:300]}",
        where=str(path),
        remedy="the file is empty, truncated or damaged: download or export it again",
    )
