"""Which tensor of an RT-DETR detector belongs to whom, told by name.

A class is one row in each of the head's class layers: the encoder's, every decoder layer's, and the
embedding that denoising reads. Under `rows` these are an increment's own and everything else is
shared and merged; under `parallel` the whole head is its own.

The module implements `duet.families.protocol.RoleRules`. It must stay free of the engine.
"""

from __future__ import annotations

import re
from pathlib import Path

from duet.errors import ModelError
from duet.families.ultralytics.names import EngineRules, engine_models
from duet.shipped import shipped
from duet.text import shown

CLASS_ROWS = re.compile(
    r"(enc_score_head|dec_score_head\.\d+)\.(weight|bias)$|denoising_class_embed\.weight$"
)
HEAD = re.compile(
    r"(input_proj|decoder|denoising_class_embed|tgt_embed|query_pos_head|enc_output|enc_score_head"
    r"|enc_bbox_head|dec_score_head|dec_bbox_head)\."
)
PARAMETER = re.compile(r"\.(in_proj_)?(weight|bias)$")
TINY = "rtdetr-tiny.yaml"
KNOWN = (
    TINY,
    *(f"rtdetr-{size}.yaml" for size in ("l", "x", "resnet50", "resnet101")),
    *(f"yolov8{size}-rtdetr.yaml" for size in "nslmx"),
)


def architecture_file(architecture: str) -> Path:
    """Find the description of an architecture: the engine's own, or `rtdetr-tiny.yaml` of duet.

    ``yolov8n-rtdetr.yaml`` is described by ``yolov8-rtdetr.yaml``, which serves all sizes.

    Raises:
        ModelError: There is no such architecture.
        MissingExtraError: Ultralytics is not installed.
    """
    if architecture == TINY:
        return shipped("configs", "model", TINY)
    if architecture in KNOWN:
        sized = architecture.startswith("yolov8")
        place = ("v8", "yolov8-rtdetr.yaml") if sized else ("rt-detr", architecture)
        return engine_models().joinpath(*place)
    raise ModelError(
        f"unknown RT-DETR architecture {shown(architecture)}", remedy=f"known: {', '.join(KNOWN)}"
    )


RULES = EngineRules(
    "RT-DETR",
    CLASS_ROWS,
    {"rows": CLASS_ROWS, "parallel": HEAD},
    HEAD,
    PARAMETER,
    varying=CLASS_ROWS,
    architecture_file=architecture_file,
    known_architectures=lambda: KNOWN,
)
split_roles, layers = RULES.split_roles, RULES.layers
