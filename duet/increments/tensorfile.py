"""Safetensors files: read once, hashed, checked; written so that they are complete or absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from duet.errors import DuetError, ModelError
from duet.files import atomic_path, sha256_file
from duet.vectors import Tensors, require_finite

_AGAIN = "the file was edited, damaged or only partly copied: take it from its source again"


def write_tensors(
    path: Path, tensors: Tensors, *, metadata: Mapping[str, str] | None = None
) -> str:
    """Write ``tensors`` atomically, with text ``metadata``; return the SHA-256 of the file.

    Raises:
        ModelError: A tensor holds NaN or infinity.
        DuetError: The file system refuses the write; nothing is left half-written.
    """
    require_finite(tensors, str(path))
    # Clones: safetensors refuses tensors that share memory or are not contiguous.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata=dict(metadata or {}))
        except SafetensorError as error:  # its own I/O errors are not OSErrors
            raise DuetError(
                f"cannot write: {error}",
                where=str(path),
                remedy="free some disk space or choose another folder; nothing was left "
                "half-written",
            ) from error
        return sha256_file(temporary)


def read_tensors(
    path: Path, sha256: str | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors and its text metadata.

    Args:
        path: The file.
        sha256: Its expected hash; not checked if None.

    Raises:
        ModelError: The file is missing, unreadable, has another hash, is not safetensors, or
            holds NaN or infinity.
    """
    try:
        # Read once: hashing and parsing the same bytes leaves no moment to swap the file.
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(
            "the file is missing", where=str(path), remedy="check the path, or copy the file again"
        ) from None
    except OSError as error:
        raise ModelError(f"cannot read: {error.strerror or error}", where=str(path)) from None
    got = hashlib.sha256(content).hexdigest()
    if sha256 is not None and got != sha256:
        raise ModelError(
            f"the content changed since it was written: got SHA-256 {got}, expected {sha256}",
            where=str(path),
            remedy=_AGAIN,
        )
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"not a complete safetensors file: {error}", where=str(path), remedy=_AGAIN
        ) from None
    require_finite(tensors, str(path))
    # `load` took the file, so its header is sound: 8 bytes of length, then JSON.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, header.get("__metadata__") or {}


def split(
    tensors: Tensors, prefixes: tuple[str, ...], where: str
) -> dict[str, dict[str, torch.Tensor]]:
    """Sort flat tensors by the part of their key before the first slash.

    Args:
        tensors: Tensors with keys `<prefix>/<name>`.
        prefixes: The prefixes allowed; each gets an entry, empty if no tensor has it.
        where: File shown in the error.

    Raises:
        ModelError: A key has another prefix.
    """
    groups: dict[str, dict[str, torch.Tensor]] = {prefix: {} for prefix in prefixes}
    for key, tensor in tensors.items():
        prefix, _, name = key.partition("/")
        if prefix not in groups or not name:
            raise ModelError(
                f"unknown tensor '{key}', expected names that begin with "
                f"{', '.join(f'{known}/' for known in prefixes)}",
                where=where,
                remedy=_AGAIN,
            )
        groups[prefix][name] = tensor
    return groups
