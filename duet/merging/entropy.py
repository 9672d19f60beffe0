"""How unsure a detector is: the objective of merges that learn from unlabelled images.

Shapes: B images, C classes, A anchors.
"""

from __future__ import annotations

import math

import torch

from duet.errors import ConfigError

LEAST = 10
"""At least so many anchors of an image count, if it has them."""


def detection_entropy(logits_BCA: torch.Tensor, *, share: float = 0.01) -> torch.Tensor:
    """Return the mean binary entropy of class scores over each image's most confident anchors.

    A detector has no distribution over classes, so the entropy of AdaMerging (arXiv 2310.02575)
    becomes that of C independent yes-or-no scores. Nearly all anchors are background with an
    entropy near 0; the most confident ones tell whether anything is recognised.

    Args:
        logits_BCA: ``(B, C, A)`` class scores before the sigmoid.
        share: Part of the anchors that count, in (0, 1]; at least `LEAST`. They are those with
            the largest logit of any class, chosen without gradient.

    Returns:
        A scalar in nats, 0 to ln 2, differentiable in the logits.

    Raises:
        ConfigError: ``share`` is out of range.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share: must be > 0 and <= 1, got {share}")
    anchors = logits_BCA.shape[2]
    count = min(anchors, max(LEAST, math.ceil(share * anchors)))
    chosen = logits_BCA.detach().amax(1).topk(count, sorted=False).indices
    index = chosen[:, None].expand(-1, logits_BCA.shape[1], -1)
    return binary_entropy(logits_BCA.gather(2, index)).mean()


def binary_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return -p ln p - (1 - p) ln (1 - p) with p = sigmoid(logits), in nats, element by element.

    It is softplus(z) - z p, which loses all digits where z is large; the entropy is even in z,
    and for z <= 0 both terms are positive.
    """
    below = -logits.abs()
    return torch.nn.functional.softplus(below) - below * below.sigmoid()
