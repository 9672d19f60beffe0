"""A domain as a whole: all data sets that the increments of a series bring of it, as one.

Three rules, the same for evaluation, references, the gallery and the plan:

1. A class is *labelled* in a data set that holds an object of it, in any split. That its name
   stands in the class list says nothing: lists are copied from one data set to the next.
2. An image counts for the classes that are labelled in its data set. The pictures of January, on
   which nobody drew a bottle, are neither hits nor false alarms for the bottles of February.
3. Each data set is evaluated on its own split: the one asked for, else `test`, else `val`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from duet.series.model import DomainData, Slice
from duet.series.slices import eval_slice, eval_split, join_slices, train_slice


@dataclass(frozen=True)
class Domain:
    """The data sets of one domain.

    Attributes:
        name: The domain.
        parts: Its data sets, in the order of their first increments.
    """

    name: str
    parts: tuple[DomainData, ...]

    @property
    def labelled(self) -> frozenset[str]:
        """The classes that are labelled in one of the data sets."""
        return frozenset().union(*(data.labelled for data in self.parts))

    def known(self, classes: Iterable[str]) -> tuple[str, ...]:
        """Return those of ``classes`` that are labelled, in the order given."""
        labelled = self.labelled
        return tuple(name for name in classes if name in labelled)

    def split(self, chosen: str = "") -> str:
        """Return what is evaluated: ``chosen``, else the data sets' own, such as ``test+val``."""
        return "+".join(sorted({chosen or eval_split(data) for data in self.parts}))

    def without_objects(self, classes: Iterable[str], split: str = "") -> list[str]:
        """Return those of ``classes`` that no image of a split shows, ignored objects aside.

        Args:
            classes: Class names.
            split: A split, such as ``train``; by default what is evaluated.
        """
        there: frozenset[str] = frozenset()
        for data in self.parts:
            there |= data.objects.get(split or eval_split(data), frozenset())
        return [name for name in classes if name not in there]

    def absence(self, classes: Sequence[str], split: str = "") -> str:
        """Return in words that a split shows none of ``classes``; empty where it shows one."""
        if len(self.without_objects(classes, split)) < len(classes):
            return ""
        names = ", ".join(classes)
        return f"no labelled object of {names} in the {self.split(split)} split of {self.name}"

    def train(self, classes: Sequence[str]) -> Slice:
        """Return the training images with an object of ``classes``, see `train_slice`.

        Raises:
            DataError: No data set labels any of them.
        """
        cuts = [train_slice(data, there) for data in self.parts if (there := _of(data, classes))]
        return join_slices(cuts, classes)

    def evaluate(self, classes: Sequence[str], split: str = "") -> Slice:
        """Return the evaluation images of all data sets, see `eval_slice`.

        Every image is there whatever the classes, so that all evaluations of a domain pair up;
        `Slice.labelled` says what each of them counts for.

        Args:
            classes: Class names; their position becomes the class id.
            split: The split to evaluate; by default the data sets' own.

        Raises:
            DataError: A data set has no such split.
        """
        cuts = [
            eval_slice(data, _of(data, classes), split or eval_split(data)) for data in self.parts
        ]
        joined = join_slices(cuts, classes)
        owners: dict[Path, set[str]] = defaultdict(set)
        for cut in cuts:
            for image in cut.images:
                owners[image].update(cut.classes)
        labelled = tuple(frozenset(owners[image]) for image in joined.images)
        whole = all(len(names) == len(classes) for names in labelled)
        return replace(joined, split=self.split(split), labelled=() if whole else labelled)


def _of(data: DomainData, classes: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in classes if name in data.labelled)
