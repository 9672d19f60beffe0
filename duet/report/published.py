"""One line of `results.json` about a published value; see `duet.series.expected`."""

from __future__ import annotations

from typing import Any

from duet.config import Config
from duet.report.fields import Fraction, Names


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
