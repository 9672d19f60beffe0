"""Reading every data set of a series under the names that the series uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from duet.aliases import clashes, meaning
from duet.labels import LabelSpace
from duet.series.document import SeriesConfig
from duet.series.model import DomainData
from duet.series.problems import Problem, error, note
from duet.text import shell_line, short_list


def clashing_classes(config: SeriesConfig, start: Sequence[str] = ()) -> Iterator[Problem]:
    """Yield classes of a series that are two names of one thing, in one increment or in two.

    Args:
        config: The series.
        start: Classes of the detector that it goes on from.
    """
    names = config.increment_names()
    owner = dict.fromkeys(start, "start") | {
        label: name
        for name, item in zip(names, config.increments, strict=True)
        for label in item.classes
        if label not in start
    }
    for group in clashes(owner):
        owners = ", ".join(f"'{label}' of increment '{owner[label]}'" for label in group[:20])
        remedy = "a class has one name in all domains: write the same name in every increment"
        yield error("class.alias-clash", group[0], f"these mean the same: {owners}", remedy)


def align(data: DomainData, classes: Sequence[str]) -> tuple[DomainData, tuple[Problem, ...]]:
    """Give the classes of a data set the names that the series uses for them.

    Args:
        data: A data set as read.
        classes: All classes of the series.

    Returns:
        The data set with its labels renamed where they are spelled differently, and what was done:
        a note per renamed class, an error where two classes of the data set mean one of the series.
    """
    wanted = {meaning(name): name for name in classes}
    exact = set(classes)
    new = {n: n if n in exact else wanted.get(meaning(n), n) for n in data.labels}
    problems: list[Problem] = []
    for group in clashes(data.labels):
        if meaning(group[0]) in wanted:
            what = f"these classes mean the same: {short_list(group)}"
            first, *others = group
            renames = " ".join(f"--rename {shell_line(f'{name}={first}')}" for name in others[:20])
            remedy = f"join them: duet data convert SOURCE OUT --to yolo {renames}"
            problems.append(error("class.alias-clash", data.source, what, remedy))
        new.update({name: name for name in group})
    for name, other in new.items():
        if name != other:
            what = f"'{name}' is read as '{other}', the name that the series uses"
            remedy = "nothing to do if they are the same thing; else rename one of the two"
            problems.append(note("class.alias", data.source, what, remedy))
    return replace(data, labels=LabelSpace.of(new.values())), tuple(problems)
