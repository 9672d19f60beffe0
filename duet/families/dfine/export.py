"""D-FINE detectors as files of other programs: duet traces them, the engine has no exporter."""

from __future__ import annotations

import functools

from duet.families.dfine.build import inference_model
from duet.families.exportable import Exportable
from duet.increments.state import DetectorState


def exportable(state: DetectorState) -> Exportable:
    """Return how a detector is exported; nothing is built yet."""
    return Exportable(functools.partial(inference_model, state), "queries", "stretch")
