"""ONNX graphs."""

from __future__ import annotations

from pathlib import Path

from duet.errors import ModelError, in_short
from duet.export.tracing import example, quiet
from duet.families.exportable import STAMP, Exportable, ExportFacts

OPSET = 17
"""What ONNX Runtime, OpenVINO and TensorRT of the last years all read; has LayerNormalization."""


def write(exportable: Exportable, target: Path, facts: ExportFacts) -> None:
    """Write the graph; see `duet.export.formats.write`."""
    import onnx
    import onnxslim
    import torch

    axes = {"images": {0: "batch"}, "output0": {0: "batch"}} if facts.dynamic else None
    if axes is not None and facts.open_sides:
        axes["images"] |= {2: "height", 3: "width"}
        axes["output0"] |= {2 if facts.layout == "anchors" else 1: "places"}
    try:
        with quiet():
            torch.onnx.export(
                exportable.build(), (example(facts),), str(target), opset_version=OPSET,
                input_names=["images"], output_names=["output0"], dynamic_axes=axes, dynamo=False,
            )  # fmt: skip
            graph = onnxslim.slim(onnx.load(str(target)))
            del graph.graph.value_info[:]  # another lot of them in each process
    except Exception as error:  # torch, onnx and onnxslim raise half a dozen types
        raise ModelError(f"this detector cannot be written as ONNX: {in_short(error)}") from error
    stamp = {
        "description": facts.description,
        "names": str(dict(enumerate(facts.classes))),
        "licence": facts.licence,
        "fingerprint": facts.fingerprint,
        STAMP: facts.to_json(),
    }
    for key, value in stamp.items():
        item = graph.metadata_props.add()
        item.key, item.value = key, value
    onnx.save(graph, str(target))
