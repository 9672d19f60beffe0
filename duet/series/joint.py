"""The training images of several increments as one slice: what joint training learns from."""

from __future__ import annotations

from duet.series.joining import join_slices
from duet.series.model import DomainData, Slice
from duet.series.series import Increment
from duet.series.slices import train_slice


def joint_slice(seen: tuple[Increment, ...], classes: tuple[str, ...], *, full: bool) -> Slice:
    """Return the training images of several increments.

    An image that several increments use appears once, with the labels of all of them.

    Args:
        seen: The increments.
        classes: All their classes; positions become class ids.
        full: Take every image of the data sets that holds one of ``classes``, labelled with all of
            them, not only with those of the increments that use the data set.
    """
    cuts: dict[str, tuple[DomainData, tuple[str, ...]]] = {}
    for item in seen:
        key = str(item.data.source)
        there = tuple(name for name in classes if name in item.data.labels)
        wanted = there if full else (*cuts.get(key, (None, ()))[1], *item.classes)
        cuts[key] = (item.data, tuple(dict.fromkeys(wanted)))
    return join_slices([train_slice(*cut) for cut in cuts.values()], classes)
