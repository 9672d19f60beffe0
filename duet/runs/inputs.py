"""From a series file and options to what a run needs: defaults filled in, everything checked."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from duet.config import changed
from duet.errors import Collected, ConfigError, did_you_mean
from duet.families.table import family_of, row_of
from duet.names import key
from duet.runs.onto import Onto, open_onto
from duet.series import Problem, Series, inspect_series, raise_problems
from duet.series.formats.table import resolve
from duet.series.reader import StartDetector, read_config
from duet.shipped import shipped
from duet.text import shown
from duet.training.config import Strategy, load_strategy
from duet.training.schedule import Schedule, load_schedule
from duet.trees import resolved
from duet.weights import name_or_below
from duet.weights.start import open_start


@dataclass(frozen=True)
class Inputs:
    """A checked series with its schedule and start weights.

    Attributes:
        series: Increments and data.
        schedule: How long every stage trains; shared by all.
        weights: θ_0; None if it is ``onto``.
        architecture: Architecture; its name tells the family.
        family: Detector family.
        onto: The detector that stands for the first increment, which is then not trained.
        changes: Keys of every strategy to replace, see `read_strategies`.
        warnings: What is odd about the data and stops nothing, see `read_checked`.
    """

    series: Series
    schedule: Schedule
    weights: Path | None
    architecture: str
    family: str
    onto: Onto | None = None
    changes: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()


def read_inputs(
    path: Path,
    *,
    data_root: Path | None = None,
    train: Path | None = None,
    weights: str | Path | None = None,
    architecture: str | None = None,
    changes: Mapping[str, object] | None = None,
    only: str | None = None,
    onto: Path | None = None,
) -> Inputs:
    """Read everything that a run starts from; nothing is trained or written.

    Args:
        path: Series YAML.
        data_root: Replaces the file's ``root``.
        train: Schedule YAML; default the series' own, else the schedule's defaults.
        weights: θ_0, by name or path; default the series' own, or ``onto``.
        architecture: Architecture; default what the weights say or show, else the series' own.
        changes: Keys to replace, of the schedule and of every strategy: ``{"refit.epochs": 8}``.
        only: Read just this increment's data.
        onto: The detector that the series goes on from; replaces the file's ``start``.

    Raises:
        DuetError: With all that is missing or wrong at once; of the kind of the first.
    """
    config, folder = read_config(path), resolved(path).parent
    defaults, start = config.defaults, config.start
    if start is not None and only is None:
        onto = onto or folder / start.detector
    if onto is None and defaults.weights:
        weights = weights or name_or_below(folder, defaults.weights)
    found, begun, there, chosen = Collected(), None, None, ""
    ours, theirs = _split(changes or {})
    with found.noted():
        begun = open_onto(onto, name=start.name if start else None) if onto else None
    with found.noted():
        schedule = _schedule(train or _below(folder, defaults.train), begun, ours)
    with found.noted():
        if onto is None:
            there, chosen = _opened(weights, architecture, defaults.architecture, str(path))
        elif begun is not None:
            chosen = _same_architecture(begun, architecture)
            there = open_start(weights, architecture=chosen).path if weights else None
        family = family_of(chosen)
    known = begun.known if begun else None
    with found.noted():
        series, warnings = read_checked(path, data_root=data_root, only=only, start=known)
    found.raise_all(f"{path} cannot be run")
    return Inputs(series, schedule, there, chosen, family, begun, theirs, warnings)


def _same_architecture(onto: Onto, asked: str | None) -> str:
    """Return the architecture of a detector that is gone on from."""
    own = onto.state.architecture
    if asked not in (None, own):
        raise ConfigError(
            f"the detector is a {own}, got --architecture {asked}",
            where=str(onto.path),
            remedy="leave out --architecture: what goes on from a detector is built as it is",
        )
    return own


def _below(folder: Path, name: str | None) -> Path | None:
    return folder / name if name else None


def _schedule(file: Path | None, onto: Onto | None, changes: Mapping[str, object]) -> Schedule:
    """Return a file's schedule or the defaults, with changes.

    By default a detector that is gone on from gets images of the size that it knows.
    """
    own: dict[str, object] = {}
    if file is None and onto is not None:
        file = shipped("configs", "train", "onto.yaml")
        own["image_size"] = max(onto.manifest.image_size // 32 * 32, 32)
    schedule = load_schedule(file) if file else Schedule()
    return changed(schedule, own | dict(changes), where="schedule options")


def _split(changes: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Return which keys are the schedule's, and which the strategies'."""
    known = {**dict.fromkeys(Strategy.model_fields, 1), **dict.fromkeys(Schedule.model_fields, 0)}
    parts: tuple[dict[str, object], dict[str, object]] = ({}, {})
    for key_, value in changes.items():
        first = key_.split(".")[0]
        if first not in known:
            raise ConfigError(
                f"no key '{shown(key_)}' of a schedule or a strategy{did_you_mean(first, known)}",
                where="--set",
            )
        parts[known[first]][key_] = value
    return parts


