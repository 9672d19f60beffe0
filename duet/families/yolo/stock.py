"""Class towers as plain layers, so that a file loads where duet is not installed.

Joined towers compute what `ClassTowers` computes in turn, out of the engine's own layers alone:
their channels stand side by side, and the towers' weights are blocks of one layer's weight. That
costs more than running them in turn, so only exported files use it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import DetectionModel

from duet.errors import ModelError
from duet.families.yolo.build import inference_model
from duet.families.yolo.heads import class_towers
from duet.families.yolo.towers import ClassTowers
from duet.increments.state import DetectorState

Places = list[torch.Tensor]
"""For each tower, which channels of the joined features are its own; int64, ``(channels,)``."""


def stock_detector(state: DetectorState) -> DetectionModel:
    """Build the detector of a state out of the engine's own modules, where they suffice.

    `parallel` heads of several increments have no stock form: a stock head has one box branch.
    Such a detector stays as `inference_model` builds it, and its file needs duet to load.

    Raises:
        ModelError: As `inference_model`.
    """
    model = inference_model(state)
    head = model.model[-1]
    # Heads in parallel hold theirs further down, and one increment has none to join.
    for towers in class_towers(head):
        for level, tower in enumerate(towers):
            if isinstance(tower, ClassTowers):
                towers[level] = join_towers(list(tower.towers))
    return model


def join_heads(heads: Sequence[Any]) -> Any:
    """Return the first of several stock heads with the class towers of all, joined.

    Raises:
        ModelError: As `join_towers`.
    """
    first = heads[0]
    for branch in zip(*map(class_towers, heads), strict=True):
        for level, towers in enumerate(zip(*branch, strict=True)):
            branch[0][level] = join_towers(towers)
    first.nc = sum(head.nc for head in heads)
    first.no = first.nc + 4 * first.reg_max
    return first


def join_towers(towers: Sequence[nn.Module]) -> nn.Module:
    """Return one tower that gives the outputs of all, one after another.

    Args:
        towers: Class towers of one pyramid level, made of the same kinds of layers; their widths
            and class counts may differ.

    Raises:
        ModelError: The towers are not built alike, or have layers of another kind.
    """
    channels = next(m for m in towers[0].modules() if isinstance(m, nn.Conv2d)).in_channels
    # All towers read the same features.
    joined, _ = _join(towers, [torch.arange(channels)] * len(towers))
    return joined.train(towers[0].training)


def _join(modules: Sequence[Any], places: Places) -> tuple[nn.Module, Places]:
    """Join modules that stand at the same place of their towers; also say where channels go."""
    first = modules[0]
    kinds = {type(module).__name__ for module in modules}
    if len(kinds) > 1:
        raise ModelError(f"class towers are not built alike: {', '.join(sorted(kinds))}")
    if isinstance(first, nn.Sequential):
        layers = []
        for group in zip(*modules, strict=True):
            layer, places = _join(group, places)
            layers.append(layer)
        return nn.Sequential(*layers), places
    if isinstance(first, nn.Conv2d):
        # Dense, as in any stock head: the engine and its users read class rows from here.
        return _dense(modules, places, grouped=False)
    if not isinstance(first, Conv):
        raise ModelError(f"a class tower has an unexpected layer: {type(first).__name__}")
    joined = copy.deepcopy(first)
    convolutions = [module.conv for module in modules]
    if first.conv.groups > 1:
        joined.conv, places = _depthwise(convolutions, places)
    else:
        joined.conv, places = _dense(convolutions, places, grouped=True)
    joined.bn = _norm([module.bn for module in modules], places)
    return joined, places


def _depthwise(layers: Sequence[nn.Conv2d], places: Places) -> tuple[nn.Conv2d, Places]:
    """Join convolutions that have one filter per channel."""
    inputs, count = _channels(places), len(layers)
    if inputs < sum(map(len, places)):
        # The outputs of a group follow their one input: towers that share it alternate.
        places = [own * count + tower for tower, own in enumerate(places)]
    joined = _like(layers[0], inputs, sum(map(len, places)), inputs)
    joined.weight = nn.Parameter(_arrange([layer.weight for layer in layers], places))
    return joined, places


def _dense(
    layers: Sequence[nn.Conv2d], places: Places, *, grouped: bool
) -> tuple[nn.Conv2d, Places]:
    """Join convolutions over all channels: as groups where allowed and possible, else with zeros.

    Groups need towers of one width whose channels stand one tower after another.
    """
    ends = [0, *itertools.accumulate(layer.out_channels for layer in layers)]
    outputs = [torch.arange(start, end) for start, end in itertools.pairwise(ends)]
    sizes = {tuple(layer.weight.shape) for layer in layers}
    inputs = _channels(places)
    in_order = torch.equal(torch.cat(places), torch.arange(inputs))
    groups = len(layers) if grouped and in_order and len(sizes) == 1 else 1
    joined = _like(layers[0], inputs, ends[-1], groups)
    weight = torch.zeros_like(joined.weight)
    for layer, rows, columns in zip(layers, outputs, places, strict=True):
        if groups > 1:
            weight[rows] = layer.weight.detach()
        else:
            weight[rows[:, None], columns] = layer.weight.detach()
    joined.weight = nn.Parameter(weight)
    if joined.bias is not None:
        joined.bias = nn.Parameter(torch.cat([layer.state_dict()["bias"] for layer in layers]))
    return joined, outputs


def _norm(layers: Sequence[nn.BatchNorm2d], places: Places) -> nn.BatchNorm2d:
    """Join BatchNorm layers: everything in them is per channel, but for the counter."""
    first = layers[0]
    joined = nn.BatchNorm2d(_channels(places), eps=first.eps, momentum=first.momentum)
    joined.load_state_dict(
        {
            name: _arrange([layer.state_dict()[name] for layer in layers], places)
            if tensor.ndim
            else tensor
            for name, tensor in first.state_dict().items()
        }
    )
    return joined


def _like(layer: nn.Conv2d, inputs: int, outputs: int, groups: int) -> nn.Conv2d:
    """Return a convolution of other channels, else as ``layer``."""
    options: dict[str, Any] = {
        name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")
    }
    return nn.Conv2d(inputs, outputs, groups=groups, bias=layer.bias is not None, **options)


def _channels(places: Places) -> int:
    return 1 + max(int(own.max()) for own in places)


def _arrange(rows: Sequence[torch.Tensor], places: Places) -> torch.Tensor:
    """Return the towers' rows, each at the place of its channel."""
    joined = rows[0].new_empty((_channels(places), *rows[0].shape[1:]))
    for own, channels in zip(rows, places, strict=True):
        joined[channels] = own.detach()
    return joined
