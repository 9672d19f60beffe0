"""Closed configuration: unknown keys are errors, and all errors are shown together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from duet.errors import ConfigError, did_you_mean, together


class Config(BaseModel):
    """Base of every configuration model: frozen, closed, finite numbers only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


C = TypeVar("C", bound=BaseModel)


def parse_config(model: type[C], data: Any, *, where: str) -> C:
    """Validate ``data`` as ``model``.

    Args:
        model: The configuration class.
        data: Parsed YAML or JSON.
        where: File name or option shown in the error.

    Raises:
        ConfigError: With every problem at once, and the nearest key for each unknown one.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [_describe(model, item) for item in error.errors(include_url=False)]
        raise ConfigError(
            together(problems, summary="the configuration is not valid"), where=where
        ) from None


def load_yaml(path: Path) -> Any:
    """Read one YAML file with the safe loader.

    Raises:
        ConfigError: The file is missing, unreadable or not YAML, or says a key twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe loader; of a key that is there twice it would lose the first value."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            places: dict[tuple[str, str], Any] = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                    continue
                first = places.setdefault((key.tag, key.value), key)
                if first is not key:
                    raise yaml.constructor.ConstructorError(
                        f"'{key.value}' first here", first.start_mark, "and again here",
                        key.start_mark,
                    )  # fmt: skip
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise ConfigError(
            f"cannot read: {error.strerror}", where=str(path), remedy="check the path"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"not valid YAML: {detail}", where=str(path)) from None


def _describe(model: type[BaseModel], item: Mapping[str, Any]) -> str:
    location = item["loc"]
    path = ".".join(str(part) for part in location) or "(top level)"
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return f"{path}: unknown key{did_you_mean(str(location[-1]), known)}"
    if item["type"] == "missing":
        return f"{path}: missing"
    if item["type"] == "value_error" and isinstance(item["input"], Mapping):
        # A check of a whole section: its message says what it got.
        return f"{path}: {item['ctx']['error']}"
    return f"{path}: {item['msg']}, got {item['input']!r}"


def _fields_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Return the field names valid at ``location``, walking through nested models."""
    current: Any = model
    for part in location:
        if isinstance(part, int) or not hasattr(current, "model_fields"):
            continue
        field = current.model_fields.get(part)
        current = _model_in(field.annotation) if field else None
    if not hasattr(current, "model_fields"):
        return []
    return [field.alias or name for name, field in current.model_fields.items()]


def _model_in(annotation: Any) -> Any:
    """Return the first pydantic model inside an annotation such as ``tuple[Increment, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
