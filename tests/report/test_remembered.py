"""What a report of a folder made stage by stage says of old domains, word by word."""

from __future__ import annotations

from factories_results import TREES, exact_results

from duet.evaluation.deployment import ClassDeployment, Deployment
from duet.evaluation.indices import compute_indices
from duet.evaluation.matrix import StageMatrix
from duet.report import remembered, tables, words
from duet.report.markdown import render_markdown
from duet.results.schema import Results, Stagewise

GONE = "the images of yellowstone cannot be read any more"


def gone() -> Results:
    """Return two stages, the second without the images of the first."""
    whole = exact_results(lambda *_: 0.5, TREES, reference=None)
    kept = [cell for cell in whole.main.matrix if (cell.stage, cell.domain) != (2, "yellowstone")]
    matrix = StageMatrix.from_records(kept)
    undefined = {
        (cell.domain, cell.classes): GONE for cell in whole.main.matrix if cell not in kept
    }
    indices = compute_indices(TREES, matrix, None, undefined=undefined)
    scores = tuple(
        one for one in whole.main.class_scores if (one.stage, one.domain) != (2, "yellowstone")
    )
    main = whole.main.model_copy(
        update={"matrix": tuple(kept), "indices": indices, "class_scores": scores}
    )
    told = {"strategies": (main,), "stagewise": Stagewise(unread={"yellowstone": GONE})}
    return whole.model_copy(update=told)


def test_what_is_gone_is_told_as_it_is_remembered() -> None:
    results = gone()
    assert remembered.sentences(results) == (
        f"C1 in yellowstone: not measured now: {GONE}. As remembered from its stage: mAP50 50.0 %.",
    )
    assert words.answer(results)[0] == (
        "How much DuET+ keeps was not measured (RI of stage 2 on yellowstone[Tree]: the images of "
        "yellowstone cannot be read any more)."
    )
    assert results.main.indices.ri is None
    assert tables.matrix_table(results).rows[1][1] == "–"
    text = render_markdown(results, plots={})
    assert "not measured now" in text
    assert "No old class lost" not in text
    assert "Nothing was forgotten" not in text


def test_what_hangs_on_score_maps_is_told() -> None:
    results = gone()
    shown = ClassDeployment(
        objects=90, found=60, wrong=7, threshold=0.4, lrp=0.5, olrp=0.25, olrp_threshold=0.3
    )
    seen = Deployment(
        images=50, classes={"Tree": shown}, ece=0.1, doubles_within=0, doubles_between=0
    )
    scores = tuple(
        one.model_copy(update={"deployed": seen}) if one.stage == 1 else one
        for one in results.main.class_scores
    )
    start = f"C1 in yellowstone: not measured now: {GONE}. As remembered from its stage: mAP50 "
    start += "50.0 %, 60 of 90 objects found and 7 wrong at the threshold in use"
    for less, end in {
        44: "; later stages lowered its scores, which score maps take back: without them about 44 "
        "of these 60 would be found (from the scores kept of its stage).",
        60: ".",
        None: ".",
    }.items():
        told = {
            "strategies": (results.main.model_copy(update={"class_scores": scores}),),
            "stagewise": Stagewise(unread={"yellowstone": GONE}, without_maps=(less,)),
        }
        assert remembered.sentences(results.model_copy(update=told)) == (start + end,)


def test_what_is_there_is_measured_and_a_run_says_nothing() -> None:
    results = exact_results(lambda *_: 0.5)
    assert remembered.sentences(results) == ()
    there = results.model_copy(update={"stagewise": Stagewise()})
    assert remembered.sentences(there) == ("C1 in yellowstone: measured now, in its own images.",)
