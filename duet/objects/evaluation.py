"""What an evaluation found: one row per domain and increment."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from duet.objects.grid import Grid, Shown


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """How well a detector finds the classes of a series, in every domain that has data.

    Attributes:
        rows: One mapping per domain and increment, see `duet.runs.evaluate.evaluate_cells`:
            ``domain``, ``increment``, ``split``, ``images``, ``map50``, ``map`` (fractions, None
            where no object is labelled) and ``ap50`` per class. ``pandas.DataFrame(rows)`` works.

    Example:
        >>> found = detector.evaluate("shop.yaml", split="val")
        >>> found.map50, found.ap50("night")["can"]
    """

    rows: tuple[dict[str, Any], ...]

    @property
    def map50(self) -> float | None:
        """Mean AP50 of all (domain, class) pairs with an object, a fraction; None without any."""
        values = [ap for row in self.rows for ap in row["ap50"].values() if ap is not None]
        return statistics.fmean(values) if values else None

    def ap50(self, domain: str) -> dict[str, float | None]:
        """Return the AP50 of each class in one domain, a fraction; None without an object.

        Raises:
            KeyError: The domain was not evaluated.
        """
        found = [row["ap50"] for row in self.rows if row["domain"] == domain]
        if not found:
            known = ", ".join(dict.fromkeys(row["domain"] for row in self.rows))
            raise KeyError(f"no domain '{domain}' was evaluated: {known}")
        return {name: ap for row in found for name, ap in row.items()}

    def _grid(self) -> Grid:
        rows = tuple(
            (
                row["domain"], row["increment"], row["split"], str(row["images"]),
                _percent(row["map50"]), _percent(row["map"]),
            )
            for row in self.rows
        )  # fmt: skip
        header = ("domain", "classes of", "split", "images", "mAP50", "mAP")
        return Grid(f"mAP50 {_percent(self.map50)} %", header, rows, words=3)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
