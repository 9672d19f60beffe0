"""Near-duplicates: one photograph saved twice, in sizes, qualities or cuts of its own.

`fingerprint` proposes pairs, a look at the thumbnails throws most of them out, and a second look at
the files decides. What was compressed, resized, brightened or cropped a little is found; other
scenes on one background are not near-duplicates, and neither are mirrored or turned pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from duet.doctor.align import FINE, ROUGH, differences
from duet.doctor.fingerprint import CUTOUTS, Candidates, similar_pairs
from duet.series.check import Place, places, same_content
from duet.series.images import Thumbnail, read_grey
from duet.series.model import Series
from duet.series.problems import Problem, note, warning

ROUGH_LIMIT = 80.0
"""Largest difference (`differences`) of thumbnails that is worth a second look."""

LIMIT = 24.0
"""Largest difference of two copies of one picture, in the second look.

Of 1500 altered copies of photographs (JPEG quality 20, half and 1.6 times the size, 25 % brighter,
2 to 10 % cropped), 98 % stay below; with another object pasted in, 2 % do.
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
    """

    first: Place
    second: Place
    exact: bool

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
    for place in places(series.increments):
        by_image[place.image].append(place)
    # Exact copies would only fill up each other's neighbourhoods; they are reported anyway. All
    # places of a content are kept with its first image.
    for group in same_content(places(series.increments)):
        first = group[0].image
        for image in {place.image for place in group} - {first}:
            by_image[first] += by_image.pop(image, [])
    images = [image for image in by_image if image in thumbnails]
    pairs = _confirmed(images, [thumbnails[image] for image in images])
    return tuple(_copy(by_image[first], by_image[second]) for first, second in pairs)


def exact_copies(series: Series) -> tuple[Copy, ...]:
    """Return pairs of places with equal files: each place with the first, or with one it leaks."""
    found: list[Copy] = []
    for group in same_content(places(series.increments)):
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
        if copy.leaks:
            what = f"'{second.split}' and 'train' hold the same picture, see {first.image}"
            remedy = "remove one of the two, or cut the splits by scene: the AP is flattered"
            yield warning("image.near-leak", second.image, what, remedy)
        else:
            what = f"the same picture as {first.image} ('{first.split}' of {first.source})"
            remedy = "harmless in training; it counts twice in evaluation"
            yield note("image.near-duplicate", second.image, what, remedy)


def _copy(first: Sequence[Place], second: Sequence[Place]) -> Copy:
    """Return the most telling pair of places of two pictures: a leak if there is one."""
    for left, right in ((first, second), (second, first)):
        trained = [place for place in left if place.trains]
        measured = [place for place in right if not place.trains]
        for place in measured:
            same = [other for other in trained if other.source == place.source]
            if trained:
                return Copy((same or trained)[0], place, exact=False)
    return Copy(first[0], second[0], exact=False)


def _confirmed(
    images: Sequence[Path], thumbnails: Sequence[Thumbnail]
) -> Iterator[tuple[Path, Path]]:
    found = similar_pairs(thumbnails)
    likely = _filtered(found, lambda index: thumbnails[index], ROUGH, ROUGH_LIMIT)
    sharp = _filtered(likely, lambda index: _second_look(images[index]), FINE, LIMIT)
    for first, second in zip(sharp.first, sharp.second, strict=True):
        yield images[first], images[second]


def _second_look(image: Path) -> NDArray[np.uint8]:
    return read_grey(image, _SIDE)


def _filtered(
    pairs: Candidates,
    picture: Callable[[int], NDArray[np.uint8]],
    blurs: Sequence[float],
    limit: float,
) -> Candidates:
    """Return the pairs whose pictures differ by no more than ``limit`` anywhere."""
    kept: list[NDArray[np.int64]] = []
    cutouts = np.array(CUTOUTS)
    for start in range(0, len(pairs.first), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(pairs.first)))
        first, second = (
            np.stack([picture(int(index)) for index in side[rows]]).astype(np.float32)
            for side in (pairs.first, pairs.second)
        )
        largest = differences(first, second, cutouts[pairs.cutouts[rows]], blurs)
        kept.append(rows[largest <= limit])
    chosen = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return Candidates(pairs.first[chosen], pairs.second[chosen], pairs.cutouts[chosen])
