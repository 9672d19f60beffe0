"""How far two outputs of one image are apart.

In the layout ``anchors`` every place has its partner, whatever it scores. Rows of which it is known
what they were picked from are held against that: each must be one of the places, every place that
scores clearly above the lowest row must be among them, and their scores must be the best. Ties
cannot matter there.

The other layouts are sets of rows, picked or ordered by score: rounding may swap near ties, and may
pick another row at the cut-off. There rows are paired one to one so that the sum of
log(1 + distance) is least, where the distance of two rows is the larger of their box difference and
their difference in any class score, both in units of the tolerance; a row of another class is
therefore far away. Paired rows are compared if one of the two counts: it scores at least `FLOOR`
and more than twice the score tolerance above the lowest row, or is among the `BEST` best rows of
its side, whatever they score.
"""

from __future__ import annotations

import torch

from duet.export.formats import Tolerance
from duet.families.outputs import Layout

FLOOR = 1e-3
"""Rows that score less are noise to every user."""

BEST = 10
"""So many rows are compared even if they score less: an image without objects proves something."""


def differences(
    expected: torch.Tensor, got: torch.Tensor, layout: Layout, *, size: int, tolerance: Tolerance,
    places: torch.Tensor | None = None,
) -> tuple[float, float]:  # fmt: skip
    """Return the largest differences of box coordinates in pixels and of class scores.

    Args:
        expected: Output of one image without the batch dimension, see `duet.families.decode`.
        got: The other, of the same shape.
        layout: What the numbers mean.
        size: Side of the square in pixels.
        tolerance: What counts as equal; weighs boxes against scores where rows are paired.
        places: ``(A, 4 + C)``: what the rows of ``expected`` were picked from, if it is known.
    """
    if layout == "anchors":
        return apart(expected.T, got.T)
    if places is not None:
        return _off_places(places.double(), got.double(), tolerance)
    classes = 0
    if layout != "queries":
        classes = int(max(expected[:, 5].max(), got[:, 5].max()).round()) + 1
    boxes, scores = _rows(expected, layout, size, classes)
    other_boxes, other_scores = _rows(got, layout, size, classes)
    box_off = torch.cdist(boxes, other_boxes, p=torch.inf)
    score_off = torch.cdist(scores, other_scores, p=torch.inf)
    here, there = _pair(torch.maximum(box_off / tolerance.box_px, score_off / tolerance.score))
    floor = max(FLOOR, float(scores.amax(1).min()) + 2 * tolerance.score)
    counts = _counts(scores, floor)[here] | _counts(other_scores, floor)[there]
    here, there = here[counts], there[counts]
    return float(box_off[here, there].max()), float(score_off[here, there].max())


def apart(one_AX: torch.Tensor, other_AX: torch.Tensor) -> tuple[float, float]:
    """Return the largest differences in the first four columns, and in the others."""
    off = (other_AX.double() - one_AX.double()).abs()
    return float(off[:, :4].max()), float(off[:, 4:].max())


def _off_places(
    places_AX: torch.Tensor, rows_K6: torch.Tensor, tolerance: Tolerance
) -> tuple[float, float]:
    """Return how far picked rows are from the places that they should have been picked from.

    A row scores 0 for all classes but its own; a class that there is not is wrong by more than 1.
    """
    scores_AC, row_scores = places_AX[:, 4:], rows_K6[:, 4]
    count, classes = len(rows_K6), scores_AC.shape[1]
    ids = rows_K6[:, 5].round().long()
    ids = ids.where((ids >= 0) & (ids < classes), classes)
    known = torch.cat((scores_AC, scores_AC.new_full((len(scores_AC), 1), -1)), 1)
    box_off = torch.cdist(rows_K6[:, :4], places_AX[:, :4], p=torch.inf)  # (K, A)
    box, score = _nearest(box_off, (known.T[ids] - row_scores[:, None]).abs(), tolerance)
    best, which = scores_AC.flatten().topk(count)
    score = max(score, float((row_scores.sort(descending=True).values - best).abs().max()))
    sure = best > best[-1] + 2 * tolerance.score
    if not bool(sure.any()):
        return box, score
    own = ids[:, None] == (which[sure] % classes)
    lost = _nearest(
        box_off[:, which[sure] // classes].T,
        (torch.where(own, row_scores[:, None], 0) - best[sure]).abs().T,
        tolerance,
    )
    return max(box, lost[0]), max(score, lost[1])


def _nearest(
    box_off_NM: torch.Tensor, score_off_NM: torch.Tensor, tolerance: Tolerance
) -> tuple[float, float]:
    """Return the largest of the N differences from the one of M that is the nearest to each."""
    off = torch.maximum(box_off_NM / tolerance.box_px, score_off_NM / tolerance.score)
    nearest = off.argmin(1, keepdim=True)
    box, score = box_off_NM.gather(1, nearest).max(), score_off_NM.gather(1, nearest).max()
    return float(box), float(score)


def _rows(
    output: torch.Tensor, layout: Layout, size: int, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``(N, 4)`` boxes in pixels and ``(N, C)`` scores, 0 for the classes not picked."""
    output = output.double()
    boxes = output[:, :4] if layout == "picked" else output[:, :4] * size
    if layout == "queries":
        return boxes, output[:, 4:]
    scores = output.new_zeros(len(output), classes)
    scores[torch.arange(len(output)), output[:, 5].round().long()] = output[:, 4]
    return boxes, scores


def _pair(distances_NN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices of paired rows.

    The logarithm keeps a row that has no partner from spoiling the pairs of the others: of a
    metric it leaves a metric.
    """
    from scipy.optimize import linear_sum_assignment

    here, there = linear_sum_assignment(distances_NN.log1p().cpu().numpy())
    return torch.from_numpy(here), torch.from_numpy(there)


def _counts(scores_NC: torch.Tensor, floor: float) -> torch.Tensor:
    best = scores_NC.amax(1)
    counts = best >= floor
    counts[best.topk(min(BEST, len(best))).indices] = True
    return counts
