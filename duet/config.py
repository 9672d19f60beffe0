"""Closed configuration: unknown keys are errors, and all errors are shown together."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from duet.errors import PROBLEMS_SHOWN, ConfigError, DuetError, did_you_mean, together
from duet.text import printable, shown, without_addresses
from duet.yamltree import line_of, parse_yaml, resolved

if TYPE_CHECKING:
    from typing_extensions import Self


def _whole(value: Any) -> Any:
    found = resolved(value)
    if type(found) is not int:  # true and 1.0 are equal to 1
        raise ValueError("expected a whole number, without quotes")
    return found


Schema: TypeAlias = Annotated[Literal[1], BeforeValidator(_whole)]
"""Version of a file that people write."""

Params: TypeAlias = Annotated[dict[str, Any], BeforeValidator(resolved)]
"""Values whose types another model knows: those of YAML 1.2, where they come without quotes."""


class Config(BaseModel):
    """Base of every configuration model: frozen, closed, finite numbers only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy without what cached properties made of the values that ``update`` changes.

        Args:
            update: Field -> value, not validated.
            deep: Copy the values, too.
        """
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(copied).model_fields.keys():
            del copied.__dict__[name]
        return copied


C = TypeVar("C", bound=BaseModel)


def parse_config(
    model: type[C],
    data: Any,
    *,
    where: str,
    called: str = "the configuration",
    error: type[DuetError] = ConfigError,
    remedy: str | None = None,
    context: object = None,
) -> C:
    """Validate ``data`` as ``model``.

    Args:
        model: The configuration class.
        data: Parsed YAML or JSON.
        where: File name or option shown in the error.
        called: What ``data`` is, in the error.
        error: What is raised.
        remedy: What the user can do.
        context: What pydantic's validators are told, such as `duet.fields.ClassSets`.

    Raises:
        DuetError: ``error``, with every problem at once, and the nearest key for each unknown one.
    """
    try:
        return model.model_validate(data, context=context)
    except ValidationError as found:
        raise error(problems_of(found, model, data, called), where=where, remedy=remedy) from None


def problems_of(found: ValidationError, model: type[BaseModel], data: Any, called: str) -> str:
    """Return every problem of ``data`` as one message; arguments as of `parse_config`."""
    items = found.errors(include_url=False)
    # A list whose items are all wrong is not too short as well.
    above = {item["loc"][:depth] for item in items for depth in range(len(item["loc"]))}
    items = [i for i in items if i["type"] != "too_short" or i["loc"] not in above]
    lines = [line_of(data, item["loc"]) for item in items[:PROBLEMS_SHOWN]]
    problems = [
        f"line {line}: {_describe(model, item)}" if line else _describe(model, item)
        for item, line in zip(items, lines, strict=False)
    ]
    problems += [""] * (len(items) - len(problems))  # counted, not shown
    return together(problems, summary=f"{called} is not valid")


def changed(config: C, changes: Mapping[str, Any], *, where: str) -> C:
    """Return a configuration with some keys replaced, validated as a whole.

    Args:
        config: The configuration.
        changes: Key -> value; a dot goes into a section: ``{"augmentation.mosaic": 1}``.
        where: Shown in the error.

    Raises:
        ConfigError: As `parse_config`.
    """
    if not changes:
        return config
    data = config.model_dump()
    for key, value in changes.items():
        *above, last = key.split(".")
        section = data
        for name in above:
            inner = section.get(name)
            section = section.setdefault(name, {}) if not isinstance(inner, dict) else inner
        section[last] = value
    return parse_config(type(config), data, where=where)


def load_yaml(path: Path) -> Any:
    """Read one YAML file as mappings, lists and texts; nothing in it can run or grow.

    Scalars without quotes come as `Plain`, but null as None, true and false as such. Anchors,
    aliases and merge keys (``<<``) work within bounds.

    Args:
        path: A regular file, UTF-8.

    Raises:
        ConfigError: The file is missing, unreadable, too large or not YAML, says a key twice, nests
            or repeats too much, or holds a tag that duet does not know; with line and column.
    """
    return parse_yaml(_read_text(path), where=str(path))


def _describe(model: type[BaseModel], item: Mapping[str, Any]) -> str:
    location = item["loc"]
    path = printable(".".join(str(part) for part in location)) or "(top level)"
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return f"{path}: unknown key{did_you_mean(str(location[-1]), known)}"
    if item["type"] == "missing":
        return f"{path}: missing"
    if item["type"] == "value_error" and isinstance(item["input"], Mapping):
        # A check of a whole section: its message says what it got.
        return f"{path}: {item['ctx']['error']}"
    advice = ""
    scalar = item["input"] is None or isinstance(item["input"], (bool, int, float))
    if item["type"] == "string_type" and scalar:
        advice = " (put such a text in quotes)"
    # Who writes YAML or JSON knows no tuples.
    problem = "Input should be a list" if item["type"] == "tuple_type" else item["msg"]
    got = without_addresses(shown(item["input"]))
    return f"{path}: {problem}, got {got}{advice}"


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


_LARGEST = 64 << 20  # bytes of a document: class lists of a million names have fewer


def _read_text(path: Path) -> str:
    try:
        if path.is_fifo() or path.is_char_device():  # may never end
            raise OSError(errno.EINVAL, "neither a file nor a folder")
        with path.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read: {error.strerror}", where=str(path), remedy="check the path"
        ) from None
    except ValueError:  # a path with a NUL in it
        raise ConfigError("cannot read: no path holds a NUL", where=shown(str(path))) from None
    if len(content) > _LARGEST:
        what = f"cannot read: more than {_LARGEST >> 20} MiB, too large for a description"
        raise ConfigError(what, where=str(path), remedy="check the path")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        what = f"not UTF-8: line {line}, column {column}: byte {content[error.start]:#04x}"
        remedy = "save the file as UTF-8"
        raise ConfigError(what, where=str(path), remedy=remedy) from None
