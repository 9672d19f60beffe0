"""What learning left, as a user holds it: a finished run, or one learned increment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from duet.comparison.gated import judge
from duet.comparison.runs import Run as FinishedRun
from duet.errors import DataError, ModelError, did_you_mean
from duet.evaluation.checks import Standings
from duet.evaluation.gate import Gate, Verdict, load_gate
from duet.evaluation.indices import Indices
from duet.increments.manifest import MANIFEST
from duet.objects.detector import Detector
from duet.objects.grid import Grid, Shown
from duet.objects.increment import Increment
from duet.objects.opening import load
from duet.report.markdown import REPORT_FILE
from duet.report.tables import summary_table
from duet.results.files import load_results
from duet.results.gated import kept_before, measured_run
from duet.results.schema import Results
from duet.runs.steps import StepReport


@dataclass(frozen=True, repr=False)
class Run(Shown):
    """A run folder with results; `duet.learn` gives it, and ``Run(folder)`` opens an older one.

    Attributes:
        path: The run folder.

    Example:
        >>> run = duet.learn("shop.yaml", ["duet-plus", "seq-ft"], out="runs/shop")
        >>> run.indices["duet-plus"].h, run.report
    """

    path: Path

    def __post_init__(self) -> None:
        """Read the results.

        Raises:
            DataError: There are none, or they are of no use.
        """
        object.__setattr__(self, "path", Path(self.path))
        _ = self.results

    @cached_property
    def results(self) -> Results:
        """All that was measured: `results.json`."""
        return load_results(self.path)

    @property
    def indices(self) -> Mapping[str, Indices]:
        """RI, GI, PI, RAI, H, forgetting and BWT by strategy, fractions."""
        return {strategy.name: strategy.indices for strategy in self.results.strategies}

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / REPORT_FILE

    @property
    def detector(self) -> Detector:
        """The last detector of the strategy that the report is about."""
        return self.detectors()[-1]

    def check(self, gate: Gate | str | Path, *, before: Standings | None = None) -> Verdict:
        """Hold the strategy that the report is about against a gate, or those that it names.

        Args:
            gate: Limits, or the path of their YAML.
            before: What old classes are compared with: the `standings` of an earlier evaluation or
                run; default what the gate names, else each
                class when it was learned.

        Raises:
            ConfigError: The gate is not valid, names what the run does not have, or a detector to
                compare with.
            DataError: The evaluation that it compares with cannot be read.
        """
        limits = gate if isinstance(gate, Gate) else load_gate(Path(gate))
        known = kept_before(limits) if before is None else before
        own = (FinishedRun(self.path, self.path.name, self.results),)
        return judge(limits, own, (self.results.main_strategy,), before=known)

    @property
    def standings(self) -> Standings:
        """What the last detector says to a gate of each (domain, class)."""
        return measured_run(self.results, self.results.main).now

    def detectors(self, strategy: str | None = None) -> list[Detector]:
        """Return the detectors of a strategy, one after each increment.

        Args:
            strategy: Default the one that the report is about.

        Raises:
            DataError: The run has no such strategy, or keeps no detector of it.
        """
        return [load(folder) for folder in self._folders("models", strategy)]

    @property
    def increments(self) -> list[Increment]:
        """The increments that the reported strategy learned, in order, ready to be merged."""
        found = [Increment(folder) for folder in self._folders("increments", None)]
        return sorted(found, key=lambda one: one.manifest.index)

    def _folders(self, kind: str, strategy: str | None) -> list[Path]:
        names = [strategy.name for strategy in self.results.strategies]
        chosen = strategy or self.results.main_strategy
        found = sorted(self.path.glob(f"{kind}/{chosen}/*/{MANIFEST}"))
        if chosen not in names or not found:
            raise DataError(
                f"no {kind} of '{chosen}'{did_you_mean(chosen, names)}",
                where=str(self.path),
                remedy=f"strategies of this run: {', '.join(names)}",
            )
        folders = [manifest.parent for manifest in found]
        if kind == "models":
            folders.sort(key=lambda folder: int(folder.name.split("-", 1)[0]))
        return folders

    def _grid(self) -> Grid:
        table: Any = summary_table(self.results)
        title = f"run of '{self.results.series.name}' ({self.path}), in %"
        return Grid(title, table.header, table.rows, table.words, (f"report: {self.report}",))


@dataclass(frozen=True, repr=False)
class Stage:
    """What `duet.learn_increment` left behind.

    Attributes:
        report: Names, folders, seconds, and what the detectors before and after it find.
    """

    report: StepReport

    @cached_property
    def increment(self) -> Increment:
        """What the training taught."""
        return Increment(self.report.increment)

    @cached_property
    def detector(self) -> Detector:
        """The merged detector after it.

        Raises:
            ModelError: The increment was trained apart, and nothing was merged.
        """
        if self.report.detector is None:
            raise ModelError(
                "an independent increment has no detector of its own",
                where=self.report.name,
                remedy="join it with others: duet.merge([one, other])",
            )
        return load(self.report.detector)

    def __repr__(self) -> str:
        """Return what `duet increment` prints."""
        return self.report.as_text()
