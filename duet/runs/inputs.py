"""From a series file and options to what a run needs: defaults filled in, everything checked."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from duet.config import parse_config
from duet.doctor.pairs import pair_problems
from duet.errors import ConfigError
from duet.families.table import family_of, head_form
from duet.names import key
from duet.series import Problem, Series, inspect_series, raise_problems
from duet.series.reader import read_config
from duet.shipped import shipped
from duet.training.config import Method, Schedule, load_method, load_schedule


@dataclass(frozen=True)
class Inputs:
    """A checked series with its schedule and start weights.

    Attributes:
        series: Increments and data.
        schedule: How long every stage trains.
        weights: θ_0.
        architecture: Architecture; its name tells the family.
        family: Detector family.
        warnings: What is odd about the data and stops nothing, see `read_checked`.
    """

    series: Series
    schedule: Schedule
    weights: Path
    architecture: str
    family: str
    warnings: tuple[Problem, ...] = ()


def read_inputs(
    path: Path,
    *,
    data_root: Path | None = None,
    train: Path | None = None,
    weights: Path | None = None,
    architecture: str | None = None,
    changes: dict[str, object] | None = None,
    only: str | None = None,
) -> Inputs:
    """Read everything that a run starts from; nothing is trained or written.

    Args:
        path: Series YAML.
        data_root: Replaces the file's ``root``.
        train: Schedule YAML; default the series' own, else the schedule's defaults.
        weights: θ_0; default the series' own.
        architecture: Architecture; default what the weights' sidecar says, else the
            series' own.
        changes: Schedule keys to replace, such as ``{"epochs": 3}``.
        only: Read just this increment's data.

    Raises:
        ConfigError: A file or option is missing or wrong.
        DataError: The data cannot be used.
    """
    defaults = read_config(path).defaults
    folder = path.resolve().parent
    train = train or (folder / defaults.train if defaults.train else None)
    weights = weights or (folder / defaults.weights if defaults.weights else None)
    schedule = load_schedule(train) if train else Schedule()
    if changes:
        schedule = parse_config(Schedule, schedule.model_dump() | changes, where="schedule options")
    if weights is None:
        raise ConfigError(
            "no start weights",
            where=str(path),
            remedy="give --weights FILE.safetensors, or name them under 'defaults' in the series",
        )
    if not weights.exists():
        raise ConfigError(
            "the start weights are not there", where=str(weights), remedy="check the path"
        )
    chosen = architecture or _architecture_of(weights, defaults.architecture)
    family = family_of(chosen)
    series, warnings = read_checked(path, data_root=data_root, only=only)
    return Inputs(series, schedule, weights, chosen, family, warnings)


def read_checked(
    path: Path, *, data_root: Path | None = None, only: str | None = None
) -> tuple[Series, tuple[Problem, ...]]:
    """Read a series as `read_series` does; return its warnings too.

    They are those of `duet data check` that need no second look at the images.

    Raises:
        ConfigError: The series file itself is missing or malformed.
        DataError: With every problem of the increments and of their data at once.
    """
    found = inspect_series(path, data_root=data_root, only=only)
    raise_problems(found.problems, where=str(path))
    sources = {item.data.source: item.data for item in found.series.increments}
    unpaired = (pair_problems(sources[source], form, ()) for source, form in found.forms.items())
    problems = itertools.chain(found.problems, *unpaired)
    return found.series, tuple(one for one in problems if one.severity == "warning")


def read_methods(names: tuple[str, ...], *, family: str) -> tuple[Method, ...]:
    """Read methods by shipped name or path, with the head forms that a family builds for them.

    Raises:
        ConfigError: One is unknown or invalid, or two have the same name; or the family has no
            such head form.
    """
    loaded = [load_method(name, folder=shipped("configs", "method")) for name in names]
    methods = tuple(
        method.model_copy(update={"head": head_form(family, method.head)}) for method in loaded
    )
    counts = Counter(key(method.name) for method in methods)
    doubled = {method.name for method in methods if counts[key(method.name)] > 1}
    if doubled:
        raise ConfigError(
            f"methods occur twice: {', '.join(sorted(doubled))}",
            remedy="give each method file a name of its own",
        )
    return methods


def _architecture_of(weights: Path, default: str | None) -> str:
    """Return the architecture that the weights' sidecar names, else the default.

    Raises:
        ConfigError: Neither says it.
        ModelError: The sidecar cannot be read.
    """
    from duet.increments.base import read_sidecar

    told = read_sidecar(weights)
    if told is not None and told.architecture is not None:
        return told.architecture
    if default is None:
        raise ConfigError(
            "the architecture of the start weights is not known",
            where=str(weights),
            remedy="give --architecture, for example yolo11n.yaml",
        )
    return default
