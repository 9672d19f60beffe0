"""The engine's layers without the copies that their concatenations make; for inference on a CPU.

The numbers are the engine's up to float32 rounding. Where packed convolutions take the plain way
(`duet.families.packed.fast`), so do these layers.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from ultralytics.nn.modules.block import Bottleneck, C2f
from ultralytics.nn.modules.conv import Concat

from duet.families.packed import Beside, PackedConv, fast


class UncopiedC2f(C2f):  # type: ignore[misc]
    """A `C2f` whose parts write into the features that its last convolution reads."""

    @classmethod
    def of(cls, layer: C2f) -> UncopiedC2f:
        """Take over a layer of a packed network."""
        self: UncopiedC2f = cls.__new__(cls)
        self.__dict__ = layer.__dict__.copy()
        return self

    def forward(self, x: torch.Tensor | Beside) -> torch.Tensor:
        """Map ``(B, c, H, W)`` features to such."""
        fine = x.fine if isinstance(x, Beside) else x
        if not fast(fine):
            return cast("torch.Tensor", super().forward(x))
        batch, _, height, width = fine.shape
        every = fine.new_empty(batch, height, width, (2 + len(self.m)) * self.c)
        self.cv1.conv.write(x, every[..., : 2 * self.c])
        parts = every.permute(0, 3, 1, 2).chunk(2 + len(self.m), 1)
        for layer, before, own in zip(self.m, parts[1:], parts[2:], strict=False):
            if type(layer) is Bottleneck and layer.add:
                torch.add(before, layer.cv2(layer.cv1(before)), out=own)
            else:
                own.copy_(layer(before))
        return cast("torch.Tensor", self.cv2(every.permute(0, 3, 1, 2)))


class UpsampledConcat(nn.Module):
    """An upsampling to twice the size and the concatenation after it, left to who reads them."""

    def __init__(self, upsample: nn.Module, concat: nn.Module) -> None:
        super().__init__()
        self.upsample, self.concat = upsample, concat

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor | Beside:
        """Put coarse features, ``(B, c, H / 2, W / 2)``, beside fine ones."""
        coarse, fine = x
        if fast(fine):
            return Beside(coarse, fine)
        return cast("torch.Tensor", self.concat([self.upsample(coarse), fine]))


def uncopied(network: nn.Module) -> nn.Module:
    """Give layers of a packed network this form; returns ``network``, changed in place."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, C2f) and type(child).forward is C2f.forward and _writes(child):
                setattr(parent, name, UncopiedC2f.of(child))
    layers, kept = cast("Any", network).model, cast("Any", network).save
    for upsample, concat, reader in zip(layers, layers[1:], layers[2:], strict=False):
        alone = not {upsample.i, concat.i} & set(kept)
        if alone and _doubles(upsample) and _joins(concat) and _reads(reader):
            layers[concat.i] = _placed(UpsampledConcat(upsample, concat), concat)
            layers[upsample.i] = _placed(nn.Identity(), upsample)
    return network


def _writes(layer: Any) -> bool:
    """Tell whether the first convolution of a `C2f` is one that writes where it is told to."""
    conv = getattr(layer.cv1, "conv", None)
    plain = isinstance(getattr(layer.cv1, "act", None), nn.Identity)
    return plain and isinstance(conv, PackedConv) and conv.pointwise


def _doubles(layer: Any) -> bool:
    return type(layer) is nn.Upsample and layer.mode == "nearest" and layer.scale_factor == 2


def _joins(layer: Any) -> bool:
    """Tell whether a layer puts the features of the one before it beside one other's."""
    return type(layer) is Concat and layer.d == 1 and layer.f[0] == -1 and len(layer.f) == 2


def _reads(layer: Any) -> bool:
    return type(layer) is UncopiedC2f and layer.f == -1


def _placed(layer: nn.Module, old: Any) -> nn.Module:
    """Tell the engine that a layer stands where another stood."""
    layer.i, layer.f = old.i, old.f
    return layer
