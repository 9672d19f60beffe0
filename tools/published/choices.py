"""What `prepare` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from duet.errors import ConfigError

Overlap = Literal["refuse", "drop-from-train"]


@dataclass(frozen=True)
class Choices:
    """What the user decides where the archives leave a question; see docs/published.md.

    Attributes:
        difficult: What later reads do with objects marked difficult: ignore, drop or keep.
        overlap: Images in training and evaluation lists: refuse, or drop them from training.
        allow_counts: Accept other counts than the published ones.
        split_seed: Seed to split a data set that has no evaluation list; None refuses it.
        folds: Folds to cut a data set into whose authors do not give all splits; None: see above.
        fold: The fold to evaluate on; the next one is to choose on.
        drop_names: Names of objects that are left out.
        drop_broken_boxes: Leave objects out whose box cannot be one, or that are there twice.
    """

    difficult: str = "ignore"
    overlap: Overlap = "refuse"
    allow_counts: bool = False
    split_seed: int | None = None
    folds: int | None = None
    fold: int = 0
    drop_names: tuple[str, ...] = ()
    drop_broken_boxes: bool = False

    def __post_init__(self) -> None:
        if self.folds is not None and not (self.folds >= 3 and 0 <= self.fold < self.folds):
            raise ConfigError(
                f"fold {self.fold} of {self.folds}: expected three folds or more, and one of them",
                where="--fold",
                remedy=f"the first is 0, the last {max(self.folds, 3) - 1}",
            )
