"""How many objects each new class has to be learned from."""

from __future__ import annotations

from collections.abc import Iterator

from duet.series.problems import Problem, note, warning
from duet.series.series import Series
from duet.series.summary import summarise

FEW = 10
"""Training objects below which a class is called rare, as LVIS does."""

MOST = 50.0
"""Ratio of the most to the least frequent new class from which an increment is unbalanced.

PASCAL VOC 2007, learned without trouble, has 20 : 1 (person to dining table).
"""

MOST_OF_FEW = 10.0
"""The same for a class with fewer than `FEW` objects: the others crowd it out sooner."""


def balance_problems(series: Series) -> Iterator[Problem]:
    """Yield increments whose classes are unbalanced, and classes with very few objects."""
    learned = {item.name for item in series.learned}
    for counts in summarise(series):
        if "train" not in counts.splits or counts.name not in learned:
            continue
        # A class without any object is an error of its own.
        objects = {name: n for name, n in counts.splits["train"].objects.items() if n}
        if not objects:
            continue
        where = f"increment '{counts.name}'"
        most = max(objects, key=lambda name: objects[name])
        for name, number in objects.items():
            ratio = objects[most] / number
            if ratio > MOST or (number < FEW and ratio > MOST_OF_FEW):
                what = f"'{most}' has {objects[most]} training objects and '{name}' {number}: "
                remedy = f"label more of '{name}', or expect a low AP for it"
                yield warning("class.imbalance", where, f"{what}{ratio:.0f} : 1", remedy)
            elif number < FEW:
                what = f"'{name}' has only {number} training object{'s' if number > 1 else ''}"
                yield note("class.few", where, what, "label more if its AP matters")
