"""LiteRT files, once called TensorFlow Lite."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from duet.errors import ConfigError
from duet.export.formats import require_engine
from duet.families.exportable import Exportable, ExportFacts


def check() -> None:
    """Refuse machines that LiteRT's converter does not run on; see `duet.export.formats.Writer`."""
    linux = sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
    if sys.platform != "darwin" and not linux:
        raise ConfigError(
            "LiteRT files can be written on macOS and on Linux x86-64 only, but this is "
            f"{sys.platform} on {platform.machine()}"
        )


def write(exportable: Exportable, target: Path, facts: ExportFacts) -> None:
    """Write the file; see `duet.export.formats.Writer`."""
    require_engine(exportable, "tflite", target, facts)
