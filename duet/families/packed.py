"""Convolutions of a network as a CPU runs them fastest.

Channels last, weights packed once, and what follows a convolution computed before it is written.
`pack` changes a network that was built for inference; what is exported, traced or differentiated is
another one, or takes the plain way through the same modules. Numbers differ by float32 rounding.
The operators are oneDNN's, which torch brings for its compiler. They are no public API: where they
are missing, and on other processors, devices and dtypes, the plain way is taken.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import torch
from torch import nn

from duet.training.memory import fast_module

_ACTIVATIONS: Mapping[type[nn.Module], str] = {
    nn.Identity: "none", nn.ReLU: "relu", nn.SiLU: "swish"
}  # fmt: skip
"""Activation -> oneDNN's name of it."""

SMALL = 1 << 19
"""Numbers up to which the output of a pointwise convolution stays in a core's second-level cache:
there a matrix product and the activation after it are faster than one call of oneDNN, whose own
costs are those of 50 microseconds of work."""

_PROCESSORS = ("x86_64", "amd64")


@dataclass(frozen=True)
class Block:
    """Where a kind of layer keeps a convolution and what follows it; names of attributes.

    Attributes:
        conv: The convolution.
        norm: BatchNorm after it, folded into it here; a layer may have none.
        act: The activation after that.
    """

    conv: str
    norm: str
    act: str


class Packed(nn.Module):
    """What holds weights packed for inference beside the plain ones.

    Copies and pickles leave them out, and weights that move or change are packed again.
    """

    _packed: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but packed weights."""
        return {**self.__dict__, "_packed": None}

    def _apply(self, *args: Any, **options: Any) -> Any:
        self._packed = None
        return super()._apply(*args, **options)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self._packed = None
        super()._load_from_state_dict(*args, **options)


@dataclass(frozen=True)
class Beside:
    """Features side by side, the first of which are still to be repeated to twice their size.

    A pointwise convolution of both is that of each, added, and cells that are repeated need it
    once: a quarter of the work, and nothing is copied together.

    Attributes:
        coarse: ``(B, c, H / 2, W / 2)``.
        fine: ``(B, d, H, W)``.
    """

    coarse: torch.Tensor
    fine: torch.Tensor


class PackedConv(Packed, nn.Conv2d):
    """A convolution and the activation after it."""

    act: nn.Module

    @classmethod
    def of(cls, conv: nn.Conv2d, act: nn.Module) -> PackedConv:
        """Take over a convolution: its very parameters, under their names."""
        self: PackedConv = cls.__new__(cls)
        self.__dict__ = conv.__dict__.copy()
        self._modules = {}
        # Nothing else sees what the convolution wrote, so that it can be written over.
        self.act = type(act)(inplace=True) if isinstance(act, (nn.ReLU, nn.SiLU)) else act
        return self.train(conv.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, c, H, W)`` features to such."""
        known = _ACTIVATIONS.get(type(self.act))
        if known is None or not fast(x):
            y: torch.Tensor = self.act(super().forward(x))
            return y
        if self._small(x):
            rows = x.permute(0, 2, 3, 1)
            y = self.act(nn.functional.linear(rows, self.weight.flatten(1), self.bias))
            return y.permute(0, 3, 1, 2)
        geometry: Any = (self.padding, self.stride, self.dilation)
        if self._packed is None:
            weight = self.weight.detach()
            self._packed = pack_weight(weight, geometry, self.groups, x.shape)
        run = torch.ops.mkldnn._convolution_pointwise
        packed = run(x, self._packed, self.bias, *geometry, self.groups, known, [], "")
        return cast("torch.Tensor", packed)

    def write(self, x: torch.Tensor | Beside, out_BHWc: torch.Tensor) -> None:
        """Write features where others want them, for a `pointwise` convolution.

        Args:
            x: As of `forward`, or features that are not yet copied together; of either only what is
                `fast`.
            out_BHWc: ``(B, H, W, c)``, a part of the channels of more.
        """
        own = self.weight.flatten(1)
        rows = out_BHWc.view(-1, self.out_channels)
        if isinstance(x, Beside):
            width = x.coarse.shape[1]
            coarse, fine = own[:, :width], own[:, width:]
            cells = nn.functional.linear(x.coarse.permute(0, 2, 3, 1), coarse, self.bias)
            batch, height, width, _ = cells.shape
            repeated = out_BHWc.view(batch, height, 2, width, 2, self.out_channels)
            repeated.copy_(cells[:, :, None, :, None])
            rows.addmm_(_rows(x.fine), fine.t())
        elif self._small(x) and self.bias is not None:
            torch.addmm(self.bias, _rows(x), own.t(), out=rows)
        else:
            out_BHWc.copy_(self(x).permute(0, 2, 3, 1))
            return
        written = self.act(rows)
        if written is not rows:
            rows.copy_(written)

    def _small(self, x: torch.Tensor) -> bool:
        """Tell whether it is computed as a matrix product, see `SMALL`."""
        return self.pointwise and x.shape[2:].numel() * len(x) * self.out_channels <= SMALL

    @property
    def pointwise(self) -> bool:
        """Whether each output cell is a linear function of the one cell below it."""
        plain = self.stride == (1, 1) and self.padding == (0, 0)
        return plain and self.kernel_size == (1, 1) and self.groups == 1


