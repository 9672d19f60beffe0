"""Which tensor of a YOLO detector belongs to whom, and where it sits: told by name, never by shape.

Trainable shared tensors are merged, BatchNorm statistics of shared layers are fused, counters are
added, and each increment's own head tensors are kept as they are. What is an increment's own
depends on the form: the last class convolutions (`rows`), the class towers (`towers`), or the head
(`parallel`). A tensor that no rule names is an error.

The module implements `duet.families.protocol.RoleRules`. It must stay free of the engine, so that
files can be merged without loading one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from duet.errors import ModelError
from duet.families.protocol import Roles
from duet.families.ultralytics import names as engine_names
from duet.families.ultralytics.names import engine_models
from duet.merging.layers import Layer
from duet.text import shown
from duet.vectors.tensors import Tensors

# End-to-end heads (v10, 26) have each branch twice: `one2one_cv2` beside `cv2`.
OWN = {
    "rows": re.compile(r"(one2one_)?cv3\.\d+\.2\."),
    "towers": re.compile(r"(one2one_)?cv3\."),
    "parallel": re.compile(r"(one2one_)?cv[23]\."),
}
BOX_TOWER = re.compile(r"(one2one_)?cv2\.")
# gamma: the residual scale of YOLO12's attention blocks (A2C2f) in sizes l and x.
PARAMETER = re.compile(r"\.(weight|bias|gamma)$")
# The branches of a head; dfl is a constant that travels with the shared tensors (absent from
# heads with reg_max = 1).
HEAD = re.compile(r"(one2one_)?cv[23]\.|dfl\.conv\.weight$")
CLASS_ROWS = OWN["rows"]
VARYING = OWN["towers"]  # the engine makes class towers as wide as classes are many


def split_roles(tensors: Tensors, form: str) -> Roles:
    """Split the state of a stock one-increment detector; every tensor lands exactly once.

    Args:
        tensors: Full state in the engine's names, such as ``model.0.conv.weight``.
        form: Head form: "rows", "towers" or "parallel".

    Raises:
        ModelError: Tensors have no role (all named), or there is no numbered layer.
    """
    return engine_names.split_layers(
        tensors, own=OWN[form], head=HEAD, parameter=PARAMETER,
        expected="weights, biases and BatchNorm statistics of a YOLO detector "
        "(v8, v9, v10, 11, 12, 26)",
    )  # fmt: skip


def head_of(architecture: str) -> str:
    """Return the name prefix of the head of an architecture; errors as `architecture_file`.

    Unlike `head_prefix` it needs no tensors: the shared ones may hold none of the head.
    """
    return f"model.{engine_names.layer_counts(architecture_file(architecture))[1] - 1}."


def layers(names: Iterable[str], architecture: str) -> dict[str, Layer]:
    """Return where each tensor sits: its part of the detector, and its depth.

    Args:
        names: Tensor names, such as ``model.0.conv.weight``.
        architecture: Architecture file of the engine, such as ``yolo11n.yaml``.

    Raises:
        ModelError: The engine has no such architecture, or a tensor lies outside of it.
        MissingExtraError: Ultralytics is not installed.
    """
    return engine_names.layers_in(names, architecture_file(architecture), architecture)


def architecture_file(architecture: str) -> Path:
    """Find the engine's description of an architecture, without importing the engine.

    ``yolo11n.yaml`` is described by ``yolo11.yaml``, which serves all sizes; v9 and v10 have one
    file per size.

    Raises:
        ModelError: The engine has no such architecture.
        MissingExtraError: Ultralytics is not installed.
    """
    known = re.fullmatch(r"yolo(v?[0-9]{1,2})[nslmxtceb](6|-p2|-p6)?\.yaml", architecture)
    models = engine_models()
    if known is not None:
        folder = models / known[1]
        renamed = re.sub(r"^(yolov[58][nslmx])6\.", r"\1-p6.", architecture)
        for name in (renamed, re.sub(r"^(yolov?\d+)[nslmx]", r"\1", renamed)):
            if (folder / name).is_file():
                return folder / name
    raise ModelError(
        f"unknown YOLO architecture {shown(architecture)}", remedy="for example yolo11n.yaml"
    )


def known_architectures() -> Iterator[str]:
    """Yield the names of the engine's architectures, newer generations first."""
    for generation in ("11", "v8", "26", "12", "v10", "v9", "v5", "v6"):
        for size in "nsmlxtceb":
            for form in ("", "-p2", "-p6"):
                name = f"yolo{generation}{size}{form}.yaml"
                with contextlib.suppress(ModelError):
                    architecture_file(name)
                    yield name


def tower_width(part: Mapping[str, torch.Tensor]) -> int:
    """Return the channels that enter the last class convolution.

    Raises:
        ModelError: The part holds no such convolution.
    """
    name = "cv3.0.2.weight"
    if name not in part or part[name].ndim != 4:
        raise ModelError(
            f"a head part needs the class convolution '{name}'",
            remedy="the file belongs to another family or is damaged",
        )
    return int(part[name].shape[1])
