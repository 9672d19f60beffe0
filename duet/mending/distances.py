"""How far a detector's answers are from those of its specialists, place by place (pure).

Shapes: B images, C classes, A places, X outputs of a box, R bins of one of its sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div

from duet.families.answers import Answers


@dataclass(frozen=True)
class Voice:
    """One box output of a specialist, with the classes that it is for.

    Attributes:
        specialist: Its number.
        boxes: Position in `Answers.boxes`.
        columns: Its classes in `Answers.scores`.
        places: Where the detector that learns has them; as many.
    """

    specialist: int
    boxes: int
    columns: tuple[int, ...]
    places: tuple[int, ...]


def voices_of(
    learner: Sequence[Sequence[str]],
    specialists: Sequence[Sequence[Sequence[str]]],
    boxes: Sequence[int],
) -> list[Voice]:
    """Return who speaks for which classes; classes are known by name.

    Args:
        learner: Classes of each head part of the detector that learns.
        specialists: Of each specialist, likewise.
        boxes: How many box outputs each specialist has: one, or one for each part.
    """
    known = [name for part in learner for name in part]
    voices = []
    for number, parts in enumerate(specialists):
        names = [name for part in parts for name in part]
        sets = parts if boxes[number] > 1 else (names,)
        for place, own in enumerate(sets):
            both = [name for name in own if name in known]
            if both:
                columns = tuple(names.index(name) for name in both)
                voices.append(
                    Voice(number, place, columns, tuple(known.index(name) for name in both))
                )
    return voices


def class_targets(voices: Sequence[Voice], theirs: Sequence[Answers], classes: int) -> torch.Tensor:
    """Return ``(B, C, A)`` scores in [0, 1]: the mean of the specialists that know a class."""
    like = theirs[0].scores
    total = like.new_zeros((len(like), classes, like.shape[2]))
    count = like.new_zeros((classes, 1))
    for voice in voices:
        scores = theirs[voice.specialist].scores[:, list(voice.columns)].sigmoid()
        total[:, list(voice.places)] += scores
        count[list(voice.places)] += 1
    return total / count.clamp_(min=1)


def class_distance(
    scores_BCA: torch.Tensor, targets_BCA: torch.Tensor, sizes: Sequence[int]
) -> torch.Tensor:
    """Return the binary KL divergence of class scores, summed over head parts: a scalar.

    Each part's is the sum over its classes and all places over the sum of its targets, which is
    about the number of places that show an object: empty places count, and cannot drown the others.

    Args:
        scores_BCA: Logits of the detector that learns.
        targets_BCA: What they should say, in [0, 1].
        sizes: Classes of each head part.
    """
    entropy = torch.special.entr(targets_BCA) + torch.special.entr(1 - targets_BCA)
    cross = binary_cross_entropy_with_logits(scores_BCA, targets_BCA, reduction="none")
    apart = torch.split(cross - entropy, [*sizes], 1)
    sums = [one.sum().clamp(min=1) for one in torch.split(targets_BCA, [*sizes], 1)]
    return torch.stack([one.sum() / many for one, many in zip(apart, sums, strict=True)]).sum()


def box_distance(
    boxes_BXA: torch.Tensor, voices: Sequence[Voice], theirs: Sequence[Answers], bins: int
) -> torch.Tensor:
    """Return how far boxes are from those of the specialist that is surest of a place: a scalar.

    With bins it is KL(specialist || learner) of the side distributions, the mean over the sides;
    without, the squared distance of the outputs. Places count by that specialist's best score.

    Args:
        boxes_BXA: Of the detector that learns.
        voices: Specialists for at least one of its classes.
        theirs: Answers of all specialists.
        bins: R; 1 = the outputs are no distributions.
    """
    scores = [theirs[one.specialist].scores[:, list(one.columns)].amax(1) for one in voices]
    weight, surest = torch.stack(scores).sigmoid().max(0)
    boxes = torch.stack([theirs[one.specialist].boxes[one.boxes] for one in voices])
    chosen = boxes.gather(0, surest[None, :, None].expand(1, -1, *boxes.shape[2:]))[0]
    if bins == 1:
        apart = (boxes_BXA - chosen).square().mean(1)
    else:
        shape = (len(chosen), -1, bins, chosen.shape[2])
        ours, other = (one.reshape(shape).log_softmax(2) for one in (boxes_BXA, chosen))
        apart = kl_div(ours, other, reduction="none", log_target=True).sum(2).mean(1)
    return (apart * weight).sum() / weight.sum().clamp(min=1e-6)
