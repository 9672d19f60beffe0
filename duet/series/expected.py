"""Published mAP50 that a series' trained models are held against: a check of the whole set-up.

A detector trained on a published slice with the published schedule should come near the published
mAP50. If it does not, the data, the split, the class order or the schedule differ, and so will
every index that is computed from it. The check says so; it never changes a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from duet.config import Config
from duet.fields import Fraction, Names

Slice = tuple[str, tuple[str, ...]]
"""(domain, classes)."""


class ExpectedMap50(Config):
    """One published value, as written in a series file."""

    domain: str = Field(min_length=1)
    classes: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    value: float = Field(gt=0, le=100, description="mAP50 in percent")
    source: str = Field(min_length=1, description="where the value was published")


class Expected(Config):
    """Published values of a series."""

    detector: str = Field(min_length=1, description="architecture they hold for, e.g. yolo11n")
    tolerance: float = Field(default=3, gt=0, le=100, description="points of mAP50")
    map50: tuple[ExpectedMap50, ...] = Field(min_length=1)

    def problems(self, steps: Sequence[Slice]) -> list[str]:
        """Return what cannot be a slice of the series ``steps``, one sentence each."""
        domains = {domain for domain, _ in steps}
        known = {name for _, classes in steps for name in classes}
        found = [
            f"expected.map50: the series has no domain '{item.domain}'"
            for item in self.map50
            if item.domain not in domains
        ]
        for item in self.map50:
            strange = [name for name in item.classes if name not in known]
            if strange:
                found.append(f"expected.map50: the series has no class {', '.join(strange)}")
        slices = [(item.domain, frozenset(item.classes)) for item in self.map50]
        if len(set(slices)) < len(slices):
            found.append("expected.map50: a slice occurs twice")
        return found


class PublishedEntry(Config):
    """A model trained only on one slice, beside the value that a paper reports for such a model."""

    domain: str
    classes: Names
    measured: Fraction
    published: Fraction
    tolerance: Fraction
    """Largest difference that is still called near."""
    source: str
    """Where the value was published."""

    @property
    def near(self) -> bool:
        """Whether both values differ by no more than the tolerance."""
        # mAP50 is reported to a tenth of a point; 1e-9 keeps 0.83 - 0.80 from counting as above.
        return abs(self.measured - self.published) <= self.tolerance + 1e-9

    def as_record(self) -> dict[str, Any]:
        """Return JSON-ready data that says whether both are near."""
        return {**self.model_dump(mode="json"), "near": self.near}


def compare(
    expected: Expected | None, measured: Mapping[Slice, float], *, architecture: str
) -> tuple[PublishedEntry, ...]:
    """Return every published value whose slice was measured with the same architecture.

    Args:
        expected: The published values; None when the series has none.
        measured: (domain, classes) -> mAP50 as a fraction, of models trained only on that slice.
        architecture: Architecture that was trained, such as ``yolo11n.yaml``.
    """
    if expected is None or architecture.removesuffix(".yaml") != expected.detector:
        return ()
    found = {(domain, frozenset(classes)): value for (domain, classes), value in measured.items()}
    return tuple(
        PublishedEntry(
            domain=item.domain,
            classes=item.classes,
            measured=found[key],
            published=item.value / 100,
            tolerance=expected.tolerance / 100,
            source=item.source,
        )
        for item in expected.map50
        if (key := (item.domain, frozenset(item.classes))) in found
    )
