"""What nobody could learn, refused before any training.

An increment of known classes asks much of a strategy and of a family; and a batch may be one image
that is too small to learn from.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from duet.errors import ConfigError, DataError, together
from duet.families.table import row_of
from duet.series import Increment
from duet.series.series import known_among_new
from duet.training.config import Strategy
from duet.training.schedule import Schedule


def adapts(increment: Increment, known: Collection[str]) -> bool:
    """Tell whether all classes of an increment are known already.

    Raises:
        DataError: Some are and some are not.
    """
    if mixed := known_among_new(increment.classes, known):
        raise DataError(
            f"brings new classes and known ones: {', '.join(mixed)}",
            where=f"increment '{increment.name}'",
            remedy="split it in two: an increment of new classes and one of known ones",
        )
    return any(name in known for name in increment.classes)


def require_adaptable(
    strategy: Strategy, family: str, increment: Increment, parts: Sequence[tuple[str, ...]]
) -> None:
    """Refuse an increment of known classes that a strategy cannot learn with a family's detectors.

    Args:
        strategy: With the head form that the family builds.
        family: Name of the family.
        increment: What is to be learned; its classes are all known.
        parts: Classes of each head part of the detector.

    Raises:
        ConfigError: It cannot; says what can.
    """
    where = f"strategy '{strategy.name}', increment '{increment.name}'"
    asked = [part for part in parts if not set(part).isdisjoint(increment.classes)]
    if strategy.head == "parallel" and len(asked if strategy.refines else parts) > 1:
        raise ConfigError(
            "an increment of known classes trains no head of its own, and of heads in parallel "
            "each detects only some of them",
            where=where,
            remedy="choose a strategy with head: towers or rows; or with trunk: frozen, and write "
            "an increment for the classes of each head",
        )
    if strategy.refines:
        return  # on the detector of these classes alone
    missing = [name for part in parts for name in part if name not in increment.classes]
    if strategy.old_negatives == "mask" and missing and not row_of(family).leaves_out:
        raise ConfigError(
            f"known classes that nobody labelled there would count as background: "
            f"{', '.join(missing)}; detectors of the family '{family}' cannot leave them out of "
            "their loss",
            where=where,
            remedy="choose a strategy with old_negatives: pseudo or train, or label all known "
            "classes",
        )


def require_learnable(
    strategies: Iterable[Strategy], family: str, series: Iterable[Increment]
) -> None:
    """Ask `adapts` and `require_adaptable` for every increment of a series.

    Raises:
        DataError: An increment brings new classes and known ones.
        ConfigError: A strategy cannot learn an increment.
    """
    known: dict[str, None] = {}
    parts: list[tuple[str, ...]] = []
    chosen = [one for one in strategies if one.data == "increment" and not one.apart]
    for increment in series:
        if adapts(increment, known):
            for strategy in chosen:
                require_adaptable(strategy, family, increment, parts)
        else:
            parts.append(increment.classes)
        known |= dict.fromkeys(increment.classes)


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
