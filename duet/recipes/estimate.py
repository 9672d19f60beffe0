"""What a planned merge will cost, from file headers alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from safetensors import safe_open

from duet.increments.store import INCREMENT, MODEL
from duet.recipes.plan import Plan

_SCALARS_PER_SECOND = 4e7
"""Of one stage, measured with TIES on two cores (`tools/bench_merge.py`), hashing included."""
_SCRATCH_MB = 60.0
_ROLES = {"vector": "shared", "shared": "shared", "buffers": "statistics", "part": "own"}


def estimate(plan: Plan) -> dict[str, Any]:
    """Return tensors by role, disk and memory in MB, and seconds for a two-core machine.

    A learned merge takes as long as its steps, which this does not know.
    """
    scalars, roles = 0, {"shared": 0, "statistics": 0, "own": 0}
    disk = 0.0
    leads = {head.members[0][0] for head in plan.heads}  # others bring rows to a part of these
    for number, source in enumerate(plan.sources):
        for key, size in _header(source.path).items():
            group = _ROLES.get(key.partition("/")[0])
            if group == "shared":
                scalars += size
            if (group == "own" and number in leads) or (number == 0 and group is not None):
                roles[group] += 1
                disk += 4 * size / 1e6
    return {
        "tensors": roles,
        "disk_mb": round(disk, 2),
        "memory_mb": _SCRATCH_MB,
        "seconds": round(scalars / _SCALARS_PER_SECOND, 2),
    }


def _header(path: Path) -> dict[str, int]:
    """Return the scalars of each stored tensor; empty for a `.pt` file."""
    for name in (INCREMENT, MODEL):
        if (path / name).is_file():
            with safe_open(path / name, framework="np") as stored:
                keys = stored.keys()
                return {key: math.prod(stored.get_slice(key).get_shape()) for key in keys}
    return {}
