"""How a detector answers where nobody says otherwise: the values that all users' paths share."""

from __future__ import annotations

from typing import Literal

Agnostic = Literal["all", "increments", "off"]
"""Which classes suppress each other: all, calibrated ones of different increments, or none."""

Runtime = Literal["auto", "torch", "onnx", "openvino"]
"""Program that runs a detector; ``auto`` is the fastest here, see `duet.fastest.load`."""

Confidence = float | tuple[float, ...]
"""Lowest score that counts, ``[0, 1]``: of all classes, or of each in the order of the labels."""

CONFIDENCE = 0.25
"""Lowest score that counts of a class for which the detector keeps no threshold of its own."""

IOU = 0.7
"""Boxes of one class that overlap more are one object."""

CANDIDATES = 30_000
"""Boxes of an image that suppression looks at, best first, as in Ultralytics."""

DOUBLE_IOU = 0.7
"""Boxes of two classes that overlap more answer one object twice."""

CLEAR = 1.5
"""Log-odds by which a box must be surer than another increment's to hide it: 4.5 times its odds.

Towers that never met are wrong about each other's objects: a near tie is left to who looks
(docs/log.md, 2026-11-30)."""

AGNOSTIC: Agnostic = "increments"
"""Which classes suppress each other's boxes when users look; AP is measured with ``off``."""
