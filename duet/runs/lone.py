"""A batch of one image that is too small to learn from, foreseen before any training."""

from __future__ import annotations

import re
from collections.abc import Mapping

from duet.errors import ConfigError, together
from duet.training.config import Schedule


def coarsest_stride(architecture: str) -> int:
    """Return the pixels of one cell of the coarsest feature map that an architecture trains on."""
    return 64 if re.search(r"([nslmxtceb]6|-p6)\.yaml$", architecture) else 32


def require_company(images: Mapping[str, int], schedule: Schedule, architecture: str) -> None:
    """Refuse trainings whose last batch is one image with a single cell of features.

    Batch normalisation has nothing to compare such a cell with; the engine raises when it sees one
    (`BaseTrainer._build_train_pipeline`), perhaps at the last increment of a long series.

    Args:
        images: Training -> its number of images.
        schedule: Of all of them.
        architecture: What is trained.

    Raises:
        ConfigError: With every training concerned.
    """
    stride = coarsest_stride(architecture)
    if schedule.image_size >= 2 * stride:
        return
    batch = schedule.batch
    alone = [title for title, count in images.items() if (count % batch or batch) == 1]
    if not alone:
        return
    fitting = next(
        (
            size
            for size in range(max(batch, 2), 4 * batch + 8)
            if all((count % size or size) > 1 for count in images.values())
        ),
        None,
    )
    other = f"--batch {fitting}, or " if fitting else ""
    listed = [f"{title}: {images[title]} images" for title in alone]
    raise ConfigError(
        together(
            listed,
            summary=f"the last batch of {batch} would be one image, from which nothing is learned "
            f"at {schedule.image_size} px",
        ),
        where="batch",
        remedy=f"{other}image_size: {2 * stride} or more",
    )
