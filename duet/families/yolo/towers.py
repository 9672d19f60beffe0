"""Class towers of several increments, side by side over the same features.

`ClassTowers` runs them in turn, layer by layer as the engine built them: what is traced, exported
and differentiated. `join` swaps in `JoinedTowers` for inference on a CPU: the same numbers up to
float32 rounding, with fewer passes through memory.

Shapes: B images, C classes of all increments, c channels, T towers, H x W cells of a pyramid level.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv

from duet.families.packed import Packed, fast, pack_weight

CACHE_BYTES = 1 << 21
"""Towers share calls while the features between their layers together stay below this, about a
core's second-level cache; beyond it, one tower after another is faster."""


_Step = Callable[[torch.Tensor], torch.Tensor]
"""From `channels_last` features to such."""


class ClassTowers(nn.Module):
    """T class towers of one pyramid level, one after another."""

    def __init__(self, towers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, c, H, W)`` features to ``(B, C, H, W)`` logits of all increments."""
        return torch.cat([tower(x) for tower in self.towers], 1)


class JoinedTowers(Packed, ClassTowers):
    """The same towers, several per call, for inference in float32 on a CPU.

    Their channels stand side by side in `channels_last` memory, so that each layer of several
    towers is one grouped convolution of oneDNN, whose weights were packed before and which adds
    the bias and applies SiLU before it writes. In the default memory format the same grouped
    convolutions cost more than the towers in turn, because each call reorders its input and output.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `ClassTowers.forward`; gradients, tracing and other dtypes take the towers in turn."""
        if not fast(x):
            return super().forward(x)
        x = x.contiguous(memory_format=torch.channels_last)
        return self._joined(x.shape)(x)

    def _joined(self, shape: torch.Size) -> _Joined:
        """Return the towers as they are run on features of that shape."""
        cells = shape[2:].numel()
        known: dict[int, _Joined] = self._packed or {}  # read once: other threads look, too
        if cells not in known:
            stacks = _stacks(self.towers, cells)
            alike = (one for one in known.values() if one.ends == stacks)
            joined = next(alike, None) or _Joined.of(self.towers, stacks, shape)
            known = self._packed = {**known, cells: joined}
        return known[cells]


def join(module: nn.Module) -> nn.Module:
    """Give the class towers of a detector their fast form; returns ``module``, changed in place.

    Args:
        module: Detector for inference, BatchNorm folded into the convolutions (`fuse`). Towers of
            other layers than the engine's convolutions with SiLU stay as they are.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is ClassTowers and all(map(_layers, child.towers)):
                setattr(parent, name, JoinedTowers(child.towers).train(child.training))
    return module


