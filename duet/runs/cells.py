"""A detector that is there on the data of a series: every domain, cut by increment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from duet.devices import one_place
from duet.evaluation.ap import ClassAP
from duet.evaluation.cells import Cell
from duet.evaluation.deployment import Deployment
from duet.increments.state import DetectorState
from duet.runs.deployed import deployment_of
from duet.runs.evaluate import (
    average_precision,
    calibrated_detector_of,
    detector_of,
    no_common_class,
    predict,
    require_split,
    shown,
    shown_to_users,
)
from duet.series import Series
from duet.series.domains import Domain


def evaluate_cells(
    state: DetectorState, series: Series, split: str, image_size: int, device: str = "cpu"
) -> list[Cell]:
    """Evaluate one detector on every domain, and cut the result by increment.

    Args:
        state: The detector.
        series: Its increments and domains.
        split: Split to evaluate on; empty = test if there is one, else val.
        image_size: Longer side of what images are fitted into, pixels.
        device: Where it runs, in the language of `duet.devices.parse_device`.

    Returns:
        One per domain and increment whose classes the detector knows, where the domain shows an
        object of them or the increment was learned there.

    Raises:
        DataError: A data set has no such split, or the detector knows no class of the series.
        ConfigError: There is no such device.
    """
    require_split(series, split)
    place = one_place(device)
    cells: list[Cell] = []
    for domain in (series.domain(name) for name in series.domains):
        rows = _rows(series, domain, state, split)
        if rows:
            cells += _evaluate(state, series, domain, split, rows, (image_size, place))
    if not cells:
        raise no_common_class(state.labels, series.labels)
    return cells


def _rows(
    series: Series, domain: Domain, state: DetectorState, split: str
) -> dict[str, tuple[str, ...]]:
    """Return increment -> its classes that are measured in a domain.

    What was learned there counts without a label, too: that it is not measured must be seen.
    """
    known = tuple(name for name in series.labels if name in state.labels)
    rows = {}
    for item in series.increments:
        taught = item.domain == domain.name
        names = tuple(name for name in item.classes if name in known)
        names = names if taught else domain.known(names)
        if names and (taught or not domain.absence(names, split)):
            rows[item.name] = names
    return rows


def _evaluate(
    state: DetectorState,
    series: Series,
    domain: Domain,
    split: str,
    rows: Mapping[str, tuple[str, ...]],
    how: tuple[int, str],
) -> list[Cell]:
    """Look at the images of a domain once, and cut what is found by increment."""
    cut = domain.evaluate(
        domain.known(name for name in series.labels if name in state.labels), split
    )
    every, users = shown_to_users(calibrated_detector_of(state, *how), state, cut.images)
    if state.scores:  # AP is of raw scores, as everywhere
        every = predict(detector_of(state, *how), cut.images)
    scores = average_precision(every, cut) if cut.classes else ClassAP({}, {})
    scores = scores.covering(series.labels)
    seen = shown(users, cut, state.labels.names)
    came = _came(state, series)
    own = {item.name for item in series.increments if item.domain == domain.name}
    cells = []
    for increment, names in rows.items():
        shows = deployment_of(seen.of(names), state.scores, came)
        place = {"domain": domain.name, "increment": increment, "taught": increment in own}
        cells.append(cell_of(scores, names, shows, split=cut.split, **place))
    return cells


def _came(state: DetectorState, series: Series) -> dict[str, object]:
    """Return what each class came with: its part, or where that was trained jointly its increment.

    A series or a data set may name some classes of a part alone: the others came with them.
    """
    taught = {name: item.name for item in series.increments for name in item.classes}
    came: dict[str, object] = {}
    for part in state.parts:
        joint = len({taught[name] for name in part.classes if name in taught}) > 1
        for name in part.classes:
            came[name] = (part.increment, taught.get(name) if joint else None)
    return came


def cell_of(scores: ClassAP, names: tuple[str, ...], shows: Deployment, **place: Any) -> Cell:
    """Return what was measured of some classes in a domain.

    Args:
        scores: Of the whole domain.
        names: The classes.
        shows: What users are shown of them.
        place: `Cell.domain`, ``increment``, ``taught`` and ``split``.
    """
    there = scores.has_truth(names)
    return Cell(
        **place,
        images=shows.images,
        map50=scores.map50(names) if there else None,
        map=scores.map(names) if there else None,
        ap50={name: scores.ap50[name] for name in names},
        ap={name: scores.ap[name] for name in names},
        deployed=shows,
    )
