"""Near-duplicates: one photograph saved twice, in sizes, qualities or cuts of its own.

`fingerprint` proposes pairs, a look at the thumbnails throws most of them out, and a second look at
the files decides. What was compressed, resized, brightened, cropped a little or mirrored is found;
other scenes on one background are not near-duplicates, and neither are turned pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from duet.doctor.align import FINE, ROUGH, Pictures, differences, lay
from duet.doctor.detail import same_detail
from duet.doctor.fingerprint import CUTOUTS, Candidates, similar_pairs
from duet.series.check import Place, places, same_content
from duet.series.images import Thumbnail, read_grey
from duet.series.model import Flags
from duet.series.problems import Problem, note, warning
from duet.series.series import Series

ROUGH_LIMIT = 80.0
"""Largest difference (`differences`) of thumbnails that is worth a second look."""

LIMIT = 32.0
"""Largest difference of two copies of one picture, in the second look.

Measured on 120 embedded scenes of 160 px: copies in JPEG quality 20, of half and 1.6 times the size
and in grey stay below (119 of 120 at least), as do 118 that were made 25 % brighter or mirrored and
110 to 117 that were cropped by 2 to 10 %. Other scenes on one background begin at 53.
"""

_SIDE = 96  # pixels of the second look
_BLOCK = 256


@dataclass(frozen=True)
class Copy:
    """Two places with the same picture, the trained one first if there is just one.

    Attributes:
        first: A place.
        second: Another place.
        exact: Whether the files are equal byte for byte.
        mirrored: Whether left is right in one of them.
    """

    first: Place
    second: Place
    exact: bool
    mirrored: bool = False

    @property
    def leaks(self) -> bool:
        """Whether a detector is measured on what it learned."""
        return self.first.trains and not self.second.trains


def near_duplicates(series: Series, thumbnails: Mapping[Path, Thumbnail]) -> tuple[Copy, ...]:
    """Return pairs of images that show the same picture but are not equal byte for byte.

    Args:
        series: Its images are compared, across all data sets and splits.
        thumbnails: Of every image (`duet.series.images.thumbnails`).
    """
    by_image: dict[Path, list[Place]] = defaultdict(list)
    for place in places(series):
        by_image[place.image].append(place)
    # Exact copies would only fill up each other's neighbourhoods; they are reported anyway. All
    # places of a content are kept with its first image.
    for group in same_content(places(series)):
        first = group[0].image
        for image in {place.image for place in group} - {first}:
            by_image[first] += by_image.pop(image, [])
    images = [image for image in by_image if image in thumbnails]
    pairs = _confirmed(images, [thumbnails[image] for image in images])
    return tuple(
        copy
        for first, second, mirrored in pairs
        for copy in _copies(by_image[first], by_image[second], mirrored=mirrored)
    )


def exact_copies(series: Series) -> tuple[Copy, ...]:
    """Return pairs of places with equal files: each place with the first, or with one it leaks."""
    found: list[Copy] = []
    for group in same_content(places(series)):
        trained = [place for place in group if place.trains]
        measured = [place for place in group if not place.trains]
        found += [Copy(place, measured[0], exact=True) for place in trained if measured]
        if not measured:
            found += [Copy(trained[0], place, exact=True) for place in trained[1:]]
    return tuple(found)


def near_problems(copies: Sequence[Copy]) -> Iterator[Problem]:
    """Yield one problem per near-duplicate."""
    for copy in copies:
        first, second = copy.first, copy.second
        turned = ", mirrored" if copy.mirrored else ""
        if copy.leaks:
            what = f"'{second.split}' and 'train' hold the same picture{turned}, see {first.image}"
            remedy = "remove one of the two, or cut the splits by scene: the AP is flattered"
            yield warning("image.near-leak", second.image, what, remedy)
        else:
            what = f"the same picture{turned} as {first.image} ('{first.split}' of {first.source})"
            remedy = "harmless in training; it counts twice in evaluation"
            yield note("image.near-duplicate", second.image, what, remedy)


def _copies(first: Sequence[Place], second: Sequence[Place], *, mirrored: bool) -> Iterator[Copy]:
    """Yield the telling pairs of places of two pictures: a leak of each data set, else one."""
    leaks = False
    for left, right in ((first, second), (second, first)):
        measured = [place for place in right if not place.trains]
        trained = {place.source: place for place in reversed(left) if place.trains and measured}
        for place in trained.values():
            same = [other for other in measured if other.source == place.source]
            yield Copy(place, (same or measured)[0], exact=False, mirrored=mirrored)
            leaks = True
    if not leaks:
        yield Copy(first[0], second[0], exact=False, mirrored=mirrored)


def _confirmed(
    images: Sequence[Path], thumbnails: Sequence[Thumbnail]
) -> Iterator[tuple[Path, Path, bool]]:
    """Yield two images and whether one is the mirror image of the other."""
    found = similar_pairs(thumbnails)
    likely = _filtered(found, lambda index: thumbnails[index], _roughly_the_same)
    sharp = _filtered(likely, lambda index: read_grey(images[index], _SIDE), _the_same)
    for first, second, mirrored in zip(sharp.first, sharp.second, sharp.mirrored, strict=True):
        yield images[first], images[second], bool(mirrored)


def _roughly_the_same(first: Pictures, second: Pictures, cutouts: NDArray[np.float64]) -> Flags:
    return differences(lay(first, second, cutouts, ROUGH), second) <= ROUGH_LIMIT


def _the_same(first: Pictures, second: Pictures, cutouts: NDArray[np.float64]) -> Flags:
    laid = lay(first, second, cutouts, FINE)
    same = differences(laid, second) <= LIMIT
    same[same] = same_detail(laid.take(same), second[same])
    return same


def _filtered(
    pairs: Candidates,
    picture: Callable[[int], NDArray[np.uint8]],
    same: Callable[[Pictures, Pictures, NDArray[np.float64]], Flags],
) -> Candidates:
    """Return the pairs whose pictures are the same by the judgement of ``same``."""
    kept: list[NDArray[np.int64]] = []
    cutouts = np.array(CUTOUTS)
    for start in range(0, len(pairs.first), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(pairs.first)))
        first, second = (
            np.stack([picture(int(index)) for index in side[rows]]).astype(np.float32)
            for side in (pairs.first, pairs.second)
        )
        mirrored = pairs.mirrored[rows]
        first[mirrored] = first[mirrored, :, ::-1]
        kept.append(rows[same(first, second, cutouts[pairs.cutouts[rows]])])
    return pairs.take(np.concatenate(kept) if kept else np.zeros(0, np.int64))
