"""What `prepare` made, as values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from published.choices import Choices


@dataclass
class SetReport:
    """What became of one data set; filled while it is read.

    Attributes:
        domain: Its name in the series.
        train: Images to train on.
        val: Images to evaluate on.
        test: Images to evaluate on where those of `val` are to choose on.
        objects: Objects per class, in all its images.
        renamed: ``found -> class``, objects.
        dropped: Why -> objects left out.
        notes: What differs from the published data set.
    """

    domain: str
    train: int
    val: int
    test: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    renamed: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Return JSON-ready data."""
        counts = ("objects", "renamed", "dropped")
        plain = {name: dict(sorted(getattr(self, name).items())) for name in counts}
        return {
            "domain": self.domain, "train": self.train, "val": self.val, "test": self.test,
            **plain, "notes": list(self.notes),
        }  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made, or would make.

    Attributes:
        out: The folder.
        choices: What was asked for.
        sets: Name of the data set -> what became of it.
        series: Names of the series that can be run.
        left_out: Name of a series -> domains that it lacks.
        bytes: Size of the images.
        dry_run: Nothing was written.
    """

    out: Path
    choices: Choices
    sets: Mapping[str, SetReport]
    series: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    bytes: int
    dry_run: bool

    def as_dict(self) -> dict[str, object]:
        """Return JSON-ready data."""
        return {
            "schema": 1,
            "out": str(self.out),
            "dry_run": self.dry_run,
            "choices": asdict(self.choices),
            "sets": {name: report.as_dict() for name, report in self.sets.items()},
            "series": list(self.series),
            "left_out": {name: list(domains) for name, domains in self.left_out.items()},
            "bytes": self.bytes,
        }
