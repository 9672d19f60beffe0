"""What a file of weights says about itself, read through the guarded door: nothing of it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from duet.errors import ModelError
from duet.files import sha256_file
from duet.labels import names_problem
from duet.text import NAME_LENGTH, clipped


def read_facts(path: Path) -> dict[str, Any]:
    """Open a `.pt`, `.pth` or `.safetensors` file and describe it.

    Returns:
        ``kind`` ("Ultralytics checkpoint", "state dict" or "base weights"), ``sha256``, ``size`` in
        bytes, how many ``tensors`` it holds; and what it says, which is no promise, or None:
        ``architecture``, such as ``yolo11n.yaml``, ``classes`` in the order of the outputs, and
        ``licence``.

    Raises:
        ModelError: The file is missing, damaged, refused (it is a program), or holds no weights.
        MissingExtraError: It holds modules of an engine that is not installed.
    """
    digest, size, found = sha256_file(path), path.stat().st_size, _described(path)
    said = {key: found.get(key) for key in ("architecture", "classes", "licence")}
    about = {"kind": found["kind"], "sha256": digest, "size": size, "tensors": found["tensors"]}
    return about | said


def architecture_said(path: Path) -> str | None:
    """Return the architecture that a file says it is, a sidecar's word included; see `read_facts`.

    It is a claim: `duet.weights.start.recognise` tells by the tensors.
    """
    said: str | None = _described(path).get("architecture")
    return said


def _described(path: Path) -> dict[str, Any]:
    return _of_base(path) if path.suffix == ".safetensors" else _of_checkpoint(path)


def _of_base(path: Path) -> dict[str, Any]:
    from duet.increments.base import open_base

    tensors, told = open_base(path)
    facts = {} if told is None else {
        "architecture": told.architecture, "classes": told.classes or None, "licence": told.licence
    }  # fmt: skip
    return {"kind": "base weights", "tensors": len(tensors), **facts}


def _of_checkpoint(path: Path) -> dict[str, Any]:
    from duet.increments.door.network import is_network
    from duet.increments.guard import load_pt

    content = load_pt(path)
    entries: Mapping[str, Any] = content if isinstance(content, Mapping) else {"model": content}
    licence = _text(entries.get("license"))
    for key in ("ema", "model"):
        if is_network(entries.get(key)):
            return {**_of_network(entries[key], path), "licence": licence}
    count = _tensor_count(entries)
    if not count:
        raise ModelError(
            "the file holds no tensors",
            where=str(path),
            remedy="give a checkpoint that training wrote, or a file of base weights",
        )
    return {"kind": "state dict", "tensors": count, "licence": licence}


def _of_network(root: Any, path: Path) -> dict[str, Any]:
    from duet.increments.door.network import read_network

    described = root.state.get("yaml")
    named = described.get("yaml_file") if isinstance(described, Mapping) else None
    return {
        "kind": "Ultralytics checkpoint", "tensors": len(read_network(root, str(path)).tensors),
        # Paths of either system: files travel.
        "architecture": _text(PureWindowsPath(named).name) if isinstance(named, str) else None,
        "classes": _names(root.state.get("names"), path),
    }  # fmt: skip


def _tensor_count(value: Any) -> int:
    """Count tensors in nested containers; a hostile file can hold one that contains itself."""
    import torch

    count, seen, waiting = 0, set[int](), [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, torch.Tensor):
            count += 1
        elif isinstance(found, (Mapping, list, tuple)) and id(found) not in seen:
            seen.add(id(found))
            waiting += found.values() if isinstance(found, Mapping) else found
    return count


def _names(value: Any, path: Path) -> tuple[str, ...] | None:
    if isinstance(value, Mapping) and value.keys() == set(range(len(value))):
        value = [value[index] for index in range(len(value))]
    if not isinstance(value, (list, tuple)) or not all(isinstance(n, (str, int)) for n in value):
        return None
    names = tuple(map(str, value))
    if problem := names_problem(names):  # one long text may stand at every place
        raise ModelError(
            f"class names cannot be used: {problem}",
            where=str(path),
            remedy="take the file from its source again",
        )
    return names or None


def _text(value: Any) -> str | None:
    return clipped(value, NAME_LENGTH) if isinstance(value, str) and value else None
