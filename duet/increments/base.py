"""Base weights theta_0: small float16 files whose float32 upcast IS theta_0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict

from duet.config import Config, parse_config
from duet.errors import ModelError
from duet.files import read_json, write_json
from duet.increments.tensorfile import read_tensors, write_tensors
from duet.labels import LabelSpace
from duet.vectors.tensors import Tensors, require_finite


@dataclass(frozen=True)
class StartWeights:
    """θ_0 and what it can already detect.

    Attributes:
        tensors: float32 tensors of a stock detector, and integer counters.
        classes: Class names in the order of its class rows; empty if they are not known.
    """

    tensors: Tensors
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.classes:
            LabelSpace(self.classes)


class Sidecar(Config):
    """What `<stem>.json` beside base weights says about them; None where it does not say it.

    Attributes:
        sha256: Hash that the weights must have.
        classes: Class names in the order of the outputs.
        architecture: Architecture within the family, such as ``yolo11n.yaml``.
        licence: SPDX identifier.
    """

    model_config = ConfigDict(extra="ignore")

    sha256: str
    classes: tuple[str, ...] | None = None
    architecture: str | None = None
    licence: str | None = None


def read_sidecar(weights: Path) -> Sidecar | None:
    """Read the sidecar of base weights; None if there is none.

    Args:
        weights: The file of weights, whose suffix is replaced by ``.json``.

    Raises:
        ModelError: It cannot be read, names no SHA-256, or a value has another type.
    """
    path = weights.with_suffix(".json")
    if not path.is_file():
        return None
    remedy = (
        "take both files from their source again, or remove the .json file if it is not about "
        "these weights"
    )
    told = read_json(path, error=ModelError, remedy=remedy)
    return parse_config(
        Sidecar, told, where=str(path), called="the sidecar", error=ModelError, remedy=remedy
    )


def load_start(path: Path) -> StartWeights:
    """Read base weights.

    Every float16 number is a float32 number, so the upcast is exact and the same everywhere: task
    vectors are differences to these float32 values, never to a checkpoint that was rounded later.

    Args:
        path: A `.safetensors` file with floating tensors and integer counters. If `<stem>.json`
            lies beside it, the file must have the SHA-256 that it names.

    Returns:
        float32 tensors, integer tensors as they are, and the class names that the sidecar gives.
        Prefixes of wrappers and the counts of thop are left out, see `plain_names`.

    Raises:
        ModelError: The file is missing, damaged, changed, holds no tensors, other types, or numbers
            that float32 does not have; or the sidecar cannot be read, or its classes are not a list
            of names.
    """
    tensors, told = open_base(path)
    upcast = {name: _upcast(tensor) for name, tensor in tensors.items()}
    return StartWeights(upcast, told.classes or () if told else ())


def open_base(path: Path) -> tuple[dict[str, torch.Tensor], Sidecar | None]:
    """Map base weights as they are stored, float16 or float32, and return what is said of them.

    See `load_start`. Tensors of other floating types are read, and become float32.
    """
    if path.suffix != ".safetensors":
        raise ModelError(
            f"expected a .safetensors file, got {'a folder' if path.is_dir() else repr(path.name)}",
            where=str(path),
            remedy="start weights are .safetensors, .pt or .pth; `duet weights ls` lists names",
        )
    told = read_sidecar(path)
    tensors, _ = read_tensors(path, told.sha256 if told else None)
    if not tensors:
        raise ModelError(
            "the file holds no tensors",
            where=str(path),
            remedy="give a file of base weights, as save_base writes it",
        )
    return {name: _base_tensor(name, t, path) for name, t in plain_names(tensors).items()}, told


def _base_tensor(name: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    if tensor.dtype in (torch.float16, torch.float32) or (
        tensor.ndim == 0 and not tensor.is_floating_point()  # a counter
    ):
        return tensor
    if not tensor.is_floating_point():
        raise ModelError(
            f"expected floating numbers, got {tensor.dtype} in '{name}'", where=str(path)
        )
    return exact_float32(name, tensor, str(path))


def plain_names(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return tensors by the names that a detector gives them.

    A wrapper writes its own name before all of them: ``module.`` of (Distributed)DataParallel, and
    a second ``model.`` of Ultralytics' `YOLO`. The counts of operations that thop leaves in a
    network, ``total_ops`` and ``total_params``, are none of its tensors.
    """
    found = {
        name: tensor
        for name, tensor in tensors.items()
        if name.rpartition(".")[2] not in ("total_ops", "total_params")
    }
    for wrapper, then in (("module.", ""), ("model.", "model.")):
        if found and all(name.startswith(wrapper + then) for name in found):
            found = {name.removeprefix(wrapper): tensor for name, tensor in found.items()}
    return found


def exact_float32(name: str, tensor: torch.Tensor, where: str) -> torch.Tensor:
    """Return floating numbers as float32, which float16, bfloat16 and most float64 ones are.

    Args:
        name: For the message.
        tensor: Any floating type and shape.
        where: File, for the message.

    Raises:
        ModelError: Some are not, so that rounding would change them (told how many).
    """
    single = tensor.float()
    if tensor.dtype == torch.float64:
        changed = int(((single.double() != tensor) & ~tensor.isnan()).sum())
        if changed:
            raise ModelError(
                f"{changed} of {tensor.numel()} float64 numbers in '{name}' are no float32 numbers",
                where=where,
                remedy="duet computes in float32: round them yourself (tensor.float()) and save "
                "the file again",
            )
    return single


def save_base(
    path: Path, tensors: Tensors, *, info: Mapping[str, Any] | None = None
) -> dict[str, torch.Tensor]:
    """Write base weights as float16 with their sidecar manifest.

    Args:
        path: Target `.safetensors` file; the sidecar is `<stem>.json`.
        tensors: float32 or float16 tensors and integer counters.
        info: JSON-ready facts for the sidecar, such as source and licence.

    Returns:
        What `load_start` will return: theta_0, rounded once to float16. Train from these.

    Raises:
        ModelError: A value does not fit into float16 (above 65504), or is not finite.
        DuetError: The file system refuses the write.
    """
    require_finite(tensors, str(path))
    half = {
        name: tensor.detach().half() if tensor.is_floating_point() else tensor.detach()
        for name, tensor in tensors.items()
    }
    large = sorted(name for name, tensor in half.items() if not bool(tensor.isfinite().all()))
    if large:
        raise ModelError(
            f"values above 65504 do not fit into float16 in: {', '.join(large)}", where=str(path)
        )
    reserved = {"format", "sha256"} & set(info or {})
    if reserved:
        raise ModelError(f"reserved keys in info: {sorted(reserved)}", where=str(path))
    sidecar = path.with_suffix(".json")
    # An old sidecar must not vouch for a new file if the process dies between the two writes.
    digest = write_tensors(path, half)
    write_json(sidecar, {"format": "duet-base", "sha256": digest, **(info or {})})
    return {name: _upcast(tensor) for name, tensor in half.items()}


def _upcast(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
