"""OpenVINO folders: graph, weights and metadata.

Weights stay float32. What OpenVINO computes with is chosen when a file is loaded: by itself it
takes bfloat16 on processors that have instructions for it (AMX, AVX-512 BF16), and boxes then move
by pixels. `duet.families.runtimes` therefore asks for float32.
"""

from __future__ import annotations

from pathlib import Path

from duet.errors import ModelError, in_short
from duet.export.tracing import example, trace
from duet.families.exportable import STAMP, Exportable, ExportFacts
from duet.families.runtimes import METADATA


def write(exportable: Exportable, target: Path, facts: ExportFacts) -> None:
    """Write the folder; see `duet.export.formats.write`."""
    import openvino
    import yaml

    images = example(facts)
    sides = [-1, -1] if facts.open_sides else images.shape[2:]
    shape = [-1 if facts.dynamic else 1, 3, *sides]
    try:
        graph = openvino.convert_model(trace(exportable, facts), input=shape, example_input=images)
        openvino.save_model(graph, target / "model.xml", compress_to_fp16=False)
    except Exception as error:  # the converter raises half a dozen types
        raise ModelError(
            f"this detector cannot be written for OpenVINO: {in_short(error)}"
        ) from error
    stamp = {
        "description": facts.description,
        "names": dict(enumerate(facts.classes)),
        STAMP: facts.to_json(),
    }
    (target / METADATA).write_text(yaml.safe_dump(stamp, allow_unicode=True), encoding="utf-8")
