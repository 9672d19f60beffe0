"""What is measured for a gate beyond what a command evaluates anyway: earlier detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from duet.devices import parse_device
from duet.errors import DuetError
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
from duet.increments.store import DetectorFile, load_detector
from duet.results.gated import load_before
from duet.runs.cells import evaluate_cells
from duet.runs.inputs import read_checked
from duet.runs.kept import detectors_in
from duet.runs.steps import StepReport
from duet.series import Series
from duet.series.reader import read_config

Before = Standings | DetectorFile | None
"""What old classes are compared with: measured already, to be measured, or not named."""

ALONE = "nothing to compare with: give --against BEFORE"


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
    name, detector, device = report.name, report.detector, parse_device(device).torch_name
    chain = {one.name.split("-", 1)[1]: one for one in detectors_in(detector.parent)}
    earlier = list(chain)[: list(chain).index(name)]
    series, unread = _readable(path, earlier, name, data_root)
    cells = cells_of(load_detector(detector), series, "", device)
    known = standings_before(before, series, "", device)
    if known is None:
        known = dict(_since_learned(series, {key: chain[key] for key in earlier}, device))
        known |= {key: Standing(None, None, taught=True) for key in _gone(path, chain, unread)}
    for domain, why in unread.values():
        tell(f"{domain}: not measured, {why}")
    reasons = {domain: "its data were not read" for domain, _ in unread.values()}
    alone = "no class was learned before"
    return check(gate, measured_of(cells, known, alone=alone, unread=reasons))


Unread = Mapping[str, tuple[str, str]]
"""Increment -> its domain, and why nothing can be measured there."""


def _readable(
    path: Path, earlier: Sequence[str], name: str, data_root: Path | None
) -> tuple[Series, Unread]:
    """Read an increment, and of the earlier ones those whose data are still there."""
    config = read_config(path)
    domains = {
        n: i.domain for n, i in zip(config.increment_names(), config.increments, strict=True)
    }
    found: list[Series] = []
    unread: dict[str, tuple[str, str]] = {}
    for other in earlier:
        if other not in domains:  # the detector that the chain goes on from
            unread[other] = other, "its data are no increment of the series"
            continue
        try:
            found.append(read_checked(path, data_root=data_root, only=other)[0])
        except DuetError as error:
            unread[other] = domains[other], f"its data cannot be read: {error.what}"
    found.append(read_checked(path, data_root=data_root, only=name)[0])
    every = tuple(item for series in found for item in series.increments)
    return replace(found[-1], increments=every), unread


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


def _gone(path: Path, chain: Mapping[str, Path], unread: Unread) -> Iterator[tuple[str, str]]:
    """Yield (domain, class) of what was learned where nothing can be measured any more."""
    config = read_config(path)
    taught = {
        n: i.classes for n, i in zip(config.increment_names(), config.increments, strict=True)
    }
    for name, (domain, _) in unread.items():
        classes = taught.get(name) or load_detector(chain[name]).state.labels.names
        yield from ((domain, one) for one in classes)


def require_gate(gate: Gate | None, series: Series, strategies: Sequence[str] = ()) -> None:
    """Refuse a gate that names what a series does not have; errors as `Gate.require_known`."""
    if gate is not None:
        domains = [item.domain for item in series.increments]
        gate.require_known(series.labels, domains, strategies)


def judge_cells(gate: Gate, cells: Sequence[Cell], before: Standings | None) -> Verdict:
    """Return how each limit ends for the detector that was evaluated."""
    return check(gate, measured_of(cells, before or {}, alone=ALONE))
