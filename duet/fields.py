"""Kinds of values in files that duet writes, checked when they are read."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field


def _inside_the_run_folder(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\\" in value or not path.name:
        raise ValueError("must be a path inside the run folder, with forward slashes")
    return value


Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Stage = Annotated[int, Field(ge=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]
Pixels = tuple[float, float, float, float]
InnerPath = Annotated[str, AfterValidator(_inside_the_run_folder)]
"""POSIX path relative to the run folder."""
