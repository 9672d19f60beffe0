"""How the head parts of several increments are put together."""

from __future__ import annotations

from typing import Literal

HeadForm = Literal["rows", "towers", "parallel"]
"""Class rows in common layers, a class tower for each increment, or whole heads side by side."""
