"""How long each part of looking at a frame takes, as percentiles."""

from __future__ import annotations

from collections import deque

import numpy as np

STAGES = ("capture", "inference", "track", "draw", "end to end")
PERCENTILES = (50, 95, 99)

_KEPT = 20_000  # frames: ten minutes at 30 per second; a camera runs for weeks


class Latency:
    """Durations of stages, in seconds; the last 20 000 of each are kept.

    ``capture``: live, from the arrival of a frame's data to its start in the detector (decoding,
    and waiting for the detector); in a recording, the time that the detector waited for the frame.
    ``end to end``: from the same start until the next frame is asked for, so that drawing and
    saving count.
    """

    def __init__(self) -> None:
        self._spent: dict[str, deque[float]] = {}

    def add(self, stage: str, seconds: float) -> None:
        """Note one duration."""
        self._spent.setdefault(stage, deque(maxlen=_KEPT)).append(seconds)

    def last(self, stage: str) -> float | None:
        """Return the newest duration in seconds."""
        spent = self._spent.get(stage)
        return spent[-1] if spent else None

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Return ``{stage: {p50_ms, p95_ms, p99_ms}}`` of the stages that happened."""
        known = [name for name in STAGES if name in self._spent]
        return {
            name: {
                f"p{share}_ms": round(float(value) * 1000, 3)
                for share, value in zip(
                    PERCENTILES, np.percentile(self._spent[name], PERCENTILES), strict=True
                )
            }
            for name in [*known, *sorted(set(self._spent) - set(known))]
        }

    def table(self) -> str:
        """Return the percentiles as text, one stage per line, in milliseconds."""
        lines = [f"{'latency (ms)':<14}" + "".join(f"{f'p{share}':>9}" for share in PERCENTILES)]
        lines += [
            f"{name:<14}" + "".join(f"{value:>9.1f}" for value in row.values())
            for name, row in self.as_dict().items()
        ]
        return "\n".join(lines)
