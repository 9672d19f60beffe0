"""Which tensor of an RT-DETR detector belongs to whom, told by name.

A class is one row in each of the head's class layers: the encoder's, every decoder layer's, and the
embedding that denoising reads. Under `rows` these are an increment's own and everything else is
shared and merged; under `parallel` the whole head is its own.

The module implements `duet.families.protocol.RoleRules`. It must stay free of the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from duet.errors import ModelError
from duet.families.protocol import Roles
from duet.families.ultralytics import names as engine_names
from duet.families.ultralytics.names import engine_models
from duet.merging.layers import Layer
from duet.shipped import shipped
from duet.text import shown
from duet.vectors.tensors import Tensors

CLASS_ROWS = re.compile(
    r"(enc_score_head|dec_score_head\.\d+)\.(weight|bias)$|denoising_class_embed\.weight$"
)
HEAD = re.compile(
    r"(input_proj|decoder|denoising_class_embed|tgt_embed|query_pos_head|enc_output|enc_score_head"
    r"|enc_bbox_head|dec_score_head|dec_bbox_head)\."
)
VARYING = CLASS_ROWS
OWN = {"rows": CLASS_ROWS, "parallel": HEAD}
PARAMETER = re.compile(r"\.(in_proj_)?(weight|bias)$")
TINY = "rtdetr-tiny.yaml"
KNOWN = (
    TINY,
    *(f"rtdetr-{size}.yaml" for size in ("l", "x", "resnet50", "resnet101")),
    *(f"yolov8{size}-rtdetr.yaml" for size in "nslmx"),
)


def split_roles(tensors: Tensors, form: str) -> Roles:
    """Split the state of a stock one-increment detector; every tensor lands exactly once.

    Args:
        tensors: Full state in the engine's names, such as ``model.0.conv.weight``.
        form: Head form: "rows" or "parallel".

    Raises:
        ModelError: Tensors have no role (all named), or there is no numbered layer.
    """
    expected = "the tensors of an RT-DETR detector"
    roles = engine_names.split_layers(
        tensors, own=own_pattern(form), head=HEAD, parameter=PARAMETER, expected=expected
    )
    if not any(CLASS_ROWS.match(name) for name in roles.own):
        raise ModelError("there are no class rows in the last layer", remedy=f"expected {expected}")
    return roles


def own_pattern(form: str) -> re.Pattern[str]:
    """Return what matches an increment's own tensors, named relative to the head.

    Raises:
        ModelError: RT-DETR has no such head form.
    """
    if form not in OWN:
        raise ModelError(
            f"RT-DETR has no head form '{form}'", remedy=f"known forms: {', '.join(OWN)}"
        )
    return OWN[form]


def known_architectures() -> tuple[str, ...]:
    """Return the names of the architectures."""
    return KNOWN


def head_of(architecture: str) -> str:
    """Return the name prefix of the head of an architecture, such as ``model.23.``."""
    return f"model.{engine_names.layer_counts(architecture_file(architecture))[1] - 1}."


def layers(names: Iterable[str], architecture: str) -> dict[str, Layer]:
    """Return where each tensor sits: its part of the detector, and its depth.

    Raises:
        ModelError: There is no such architecture, or a tensor lies outside of it.
        MissingExtraError: Ultralytics is not installed.
    """
    return engine_names.layers_in(names, architecture_file(architecture), architecture)


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
