"""This machine: each training in a process of its own, as many at a time as the plan says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from duet.errors import ConfigError
from duet.runs.engines.engine import HERE, Engine, Wishes


@contextmanager
def opened(wishes: Wishes, out: Path) -> Iterator[Engine]:
    """Yield what needs nothing.

    Raises:
        ConfigError: Something is asked that several machines need.
    """
    asked = {
        "--address": wishes.address, "--store": wishes.store, "--stage-data": wishes.stage_data
    }  # fmt: skip
    if words := [word for word, value in asked.items() if value]:
        raise ConfigError(
            f"{', '.join(words)} is for several machines", where="--engine local",
            remedy="add --engine ray, or leave it out",
        )  # fmt: skip
    yield HERE
