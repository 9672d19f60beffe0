"""What an evaluation found: one row per domain and increment."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duet.evaluation.cells import Cell
from duet.evaluation.checks import Standings, standings
from duet.evaluation.gate import Gate, Verdict, load_gate
from duet.objects.grid import Grid, Shown
from duet.report.cells import cells_table
from duet.report.phrases import percent
from duet.results.gated import kept_before
from duet.runs.gated import judge_cells


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """How well a detector finds the classes of a series or data set, in every domain with data.

    Attributes:
        cells: One per domain and increment, see `duet.runs.cells.evaluate_cells`.
        unread: Domain whose data cannot be read -> why. A gate on it fails.
        unknown: Classes of a data set that the detector does not know.

    Example:
        >>> found = detector.evaluate("shop.yaml", split="val")
        >>> found.map50, found.ap50("night")["can"]
    """

    cells: tuple[Cell, ...]
    unread: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """The cells as mappings: ``pandas.DataFrame(rows)`` works."""
        return tuple(cell.model_dump() for cell in self.cells)

    @property
    def map50(self) -> float | None:
        """Mean AP50 of all (domain, class) pairs with an object, a fraction; None without any."""
        values = [ap for cell in self.cells for ap in cell.ap50.values() if ap is not None]
        return statistics.fmean(values) if values else None

    def ap50(self, domain: str) -> dict[str, float | None]:
        """Return the AP50 of each class in one domain, a fraction; None without an object.

        Raises:
            KeyError: The domain was not evaluated.
        """
        found = [cell.ap50 for cell in self.cells if cell.domain == domain]
        if not found:
            known = ", ".join(dict.fromkeys(cell.domain for cell in self.cells))
            raise KeyError(f"no domain '{domain}' was evaluated: {known}")
        return {name: ap for row in found for name, ap in row.items()}

    def check(self, gate: Gate | str | Path, *, before: Standings | None = None) -> Verdict:
        """Hold it against a gate.

        Args:
            gate: Limits, or the path of their YAML.
            before: What old classes are compared with: the `standings` of an earlier evaluation or
                run; default what the gate names.

        Raises:
            ConfigError: The gate is not valid, or names a detector to compare with.
            DataError: The evaluation that it compares with cannot be read.
        """
        limits = gate if isinstance(gate, Gate) else load_gate(Path(gate))
        known = kept_before(limits) if before is None else before
        return judge_cells(limits, self.cells, known, self.unread)

    @property
    def standings(self) -> Standings:
        """What it says to a gate of each (domain, class)."""
        return standings(self.cells)

    def _grid(self) -> Grid:
        table = cells_table(self.cells)
        foot = [f"{domain} is left out: {why}" for domain, why in self.unread.items()]
        if self.unknown:
            foot.append(f"not measured, the detector does not know them: {', '.join(self.unknown)}")
        heading = f"mAP50 {percent(self.map50)}"
        return Grid(heading, table.header, table.rows, table.words, foot=tuple(foot))
