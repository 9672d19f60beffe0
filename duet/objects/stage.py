"""One learned increment as a user holds it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from duet.errors import ModelError
from duet.objects.detector import Detector
from duet.objects.increment import Increment
from duet.objects.opening import load
from duet.runs.steps import StepReport


@dataclass(frozen=True, repr=False)
class Stage:
    """What `duet.learn_increment` left behind.

    Attributes:
        report: Names, folders, seconds, and what the detectors before and after it find.
    """

    report: StepReport

    @cached_property
    def increment(self) -> Increment:
        """What the training taught."""
        return Increment(self.report.increment)

    @cached_property
    def detector(self) -> Detector:
        """The merged detector after it.

        Raises:
            ModelError: The increment was trained apart, and nothing was merged.
        """
        if self.report.detector is None:
            raise ModelError(
                "an independent increment has no detector of its own",
                where=self.report.name,
                remedy="join it with others: duet.merge([one, other])",
            )
        return load(self.report.detector)

    def __repr__(self) -> str:
        """Return what `duet increment` prints."""
        return self.report.as_text()
