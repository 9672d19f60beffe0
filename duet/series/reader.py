"""From a series file to a `Series`: everything is read and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from duet.config import load_yaml, parse_config
from duet.errors import ConfigError, did_you_mean
from duet.labels import LabelSpace
from duet.names import key
from duet.series.check import check_series
from duet.series.document import SeriesConfig, StartConfig
from duet.series.formats import read
from duet.series.formats.base import Reading
from duet.series.formats.documents import NO_TRAIN
from duet.series.images import Verify
from duet.series.model import DomainData
from duet.series.prepared import require_made
from duet.series.problems import Problem, raise_problems
from duet.series.series import Increment, Series
from duet.series.spelling import align, clashing_classes
from duet.trees import resolved

_OF_DATA_SETS = {"names", "nc", "train", "val", "test", "path", "format"}


@dataclass(frozen=True)
class Inspection:
    """A series as far as it can be read, and all its problems.

    Attributes:
        series: The series; parts with problems are missing from its data.
        problems: Errors and warnings, those of the files first.
    """

    series: Series
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class StartDetector:
    """What a series must know of the detector that it goes on from.

    Attributes:
        path: The detector.
        name: Of its stage.
        classes: Its classes, in the order of its outputs; None if nobody looked into it: then
            those with a label in its data that no increment brings.
    """

    path: Path
    name: str
    classes: tuple[str, ...] | None


def read_config(path: Path) -> SeriesConfig:
    """Read the series file itself, none of its data.

    Raises:
        ConfigError: The file is missing or malformed.
    """
    return parse_config(SeriesConfig, load_yaml(path), where=str(path))


def is_series(path: Path) -> bool:
    """Tell a series YAML from a data set: a folder, or a file that describes one.

    A YAML with keys of neither counts as a series, whose reader knows what they may have meant.

    Raises:
        ConfigError: It is called a YAML and cannot be read as one.
    """
    if path.is_dir() or path.suffix.lower() not in (".yaml", ".yml"):
        return False
    document = load_yaml(path)
    if not isinstance(document, dict) or not document:
        return False
    return "increments" in document or not document.keys() & _OF_DATA_SETS


def read_series(path: Path, *, data_root: Path | None = None) -> Series:
    """Read a series file and all its data.

    Args:
        path: The series' YAML file.
        data_root: Folder that replaces the file's ``root``.

    Raises:
        ConfigError: The series file itself is missing or malformed.
        DataError: With every problem of the increments and of their data at once.
    """
    inspection = inspect_series(path, data_root=data_root)
    raise_problems(inspection.problems, where=str(path))
    return inspection.series


def inspect_series(
    path: Path,
    *,
    data_root: Path | None = None,
    verify: Verify | None = None,
    only: str | None = None,
    start: StartDetector | None = None,
) -> Inspection:
    """Read a series file and all its data, and return the problems instead of raising them.

    Args:
        path: The series' YAML file.
        data_root: Folder that replaces the file's ``root``.
        verify: ``"full"`` decodes every image, ``"header"`` does not; by default as much as the
            size of each data set allows.
        only: Read just this increment: the data of earlier ones may be gone.
        start: The detector that the increments follow, which becomes the first of them; without
            it the detector that the file names is left out, and its data with it.

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
    if start is not None:
        _require_other_name(start, config, names if only is None else (only,))
    root = data_root if data_root is not None else path.parent / config.root
    wanted = [item for n, item in zip(names, config.increments, strict=True) if only in (None, n)]
    known = (start.classes or ()) if start is not None else ()
    begun = config.start if start is not None and only is None else None
    of_start = begun and begun.data
    paths = [resolved(root / data) for data in (of_start, *(i.data for i in wanted)) if data]
    require_made(config.prepare, paths, root, where=str(path))
    spelled = (*known, *(name for item in config.increments for name in item.classes))
    reader = _Reader(root, tuple(dict.fromkeys(spelled)), verify)
    increments = list(_start(begun, start, reader)) if start is not None else []
    for name, item in zip(names, config.increments, strict=True):
        if only in (None, name):
            data = reader.domain(item.domain, item.data, item.format)
            increments.append(Increment(name, item.domain, item.classes, data))
    series = Series(config.name, config.description, tuple(increments), config.expected)
    problems = (*reader.problems(series), *clashing_classes(config, known))
    return Inspection(series, problems + check_series(series))


@dataclass
class _Reader:
    """Reads the data sets of a series, each once: increments of one domain mostly share one."""

    root: Path
    classes: tuple[str, ...]
    verify: Verify | None
    found: dict[tuple[str, Path], Reading] = field(default_factory=dict)

    def domain(self, domain: str, data: str, form: str) -> DomainData:
        place = (form, resolved(self.root / data))
        if place not in self.found:
            reading = read(place[1], form=form, domain=domain, verify=self.verify)
            aligned, renamed = align(reading.data, self.classes)
            self.found[place] = replace(reading, data=aligned, problems=reading.problems + renamed)
        return replace(self.found[place].data, name=domain)

    def problems(self, series: Series) -> Iterator[Problem]:
        """Yield what is wrong with the data sets; nothing need be trained on a start's own."""
        taught = {item.data.source for item in series.learned}
        for reading in self.found.values():
            trained = reading.data.source in taught
            yield from (one for one in reading.problems if trained or one.code != NO_TRAIN)


def _require_other_name(start: StartDetector, config: SeriesConfig, names: Sequence[str]) -> None:
    """Refuse a detector that is called as an increment: both become folders of one chain."""
    taken = next((name for name in names if key(name) == key(start.name)), None)
    if taken is not None:
        raise ConfigError(
            f"the detector is called '{start.name}', as the increment '{taken}' that shall follow",
            where=str(start.path),
            remedy=f"give the increment of '{config.name}' another name with 'name', or name the "
            "detector under 'start' in the series: {detector: PATH, name: OTHER}",
        )


def _start(
    config: StartConfig | None, start: StartDetector, reader: _Reader
) -> Iterator[Increment]:
    """Yield the detector that a series goes on from as its first increment, if it has classes."""
    domain = (config.domain if config is not None else None) or start.name
    if config is not None and config.data is not None:
        data = reader.domain(domain, config.data, config.format)
    else:
        data = DomainData(domain, LabelSpace(start.classes or ()), {}, start.path)
    known = start.classes
    if known is None:
        labelled = tuple(name for name in data.labels if name in data.labelled)
        own = tuple(name for name in labelled if name not in reader.classes)
        known = own or labelled or data.labels.names
    if known:
        yield Increment(start.name, domain, known, data, start.path)
