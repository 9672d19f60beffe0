"""What the report says a user sees: counts at the thresholds, before and after, worst first."""

from __future__ import annotations

import pytest
from factories_results import exact_results

from duet.evaluation.deployment import ClassDeployment, Counted, Deployment
from duet.report import deployed
from duet.results.deployed import DoubleBoxes, together, totals
from duet.results.schema import Results

STEPS = (("day", ("cat", "dog")), ("night", ("bus",)))


def _class(
    objects: int, found: int, wrong: int, olrp: float = 0.25, equal: tuple[int, int] | None = None
) -> ClassDeployment:
    there = equal and Counted(objects=objects, found=equal[0], wrong=equal[1])
    return ClassDeployment(
        objects=objects, found=found, wrong=wrong, threshold=0.4, at_precision=there, lrp=0.5,
        olrp=olrp, olrp_threshold=0.3,
    )  # fmt: skip


def _shown(
    within: int, between: int, ece: float, raw: float | None = None, **classes: ClassDeployment
) -> Deployment:
    return Deployment(
        images=50, classes=classes, ece=ece, ece_raw=raw, doubles_within=within,
        doubles_between=between,
    )  # fmt: skip


SEEN = {
    (1, "day"): _shown(3, 0, 0.1, cat=_class(40, 30, 7), dog=_class(10, 9, 2)),
    (2, "day"): _shown(
        5, 8, 0.2, 0.5, cat=_class(40, 24, 5, 0.35), dog=_class(10, 4, 1, 0.55, (8, 2))
    ),
    (2, "night"): _shown(1, 2, 0.4, 0.6, bus=_class(30, 18, 6)),
}


def _results() -> Results:
    plain = exact_results(lambda *_: 0.5, STEPS, strategies=(("duet-plus", "DuET+"),))
    (only,) = plain.strategies
    scores = tuple(
        one.model_copy(update={"deployed": SEEN.get((one.stage, one.domain))})
        for one in only.class_scores
    )
    return plain.model_copy(
        update={"strategies": (only.model_copy(update={"class_scores": scores}),)}
    )


def test_a_row_counts_old_and_new_objects_before_and_after() -> None:
    table = deployed.deployed_table(_results())
    (row,) = table.rows
    # FR and OR are not defined here: no recall was kept.
    assert row[:3] == ("DuET+", "–", "–")
    assert row[3:10] == ("50", "39 → 28", "9 → 6", "25.0 → 45.0", "30", "18", "6")
    # Of the domain that both detectors looked at, 50 images: 3 then 13 pairs, 0 then 8 between.
    assert row[10:12] == ("6 → 26", "0 → 16")
    assert row[12] == "55.0 → 30.0"  # means of both domains in the end: network, as shown
    assert len(table.header) == 13


def test_a_calibration_error_without_maps_stands_once() -> None:
    seen = totals(_results(), _results().main)
    assert seen is not None
    for raw in (None, seen.ece):
        cells = deployed.seen_cells(seen.model_copy(update={"ece_raw": raw}))
        assert cells[-1] == "30.0"


def test_runs_together_sum_counts_and_average_shares() -> None:
    one = totals(_results(), _results().main)
    assert one is not None
    assert one.ece is not None
    other = one.model_copy(
        update={
            "before": Counted(objects=50, found=11, wrong=1), "olrp": (None, 0.65),
            "ece": one.ece + 0.2, "doubles": (DoubleBoxes(within=2, between=4), None),
        }
    )  # fmt: skip
    both = together([one, other])
    assert both is not None
    assert (both.before.found, both.before.wrong, both.before.objects) == (50, 10, 100)
    assert both.after.found == 2 * one.after.found
    assert both.olrp == (0.25, pytest.approx(0.55))
    assert both.ece == pytest.approx(one.ece + 0.1)
    assert both.doubles[0] == DoubleBoxes(within=4, between=2)  # 6 and 2, 0 and 4
    assert both.doubles[1] == one.doubles[1]
    assert together([]) is None


def test_classes_stand_worst_first_with_what_was_found_when_learned() -> None:
    rows = deployed.classes_table(_results()).rows
    assert [row[0] for row in rows] == ["dog", "cat", "bus"]  # recall 0.4, 0.6, 0.6
    dog, cat, bus = rows
    assert dog[2:8] == ("0.40", "10 *", "9", "4", "1", "6")
    assert cat[2:8] == ("0.40", "40", "30", "24", "5", "16")
    assert bus[2:8] == ("0.40", "30", "18", "18", "6", "12")
    assert dog[8:] == ("80.0", "40.0", "53.3", "8 (wrong 2)", "50.0", "55.0")
    assert cat[11] == "–"


def test_a_sentence_tells_old_objects_only() -> None:
    (line,) = deployed.sentences(_results())
    assert line.startswith("C1 in day")
    assert line.endswith(
        "of 50 objects 39 were found when learned and 28 are now, beside 6 wrong boxes "
        "(9 when learned)."
    )
