"""What the report says a user sees: counts at the thresholds, before and after, worst first."""

from __future__ import annotations

from factories_results import exact_results

from duet.evaluation.deployment import ClassDeployment, Deployment
from duet.report import deployed
from duet.results.schema import Results

STEPS = (("day", ("cat", "dog")), ("night", ("bus",)))


def _class(objects: int, found: int, wrong: int) -> ClassDeployment:
    return ClassDeployment(
        objects=objects, found=found, wrong=wrong, threshold=0.4, lrp=0.5, olrp=0.25,
        olrp_threshold=0.3,
    )  # fmt: skip


def _shown(within: int, between: int, ece: float, **classes: ClassDeployment) -> Deployment:
    return Deployment(
        images=50, classes=classes, ece=ece, doubles_within=within, doubles_between=between
    )


SEEN = {
    (1, "day"): _shown(3, 0, 0.1, cat=_class(40, 30, 7), dog=_class(10, 9, 2)),
    (2, "day"): _shown(5, 8, 0.2, cat=_class(40, 24, 5), dog=_class(10, 4, 1)),
    (2, "night"): _shown(1, 2, 0.4, bus=_class(30, 18, 6)),
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
    (row,) = deployed.deployed_table(_results()).rows
    assert row[:7] == ("DuET+", "50", "39 → 28", "9 → 6", "30", "18", "6")
    # Of the domain that both detectors looked at, 50 images: 3 then 13 pairs, 0 then 8 between.
    assert row[-3:-1] == ("6 → 26", "0 → 16")
    assert row[-1] == "30.0"  # the mean of both domains in the end


def test_classes_stand_worst_first_with_what_was_found_when_learned() -> None:
    rows = deployed.classes_table(_results()).rows
    assert [row[0] for row in rows] == ["dog", "cat", "bus"]  # recall 0.4, 0.6, 0.6
    dog, cat, bus = rows
    assert dog[2:8] == ("0.40", "10 *", "9", "4", "1", "6")
    assert cat[2:8] == ("0.40", "40", "30", "24", "5", "16")
    assert bus[2:8] == ("0.40", "30", "18", "18", "6", "12")
    assert dog[8:] == ("80.0", "40.0", "53.3", "50.0", "25.0")


def test_a_sentence_tells_old_objects_only() -> None:
    (line,) = deployed.sentences(_results())
    assert line.startswith("C1 in day")
    assert line.endswith(
        "of 50 objects 39 were found when learned and 28 are now, beside 6 wrong boxes "
        "(9 when learned)."
    )
