"""Class towers that an export joined, taken apart again: `duet.families.yolo.stock` backwards."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from duet.errors import ModelError
from duet.families.exportable import STAMP
from duet.families.ultralytics.checkpoint import Checkpoint, stated_parts
from duet.families.yolo.build import stock_model
from duet.families.yolo.roles import OWN
from duet.families.yolo.stock import join_heads
from duet.increments.manifest import PartEntry
from duet.increments.state import HeadForm, HeadPart
from duet.vectors.tensors import Tensors

LAST = "cv3.0.2.weight"
"""The last class convolution, ``(classes, channels, 1, 1)``: a block for each tower."""

MOST = 1 << 24
"""Numbers of a layer: as many can be told apart in float32."""


def split_part(
    checkpoint: Checkpoint, architecture: str, part: HeadPart, head: HeadForm
) -> tuple[HeadPart, ...]:
    """Return the head parts of the increments that `duet export` joined, bit for bit.

    What the file says of increments is believed only if its tensors are theirs, joined. Counters
    of batches, of which joined towers have one, become the first tower's.

    Args:
        checkpoint: The file.
        architecture: Of the detector.
        part: The whole head part, of class towers if ``head`` is such.
        head: Head form that is read.

    Returns:
        ``part`` alone if the file is no export of several towers.

    Raises:
        ModelError: It is one, but its towers cannot be told apart, or ``head`` is another form.
    """
    entries = _entries(checkpoint)
    if len(entries) < 2:
        return (part,)
    if head != "towers":
        raise _unsplit(f"class towers of {len(entries)} increments cannot be read as '{head}'")
    if tuple(itertools.chain(*(entry.classes for entry in entries))) != part.classes:
        raise _unsplit("the increments that it names have other classes than the network")
    widths = _widths(part.tensors[LAST], [len(entry.classes) for entry in entries])
    heads = [
        stock_model(architecture, len(entry.classes), width).model[-1]
        for entry, width in zip(entries, widths, strict=True)
    ]
    owns = _split(part.tensors, heads)
    return tuple(
        HeadPart(entry.classes, own, entry.increment)
        for entry, own in zip(entries, owns, strict=True)
    )


def _entries(checkpoint: Checkpoint) -> list[PartEntry]:
    """Return the increments that an export of class towers names; none if it is no such file."""
    stamp = checkpoint.content.get(STAMP)
    towers = isinstance(stamp, Mapping) and stamp.get("head") == "towers"
    return stated_parts(checkpoint) if towers else []


def _widths(last: torch.Tensor, classes: Sequence[int]) -> list[int]:
    """Return how many channels each tower has: its classes read no later one.

    Raises:
        ModelError: Some tower has none.
    """
    read = [rows.flatten(1).any(0).nonzero() for rows in torch.split(last, list(classes))]
    ends = [int(columns.max()) + 1 if len(columns) else 0 for columns in read]
    widths = [end - start for start, end in itertools.pairwise([0, *ends])]
    if min(widths) < 1:
        raise _unsplit("its towers read each other's channels")
    return widths


def _split(joined: Tensors, heads: Sequence[Any]) -> list[Tensors]:
    """Take the numbers of each head's towers from where joining puts them.

    Joining towers that are filled with the numbers 1, 2, 3... shows the places.

    Raises:
        ModelError: Joined towers look otherwise.
    """
    used: dict[str, int] = {}
    own: list[dict[str, torch.Tensor]] = []
    for head in heads:
        own.append(_towers(head))
        for name, tensor in own[-1].items():
            if tensor.ndim:
                start = used.get(name, 0) + 1
                used[name] = start + tensor.numel() - 1
                tensor.copy_(torch.arange(start, used[name] + 1).view(tensor.shape))
    found = _towers(join_heads(heads))
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in joined.items()}:
        raise _unsplit("its layers are of other shapes than those of its increments")
    if max(used.values()) > MOST:
        raise _unsplit("its layers are too large")
    for name, end in used.items():
        numbers, values = found[name].flatten().long(), joined[name].flatten()
        if bool(values[numbers == 0].any()):
            raise _unsplit(f"in {name} the towers read each other's channels")
        places = torch.zeros(end + 1, dtype=torch.int64)
        places[numbers] = torch.arange(len(numbers))
        for one in own:
            one[name] = values[places[one[name].long()]]
    counters = {name: tensor for name, tensor in joined.items() if not tensor.ndim}
    return [{**one, **counters} for one in own]


def _towers(head: Any) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in head.state_dict().items() if OWN["towers"].match(name)}


def _unsplit(what: str) -> ModelError:
    return ModelError(
        f"an export of several class towers: {what}",
        remedy="give the detector folder that it was exported from",
    )
