"""For families in which an increment owns class rows and nothing else.

A class is one row (the first dimension) of every tensor of a head part. The functions sort
tensors by name, and join, cut, drop and rename rows. None of it loads an engine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from duet.errors import ModelError, did_you_mean
from duet.families.protocol import RoleRules, Roles
from duet.families.tensors import split_tensors
from duet.increments.scores import ScoreMap, applied, chosen
from duet.increments.state import HeadPart
from duet.vectors.tensors import Tensors

PRIOR = 0.01
"""Score that a fresh class row gives to everything.

The engines' own (RT-DETR: C / 80, which for ten classes is a score of 0.36; D-FINE: 1 / (C + 1))
would have few new rows win most queries beside trained ones.
"""


def split_by_name(
    tensors: Tensors,
    *,
    shared: re.Pattern[str],
    buffers: re.Pattern[str],
    own: re.Pattern[str],
) -> Roles:
    """Give every tensor of a one-increment detector one role; whole names must match.

    Args:
        tensors: The detector.
        shared: Matches trainable tensors that increments share.
        buffers: Matches BatchNorm statistics, counters, and constants.
        own: Matches class rows.

    Raises:
        ModelError: A tensor has no role (all are named) or several, or there are no class rows.
    """
    patterns = {"shared": shared, "buffers": buffers, "own": own}

    def role_of(name: str) -> str:
        roles = [role for role, pattern in patterns.items() if pattern.fullmatch(name)]
        return roles[0] if len(roles) == 1 else "several roles" if roles else "no role"

    remedy = "the tensors belong to another family, or the file is damaged"
    return split_tensors(tensors, role_of, remedy=remedy)


def join_rows(parts: Sequence[HeadPart]) -> dict[str, torch.Tensor]:
    """Return the tensors of all parts, joined row under row, oldest increment first.

    Raises:
        ModelError: A part has other tensors than the first, or rows that do not fit its classes.
    """
    shapes = {name: tensor.shape[1:] for name, tensor in parts[0].tensors.items()}
    for part in parts:
        others = {name: tensor.shape[1:] for name, tensor in part.tensors.items()}
        odd = sorted({name for name, _ in shapes.items() ^ others.items()})
        if odd:
            raise ModelError(
                f"head parts hold different tensors: {', '.join(odd[:5])}",
                where=f"head part of '{part.increment}'",
                remedy="the file belongs to another architecture or is damaged",
            )
        require_rows(part, part.tensors)
    return {name: torch.cat([part.tensors[name] for part in parts]) for name in shapes}


def cut_rows(own: Tensors, like: Sequence[HeadPart]) -> tuple[HeadPart, ...]:
    """Return joined rows as parts again; classes and increments as in ``like``."""
    sizes = [len(part.classes) for part in like]
    cut = {name: torch.split(tensor, sizes) for name, tensor in own.items()}
    return tuple(
        replace(part, tensors={name: rows[index].clone() for name, rows in cut.items()})
        for index, part in enumerate(like)
    )


def quiet_rows(
    like: Tensors,
    classes: int,
    *,
    seed: int,
    draw: Callable[[str, torch.Tensor, torch.Generator], object],
) -> dict[str, torch.Tensor]:
    """Return class rows that have learned nothing and score `PRIOR`; see `Family.fresh_rows`.

    Args:
        like: Class rows of another part.
        classes: Number of rows.
        seed: Of what is drawn.
        draw: ``draw(name, rows, generator)`` fills the rows of a weight.
    """
    # A generator of its own: chains run in threads, and the global one would mix their draws.
    generator = torch.Generator().manual_seed(seed)
    fresh = {}
    for name in sorted(like):
        rows = torch.full((classes, *like[name].shape[1:]), -math.log(1 / PRIOR - 1))
        if rows.ndim > 1:
            draw(name, rows, generator)
        fresh[name] = rows
    return fresh


def drop_classes(rules: RoleRules, part: HeadPart, names: Iterable[str]) -> HeadPart | None:
    """Remove classes from a head part; every other tensor stays bit for bit.

    Args:
        rules: Of the family.
        part: A head part of any form.
        names: Classes to remove.

    Returns:
        The part without the rows of ``names``; None if no class is left.

    Raises:
        ModelError: The part has no such class, or its rows do not fit its classes.
    """
    dropped = set(names)
    _require_classes(part, dropped)
    by_class = {n: t for n, t in part.tensors.items() if rules.CLASS_ROWS.match(n)}
    require_rows(part, by_class)
    kept = [index for index, name in enumerate(part.classes) if name not in dropped]
    if not kept:
        return None
    if len(kept) == len(part.classes):
        return part
    cut = {name: tensor[kept].clone() for name, tensor in by_class.items()}
    classes = tuple(part.classes[index] for index in kept)
    return replace(
        part, classes=classes, tensors={**part.tensors, **cut}, scores=chosen(part.scores, classes)
    )


def rename_classes(part: HeadPart, names: Mapping[str, str]) -> HeadPart:
    """Return the part with classes called otherwise; all renamings happen at once.

    Raises:
        ModelError: The part has no class of an old name.
        DataError: Two classes would have one name, or a name is blank.
    """
    _require_classes(part, names)
    classes = tuple(names.get(name, name) for name in part.classes)
    scores = {names.get(name, name): one for name, one in part.scores.items()}
    return replace(part, classes=classes, scores=scores)


def apply_scores(part: HeadPart, rows: Iterable[str]) -> HeadPart:
    """Return the part whose class rows give mapped scores; of its score maps thresholds are left.

    A row w · x + b becomes a · w · x + (a · b + c), with scale a and offset c.

    Args:
        part: A head part of any form.
        rows: Names of the weights and biases of the layers whose outputs are the logits.

    Raises:
        ModelError: Rows do not fit the classes.
    """
    maps = [part.scores.get(name, ScoreMap()) for name in part.classes]
    scale, offset = (torch.tensor([getattr(m, key) for m in maps]) for key in ("scale", "offset"))
    logits = {name: part.tensors[name] for name in rows}
    require_rows(part, logits)
    mapped = {
        name: tensor * scale + offset if tensor.ndim == 1
        else tensor * scale.view(-1, *[1] * (tensor.ndim - 1))
        for name, tensor in logits.items()
    }  # fmt: skip
    return replace(part, tensors={**part.tensors, **mapped}, scores=applied(part.scores))


def _require_classes(part: HeadPart, names: Iterable[str]) -> None:
    for name in sorted(names):
        if name not in part.classes:
            raise ModelError(
                f"no class '{name}'{did_you_mean(name, part.classes)}",
                where=f"head part of '{part.increment}'",
                remedy=f"its classes: {', '.join(part.classes)}",
            )


def require_rows(part: HeadPart, tensors: Tensors) -> None:
    """Raise unless every one of ``tensors`` has one row per class of the part.

    Raises:
        ModelError: With the first that has not.
    """
    for name, tensor in tensors.items():
        if tensor.shape[0] != len(part.classes):
            raise ModelError(
                f"'{name}' has {tensor.shape[0]} rows, expected {len(part.classes)}, one per class",
                where=f"head part of '{part.increment}'",
                remedy="the file is damaged: take it from its source again",
            )