def read_checked(
    path: Path,
    *,
    data_root: Path | None = None,
    only: str | None = None,
    start: StartDetector | None = None,
) -> tuple[Series, tuple[Problem, ...]]:
    """Read a series as `read_series` does; return its warnings too.

    They are those of `duet data check` that need no second look at the images.

    Args:
        path: Series YAML.
        data_root: Replaces the file's ``root``.
        only: Read just this increment's data.
        start: See `duet.series.reader.inspect_series`.

    Raises:
        ConfigError: The series file itself is missing or malformed.
        DataError: With every problem of the increments and of their data at once.
    """
    found = inspect_series(path, data_root=data_root, only=only, start=start)
    raise_problems(found.problems, where=str(path))
    return found.series, warnings_of(found.series, found.problems)


def warnings_of(series: Series, problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the warnings among the problems of a series, and those about its folders."""
    unpaired = (resolve(data.form).check_files(data, ()) for data in series.data_sets if data.form)
    every = itertools.chain(problems, *unpaired)
    return tuple(one for one in every if one.severity == "warning")


def read_strategies(
    names: tuple[str, ...],
    *,
    family: str,
    onto: Onto | None = None,
    changes: Mapping[str, object] | None = None,
) -> tuple[Strategy, ...]:
    """Read strategies by shipped name or path, with the head forms that a family builds for them.

    Args:
        names: Names or paths.
        family: Detector family.
        onto: Detector that is gone on from; one of several increments keeps its head form.
        changes: Keys to replace in each, such as ``{"merge.params.gamma": 0.2}``.

    Raises:
        ConfigError: One is unknown or invalid, or two have the same name; or the family has no
            such head form.
        ModelError: The detector's head form does not fit a strategy.
    """
    strategies, row = [], row_of(family)
    for name in names:
        read = load_strategy(name, folder=shipped("configs", "strategy"))
        altered = changed(read, changes or {}, where=f"strategy {read.name}")
        built = altered.model_copy(update={"head": row.head_form(altered.head, family)})
        strategies.append(built if onto is None else onto.fitted(built))
    counts = Counter(key(strategy.name) for strategy in strategies)
    doubled = {strategy.name for strategy in strategies if counts[key(strategy.name)] > 1}
    if doubled:
        raise ConfigError(
            f"strategies occur twice: {', '.join(sorted(doubled))}",
            remedy="give each strategy file a name of its own",
        )
    return tuple(strategies)


def _opened(
    weights: str | Path | None, architecture: str | None, default: str | None, where: str
) -> tuple[Path, str]:
    """Open the start weights of a series; return where they are, and their architecture."""
    if weights is None:
        raise ConfigError(
            "no start weights",
            where=where,
            remedy="give --weights FILE or a name of `duet weights ls`, or name either under "
            "'defaults' in the series; to keep what a detector knows and add to it, --onto "
            "DETECTOR or 'start' in the series",
        )
    opened = open_start(weights, architecture=architecture, default=default)
    return opened.path, opened.architecture
