"""What a series is: increments of new classes, each learned from the data of one domain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from duet.errors import DataError
from duet.labels import LabelSpace
from duet.series.domains import Domain
from duet.series.expected import Expected
from duet.series.model import DomainData, Slice
from duet.series.slices import join_slices, train_slice


def known_among_new(classes: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """Return the known ones of classes that an increment brings together with new ones.

    An increment brings new classes, which get a head part of their own, or known ones in another
    domain, which train the parts that are there. Both at once no head part can hold.

    Args:
        classes: Of the increment.
        known: All classes before it.

    Returns:
        Empty where all are new, or all are known.
    """
    there = tuple(name for name in classes if name in known)
    return there if len(there) < len(classes) else ()


@dataclass(frozen=True)
class Increment:
    """One step of a series: new classes, learned from the data of one domain.

    Attributes:
        name: Its name.
        domain: Where it is learned.
        classes: What is learned.
        data: Of the domain; has no split if nothing is known but the detector.
        detector: Of the first one: a detector that knows the classes, so that nothing is trained.
    """

    name: str
    domain: str
    classes: tuple[str, ...]
    data: DomainData
    detector: Path | None = None

    def __post_init__(self) -> None:
        if not self.classes:
            raise DataError("an increment needs at least one class", where=self.name)

    @property
    def has_data(self) -> bool:
        """Whether there is data of it: of a detector there need not be any."""
        return self.detector is None or bool(self.data.splits)


@dataclass(frozen=True)
class Series:
    """Increments in the order in which they are learned."""

    name: str
    description: str
    increments: tuple[Increment, ...]
    expected: Expected | None = None

    def __post_init__(self) -> None:
        if not self.increments:
            raise DataError("a series needs at least one increment", where=self.name)
        names = [increment.name for increment in self.increments]
        if len(set(names)) != len(names):
            raise DataError(f"increment names must differ, got {names}", where=self.name)

    @property
    def labels(self) -> LabelSpace:
        """All classes, in the order of the increments."""
        return LabelSpace(self.classes_until(len(self.increments) - 1))

    @property
    def start(self) -> Increment | None:
        """The detector that the series goes on from, if it does not train its first increment."""
        return self.increments[0] if self.increments[0].detector is not None else None

    @property
    def learned(self) -> tuple[Increment, ...]:
        """The increments that are trained: all but the start."""
        return self.increments[self.start is not None :]

    @property
    def domains(self) -> tuple[str, ...]:
        """The distinct domains of which there are data, in the order of their first increment."""
        return tuple(dict.fromkeys(item.domain for item in self.increments if item.has_data))

    @property
    def data_sets(self) -> tuple[DomainData, ...]:
        """Every data set once, whatever increments share it; a detector's without images too."""
        return tuple({item.data.source: item.data for item in self.increments}.values())

    def domain(self, name: str) -> Domain:
        """Return all data sets of a domain as one.

        Raises:
            DataError: The series has no data of such a domain.
        """
        parts: dict[Path, DomainData] = {}
        for item in self.increments:
            if item.domain == name and item.has_data:
                parts.setdefault(item.data.source, item.data)
        if not parts:
            raise DataError(f"no domain '{name}'", where=self.name)
        return Domain(name, tuple(parts.values()))

    def classes_until(self, t: int) -> tuple[str, ...]:
        """Return the classes of increments 0 to ``t`` inclusive: all that are known after it."""
        return tuple(dict.fromkeys(n for step in self.increments[: t + 1] for n in step.classes))


def joint_slice(seen: tuple[Increment, ...], classes: tuple[str, ...], *, full: bool) -> Slice:
    """Return the training images of several increments.

    An image that several increments use appears once, with the labels of all of them.

    Args:
        seen: The increments.
        classes: All their classes; positions become class ids.
        full: Take every image of the data sets that holds one of ``classes``, labelled with all of
            them, not only with those of the increments that use the data set.
    """
    cuts: dict[str, tuple[DomainData, tuple[str, ...]]] = {}
    for item in seen:
        key = str(item.data.source)
        there = tuple(name for name in classes if name in item.data.labels)
        wanted = there if full else (*cuts.get(key, (None, ()))[1], *item.classes)
        cuts[key] = (item.data, tuple(dict.fromkeys(wanted)))
    return join_slices([train_slice(*cut) for cut in cuts.values()], classes)
