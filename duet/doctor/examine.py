"""Everything that is wrong with a series, each image decoded once."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from duet.doctor.background import Shift, Step, known_shift, unlabelled
from duet.doctor.balance import balance_problems
from duet.doctor.boxes import box_problems
from duet.doctor.duplicates import Copy, exact_copies, near_duplicates, near_problems
from duet.doctor.image_names import same_but_for_capitals, suffix_problems
from duet.series.formats.table import resolve
from duet.series.images import thumbnails
from duet.series.problems import Problem
from duet.series.reader import StartDetector, inspect_series, read_config
from duet.series.series import Series

if TYPE_CHECKING:
    from duet.inference.detector import LoadedDetector


@dataclass(frozen=True)
class Diagnosis:
    """A series and all that is wrong with it.

    Attributes:
        path: The series file.
        series: As far as it can be read.
        problems: Errors, warnings and notes: of the files, then of the series as a whole.
        copies: Images that occur twice, exactly or nearly.
        shifts: What the detector saw; empty without one.
    """

    path: Path
    series: Series
    problems: tuple[Problem, ...]
    copies: tuple[Copy, ...]
    shifts: tuple[Shift, ...]


def examine(
    path: Path,
    *,
    data_root: Path | None = None,
    detector: LoadedDetector | None = None,
    confidence: float = 0.5,
    progress: Step | None = None,
) -> Diagnosis:
    """Read a series in full and look for everything that spoils training or evaluation.

    Args:
        path: The series' YAML file.
        data_root: Folder that replaces the file's ``root``.
        detector: Looks for unlabelled objects of the classes it knows.
        confidence: Lowest score of these that counts, in range [0, 1].
        progress: Called after each group of images that the detector saw.

    Raises:
        ConfigError: The series file itself is missing or malformed.
    """
    with thumbnails() as small:
        inspection = inspect_series(
            path, data_root=data_root, verify="full", start=_start_with_data(path)
        )
    series = inspection.series
    near = near_duplicates(series, small)
    shifts = (
        unlabelled(series, detector, confidence=confidence, progress=progress) if detector else ()
    )
    broken = {one for problem in inspection.problems if (one := problem.where.path)}
    problems = (
        *inspection.problems,
        *_data_problems(series, broken),
        *near_problems(near),
        *balance_problems(series),
        *known_shift(series),
        *(shift.as_problem() for shift in shifts),
    )
    return Diagnosis(path, series, problems, exact_copies(series) + near, shifts)


def _start_with_data(path: Path) -> StartDetector | None:
    """Return the detector that a series goes on from if there are images of it to be checked.

    It is not opened: where data are labelled there need be no detector. So its own name, which it
    has without one in the series, is not known.
    """
    start = read_config(path).start
    if start is None or start.data is None:
        return None
    return StartDetector(path.parent / start.detector, start.name or "start", None)


def _data_problems(series: Series, broken: Collection[Path]) -> Iterator[Problem]:
    """Yield the problems of each data set alone; one that several increments share comes once."""
    for data in series.data_sets:
        form = resolve(data.form) if data.form else None
        if form is not None:
            yield from same_but_for_capitals(data)
            yield from form.check_files(data, broken)
        yield from box_problems(data, overshoots=form is not None and not form.TELLS_OVERSHOOTS)
        yield from suffix_problems(data)
