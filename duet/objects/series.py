"""A series as a user holds it: its file, what is wrong with its data, and the data themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from duet.doctor.examine import examine
from duet.objects.grid import Grid, Shown, some
from duet.recipes.model import Model
from duet.runs.inputs import read_checked
from duet.runs.there import There, read_data
from duet.series import Problem, Series
from duet.series.document import SeriesConfig
from duet.series.reader import read_config


@dataclass(frozen=True, repr=False)
class SeriesFile(Shown):
    """A series YAML; `duet.read_series` gives it.

    The data are read when they are asked for, once.

    Attributes:
        path: The YAML.
        data_root: Replaces its ``root``.
        config: What it says.

    Example:
        >>> series = duet.read_series("shop.yaml")
        >>> for problem in series.check():
        ...     print(problem)
    """

    path: Path
    data_root: Path | None = None
    config: SeriesConfig = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Read the YAML, none of its data.

        Raises:
            ConfigError: It is missing or malformed.
        """
        object.__setattr__(self, "config", read_config(self.path))

    @cached_property
    def data(self) -> Series:
        """Increments with their images and labels.

        Raises:
            DataError: With every problem of the data at once.
        """
        return read_checked(self.path, data_root=self.data_root)[0]

    @property
    def name(self) -> str:
        """The series' name."""
        return self.config.name

    def check(self) -> tuple[Problem, ...]:
        """Return what is wrong and what is odd about the data, as `duet data check` does.

        Every image is decoded and every label read; empty where all is well.
        """
        return examine(self.path, data_root=self.data_root).problems

    def _grid(self) -> Grid:
        names, steps = self.config.increment_names(), self.config.increments
        rows = tuple(
            (name, step.domain, str(len(step.classes)), some(step.classes), step.data)
            for name, step in zip(names, steps, strict=True)
        )
        start = self.config.start
        foot = (f"goes on from {start.detector}",) if start is not None else ()
        heading = f"series '{self.name}' ({self.path})"
        header = ("increment", "domain", "classes", "names", "data")
        return Grid(heading, header, rows, words=5, foot=foot)


def series_of(series: SeriesFile | str | Path) -> SeriesFile:
    """Return a series by its path, or as it is."""
    return series if isinstance(series, SeriesFile) else SeriesFile(Path(series))


def there_of(data: SeriesFile | str | Path, model: Model, domain: str | None = None) -> There:
    """Read what is there of a series or a data set, for a detector."""
    if isinstance(data, SeriesFile):
        path, root = data.path, data.data_root
    else:
        path, root = Path(data), None
    return read_data(path, model.state.labels.names, data_root=root, domain=domain)
