"""What a merge did to each tensor, as plain numbers for results.json and the report."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from duet.errors import ModelError
from duet.text import clipped, shown

_CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Notes:
    """What a method tells about its own merge.

    Attributes:
        tensors: Coefficients by tensor name, such as alpha and p.
        facts: JSON-ready facts about the whole merge, such as thresholds.
    """

    tensors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorTrace:
    """The merge of one tensor. "Old" is the first stage, "new" the last.

    Attributes:
        scalars: Number of scalars in the tensor.
        alpha: Weight of the old stage where the method interpolates, the others share 1 - alpha;
            None for methods that add task vectors.
        p: The p-factor of DuET, in [-1, 1]; None for methods without one.
        norm_old: l1 norm of tau_old; without theta_0 it is 0.
        norm_new: l1 norm of tau_new; without theta_0 that of theta_new - theta_old.
        cosine: Cosine of tau_old and tau_new, in [-1, 1]; 0 if one of them is zero; None without
            theta_0.
        sign_conflict: Share of scalars that two stages move in opposite directions, in [0, 1];
            None without theta_0.
        values: Other coefficients of the method in this tensor.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CLOSED

    scalars: int
    alpha: float | None
    p: float | None
    norm_old: float
    norm_new: float
    cosine: float | None
    sign_conflict: float | None
    values: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shares_hold = 0 <= (self.sign_conflict or 0) <= 1 and -1 <= (self.cosine or 0) <= 1
        norms_hold = self.norm_old >= 0 and self.norm_new >= 0
        if not (0 <= self.scalars < 1 << 63 and norms_hold and shares_hold):
            raise ModelError(f"a merge trace with impossible numbers: {clipped(str(self), 300)}")


@dataclass(frozen=True)
class MergeSummary:
    """One line about a whole merge.

    Attributes:
        tensors: Number of tensors merged.
        scalars: Number of scalars merged.
        sign_conflict: Share of conflicting scalars over all scalars, in [0, 1]; None if it was not
            measured.
        alpha_mean: Mean of alpha over the tensors (each tensor counts once, as in DuET); None for
            methods without one.
        alpha_min: Smallest alpha.
        alpha_max: Largest alpha.
    """

    tensors: int
    scalars: int
    sign_conflict: float | None
    alpha_mean: float | None
    alpha_min: float | None
    alpha_max: float | None


@dataclass(frozen=True)
class MergeTrace:
    """What a merge did.

    Attributes:
        method: Name of the method.
        params: Its parameters, JSON-ready.
        tensors: One trace per tensor, by name.
        batchnorm: Rule and normalised weights of the BatchNorm fusion, JSON-ready; may be empty.
        stages: Names of the stages, oldest first.
        facts: What else the method tells, such as thresholds; JSON-ready.
        part: Name of the head part that was merged; None for the shared tensors.
        classes: Of a head part, the classes that each stage brought to it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CLOSED

    method: str
    params: Mapping[str, Any]
    tensors: Mapping[str, TensorTrace]
    batchnorm: Mapping[str, Any]
    stages: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    part: str | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def summary(self) -> MergeSummary:
        """Return the overall numbers; zero or None for a merge without tensors."""
        traces = list(self.tensors.values())
        scalars = sum(trace.scalars for trace in traces)
        measured = [trace for trace in traces if trace.sign_conflict is not None]
        conflicts = sum((trace.sign_conflict or 0) * trace.scalars for trace in measured)
        counted = sum(trace.scalars for trace in measured)
        alphas = [trace.alpha for trace in traces if trace.alpha is not None]
        return MergeSummary(
            tensors=len(traces),
            scalars=scalars,
            sign_conflict=conflicts / counted if counted else None,
            alpha_mean=sum(alphas) / len(alphas) if alphas else None,
            alpha_min=min(alphas, default=None),
            alpha_max=max(alphas, default=None),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data: the fields and the summary."""
        return {
            "method": self.method,
            "stages": list(self.stages),
            "params": dict(self.params),
            "summary": dataclasses.asdict(self.summary()),
            "batchnorm": dict(self.batchnorm),
            "facts": dict(self.facts),
            "part": self.part,
            "classes": {stage: list(names) for stage, names in self.classes.items()},
            "tensors": {name: dataclasses.asdict(trace) for name, trace in self.tensors.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MergeTrace:
        """Rebuild a trace from `as_dict`; the summary is computed again, not read.

        Raises:
            ModelError: Keys are missing or unknown, or a value has another type.
        """
        told = data if isinstance(data, Mapping) else {}
        try:
            json.dumps(told, allow_nan=False)
            return _reader().validate_python({k: v for k, v in told.items() if k != "summary"})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = shown(".".join(map(str, first["loc"])))
            problem = f"{place}: {first['msg']}, got {shown(first['input'])}"
        except ValueError:
            problem = "NaN or infinity in it"
        remedy = "run the merge again to rewrite it"
        raise ModelError(f"not a merge trace: {problem}", remedy=remedy)


@functools.cache
def _reader() -> TypeAdapter[MergeTrace]:
    return TypeAdapter(MergeTrace)
