"""A parameter that may differ by layer: one number, by role, by depth, or by name pattern."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import BeforeValidator

from duet.errors import ModelError, did_you_mean
from duet.merging.layers import ROLES, Layer

Setting = float | tuple[float, ...] | Mapping[str, float] | tuple[Mapping[str, Any], ...]
"""``0.3`` | ``[0.1, 0.9]`` first to last layer | ``{backbone: 0.3, default: 1}`` | ``[{filter:
"model.2?.*", value: 0}, {value: 1}]``, where the first filter that fits counts."""

_FORMS = (
    "one number, a list of numbers (first to last layer), a mapping by role "
    f"({', '.join(ROLES)}, default), or a list of {{filter, value}}"
)


def varying(*, ge: float | None = None, le: float | None = None) -> Any:
    """Return the annotation of a parameter whose numbers all lie in [ge, le]."""
    return Annotated[Any, BeforeValidator(_checker(ge, le))]


def value_at(setting: Setting, name: str, layers: Mapping[str, Layer]) -> float:
    """Return the number for the tensor ``name``.

    Raises:
        ModelError: The tensor's place is not known, or nothing in the setting fits it.
    """
    if isinstance(setting, (int, float)):
        return float(setting)
    if not isinstance(setting, Mapping) and isinstance(setting[0], Mapping):
        return _by_filter(setting, name)  # type: ignore[arg-type]
    layer = layers.get(name)
    if layer is None:
        raise ModelError(
            f"the place of '{name}' in the detector is not known",
            remedy="use one number or filters; roles and depth need a detector family",
        )
    if isinstance(setting, Mapping):
        if layer.role not in setting and "default" not in setting:
            raise ModelError(f"no value for the role '{layer.role}' of '{name}', and no default")
        return float(setting[layer.role] if layer.role in setting else setting["default"])
    return _by_depth(setting, layer.depth)  # type: ignore[arg-type]


def value_of_each(
    setting: Setting, names: Iterable[str], layers: Mapping[str, Layer]
) -> dict[str, float]:
    """Return `value_at` for every tensor, by name."""
    return {name: value_at(setting, name, layers) for name in names}


def _by_filter(rules: Sequence[Mapping[str, Any]], name: str) -> float:
    for rule in rules:
        if fnmatchcase(name, rule.get("filter", "*")):
            return float(rule["value"])
    raise ModelError(
        f"no filter fits the tensor '{name}'", remedy="end the list with an entry without filter"
    )


def _by_depth(values: Sequence[float], depth: float) -> float:
    """Interpolate linearly between evenly spaced values."""
    place = depth * (len(values) - 1)
    left = min(int(place), len(values) - 2) if len(values) > 1 else 0
    if len(values) == 1:
        return float(values[0])
    return float(values[left] + (place - left) * (values[left + 1] - values[left]))


def _checker(ge: float | None, le: float | None) -> Callable[[Any], Any]:
    def number(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"expected {_FORMS}")
        if not math.isfinite(value):
            raise ValueError("must be finite")
        if (ge is not None and value < ge) or (le is not None and value > le):
            limits = [
                f">= {ge:g}" if ge is not None else "",
                f"<= {le:g}" if le is not None else "",
            ]
            raise ValueError(f"{value:g} must be {' and '.join(x for x in limits if x)}")
        return float(value)

    def rule(item: Mapping[str, Any]) -> dict[str, Any]:
        unknown = [key for key in item if key not in ("filter", "value")]
        if unknown:
            raise ValueError(f"'{unknown[0]}'{did_you_mean(unknown[0], ('filter', 'value'))}")
        if "value" not in item or not isinstance(item.get("filter", "*"), str):
            raise ValueError("an entry needs a value, and a filter of text such as 'model.2?.*'")
        return {**item, "value": number(item["value"])}

    def check(value: Any) -> Any:
        if isinstance(value, Mapping):
            known = (*ROLES, "default")
            unknown = [str(key) for key in value if key not in known]
            if unknown or not value:
                word = unknown[0] if unknown else ""
                raise ValueError(f"unknown role '{word}'{did_you_mean(word, known)}")
            return {key: number(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)) and value:
            if all(isinstance(item, Mapping) for item in value):
                return tuple(rule(item) for item in value)
            return tuple(number(item) for item in value)
        return number(value)

    return check
