"""How unsure a detector is: the objective of merges that learn from unlabelled images.

Shapes: B images, C classes, A anchors.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

Kind = Literal["scores", "classes"]


def detection_entropy(
    logits_BCA: torch.Tensor, *, kind: Kind = "scores", share: float = 0.01, least: int = 10
) -> torch.Tensor:
    """Return the mean entropy of the scores at each image's most confident anchors.

    AdaMerging (arXiv 2310.02575) takes the entropy of a classifier's softmax; a detector has C
    independent yes-or-no scores p instead, nearly all of them near 0, so that only the most
    confident anchors tell whether anything is recognised.

    - ``scores``: the mean of the C binary entropies. Recognising nothing has the lowest one, and
      a merge that follows it far enough gets there.
    - ``classes``: the entropy of p / Σ p, which class it is if it is an object. All scores falling
      together do not change it much.

    Args:
        logits_BCA: ``(B, C, A)`` class scores before the sigmoid.
        kind: See above.
        share: Part of the anchors that count, in (0, 1]: those with the largest logit of any
            class, chosen without gradient.
        least: At least so many anchors of an image count, 1 or more, if it has them.

    Returns:
        A scalar in nats, differentiable in the logits: 0 to ln 2 for ``scores``, 0 to ln C for
        ``classes``.
    """
    anchors = logits_BCA.shape[2]
    count = min(anchors, max(least, math.ceil(share * anchors)))
    best = logits_BCA.detach().amax(1).topk(count, sorted=False).indices
    chosen = logits_BCA.gather(2, best[:, None].expand(-1, logits_BCA.shape[1], -1))
    return (binary_entropy(chosen) if kind == "scores" else class_entropy(chosen)).mean()


def binary_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return -p ln p - (1 - p) ln (1 - p) with p = sigmoid(logits), in nats, element by element.

    It is softplus(z) - z p, which loses all digits where z is large; the entropy is even in z,
    and for z <= 0 both terms are positive.
    """
    below = -logits.abs()
    return torch.nn.functional.softplus(below) - below * below.sigmoid()


def class_entropy(logits_BCA: torch.Tensor) -> torch.Tensor:
    """Return the entropy of p / Σ p over the classes with p = sigmoid(logits), ``(B, A)`` nats."""
    shares = torch.nn.functional.logsigmoid(logits_BCA).log_softmax(1)
    return -(shares.exp() * shares).sum(1)
