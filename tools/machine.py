"""What a benchmark says about where it ran."""

from __future__ import annotations

import os
import platform
from typing import Any


def load() -> list[float]:
    """Return how many processes ran or waited, averaged over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def machine() -> dict[str, Any]:
    """Return processor, cores, load and system, JSON-ready."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": load(),
        "system": platform.platform(),
    }
