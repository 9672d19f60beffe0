"""Named tensors: fingerprints, and the checks that refuse to lose a tensor silently."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch

from duet.errors import ModelError, together

Tensors: TypeAlias = Mapping[str, torch.Tensor]

_SHOWN = 8  # tensor names listed per kind of problem; the count of the others is always given


def fingerprint(tensors: Tensors, *, upcast: bool = False) -> str:
    """Return the SHA-256 over sorted (name, dtype, shape, bytes).

    Two mappings have the same fingerprint exactly if they hold the same names with the same
    dtypes, shapes and bits; order, memory layout and device do not matter.

    Args:
        tensors: Tensors of any dtype and shape.
        upcast: Floating ones count as float32, which one after the other becomes.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        if upcast and tensor.is_floating_point():
            tensor = tensor.float()
        header = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
        # The newline ends the JSON header; the shape in it fixes how many bytes follow.
        digest.update(f"{header}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def floating(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return the floating-point tensors only; counters and index tables are left out."""
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def require_finite(tensors: Tensors, where: str) -> None:
    """Refuse NaN and infinity.

    Args:
        tensors: Tensors of any dtype; integer tensors pass.
        where: File or stage shown in the error.

    Raises:
        ModelError: With the name of every tensor that is not finite and its count of bad values.
    """
    bad = [
        f"{name}: {int((~tensor.isfinite()).sum())} of {tensor.numel()} values"
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not _all_finite(tensor)
    ]
    if bad:
        raise ModelError(
            together(_shorten(bad), summary="NaN or infinite values in tensors"),
            where=where,
            remedy="the training that made these weights diverged, or the file was damaged: "
            "train again with a lower learning rate or fetch the file again",
        )


def _all_finite(tensor: torch.Tensor) -> bool:
    if not tensor.numel():
        return True
    flat = tensor.detach().reshape(-1)
    if flat.device.type == "cpu" and flat.dtype == torch.float32:
        # By numpy: torch shares one such sum among threads, whose waiting for each other took most
        # of the time of a merge of files. Only where squares overflow, the extremes must tell.
        values = flat.numpy()
        with np.errstate(all="ignore"):
            squares = np.dot(values, values)
        if np.isfinite(squares):
            return True
    # The extremes of a tensor with a NaN are NaN.
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(flat))


def require_same_layout(a: Tensors, b: Tensors, what: str) -> None:
    """Refuse two mappings whose names, shapes or dtypes differ.

    Args:
        a: The tensors that are expected.
        b: The tensors that were got.
        what: What is compared, shown in the error.

    Raises:
        ModelError: With every missing, unexpected, reshaped or retyped tensor; none is skipped.
    """
    shared = [name for name in a if name in b]
    problems = [
        *_shorten([f"missing: {name}" for name in a if name not in b]),
        *_shorten([f"unexpected: {name}" for name in b if name not in a]),
        *_shorten(
            [
                f"{name}: shape {tuple(b[name].shape)}, expected {tuple(a[name].shape)}"
                for name in shared
                if a[name].shape != b[name].shape
            ]
        ),
        *_shorten(
            [
                f"{name}: {b[name].dtype}, expected {a[name].dtype}"
                for name in shared
                if a[name].dtype != b[name].dtype
            ]
        ),
    ]
    if problems:
        raise ModelError(
            together(problems, summary="the tensors do not fit together"),
            where=what,
            remedy="use weights of the same architecture, split into the same shared and own parts",
        )


def _shorten(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return lines if more <= 0 else [*lines[:_SHOWN], f"... and {more} more like these"]
