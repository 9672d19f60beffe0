"""Increment folders and detector files: what is kept of a stage, without any of its images.

Names load on first use, so that importing this package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duet.increments.base import load_base, save_base
    from duet.increments.guard import load_pt
    from duet.increments.manifest import (
        SCHEMA_VERSION,
        DetectorManifest,
        IncrementManifest,
        Lineage,
        PartEntry,
    )
    from duet.increments.state import DetectorState, HeadPart
    from duet.increments.store import (
        DetectorFile,
        IncrementFile,
        load_detector,
        load_increment,
        save_detector,
        save_increment,
    )

__all__ = [
    "SCHEMA_VERSION",
    "DetectorFile",
    "DetectorManifest",
    "DetectorState",
    "HeadPart",
    "IncrementFile",
    "IncrementManifest",
    "Lineage",
    "PartEntry",
    "load_base",
    "load_detector",
    "load_increment",
    "load_pt",
    "save_base",
    "save_detector",
    "save_increment",
]

_HOME = {
    "SCHEMA_VERSION": "manifest",
    "DetectorFile": "store",
    "DetectorManifest": "manifest",
    "DetectorState": "state",
    "HeadPart": "state",
    "IncrementFile": "store",
    "IncrementManifest": "manifest",
    "Lineage": "manifest",
    "PartEntry": "manifest",
    "load_base": "base",
    "load_detector": "store",
    "load_increment": "store",
    "load_pt": "guard",
    "save_base": "base",
    "save_detector": "store",
    "save_increment": "store",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'duet.increments' has no attribute '{name}'")
    return getattr(importlib.import_module(f"duet.increments.{_HOME[name]}"), name)
