"""What of a series, or of a data set alone, is there to be evaluated: the rest may be gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from duet.errors import ConfigError, DataError, together
from duet.names import as_name
from duet.runs.evaluate import no_common_class
from duet.runs.inputs import warnings_of
from duet.series import Increment, Problem, Series, check_series, inspect_series
from duet.series.formats import read
from duet.series.formats.documents import NO_TRAIN
from duet.series.model import DomainData
from duet.series.problems import AGAIN, fatal, raise_problems
from duet.series.reader import Inspection, is_series, read_config
from duet.series.slices import eval_split
from duet.series.spelling import align

_OF_TRAINING = (NO_TRAIN, "slice.no-train")
_SEEN = ("image.leak", "image.leak-between")
"""Test images that were trained on: fatal for a training, worth a warning here."""


@dataclass(frozen=True)
class Unread:
    """An increment whose data are not there.

    Attributes:
        domain: Its domain.
        classes: Its classes.
        why: What is wrong with its data, in one line.
    """

    domain: str
    classes: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class There:
    """What can be evaluated.

    Attributes:
        series: The increments whose data can be read.
        warnings: What is odd about these and stops nothing.
        unread: Name -> every other increment.
        unknown: Classes of a data set that the detector does not know: no detection of them is
            asked for.
    """

    series: Series
    warnings: tuple[Problem, ...] = ()
    unread: Mapping[str, Unread] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of all increments."""
        others = (name for one in self.unread.values() for name in one.classes)
        return tuple(dict.fromkeys((*self.series.labels, *others)))

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains of all increments."""
        others = (one.domain for one in self.unread.values())
        return tuple(dict.fromkeys((*self.series.domains, *others)))

    @property
    def reasons(self) -> dict[str, str]:
        """Domain of which nothing can be read -> why."""
        here = self.series.domains
        return {one.domain: one.why for one in self.unread.values() if one.domain not in here}


def read_there(
    path: Path, *, data_root: Path | None = None, only: Sequence[str] | None = None
) -> There:
    """Read what is there of a series. Nothing is trained on it: training labels may be missing.

    Args:
        path: Series YAML.
        data_root: Replaces the file's ``root``.
        only: Look at these increments; default all.

    Raises:
        ConfigError: The series file itself is missing or malformed.
        DataError: With every problem, if nothing can be read, or increments contradict each other.
    """
    config = read_config(path)
    every = dict(zip(config.increment_names(), config.increments, strict=True))
    wanted = every if only is None else {name: every[name] for name in every if name in only}

    def look(name: str | None = None) -> Inspection:
        found = inspect_series(path, data_root=data_root, only=name)
        data = found.series.data_sets
        return replace(found, problems=(*_for_evaluation(found.problems, data),))

    whole = _refused(look) if len(wanted) == len(every) else "only some are asked for"
    if isinstance(whole, Inspection):
        return There(whole.series, warnings_of(whole.series, whole.problems))
    looked = {name: _refused(partial(look, name)) for name in wanted}
    found = [one for one in looked.values() if isinstance(one, Inspection)]
    if not found or len(found) == len(every):
        raise_problems(look().problems, where=str(path))
    unread = {
        name: Unread(every[name].domain, every[name].classes, why)
        for name, why in looked.items()
        if isinstance(why, str)
    }
    increments = tuple(item for one in found for item in one.series.increments)
    warnings = tuple(w for one in found for w in warnings_of(one.series, one.problems))
    return There(replace(found[-1].series, increments=increments), warnings, unread)


def _refused(look: Callable[[], Inspection]) -> Inspection | str:
    """Return what was read, or in one line why it cannot be."""
    try:
        found = look()
    except DataError as error:
        return error.what.splitlines()[0]
    stopping = fatal(found.problems)
    return f"{stopping[0].where}: {stopping[0].what}" if stopping else found


def _for_evaluation(
    problems: Iterable[Problem], data_sets: Iterable[DomainData]
) -> Iterator[Problem]:
    """Yield the problems that matter where nothing is trained."""
    measured = {
        data.source
        for data in data_sets
        if (split := data.splits.get(eval_split(data))) is not None and split.images
    }
    for problem in problems:
        gone = problem.code == "data.images" and problem.where.part == "train"
        if problem.code in _SEEN:
            problem = replace(problem, severity="warning")
        if problem.code not in _OF_TRAINING and not (gone and problem.where.path in measured):
            yield problem


def read_data(
    path: Path,
    classes: Sequence[str],
    *,
    data_root: Path | None = None,
    domain: str | None = None,
) -> There:
    """Read what there is for a detector to be evaluated on: a series, or a data set alone.

    Args:
        path: Series YAML, or a data set's folder or ``data.yaml``.
        classes: Of the detector.
        data_root: Of a series: see `read_there`.
        domain: Of a data set: see `read_data_set`.

    Raises:
        ConfigError: The file is missing or malformed, or an argument is of the other kind.
        DataError: See `read_there` and `read_data_set`; or nothing of a series can be measured.
    """
    if is_series(path):
        if domain is not None:
            raise ConfigError("a domain is for a data set; a series names its own", where=str(path))
        there = read_there(path, data_root=data_root)
        _require_common(there, classes)
        return there
    if data_root is not None:
        raise ConfigError("a data root is for a series; this is a data set", where=str(path))
    return read_data_set(path, classes, domain)


def _require_common(there: There, known: Sequence[str]) -> None:
    """Refuse a series of whose data nothing can be measured: also that which cannot be read counts.

    Raises:
        DataError: The detector knows no class of it, or only such as cannot be read.
    """
    if not set(known) & set(there.classes):
        raise no_common_class(known, there.classes)
    if not set(known) & set(there.series.labels):
        gone = [f"{name}: {one.why}" for name, one in there.unread.items()]
        raise DataError(
            together(gone, summary="no data with a class that the detector knows can be read"),
            where=there.series.name,
            remedy="bring their images back, or name their folder with --data-root",
        )


def read_data_set(path: Path, classes: Sequence[str], domain: str | None = None) -> There:
    """Read a data set as a series of one increment: of the classes that a detector knows.

    Args:
        path: Its folder or ``data.yaml``.
        classes: Of the detector; other spellings of them are read as these.
        domain: What the images are called; default the name of the folder.

    Raises:
        DataError: With every problem, or the data set has none of the classes.
    """
    folder = path if path.is_dir() else path.parent
    name = domain or as_name(folder.resolve().name)
    reading = read(path, domain=name)
    data, renamed = align(reading.data, classes)
    found = (*_for_evaluation((*reading.problems, *renamed), (data,)),)
    raise_problems(found, where=str(path), remedy=AGAIN)
    shared = tuple(label for label in classes if label in data.labels)
    if not shared:
        raise DataError(
            f"the detector knows no class of these data: it knows {', '.join(classes)}; the data "
            f"have {', '.join(data.labels)}",
            where=str(path),
            remedy="classes are matched by name: rename the classes of one side",
        )
    series = Series(name, "", (Increment(name, name, shared, data),))
    found += (*_for_evaluation(check_series(series), (data,)),)
    raise_problems(found, where=str(path), remedy=AGAIN)
    unknown = tuple(label for label in data.labels if label not in classes)
    return There(series, warnings_of(series, found), unknown=unknown)
