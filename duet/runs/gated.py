"""What is measured for a gate beyond what a command evaluates anyway: earlier detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from duet.devices import at_hand
from duet.evaluation.cells import Cell
from duet.evaluation.checks import (
    Standing,
    Standings,
    check,
    measured_of,
    standings,
)  # fmt: skip
from duet.evaluation.gate import Gate, Verdict
from duet.families.foreign import open_model
from duet.increments.manifest import DetectorManifest
from duet.increments.store import DetectorFile, load_detector
from duet.results.gated import load_before
from duet.results.remembered import Remembered
from duet.runs.cells import evaluate_cells
from duet.runs.kept import detectors_in
from duet.runs.remember import recollect
from duet.runs.steps import StepReport
from duet.runs.there import There, Unread, read_there
from duet.series import Series
from duet.series.reader import read_config

Before = Standings | DetectorFile | None
"""What old classes are compared with: measured already, to be measured, or not named."""

ALONE = "nothing to compare with: give --against BEFORE"
FORGOTTEN = "remembers nothing of its stage: give --against BEFORE"


def open_before(gate: Gate | None, notify: Callable[[str], None] | None = None) -> Before:
    """Open what a gate compares with, before anything is done for it.

    Raises:
        DuetError: It is neither a detector nor a kept evaluation, or cannot be read.
    """
    if gate is None or gate.against is None:
        return None
    kept = load_before(gate.against)
    return open_model(gate.against, notify=notify) if kept is None else kept


def standings_before(
    before: Before, series: Series, split: str, device: str = "cpu"
) -> Standings | None:
    """Return what old classes are compared with; a detector is measured on the data of a series."""
    if not isinstance(before, DetectorFile):
        return before
    return standings(cells_of(before, series, split, device))


def cells_of(model: DetectorFile, series: Series, split: str, device: str = "cpu") -> list[Cell]:
    """Evaluate a detector on images of the size that it knows; see `evaluate_cells`."""
    return evaluate_cells(model.state, series, split, model.manifest.image_size, device)


def judge_stage(
    gate: Gate,
    report: StepReport,
    path: Path,
    before: Before,
    data_root: Path | None,
    device: str,
    tell: Callable[[str], None],
) -> Verdict:
    """Judge the detector after a stage on its data, and on those of old domains that are there.

    Every old class is compared with the detector of its own stage in the same run folder, unless
    there is something else to compare with.

    Args:
        gate: The limits.
        report: The stage.
        path: Series YAML.
        before: What `open_before` returned.
        data_root: Replaces the file's ``root``.
        device: Where it was trained, in the language of `duet.devices.parse_device`.
        tell: Told of each domain that is not measured.
    """
    assert report.detector is not None
    detector, device = report.detector, at_hand(device)
    chain = {one.name.split("-", 1)[1]: one for one in detectors_in(detector.parent)}
    earlier = {key: chain[key] for key in list(chain)[: list(chain).index(report.name)]}
    there = read_there(path, data_root=data_root, only=(*earlier, report.name))
    model = load_detector(detector)
    cells = cells_of(model, there.series, "", device)
    known = standings_before(before, there.series, "", device)
    unread = {**there.unread, **dict(_no_increments(path, earlier))}
    if known is None:
        known = {
            (one.domain, name): Standing(None, None, taught=True)
            for one in unread.values()
            for name in one.classes
        }
        known |= remembered_standings(recollect(detector, model.manifest, tell), model.manifest)
        known |= dict(_since_learned(there.series, earlier, device))
    for one in unread.values():
        tell(f"{one.domain}: not measured, its data cannot be read: {one.why}")
    reasons = {one.domain: "its data were not read" for one in unread.values()}
    alone = "no class was learned before"
    return check(gate, measured_of(cells, known, alone=alone, unread=reasons))


def _no_increments(path: Path, earlier: Mapping[str, Path]) -> Iterator[tuple[str, Unread]]:
    """Yield the detectors of a chain that no increment of the series stands for."""
    known = read_config(path).increment_names()
    for name, model in earlier.items():
        if name not in known:  # what the chain goes on from
            classes = load_detector(model).state.labels.names
            yield name, Unread(name, classes, "it is no increment of the series")


def remembered_standings(memory: Mapping[str, Remembered], now: DetectorManifest) -> Standings:
    """Return what increments remember of older detectors than this one.

    Args:
        memory: Of `recollect`.
        now: Of the detector that is measured.
    """
    older = [one.cell for one in memory.values() if one.fingerprint != now.fingerprint]
    return standings(older)


def recollected_standings(
    memory: Mapping[str, Remembered], now: DetectorManifest, there: There
) -> Standings:
    """Return what increments remember, and nothing measured of each that remembers nothing.

    Empty where none does: then there is nothing to compare with.

    Args:
        memory: Of `recollect`.
        now: Of the detector that is measured.
        there: The data, which know the domains of increments.
    """
    known: dict[tuple[str, str], Standing] = {}
    places = {one.name: (one.domain, one.classes) for one in there.series.increments}
    places |= {name: (one.domain, one.classes) for name, one in there.unread.items()}
    brought = {part.increment: (part.increment, part.classes) for part in now.parts}
    for name in (one.increment for one in now.lineage if memory and one.increment not in memory):
        domain, classes = places.get(name) or brought.get(name, (name, ()))
        nothing = Standing(None, None, taught=True, why=f"{name} {FORGOTTEN}")
        known |= {(domain, label): nothing for label in classes}
    known.update(remembered_standings(memory, now))
    return known


def _since_learned(
    series: Series, stages: Mapping[str, Path], device: str
) -> Iterator[tuple[tuple[str, str], Standing]]:
    """Yield what the detector of each stage knew of the classes that it brought there."""
    for item in (one for one in series.increments if one.name in stages):
        own = tuple(one for one in series.increments if one.domain == item.domain)
        cells = cells_of(
            load_detector(stages[item.name]), replace(series, increments=own), "", device
        )
        yield from standings([cell for cell in cells if cell.increment == item.name]).items()


def require_gate(
    gate: Gate | None, series: Series, strategies: Sequence[str] | None = None
) -> None:
    """Refuse a gate that names what a series does not have; errors as `Gate.require_known`."""
    if gate is not None:
        domains = [item.domain for item in series.increments]
        gate.require_known(series.labels, domains, strategies)


def judge_cells(
    gate: Gate,
    cells: Sequence[Cell],
    before: Standings | None,
    unread: Mapping[str, str] | None = None,
) -> Verdict:
    """Return how each limit ends for the detector that was evaluated; see `measured_of`."""
    return check(gate, measured_of(cells, before or {}, alone=ALONE, unread=unread))
