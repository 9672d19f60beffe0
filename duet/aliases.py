"""One table of class names that mean the same in different data sets (VOC, COCO, BDD100K, ...).

Class identity is the exact name (`duet.labels`). Aliases count only where a caller asks for them:
to take the class rows of start weights over by name, to read the data sets of a series under the
names that the series uses, and to convert the names of a data set.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

from duet.errors import DataError, together
from duet.text import short_list

GROUPS: tuple[tuple[str, ...], ...] = (
    ("person", "pedestrian", "human"),
    ("bicycle", "bike", "pedal cycle"),
    ("car", "automobile"),
    ("motorcycle", "motorbike", "motor"),
    ("airplane", "aeroplane", "plane"),
    ("truck", "lorry"),
    ("traffic light", "traffic signal"),
    ("traffic sign", "road sign"),
    ("backpack", "rucksack"),
    ("tie", "necktie"),
    ("donut", "doughnut"),
    ("couch", "sofa"),
    ("potted plant", "houseplant"),
    ("tv", "tv monitor", "television"),
    ("laptop", "laptop computer"),
    ("remote", "remote control"),
    ("cell phone", "mobile phone", "cellular telephone"),
    ("microwave", "microwave oven"),
    ("refrigerator", "fridge"),
    ("hair drier", "hair dryer"),
    ("eggplant", "aubergine"),
    ("zucchini", "courgette"),
    ("ladybug", "ladybird"),
)
"""Names of one thing, COCO's first. Case, spaces, hyphens and underscores do not count anywhere.

Left out on purpose: what is only part of the other (a rider is not any person, a van is not a car,
a stop sign is not any traffic sign), and words of two meanings (mouse, crane, orange, football).
A pedestrian counts as a person because COCO has no nearer word for people on foot.
"""

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
COCO80 = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
BDD10 = (
    "person", "rider", "car", "truck", "bus", "train", "motor", "bike", "traffic light",
    "traffic sign",
)  # fmt: skip

VOCABULARIES: Mapping[str, tuple[str, ...]] = {"voc": VOC, "coco": COCO80, "bdd": BDD10}
"""Class names of published data sets, in the order of their ids. BDD's are those of its 2018 files,
which Diverse Weather took over; later files say pedestrian, motorcycle and bicycle."""

_Key = Callable[[str], "str | None"]


def same_class(name: str, known: Sequence[str]) -> str | None:
    """Return the class of ``known`` that ``name`` means, or None.

    The exact name counts first, then one that differs by case, spaces, hyphens or underscores,
    then an alias.

    Raises:
        DataError: Several classes are equally near.
    """
    for key in _KEYS:
        wanted = key(name)
        found = [other for other in known if wanted is not None and key(other) == wanted]
        if len(found) > 1:
            raise DataError(
                f"'{name}' can mean {' or '.join(map(repr, found[:5]))}",
                remedy="name the class exactly",
            )
        if found:
            return found[0]
    return None


def match_classes(wanted: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Pair classes that mean the same, each with at most one other.

    All exact names are paired first, then those that differ by case, spaces, hyphens or
    underscores, then aliases. So ``person`` takes ``person``, and a ``pedestrian`` beside it gets
    nothing.

    Args:
        wanted: Different class names.
        known: Different class names.

    Returns:
        Wanted name to known name, in the order of ``wanted``; classes without a partner are absent.

    Raises:
        DataError: A class has several partners that are equally near; all such cases are named.
    """
    pairs: dict[str, str] = {}
    problems: list[str] = []
    for key in _KEYS:
        taken = set(pairs.values())
        ours = _grouped((name for name in wanted if name not in pairs), key)
        theirs = _grouped((name for name in known if name not in taken), key)
        for shared in ours.keys() & theirs.keys():
            left, right = ours[shared], theirs[shared]
            if len(left) == len(right) == 1:
                pairs[left[0]] = right[0]
            else:
                problems.append(f"{short_list(left)} can each mean {short_list(right)}")
    if problems:
        raise DataError(
            together(sorted(set(problems)), summary="classes cannot be paired by name"),
            remedy="rename them so that the names of a pair are equal",
        )
    return {name: pairs[name] for name in wanted if name in pairs}


def _grouped(names: Iterable[str], key: _Key) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        shared = key(name)
        if shared is not None:
            groups.setdefault(shared, []).append(name)
    return groups


def spelled(name: str) -> str | None:
    """Return what is left of a name without case, spaces, hyphens and underscores, or None."""
    plain = name.casefold()
    if not plain.isascii():
        plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(plain.split()).replace("-", "").replace("_", "") or None


def canonical(name: str) -> str | None:
    """Return the first name of the group that ``name`` is in, or None."""
    plain = spelled(name)
    return _CANONICAL.get(plain) if plain else None


def meaning(name: str) -> str:
    """Return what all names of one thing share: names with one meaning are one class."""
    plain = spelled(name)
    group = _CANONICAL.get(plain)
    return (spelled(group) if group else plain) or name


def clashes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of two or more different names that mean the same."""
    groups = _grouped(dict.fromkeys(names), meaning)
    return [tuple(group) for group in groups.values() if len(group) > 1]


_CANONICAL = {spelled(name): group[0] for group in GROUPS for name in group}
_KEYS: tuple[_Key, ...] = (str, spelled, canonical)
