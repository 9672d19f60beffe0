"""An increment as a user holds it: a folder, and how much of it counts in a merge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from duet.config import parse_config
from duet.increments.manifest import IncrementManifest, read_manifest
from duet.increments.store import IncrementFile, load_increment
from duet.objects.grid import Grid, Shown, some
from duet.recipes.recipe import Entry


@dataclass(frozen=True, repr=False)
class Increment(Shown):
    """What one training taught, kept without its images; ``0.7 * increment`` counts less.

    Attributes:
        path: Its folder.
        scale: How much of what it changed of the shared weights counts in a merge, from -2 to 2.

    Example:
        >>> day, night = run.increments
        >>> merged = duet.merge([day, 0.7 * night], method="ties", density=0.3)
    """

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Look whether it is an increment folder.

        Raises:
            ModelError: It is none, or its manifest is damaged.
        """
        _ = self.manifest

    @cached_property
    def manifest(self) -> IncrementManifest:
        """What it is and how it was made."""
        return read_manifest(self.path, IncrementManifest)

    @cached_property
    def file(self) -> IncrementFile:
        """Its tensors, mapped from disk: task vector, statistics, head part.

        Raises:
            ModelError: They are damaged.
        """
        return load_increment(self.path)

    @property
    def name(self) -> str:
        """Its name in its series."""
        return self.manifest.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that it brought."""
        return self.manifest.classes

    @property
    def entry(self) -> Entry:
        """It as a line of a recipe.

        Raises:
            ConfigError: The scale is out of range.
        """
        data = {"path": str(self.path), "scale": self.scale}
        return parse_config(Entry, data, where=f"increment '{self.name}'")

    def __mul__(self, factor: float) -> Increment:
        """Return the increment with ``factor`` times the weight."""
        return replace(self, scale=self.scale * factor)

    __rmul__ = __mul__

    def _grid(self) -> Grid:
        own = self.manifest
        size = sum(path.stat().st_size for path in self.path.iterdir() if path.is_file())
        facts = (
            ("classes", f"{len(own.classes)}: {some(own.classes)}" if own.classes else "none new"),
            ("domain", f"{own.domain}, {own.images} images"),
            ("network", f"{own.architecture}, {own.head}"),
            ("start", f"{own.base[:12]}…"),
            ("scale", f"{self.scale:g}"),
            ("size", f"{size / 1e6:.1f} MB"),
        )
        return Grid(f"increment '{self.name}' ({self.path})", ("fact", "value"), facts, words=2)
