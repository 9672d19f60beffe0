"""What a report says when little was learned or little was tested: true words, word by word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from factories_results import METHODS_OF_TREES, TREES, exact_results

from duet.evaluation.definitions import INDICES
from duet.report import cautions, tables, words
from duet.report.changes import ClassChange, worst_first
from duet.report.markdown import render_markdown
from duet.report.phrases import FEW_NOTE, learned_little
from duet.report.words import RI
from duet.results.files import results_csv
from duet.results.measured import few_behind, measured
from duet.results.schema import Results

ONE = TREES[:1]
SEED = "Every number comes from one seed (0): small gaps may be noise."
BASE = (
    "The base finds {} on its own evaluation images, yellowstone (mAP50 {} %): train longer, check "
    "labels."
)
STAGE_2 = (
    "After stage 2 the detector finds {} of that stage's classes on its own evaluation images, "
    "sierra (mAP50 {} %): train longer, check labels."
)
NOTHING_KNOWN = (
    "Nothing could be forgotten: of the old classes nothing was found at any earlier stage (mAP50 "
    "0.0 %)."
)


def flat(value: float) -> Callable[..., float]:
    return lambda *_: value


BASE_LEARNED_NOTHING = exact_results(lambda stage, domain, name: 0.0 if name == "Tree" else 0.6)
ALL_ZERO = exact_results(flat(0.0), reference=flat(0.0))
ONE_OBJECT = exact_results(
    lambda stage, domain, name: 0.33 if name == "Alive" else 0.5,
    reference=lambda domain, name: 0.05 if name == "Alive" else 0.5,
    objects={"Alive": 1, "Dead": 26},
)
NO_OBJECT = exact_results(
    lambda stage, domain, name: None if (domain, name) == ("sierra", "Alive") else 0.5
)
SINGLE = exact_results(flat(0.6), ONE)
NO_REFERENCES = exact_results(flat(0.6), reference=None)


def test_a_class_that_lost_did_not_hold_best() -> None:
    fallen = exact_results(lambda stage, *_: 0.6 - 0.05 * stage)
    assert not any("held best" in line for line in words.kept(fallen))
    assert any("held best: Tree" in line for line in words.kept(exact_results(flat(0.6))))


def test_a_base_that_learned_nothing() -> None:
    results = BASE_LEARNED_NOTHING
    assert words.answer(results) == (
        (
            "After 1 further increment, DuET+ has nothing that it could have kept: at first it "
            "found nothing of the 1 old class in its own images (mAP50 0.0 %, now 0.0 %)."
        ),
        (
            "The 2 new classes (Dead and Alive) reach mAP50 60.0 % when learned, 75.0 % of a model "
            "trained only on them (80.0 %); classes never labelled in a domain reach 37.5 % there."
        ),
        (
            "Plain fine-tuning cannot be ranked beside it: no index of what was kept is defined "
            "for both."
        ),
    )
    assert words.kept(results) == (
        "C1 in yellowstone: mAP50 0.0 % when learned, 0.0 % now; there was nothing to keep.",
    )
    assert words.lost(results) == (
        NOTHING_KNOWN,
        "1 old class was not found when learned (AP50 0.0 %) and had nothing to lose: Tree.",
        "New classes furthest below their reference: Dead 60.0 of 80.0 %, Alive 60.0 of 80.0 %.",
    )
    assert cautions.cautions(results) == (
        BASE.format("nothing", "0.0"),
        SEED,
        "Left out: RI of stage 2 on yellowstone[Tree]: the model after stage 1 has mAP50 0.",
    )


def test_everything_zero() -> None:
    results = ALL_ZERO
    assert words.answer(results)[1] == (
        "The 2 new classes (Dead and Alive) reach mAP50 0.0 % when learned; a model trained only "
        "on them does not find them either (mAP50 0.0 %)."
    )
    assert words.gained(results)[:2] == (
        (
            "C2 in sierra: mAP50 0.0 % right after stage 2; a model trained only on them finds "
            "nothing (mAP50 0.0 %), so there is no share of it."
        ),
        (
            "C2 in yellowstone, never labelled there: mAP50 0.0 % now; a model trained on such "
            "labels finds nothing (mAP50 0.0 %), so there is no share of it."
        ),
    )
    first, second, seed, *left_out = cautions.cautions(results)
    assert (first, second, seed) == (
        BASE.format("nothing", "0.0"), STAGE_2.format("nothing", "0.0"), SEED
    )  # fmt: skip
    assert left_out[-1] == (
        "Left out: PI of stage 2 on sierra[Dead, Alive]: a model trained only on "
        "sierra[Dead, Alive] has mAP50 0."
    )
    # What is 0 is written as 0; only a ratio that does not exist is a dash.
    for row in tables.summary_table(results).rows:
        assert row[1:] == (*["–"] * 7, "0.0", "0.0", "0.0", "0.0")
    for row in tables.class_table(results).rows:
        assert row[3:5] == ("0.0", "0.0")
    terms = tables.terms_table(results).rows
    assert [row[0][:2] for row in terms] == ["RI", "GI", "GI", "PI"]
    assert {row[5:] for row in terms} == {("0.0", "0.0", "–")}


@pytest.mark.parametrize("results", [BASE_LEARNED_NOTHING, ALL_ZERO], ids=["base", "all"])
def test_none_of_the_false_sentences(results: Results) -> None:
    """What a stranger was told when his base had learned nothing."""
    text = render_markdown(results, plots={})
    for false in (
        "there is no older knowledge", "references are missing", "No other strategy was run",
        "Nothing was forgotten", "held best", "was not measured", "backward transfer",
    ):  # fmt: skip
        assert false not in text
    before = text[text.index("## Before anyone relies on this") :].splitlines()[2]
    assert before == f"- {BASE.format('nothing', '0.0')}"


def test_almost_nothing_is_said_too() -> None:
    results = exact_results(lambda stage, domain, name: 0.021 if name == "Tree" else 0.3)
    assert cautions.learned_nothing(results) == (BASE.format("almost nothing", "2.1"),)
    assert learned_little(1, "day", 0.05) is None
    assert learned_little(2, "day", 0.0499) is not None


def test_a_class_with_one_test_object() -> None:
    results = ONE_OBJECT
    assert words.answer(results)[1:] == (
        (
            "The 2 new classes (Dead and Alive) reach mAP50 41.5 % when learned, 150.9 % * of a "
            "model trained only on them (27.5 %); classes never labelled in a domain reach 125.5 % "
            "* there."
        ),
        (
            "Over RI, GI and PI together (H) it scores 122.0 % *, rank 1 of 2 strategies; the best "
            "of the others is Plain fine-tuning with 122.0 % *."
        ),
    )
    said = cautions.cautions(results)
    assert said[1] == (
        "PI 150.9 % * hangs on classes with fewer than 20 objects in the evaluation images, where "
        "one object more or less found changes much: Alive 1 in sierra."
    )
    assert said[2] == SEED
    summary = tables.summary_table(results)
    assert summary.rows[0][1:6] == ("100.0", "125.5 *", "150.9 *", "112.7 *", "122.0 *")
    assert summary.as_text().endswith(f"\n\n{FEW_NOTE}")
    assert [row[:3] for row in tables.class_table(results).rows] == [
        ("Tree", "C1 in yellowstone", "100"),
        ("Alive", "C2 in sierra", "1 *"),
        ("Dead", "C2 in sierra", "26"),
    ]
    terms = {row[0]: row[4:] for row in tables.terms_table(results).rows}
    assert terms["PI (mAP50)"] == ("27", "41.5", "27.5", "150.9 % *")
    assert terms["RI (mAP50)"] == ("100", "50.0", "50.0", "100.0 %")


def test_the_mark_stays_out_of_numbers_for_machines() -> None:
    from pathlib import Path

    told = words.as_dict(ONE_OBJECT, Path("report.md"))
    assert told["summary"]["duet-plus"]["pi"] == pytest.approx(1.509, abs=1e-3)
    assert told["objects"] == {
        "yellowstone": {"Tree": 100, "Dead": 26, "Alive": 1},
        "sierra": {"Tree": 100, "Dead": 26, "Alive": 1},
    }
    assert "*" not in results_csv(ONE_OBJECT)
    assert "duet-plus,objects,2,sierra,Alive,1\n" in results_csv(ONE_OBJECT)


def test_enough_objects_and_files_without_counts_have_no_mark() -> None:
    enough = exact_results(flat(0.5), objects={"Alive": 20})
    plain = ONE_OBJECT.model_dump()
    for strategy in plain["strategies"]:
        for scores in strategy["class_scores"]:
            scores["objects"] = {}
    for results in (enough, Results.model_validate(plain)):
        assert not any(few_behind(results, results.main, index) for index in INDICES)
        assert tables.summary_table(results).note == ""
        assert "*" not in " ".join((*words.answer(results), *cautions.cautions(results)))
    assert tables.class_table(Results.model_validate(plain)).rows[0][2] == "–"


def test_a_class_without_objects_in_the_split() -> None:
    results = NO_OBJECT
    assert cautions.cautions(results) == (
        "No object of Alive in the evaluation images of sierra: no number there speaks of it.",
        SEED,
    )
    alive = next(row for row in tables.class_table(results).rows if row[0] == "Alive")
    assert alive[2:] == ("0", "–", "–", "–", "80.0", "–")
    assert not few_behind(results, results.main, RI)  # 0 of them count in no mean
    assert "Alive" not in " ".join((*words.kept(results), *words.lost(results)))


def test_a_slice_without_objects_was_not_measured() -> None:
    results = exact_results(
        lambda stage, domain, name: None if domain == "sierra" and name != "Tree" else 0.5
    )
    assert words.answer(results)[1] == (
        "How well the new classes were learned was not measured (PI of stage 2 on "
        "sierra[Dead, Alive]: no labelled object)."
    )


def test_a_single_increment() -> None:
    assert words.answer(SINGLE) == (
        (
            "DuET+ learned 1 class in yellowstone (mAP50 60.0 %); there is no older knowledge to "
            "compare with."
        ),
        "No further classes were learned.",
        (
            "Plain fine-tuning cannot be ranked beside it: no index of what was kept is defined "
            "for both."
        ),
    )
    assert words.kept(SINGLE) == ("There is only one increment: nothing could be forgotten.",)
    assert words.gained(SINGLE) == (
        "There is only one increment: nothing further could be learned.",
    )
    alone = exact_results(flat(0.0), ONE, strategies=METHODS_OF_TREES[:1])
    kept, _, compared = words.answer(alone)
    assert kept == (
        "DuET+ found nothing of 1 class in yellowstone (mAP50 0.0 %); there is no older knowledge "
        "to compare with."
    )
    assert compared.startswith("No other strategy was run")
    assert cautions.cautions(alone)[0] == BASE.format("nothing", "0.0")


def test_references_off() -> None:
    results = NO_REFERENCES
    assert words.answer(results)[1:] == (
        (
            "The 2 new classes (Dead and Alive) reach mAP50 60.0 % when learned; no model was "
            "trained only on them to compare with."
        ),
        (
            "In RI it scores 100.0 %, rank 1 of 2 strategies; the best of the others is Plain "
            "fine-tuning with 100.0 %."
        ),
    )
    assert words.gained(results)[0] == (
        "C2 in sierra: mAP50 60.0 % right after stage 2; no model was trained only on them to "
        "compare with."
    )
    row = tables.summary_table(results).rows[0]
    assert row[-4:] == ("60.0", "60.0", "60.0", "–")
    assert cautions.cautions(results)[-1] == (
        "Left out: GI and PI: no reference models were trained."
    )


def test_one_of_several_old_increments_was_never_known() -> None:
    steps = (*TREES, ("tundra", ("Moss",)))
    results = exact_results(lambda stage, domain, name: 0.0 if name == "Tree" else 0.5, steps)
    assert words.answer(results)[0] == (
        "After 2 further increments, DuET+ keeps 100.0 % of what it knew about the 3 old classes "
        "in their own images (mAP50 25.0 % before, 25.0 % after). Of C1 in yellowstone it knew "
        "nothing when learned: there is no share of that."
    )
    assert "Tree" not in words.kept(results)[-1]
    blank = "1 old class was not found when learned (AP50 0.0 %) and had nothing to lose: Tree."
    assert blank in words.lost(results)


def test_a_detector_that_was_brought_is_not_told_to_train_longer() -> None:
    from duet.results.schema import KeptEntry

    entry = KeptEntry(
        domain="yellowstone", images=3, before=0, kept=0, renamed=0, added=0, confidence=0.25,
        iou=0.5,
    )  # fmt: skip
    main = BASE_LEARNED_NOTHING.main.model_copy(update={"kept": (entry,)})
    brought = BASE_LEARNED_NOTHING.model_copy(update={"strategies": (main,)})
    assert cautions.learned_nothing(brought) == ()


@pytest.mark.parametrize(
    ("calibrate", "split", "told"),
    [
        (True, "val", True),
        (True, "val+test", True),
        (True, "test", False),
        (False, "val", False),
        (None, "val", False),
    ],
)
def test_thresholds_that_were_chosen_on_the_evaluated_images_are_told(
    calibrate: bool | None, split: str, told: bool
) -> None:
    plain = exact_results(flat(0.6))
    config = {} if calibrate is None else {"calibrate": calibrate}
    protocol = plain.protocol.model_copy(update={"eval_split": split, "strategy_config": config})
    results = plain.model_copy(update={"protocol": protocol})
    line = (
        "DuET+ chose its thresholds and score maps on validation images that are evaluated here: "
        "what is found and wrong, FR and the calibration error flatter it. A test split would not."
    )
    assert cautions.cautions(results) == ((line, SEED) if told else (SEED,))
    if told:
        assert line in render_markdown(results, plots={})


def test_worst_classes_come_first() -> None:
    def item(name: str, increment: int, learned: float | None, final: float | None) -> ClassChange:
        return ClassChange(name, increment, "day", learned, final, None)

    given = [
        item("better", 1, 0.5, 0.6), item("worse", 1, 0.9, 0.2), item("unknown", 1, None, None),
        item("bad", 2, 0.5, 0.4), item("high", 3, 0.9, 0.9), item("low", 3, 0.1, 0.1),
    ]  # fmt: skip
    found = [one.name for one in worst_first(given, stages=3)]
    assert found == ["worse", "bad", "better", "unknown", "low", "high"]


def test_both_sides_of_every_pair() -> None:
    (pair,) = measured(BASE_LEARNED_NOTHING, BASE_LEARNED_NOTHING.main, RI)
    assert (pair.value, pair.against, pair.ratio, dict(pair.objects)) == (
        0.0, 0.0, None, {"Tree": 100}
    )  # fmt: skip
    (pi,) = measured(NO_REFERENCES, NO_REFERENCES.main, words.PI)
    assert (pi.value, pi.against, pi.ratio) == (pytest.approx(0.6), None, None)
    assert SINGLE.objects == {"yellowstone": {"Tree": 100}}
