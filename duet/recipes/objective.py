"""Unlabelled images of the current domain as the objective of a merge (Concrete, AdaMerging)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from duet.errors import DataError, together
from duet.families.table import resolve_family
from duet.images import read_image
from duet.increments.state import DetectorState
from duet.inference.sources import unreadable
from duet.merging.entropy import detection_entropy
from duet.merging.inputs import Objective
from duet.recipes.recipe import Adapt
from duet.vectors.tensors import Tensors


def objective_from(
    state: DetectorState,
    images: Sequence[Path],
    *,
    image_size: int,
    adapt: Adapt,
) -> Objective:
    """Return the entropy of a detector's class scores as a function of its shared tensors.

    Args:
        state: The detector after the merge in all but its shared tensors: BatchNorm statistics
            fused, head parts of all increments.
        images: Unlabelled images; each is decoded once here, to be sure, and again when used.
        image_size: Side of the square that the detector sees, in pixels.
        adapt: Images per step (all if there are fewer), which entropy of which anchors, and the
            seed of the order: a step's images depend on (seed, step) only, and every image is seen
            once before any is seen again.

    Raises:
        DataError: There are no images, or some cannot be read (all are named).
    """
    paths = tuple(images)
    if not paths:
        raise DataError(
            "got 0 unlabelled images, expected one or more",
            remedy="name a folder with images of the current domain",
        )
    problems = unreadable(paths)
    if problems:
        raise DataError(
            together(problems, summary="some unlabelled images cannot be used"),
            remedy="replace or remove them; nothing was merged or written",
        )
    family = resolve_family(state.family)
    scores = family.class_logits(state)

    def objective(parameters: Tensors, step: int) -> torch.Tensor:
        chosen = [paths[index] for index in images_of(step, len(paths), adapt.batch, adapt.seed)]
        inputs = family.prepare([read_image(path) for path in chosen], image_size=image_size)
        return detection_entropy(
            scores(parameters, inputs), kind=adapt.kind, share=adapt.share, least=adapt.least
        )

    return objective


def images_of(step: int, count: int, batch: int, seed: int) -> list[int]:
    """Return which of ``count`` images a step looks at."""
    size = min(batch, count)
    places = range(step * size, (step + 1) * size)
    return [int(_order(seed, place // count, count)[place % count]) for place in places]


@lru_cache(maxsize=4)
def _order(seed: int, turn: int, count: int) -> np.ndarray:
    """Return all images in the order of one turn through them."""
    return np.random.default_rng([seed, turn]).permutation(count)