def pack(network: nn.Module, blocks: Mapping[type[nn.Module], Block]) -> nn.Module:
    """Give the convolutions of a network their fast form; returns ``network``, changed in place.

    Args:
        network: For inference; its weights stay where they are.
        blocks: Kind of layer -> where its convolution and what follows it are.
    """
    _keep_memory()
    for parent in list(_outside(network)):
        for kind, block in blocks.items():
            if isinstance(parent, kind):
                _join(parent, block)
    for parent in list(_outside(network)):
        for name, child in list(parent.named_children()):
            if _plain(child) and child.out_channels > 1:  # of a single one there is little to win
                setattr(parent, name, PackedConv.of(child, nn.Identity()))
    return fast_module(network, next(network.parameters()).device)


def pack_weight(
    weight: torch.Tensor, geometry: tuple[Any, Any, Any], groups: int, shape: Sequence[int]
) -> torch.Tensor:
    """Return the weight of a convolution in oneDNN's order.

    Args:
        weight: Plain.
        geometry: Padding, stride and dilation, as of `nn.Conv2d`.
        groups: As there.
        shape: ``(B, c, H, W)`` of an input. Others may follow at no cost; without any, oneDNN takes
            an order for some layers that costs ten times as much.
    """
    reorder = torch.ops.mkldnn._reorder_convolution_weight
    packed: torch.Tensor = reorder(weight, *geometry, groups, list(shape))
    return packed


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Return features as ``(B H W, c)``."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def fast(x: torch.Tensor) -> bool:
    """Tell whether oneDNN's own operators may be called: they know no gradient and no tracing."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        and not torch.compiler.is_compiling()
        and _has_operators()
    )


@functools.cache
def _has_operators() -> bool:
    """Tell whether torch brings oneDNN's operators, and this processor is one that they are for."""
    wanted = ("_convolution_pointwise", "_reorder_convolution_weight")
    found = all(hasattr(torch.ops.mkldnn, name) for name in wanted)
    here = platform.machine().lower() in _PROCESSORS
    return found and here and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


@functools.cache
def _keep_memory() -> None:
    """Have glibc keep some memory that it would give back to the system after each image.

    It takes the size of the largest block that was freed for what a program comes to need again:
    up to 32 MB, and twice that at the end of its heap. The pages of the features, which a kernel
    must fill with zeros first, cost a tenth of the time of a small network. Other libraries of C
    are not impressed.
    """
    torch.empty(31 << 20, dtype=torch.uint8)  # nothing is written to it


def _outside(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module and all below it, but nothing below what packs its weights itself."""
    yield module
    for child in module.children():
        if not isinstance(child, Packed):
            yield from _outside(child)


def _join(parent: nn.Module, block: Block) -> None:
    """Let one module compute a layer's convolution, normalisation and activation."""
    conv, norm, act = (getattr(parent, name, None) for name in (block.conv, block.norm, block.act))
    if not _plain(conv) or not isinstance(act, nn.Module):
        return
    if norm is not None and not isinstance(norm, nn.Identity):
        conv = _folded(conv, norm)
        setattr(parent, block.norm, nn.Identity())
    setattr(parent, block.conv, PackedConv.of(conv, act))
    setattr(parent, block.act, nn.Identity())


def _folded(conv: nn.Conv2d, norm: Any) -> nn.Conv2d:
    """Return a convolution that normalises, too, as BatchNorm does with its own statistics."""
    eps = getattr(norm, "eps", 1e-5)
    scale = norm.weight / torch.sqrt(norm.running_var + eps)
    bias = conv.bias if conv.bias is not None else torch.zeros_like(norm.running_mean)
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
    conv.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias, requires_grad=False)
    return conv


def _plain(conv: Any) -> TypeGuard[nn.Conv2d]:
    """Tell whether this is a convolution that oneDNN's operators know: padding in words is not."""
    known = type(conv) is nn.Conv2d and conv.padding_mode == "zeros"
    return known and not isinstance(conv.padding, str)
