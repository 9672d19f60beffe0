"""The shipped D-FINE configurations, as data: reading one needs no engine and no network.

n, s, m, l and x are the published sizes (Peng et al., ICLR 2025, arXiv 2410.13842); tiny has half a
million parameters, for tests and small series.
"""

from __future__ import annotations

import json
from typing import Any

from duet.errors import ModelError, did_you_mean
from duet.shipped import shipped
from duet.text import shown


def known_architectures() -> tuple[str, ...]:
    """Return the names of the shipped configurations, such as ``dfine-tiny``."""
    return tuple(sorted(path.stem for path in shipped("configs", "model").glob("dfine-*.json")))


def architecture(name: str) -> dict[str, Any]:
    """Return what a shipped configuration says beyond the engine's defaults.

    A name is only ever looked up: no path and no repository of the user's reaches the engine.

    Raises:
        ModelError: No such configuration; with the nearest name.
    """
    known = known_architectures()
    if name not in known:
        raise ModelError(
            f"unknown D-FINE architecture {shown(name)}{did_you_mean(name, known)}",
            remedy=f"shipped: {', '.join(known)}",
        )
    path = shipped("configs", "model", f"{name}.json")
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return settings


def require_queries(name: str, image_size: int) -> None:
    """Refuse an image size at which the encoder has fewer places than the decoder has queries.

    Raises:
        ModelError: With the smallest size that does.
    """
    settings = architecture(name)
    queries = settings.get("num_queries", 300)
    strides = settings.get("feat_strides", [8, 16, 32])

    def places(size: int) -> int:
        return sum((size // stride) ** 2 for stride in strides)

    if places(image_size) < queries:
        least = next(size for size in range(32, 4096, 32) if places(size) >= queries)
        raise ModelError(
            f"{name} picks {queries} places of an image, but at {image_size} px there are "
            f"{places(image_size)}",
            remedy=f"use an image size of at least {least}",
        )
