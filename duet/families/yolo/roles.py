"""Which tensor of a YOLO detector belongs to whom, and where it sits: told by name, never by shape.

What is an increment's own depends on the form: the last class convolutions (`rows`), the class
towers (`towers`), or the head (`parallel`).

The module implements `duet.families.protocol.RoleRules`. It must stay free of the engine, so that
files can be merged without loading one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from duet.errors import ModelError
from duet.families.ultralytics.names import EngineRules, engine_models
from duet.text import shown

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


RULES = EngineRules(
    "YOLO",
    OWN["rows"],
    OWN,
    HEAD,
    PARAMETER,
    varying=OWN["towers"],  # the engine makes class towers as wide as classes are many
    architecture_file=architecture_file,
    known_architectures=known_architectures,
)
CLASS_ROWS, split_roles, layers = RULES.CLASS_ROWS, RULES.split_roles, RULES.layers
