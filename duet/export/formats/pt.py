"""The engine's own checkpoint."""

from __future__ import annotations

from pathlib import Path

from duet.export.formats import require_engine
from duet.families.exportable import Exportable, ExportFacts


def check() -> None:
    """Nothing is needed; see `duet.export.formats.Writer`."""


def write(exportable: Exportable, target: Path, facts: ExportFacts) -> None:
    """Write the file; see `duet.export.formats.Writer`."""
    require_engine(exportable, "pt", target, facts)
