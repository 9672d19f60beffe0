"""Start weights by name: a table of files, downloaded only when asked, and checked."""

from duet.weights.manifest import Manifest, WeightsRow, load_manifest
from duet.weights.store import cache_folder, find, name_or_below, presence

__all__ = [
    "Manifest",
    "WeightsRow",
    "cache_folder",
    "find",
    "load_manifest",
    "name_or_below",
    "presence",
]
