"""The colours of an increment's images: all that is kept of how they looked, six numbers.

Old images are gone when later merges change what the scores of their classes mean. Images at hand
that are given their colours stand in for them (docs/method.md, Calibration).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from duet.config import Config

Level = Annotated[float, Field(ge=0, le=255)]
Three = tuple[Level, Level, Level]


class Colours(Config):
    """Statistics of red, green and blue, 0 to 255, over all pixels; every image counts the same."""

    mean: Three
    spread: Three = Field(description="Standard deviations.")