@dataclass(frozen=True)
class _Joined:
    """Towers of one pyramid level, packed.

    Attributes:
        ends: First tower of each stack, and the one after its last.
        stacks: The towers in their order.
        bias: Of the class rows, ``(C, 1)``.
    """

    ends: tuple[tuple[int, int], ...]
    stacks: tuple[_Stack, ...]
    bias: torch.Tensor

    @classmethod
    def of(
        cls, towers: Iterable[nn.Module], ends: tuple[tuple[int, int], ...], shape: torch.Size
    ) -> _Joined:
        """Pack towers, see `_stacks`, by the shape of some features."""
        every = list(towers)
        stacks = tuple(_Stack.of(every[begin:end], shape) for begin, end in ends)
        bias = torch.cat([_bias(_layers(tower)[-1]) for tower in every])
        return cls(ends, stacks, bias[:, None])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map `channels_last` features to ``(B, C, H, W)`` logits in the default format."""
        repeated = {1: x}
        logits = x.new_empty((len(x), len(self.bias), x.shape[2:].numel()))
        begin = 0
        for stack in self.stacks:
            if stack.repeats not in repeated:
                repeated[stack.repeats] = torch.cat([x] * stack.repeats, 1)
            end = begin + sum(map(len, stack.rows))
            stack.write(repeated[stack.repeats], logits[:, begin:end])
            begin = end
        return logits.add_(self.bias).view(len(x), -1, *x.shape[2:])


@dataclass(frozen=True)
class _Stack:
    """Towers that share their calls.

    Attributes:
        layers: All but the class rows, first to last.
        repeats: How many copies of the features the first layer reads, side by side.
        rows: Class rows of each tower, ``(classes, width)``; their counts may differ.
        even: The same as ``(T, classes, width)`` where the counts agree.
    """

    layers: tuple[_Step, ...]
    repeats: int
    rows: tuple[torch.Tensor, ...]
    even: torch.Tensor | None

    @classmethod
    def of(cls, towers: Sequence[nn.Module], shape: torch.Size) -> _Stack:
        """Pack towers whose layers have the same shapes."""
        first, *others, last = zip(*map(_layers, towers), strict=True)
        # Dense layers over the same features are one dense layer with more outputs.
        repeats = 1 if first[0].groups == 1 else len(towers)
        layers = [_layer(first, shape, groups=repeats)]
        layers += [_layer(group, shape, groups=len(towers)) for group in others]
        rows = tuple(layer.weight.detach().flatten(1) for layer in last)
        even = torch.stack(rows) if len(set(map(len, rows))) == 1 else None
        return cls(tuple(layers), repeats, rows, even)

    def write(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """Write the logits, still without bias, into ``out``, ``(B, classes, H W)``."""
        for layer in self.layers:
            x = layer(x)
        towers, cells, counts = len(self.rows), out.shape[2], [len(rows) for rows in self.rows]
        for features, logits in zip(x.flatten(2), out, strict=True):
            if self.even is not None:
                own = features.view(towers, -1, cells)
                torch.bmm(self.even, own, out=logits.view(towers, -1, cells))
                continue
            parts = zip(self.rows, features.chunk(towers), logits.split(counts), strict=True)
            for rows, own, place in parts:
                torch.mm(rows, own, out=place)


def _stacks(towers: Iterable[nn.Module], cells: int) -> tuple[tuple[int, int], ...]:
    """Return which towers share calls on ``cells`` cells: neighbours with layers of equal shapes.

    Stacks of the same towers are of even size.
    """
    ends: list[tuple[int, int]] = []
    begin = 0
    for _, group in itertools.groupby(towers, _shapes):
        alike = list(group)
        features = _layers(alike[0])[-1].in_channels * cells
        at_once = max(1, CACHE_BYTES // (features * torch.float32.itemsize))
        count = math.ceil(len(alike) / at_once)
        places = [begin + index * len(alike) // count for index in range(count + 1)]
        ends += itertools.pairwise(places)
        begin = places[-1]
    return tuple(ends)


def _layer(layers: Sequence[nn.Conv2d], shape: torch.Size, *, groups: int) -> _Step:
    """Return one convolution of several towers at once, and its SiLU.

    Layers of one shape become ``groups`` times the groups that each of them has.
    """
    geometry: Any = (layers[0].padding, layers[0].stride, layers[0].dilation)
    groups *= layers[0].groups
    weight = torch.cat([layer.weight.detach() for layer in layers])
    bias = torch.cat([_bias(layer) for layer in layers])
    size = (shape[0], weight.shape[1] * groups, *shape[2:])
    packed = pack_weight(weight, geometry, groups, size)

    def run(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, packed, bias, *geometry, groups, "swish", [], ""
        )
        return y

    return run


def _shapes(tower: nn.Module) -> list[tuple[Any, ...]]:
    return [
        (layer.weight.shape, layer.padding, layer.stride, layer.dilation, layer.groups)
        for layer in _layers(tower)[:-1]
    ]


def _bias(layer: nn.Conv2d) -> torch.Tensor:
    assert layer.bias is not None  # `_layers` sees to it
    return layer.bias.detach()


def _layers(tower: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions of a fused tower, class rows last; empty if it is not of the kind.

    All but the last are followed by SiLU.
    """
    *parts, last = _flat(tower)
    fused = all(
        isinstance(part, Conv) and not hasattr(part, "bn") and isinstance(part.act, nn.SiLU)
        for part in parts
    )
    plain = isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1) and last.groups == 1
    layers = [*(part.conv for part in parts), last] if fused and plain else []
    return layers if all(layer.bias is not None for layer in layers) else []


def _flat(module: nn.Module) -> Iterator[Any]:
    """Yield the layers of nested sequences in order."""
    if isinstance(module, nn.Sequential):
        for part in module:
            yield from _flat(part)
    else:
        yield module
