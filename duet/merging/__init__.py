"""Merging: one file per method, one row per method in `table.METHODS`.

Names load on first use, so that importing this package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duet.merging.batchnorm import BatchNormFusion, fuse_buffers, fuse_statistics
    from duet.merging.inputs import Inputs
    from duet.merging.shared import Merged, merge_shared
    from duet.merging.stage import Stage
    from duet.merging.table import METHODS, Method, Parameter, resolve
    from duet.merging.trace import MergeTrace, TensorTrace

__all__ = [
    "METHODS",
    "BatchNormFusion",
    "Inputs",
    "MergeTrace",
    "Merged",
    "Method",
    "Parameter",
    "Stage",
    "TensorTrace",
    "fuse_buffers",
    "fuse_statistics",
    "merge_shared",
    "resolve",
]

_HOME = {
    "METHODS": "table",
    "BatchNormFusion": "batchnorm",
    "Inputs": "inputs",
    "MergeTrace": "trace",
    "Merged": "shared",
    "Method": "table",
    "Parameter": "table",
    "Stage": "stage",
    "TensorTrace": "trace",
    "merge_shared": "shared",
    "fuse_buffers": "batchnorm",
    "fuse_statistics": "batchnorm",
    "resolve": "table",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'duet.merging' has no attribute '{name}'")
    return getattr(importlib.import_module(f"duet.merging.{_HOME[name]}"), name)
