"""Splits that the authors of small data sets do not give: the images in folds, one to measure on.

With k folds, k runs measure on every image once, each time with a detector that did not see it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

from duet.errors import DataError
from published.choices import Choices
from published.labels import LabelRules, check_labels
from published.lists import Listed, Lists, contents
from published.plan import Folder
from published.sets import DataSet


def fold_lists(
    sets: Sequence[DataSet],
    folders: Mapping[str, Folder],
    lists: Mapping[str, Lists],
    choices: Choices,
) -> dict[str, Lists]:
    """Return name of the data set -> its lists, with the splits that its authors do not give.

    What they list for training is cut into folds. The chosen one is evaluated on where they give
    no test list, the next one is to choose on where they give no list for that. Without a choice
    of folds the lists stay as they are.

    Raises:
        DataError: A data set has fewer images than folds.
    """
    if choices.folds is None:
        return dict(lists)
    return {
        item.name: _folded(item, folders, lists[item.name], choices.folds, choices.fold)
        for item in sets
    }


def deal(
    objects: Mapping[str, Counter[str]], alike: Sequence[Sequence[str]], folds: int
) -> tuple[tuple[str, ...], ...]:
    """Return the images of every fold, sorted: the same on every machine.

    Iterative stratification (Sechidis et al., ECML 2011): the rarest class is dealt first, each of
    its images to the fold that lacks most objects of it. Ties are broken by room, then by SHA-256.

    Args:
        objects: Image id -> objects per class.
        alike: Images that stay together.
        folds: How many folds.
    """
    first = {image: images[0] for images in alike for image in images}
    left: dict[str, list[str]] = defaultdict(list)
    for image in sorted(objects, key=lambda image: sha256(image.encode()).digest()):
        left[first.get(image, image)].append(image)
    shown = {head: sum((objects[image] for image in left[head]), Counter[str]()) for head in left}
    total = sum(shown.values(), Counter[str]())
    lacking = [{name: count / folds for name, count in total.items()} for _ in range(folds)]
    dealt: list[list[str]] = [[] for _ in range(folds)]
    while left:
        still = sum((shown[head] for head in left), Counter[str]())
        rarest = min(still, key=lambda name: (still[name], name), default="")
        for head in [head for head in left if shown[head][rarest] or not rarest]:
            needs = [(lacking[n].get(rarest, 0.0), -len(dealt[n]), -n) for n in range(folds)]
            fold = -max(needs)[2]
            for name, count in shown[head].items():
                lacking[fold][name] -= count
            dealt[fold] += left.pop(head)
    return tuple(tuple(sorted(images)) for images in dealt)


def _folded(
    item: DataSet, folders: Mapping[str, Folder], given: Lists, folds: int, fold: int
) -> Lists:
    if given.val and given.test:
        return given
    (whole,) = given.train
    if len(whole.ids) < folds:
        raise DataError(
            f"{item.domain}: {len(whole.ids)} images cannot be cut into {folds} folds",
            remedy="choose fewer --folds",
        )
    dealt = deal(_objects(item, whole, folders[whole.folder]), item.alike, folds)
    numbers = {"val": (fold + 1) % folds} | ({} if given.test else {"test": fold})
    left = (number for number in range(folds) if number not in numbers.values())
    ids = {name: dealt[number] for name, number in numbers.items()}
    ids["train"] = tuple(sorted(image for number in left for image in dealt[number]))
    made = {
        name: (Listed(whole.folder, f"duet-{name}-{fold}-of-{folds}", images),)
        for name, images in ids.items()
    }
    told = ", ".join(f"{name} {len(images)}" for name, images in sorted(ids.items()))
    note = f"{item.domain}: fold {fold} of {folds}, made here: {told} images"
    return replace(given, **made, notes=(*given.notes, note))


def _objects(item: DataSet, whole: Listed, folder: Folder) -> dict[str, Counter[str]]:
    """Return image id -> objects per class; what is wrong with a label file is told later."""
    places = {image: folder.labels[image] for image in whole.ids}
    files, rules = contents(places.values()), LabelRules(item.names)
    return {
        image: check_labels(files[place], where=place[1], rules=rules).objects
        for image, place in places.items()
    }
