"""One line of `results.json` about the detections of a detector that a series goes on from."""

from __future__ import annotations

from duet.config import Config
from duet.report.fields import Count, Fraction


class KeptEntry(Config):
    """What became of the detections of the detector that a series goes on from.

    Both looked at the evaluation images of a domain, which need no labels for it; see
    `duet.evaluation.agreement`.
    """

    domain: str
    images: Count
    before: Count
    """Detections of the detector at the start, in the classes it knows."""
    kept: Count
    """Those of them that the final model makes, too."""
    renamed: Count
    """Those that are not, in whose place it sees a class that is new."""
    added: Count
    """Detections of these classes that only the final model makes."""
    confidence: Fraction
    iou: Fraction
