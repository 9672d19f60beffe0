"""From a series file to a `Series`: everything is read and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from duet.config import load_yaml, parse_config
from duet.errors import ConfigError, did_you_mean
from duet.series.check import check_series
from duet.series.document import SeriesConfig
from duet.series.formats import Reading, read
from duet.series.images import Verify
from duet.series.model import Increment, Series
from duet.series.prepared import require_made
from duet.series.problems import Problem, raise_problems
from duet.series.spelling import align, clashing_classes
from duet.trees import resolved


@dataclass(frozen=True)
class Inspection:
    """A series as far as it can be read, and all its problems.

    Attributes:
        series: The series; parts with problems are missing from its data.
        problems: Errors and warnings, those of the files first.
        forms: Format of each data set, by its source; without those whose format cannot be told.
    """

    series: Series
    problems: tuple[Problem, ...]
    forms: Mapping[Path, str]


def read_config(path: Path) -> SeriesConfig:
    """Read the series file itself, none of its data.

    Raises:
        ConfigError: The file is missing or malformed.
    """
    return parse_config(SeriesConfig, load_yaml(path), where=str(path))


def read_series(
    path: Path,
    *,
    data_root: Path | None = None,
    verify: Verify | None = None,
    only: str | None = None,
) -> Series:
    """Read a series file and all its data.

    Args:
        path: The series' YAML file.
        data_root: Folder that replaces the file's ``root``.
        verify: ``"full"`` decodes every image, ``"header"`` does not; by default as much as the
            size of each data set allows.
        only: Read just this increment: the data of earlier ones may be gone.

    Raises:
        ConfigError: The series file itself is missing or malformed.
        DataError: With every problem of the increments and of their data at once.
    """
    inspection = inspect_series(path, data_root=data_root, verify=verify, only=only)
    raise_problems(inspection.problems, where=str(path))
    return inspection.series


def inspect_series(
    path: Path,
    *,
    data_root: Path | None = None,
    verify: Verify | None = None,
    only: str | None = None,
) -> Inspection:
    """Read a series file and all its data, and return the problems instead of raising them.

    Args:
        path: The series' YAML file.
        data_root: Folder that replaces the file's ``root``.
        verify: See `read_series`.
        only: See `read_series`.

    Raises:
        ConfigError: The series file itself is missing or malformed.
        DataError: Its data must be made first, by the command that it names.
    """
    config = read_config(path)
    names = config.increment_names()
    if only is not None and only not in names:
        raise ConfigError(
            f"no increment '{only}'{did_you_mean(only, names)}",
            where=str(path),
            remedy=f"increments: {', '.join(names)}",
        )
    root = data_root if data_root is not None else path.parent / config.root
    wanted = [item for n, item in zip(names, config.increments, strict=True) if only in (None, n)]
    paths = (resolved(root / item.data) for item in wanted)
    require_made(config.prepare, paths, root, where=str(path))
    classes = tuple(dict.fromkeys(name for item in config.increments for name in item.classes))
    readings: dict[tuple[str, Path], Reading] = {}
    increments: list[Increment] = []
    for name, item in zip(names, config.increments, strict=True):
        if only not in (None, name):
            continue
        # Increments of one domain mostly share a data set; it is read once.
        key = (item.format, resolved(root / item.data))
        if key not in readings:
            found = read(key[1], form=item.format, domain=item.domain, verify=verify)
            data, renamed = align(found.data, classes)
            readings[key] = replace(found, data=data, problems=found.problems + renamed)
        data = replace(readings[key].data, name=item.domain)
        increments.append(Increment(name, item.domain, item.classes, data))
    series = Series(config.name, config.description, tuple(increments), config.expected)
    problems = tuple(problem for reading in readings.values() for problem in reading.problems)
    problems += tuple(clashing_classes(config))
    forms = {reading.data.source: reading.form for reading in readings.values() if reading.form}
    return Inspection(series, problems + check_series(series, forms), forms)
