"""Which tensor of a D-FINE detector belongs to whom, and where it sits: told by name.

A class is one row in every class layer: the encoder's score head, each decoder layer's class head
and the embedding of denoising queries. These rows are an increment's own; everything else is shared
and merged. BatchNorm statistics are fused; constants that never train travel with them.

Two traps of the engine are dealt with here and nowhere else. Its state names the decoder's heads
twice (`class_embed.0.bias` is `model.decoder.class_embed.0.bias`): one copy is kept. And the
denoising embedding has one row more than classes, for padding: it becomes a buffer of its own,
`PADDING`, that all increments of a base have in common.

The module implements `duet.families.protocol.RoleRules` and must stay free of the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

from duet.errors import ModelError
from duet.families.dfine.architectures import architecture as read_architecture
from duet.families.protocol import Roles
from duet.families.tensors import place_tensors, split_tensors
from duet.merging.layers import Layer, Role
from duet.vectors.tensors import Tensors

PREFIX = "model."
CLASSES = "model.enc_score_head.weight"
EMBEDDING = "model.denoising_class_embed.weight"
PADDING = "model.denoising_class_embed.padding"
ALIAS = re.compile(r"(class_embed|bbox_embed)\.")
CLASS_ROWS = re.compile(
    r"enc_score_head\.|decoder\.class_embed\.\d+\.|denoising_class_embed\.weight$"
)
MODULE = re.compile(
    r"model\.(backbone|encoder|encoder_input_proj|decoder|decoder_input_proj|enc_output"
    r"|enc_score_head|enc_bbox_head|denoising_class_embed|weight_embedding)\."
)
# scale: of the backbone's learnable affine blocks.
PARAMETER = re.compile(r"\.(weight|bias|scale)$")
STATISTIC = re.compile(r"\.(running_mean|running_var|num_batches_tracked)$")
CONSTANT = re.compile(r"\.(num_points_scale|reg_scale|up|padding)$")


def head_form(form: str) -> str:
    """Return the one head form of the family: a class tower of a DETR is one row.

    Raises:
        ModelError: Whole decoders side by side are asked for.
    """
    if form not in ("rows", "towers"):
        raise ModelError(
            f"D-FINE has no head form '{form}': its queries attend to each other, so decoders "
            "cannot be set side by side",
            remedy="use the head form 'rows'",
        )
    return "rows"


def split_roles(tensors: Tensors, form: str) -> Roles:
    """Split the state of a stock one-increment detector; every tensor lands exactly once.

    Args:
        tensors: State in the engine's names, with or without its doubles, or with `PADDING` apart.
        form: Head form: "rows" ("towers" means the same).

    Raises:
        ModelError: Tensors have no role (all named), doubles differ, or rows are missing.
    """
    head_form(form)
    single, remedy = without_aliases(tensors), "expected the state of DFineForObjectDetection"
    roles = split_tensors(single, _role_of, prefix=PREFIX, remedy=remedy)
    if CLASSES not in single:
        raise ModelError(f"there is no {CLASSES}", remedy=remedy)
    return _without_padding(roles)


def _role_of(name: str) -> str:
    if MODULE.match(name) is None:
        return "no role"
    if CLASS_ROWS.match(name.removeprefix(PREFIX)):
        return "own"
    if STATISTIC.search(name) or CONSTANT.search(name):
        return "buffers"
    return "shared" if PARAMETER.search(name) else "no role"


def without_aliases(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return the tensors under one name each.

    Raises:
        ModelError: A tensor is there twice and differs.
    """
    single = {name: tensor for name, tensor in tensors.items() if not ALIAS.match(name)}
    for name, tensor in tensors.items():
        if ALIAS.match(name) is None:
            continue
        known = single.setdefault(f"model.decoder.{name}", tensor)
        if known is not tensor and not torch.equal(known, tensor):
            raise ModelError(
                f"'{name}' and 'model.decoder.{name}' are one tensor, but they differ",
                remedy="the file is damaged: take it from its source again",
            )
    return single


def stock_names(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return the state that the engine loads: `PADDING` back in its place, doubles included."""
    stock = dict(tensors)
    if PADDING in stock:
        stock[EMBEDDING] = torch.cat((stock[EMBEDDING], stock.pop(PADDING)[None]))
    doubles = {
        name.removeprefix("model.decoder."): tensor
        for name, tensor in stock.items()
        if ALIAS.match(name.removeprefix("model.decoder."))
    }
    return {**stock, **doubles}


def _without_padding(roles: Roles) -> Roles:
    """Move the padding row of the denoising embedding from the own tensors to the buffers."""
    name = EMBEDDING.removeprefix(PREFIX)
    rows, classes = roles.own.get(name), len(roles.own[CLASSES.removeprefix(PREFIX)])
    if rows is None or PADDING in roles.buffers:
        return roles
    if len(rows) != classes + 1:
        raise ModelError(
            f"'{EMBEDDING}' has {len(rows)} rows, expected {classes + 1}, one per class and "
            "one for padding",
            remedy="the file is damaged: take it from its source again",
        )
    padding, own = {PADDING: rows[-1].clone()}, {name: rows[:-1].clone()}
    return Roles(roles.shared, {**roles.buffers, **padding}, {**roles.own, **own})


def layers(names: Iterable[str], architecture: str) -> dict[str, Layer]:
    """Return where each shared tensor sits: its part of the detector, and its depth.

    Depth counts the stem, the backbone's stages, the projection, the hybrid encoder, the encoder's
    head and the decoder's layers.

    Raises:
        ModelError: There is no such architecture, or a tensor lies outside of it.
    """
    settings = read_architecture(architecture)
    stages = len(settings["backbone_config"]["stage_in_channels"])
    count = stages + 4 + settings.get("decoder_layers", 6)
    return place_tensors(
        names, lambda name: _place(name, stages), count=count, architecture=architecture
    )


def _place(name: str, stages: int) -> tuple[Role, int] | None:
    """Return the role of a tensor and its layer; None if no layer has such a name."""
    stage = re.match(r"model\.backbone\.model\.encoder\.stages\.([0-9]{1,4})\.", name)
    repeated = re.match(r"model\.decoder\.(?:layers|bbox_embed|lqe_layers)\.([0-9]{1,4})\.", name)
    if stage is not None:
        return ("backbone", 1 + int(stage[1])) if int(stage[1]) < stages else None
    if repeated is not None:
        return "head", stages + 4 + int(repeated[1])
    starts: tuple[tuple[str, Role, int], ...] = (
        ("model.backbone.", "backbone", 0),
        ("model.encoder_input_proj.", "neck", stages + 1),
        ("model.encoder.", "neck", stages + 2),
        ("model.enc_", "head", stages + 3),
        ("model.decoder_input_proj.", "head", stages + 3),
        ("model.weight_embedding.", "head", stages + 4),
        ("model.decoder.", "head", stages + 4),
    )
    for start, role, position in starts:
        if name.startswith(start):
            return role, position
    return None
