"""Core ML packages."""

from __future__ import annotations

import sys
from pathlib import Path

from duet.errors import ConfigError
from duet.export.formats import require_engine
from duet.families.exportable import Exportable, ExportFacts

NEWEST_NUMPY = (2, 3, 5)
"""coremltools 9 fails with numpy 2.4 (apple/coremltools issue 2633)."""


def check() -> None:
    """Refuse Windows and a numpy that is too new; see `duet.export.formats.Writer`."""
    import numpy

    if sys.platform == "win32":
        raise ConfigError("Core ML packages can be written on macOS and Linux only")
    if tuple(int(part) for part in numpy.__version__.split(".")[:3]) > NEWEST_NUMPY:
        raise ConfigError(
            f"coremltools needs numpy up to 2.3.5, but got {numpy.__version__}",
            remedy='pip install "numpy<=2.3.5", best in an environment of its own',
        )


def write(exportable: Exportable, target: Path, facts: ExportFacts) -> None:
    """Write the package; see `duet.export.formats.Writer`."""
    require_engine(exportable, "coreml", target, facts)
