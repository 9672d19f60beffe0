"""TorchScript archives."""

from __future__ import annotations

import json
from pathlib import Path

from duet.export.tracing import trace
from duet.families.exportable import STAMP, Exportable, ExportFacts
from duet.families.runtimes import ENGINE_FILE


def write(exportable: Exportable, target: Path, facts: ExportFacts) -> None:
    """Write the archive; see `duet.export.formats.write`."""
    stamp = {
        "description": facts.description,
        "names": dict(enumerate(facts.classes)),
        STAMP: facts.to_json(),
    }
    trace(exportable, facts).save(str(target), _extra_files={ENGINE_FILE: json.dumps(stamp)})
