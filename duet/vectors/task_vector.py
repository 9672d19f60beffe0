"""Task vectors: tau = theta - theta_0, bound to its base and exact to the last bit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from duet.errors import ModelError
from duet.vectors.tensors import (
    Tensors,
    fingerprint,
    floating,
    require_finite,
    require_same_layout,
)

_LARGEST = torch.finfo(torch.float32).max
_VECTOR, _CORRECTION = "vector/", "correction/"


@dataclass(frozen=True)
class Correction:
    """The scalars of one tensor that base + delta does not give back exactly.

    Attributes:
        indices: `(N,)` int64, positions in the flattened tensor, ascending.
        values: `(N,)` float32, the stage's values at these positions.
    """

    indices: torch.Tensor
    values: torch.Tensor

    def __post_init__(self) -> None:
        right_types = self.indices.dtype == torch.int64 and self.values.dtype == torch.float32
        if not right_types or self.indices.ndim != 1 or self.indices.shape != self.values.shape:
            raise ModelError(
                "a correction needs as many int64 indices as float32 values, got "
                f"{self.indices.dtype} {tuple(self.indices.shape)} and "
                f"{self.values.dtype} {tuple(self.values.shape)}"
            )
        if bool((self.indices.diff() <= 0).any()):
            raise ModelError("the indices of a correction must ascend without repetition")


@dataclass(frozen=True)
class TaskVector:
    """What a stage changed: tau = theta - theta_0 (DuET, section 3.2).

    Attributes:
        delta: float32 differences by tensor name, all finite.
        base: Fingerprint of the floating tensors of the base theta_0.
        correction: For the tensors where float32 rounding made base + delta differ from the
            stage: the exact values. Empty for most tensors.
    """

    delta: Tensors
    base: str
    correction: Mapping[str, Correction] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.base):
            raise ModelError(
                f"the base fingerprint must be 64 hexadecimal digits, got {self.base!r}"
            )
        _require_float32(self.delta, "task vector")
        require_finite(self.delta, "task vector")
        for name, fix in self.correction.items():
            scalars = self.delta[name].numel() if name in self.delta else 0
            if bool(((fix.indices < 0) | (fix.indices >= scalars)).any()) or not scalars:
                raise ModelError(f"the correction of '{name}' points outside the vector")
        require_finite({n: fix.values for n, fix in self.correction.items()}, "correction")

    @classmethod
    def between(cls, base: Tensors, stage: Tensors) -> TaskVector:
        """Return the vector that leads from ``base`` to ``stage``, bit for bit.

        Args:
            base: theta_0, float32; integer tensors (counters) are left out of the vector.
            stage: theta, of the same layout.

        Raises:
            ModelError: The layouts differ, values are not finite, or a floating tensor is not
                float32.
        """
        require_same_layout(base, stage, "task vector between base and stage")
        theta_0, theta = floating(base), floating(stage)
        for tensors, role in ((theta_0, "base"), (theta, "stage")):
            _require_float32(tensors, role)
            require_finite(tensors, role)
        delta: dict[str, torch.Tensor] = {}
        correction: dict[str, Correction] = {}
        for name in theta_0:
            delta[name], fix = _difference(theta_0[name], theta[name])
            if fix is not None:
                correction[name] = fix
            restored = _restore(theta_0[name], delta[name], fix)
            if not _same_bits(restored, theta[name]).all():
                raise ModelError(
                    "base + vector does not give the stage back bit for bit",
                    where=name,
                    remedy="turn off torch.set_flush_denormal; if it is off, report this as a bug",
                )
        return cls(delta=delta, base=fingerprint(theta_0), correction=correction)

    def stage(self, base: Tensors) -> dict[str, torch.Tensor]:
        """Return the stage that the vector leads to from ``base``, bit for bit.

        Raises:
            ModelError: It was computed from another base.
        """
        theta_0 = {name: base[name] for name in self.delta if name in base}
        if fingerprint(theta_0) != self.base:
            raise ModelError("the task vector belongs to another base")
        fixes = self.correction
        return {n: _restore(theta_0[n], one, fixes.get(n)) for n, one in self.delta.items()}

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Return flat tensors for storage: `vector/<name>`, `correction/<name>.indices|values`."""
        flat = {f"{_VECTOR}{name}": tensor for name, tensor in self.delta.items()}
        for name, fix in self.correction.items():
            flat[f"{_CORRECTION}{name}.indices"] = fix.indices
            flat[f"{_CORRECTION}{name}.values"] = fix.values
        return flat

    @classmethod
    def from_tensors(cls, tensors: Tensors, base: str) -> TaskVector:
        """Rebuild a vector from `to_tensors`.

        Args:
            tensors: Keys `vector/<name>` and `correction/<name>.indices|values`, no others.
            base: Fingerprint of the base.

        Raises:
            ModelError: A key is unknown, or half of a correction is missing.
        """
        delta: dict[str, torch.Tensor] = {}
        halves: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith(_VECTOR):
                delta[key.removeprefix(_VECTOR)] = tensor
                continue
            name, _, half = key.removeprefix(_CORRECTION).rpartition(".")
            if not key.startswith(_CORRECTION) or half not in ("indices", "values"):
                raise ModelError(f"'{key}' is not part of a task vector")
            halves.setdefault(name, {})[half] = tensor
        torn = sorted(name for name, pair in halves.items() if len(pair) != 2)
        if torn:
            raise ModelError(f"half of the correction is missing for: {', '.join(torn)}")
        correction = {name: Correction(**pair) for name, pair in halves.items()}
        return cls(delta=delta, base=base, correction=correction)


