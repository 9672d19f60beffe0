"""BatchNorm statistics of a merged detector, estimated anew on images that nobody labelled.

Merged weights make features that no specialist has made, so that no mixture of the specialists'
statistics describes them. A pass over a few images does (REPAIR, arXiv 2211.08403).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from duet.vectors.tensors import Tensors

BATCH = 48
"""Images of a pass: their moments are the population's up to a few per cent."""


@torch.no_grad()
def re_estimate(module: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Give the BatchNorm layers of a network the moments of what they read, in place.

    Layers see features that the layers before them normalise by the batch itself. Means and
    variances are averages over the batches; so each batch should show what the network will see.

    Args:
        module: In any mode; it is left in evaluation mode.
        batches: ``(B, 3, S, S)`` float32 RGB in [0, 1] each; at least one.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    counters = [one for layer in layers if (one := layer.num_batches_tracked) is not None]
    counted = [one.clone() for one in counters]
    momenta = {layer: layer.momentum for layer in layers}
    module.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain average
        layer.train()
    for images in batches:
        module(images)
    for layer in layers:
        layer.momentum = momenta[layer]
    for now, before in zip(counters, counted, strict=True):
        now.copy_(before)  # of training, not of looking
    module.eval()


def blend(module: nn.Module, stored: Tensors, share: float) -> None:
    """Mix the statistics of a network with those that it had, as distributions mix.

    Args:
        module: Statistics are changed in place.
        stored: Its tensors before, by name.
        share: Of the present ones, in [0, 1].
    """
    from duet.merging.batchnorm import fuse_statistics

    for prefix, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and share < 1:
            old = (stored[f"{prefix}.running_mean"], stored[f"{prefix}.running_var"])
            assert layer.running_mean is not None
            assert layer.running_var is not None
            now = (layer.running_mean, layer.running_var)
            mean, var = fuse_statistics([old, now], (1 - share, share))
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(var)


def interleaved(groups: Sequence[int], batch: int = BATCH) -> Iterator[list[int]]:
    """Yield batches of image numbers that show every group of images equally often.

    Args:
        groups: How many images each group has; numbers count through all groups.
        batch: Images of a batch at most.
    """
    firsts = [sum(groups[:place]) for place in range(len(groups))]
    order = [
        first + turn % count
        for turn in range(max(groups))
        for first, count in zip(firsts, groups, strict=True)
    ]
    passes = -(-len(order) // batch)
    size = -(-len(order) // passes)  # equal batches: their averages count alike
    for start in range(0, len(order), size):
        yield order[start : start + size]
