"""Increments of known classes: who can learn them in a new domain, asked before any training."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from duet.errors import ConfigError, DataError
from duet.families.table import leaves_out
from duet.series import Increment
from duet.series.series import known_among_new
from duet.training.config import Strategy


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
    if strategy.old_negatives == "mask" and missing and not leaves_out(family):
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
    """Ask all of the above for every increment of a series, before anything is trained.

    Raises:
        DataError: An increment brings new classes and known ones.
        ConfigError: A strategy cannot learn an increment.
    """
    known: dict[str, None] = {}
    parts: list[tuple[str, ...]] = []
    chosen = [strategy for strategy in strategies if strategy.data == "increment"]
    for increment in series:
        if adapts(increment, known):
            for strategy in chosen:
                require_adaptable(strategy, family, increment, parts)
        else:
            parts.append(increment.classes)
        known |= dict.fromkeys(increment.classes)
