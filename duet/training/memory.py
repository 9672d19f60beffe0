"""How much main memory a training process needed at most."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def peak_memory() -> int | None:
    """Return the largest resident size of this process so far, in bytes; None on Windows.

    Linux tells it per address space. ``ru_maxrss``, which other systems have to do with, starts a
    child with the size of the parent that launched it.
    """
    status = Path("/proc/self/status")
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.M)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