def _difference(base: torch.Tensor, stage: torch.Tensor) -> tuple[torch.Tensor, Correction | None]:
    """Return stage - base in float32, and the exact values where adding it back would round.

    Float32 subtraction rounds when |stage - base| is a binade above |stage| (1e-10 - 1.0 is -1.0,
    and 1.0 + -1.0 is 0.0); it overflows for values of opposite sign near the largest float.
    """
    base, stage = base.detach(), stage.detach().to(base.device)
    delta = (stage - base).clamp(-_LARGEST, _LARGEST)
    # -0.0 - -0.0 is +0.0, which would turn an untouched -0.0 into +0.0; x + -0.0 is always x.
    untouched_negative_zero = (base == 0) & base.signbit() & (stage == 0) & stage.signbit()
    delta = torch.where(untouched_negative_zero, stage, delta)
    wrong = ~_same_bits(base + delta, stage)
    indices = wrong.reshape(-1).nonzero().squeeze(1)
    if not len(indices):
        return delta, None
    return delta, Correction(indices=indices, values=stage.reshape(-1)[indices])


def _restore(base: torch.Tensor, delta: torch.Tensor, fix: Correction | None) -> torch.Tensor:
    stage = (base.detach() + delta.to(base.device)).contiguous()
    if fix is not None:
        stage.view(-1)[fix.indices.to(base.device)] = fix.values.to(base.device)
    return stage


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compare float32 tensors as integers: 0.0 and -0.0 differ."""
    same: torch.Tensor = a.detach().contiguous().view(torch.int32) == b.detach().to(
        a.device
    ).contiguous().view(torch.int32)
    return same


def _require_float32(tensors: Tensors, role: str) -> None:
    wrong = {
        name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype != torch.float32
    }
    if not wrong:
        return
    name, dtype = next(iter(wrong.items()))
    half = {torch.float16, torch.bfloat16} & set(wrong.values())
    reason = (
        "; half-precision checkpoints must not be subtracted: rounding to float16 is as large as a "
        "small update, and turns up to a fifth of the signs of the vector"
        if half
        else ""
    )
    raise ModelError(
        f"expected float32, got {dtype} in {len(wrong)} tensor(s), first '{name}'{reason}",
        where=role,
        remedy="take the float32 weights of the running trainer (duet saves them as safetensors), "
        "not last.pt or best.pt",
    )
