"""Figures of long series and large class lists: what they show and say, and how large they are."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from factories_results import Steps, exact_results, make_results
from PIL import Image

from duet.report import changes
from duet.report.figures import figures
from duet.report.markdown import render_markdown
from duet.report.plots import as_png
from duet.results.files import results_csv
from duet.results.schema import Results


def steps(increments: int, classes: int) -> Steps:
    return tuple(
        (f"domain {step}", tuple(f"thing {step}-{number}" for number in range(classes)))
        for step in range(1, increments + 1)
    )


def graded(classes: int) -> Results:
    """Two increments; old class k falls by k thousandths, the first of them rises by half."""

    def ap50(stage: int, domain: str, name: str) -> float:
        step, number = (int(part) for part in name.removeprefix("thing ").split("-"))
        if domain != f"domain {step}":
            return 0.1
        if step == 2:
            return 0.8 - number / 1000
        return 0.5 if stage == 1 else 1.0 if number == 0 else 0.5 - number / 1000

    return exact_results(ap50, steps(2, classes), objects={})


def drawn(results: Results, stem: str) -> Any:
    return figures(results)[stem](results)


def names(figure: Any) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_up_to_sixty_every_class_has_a_row() -> None:
    results = graded(60)
    assert len(names(drawn(results, "old-classes"))) == 60
    assert len(names(drawn(results, "new-classes"))) == 60
    assert (changes.old_note(results), changes.new_note(results)) == ("", "")
    assert "the picture shows" not in render_markdown(results, plots={})


def test_of_more_the_twenty_that_changed_most_are_shown_the_worst_first() -> None:
    results = graded(61)
    worst = [f"thing 1-{number} (C1)" for number in range(60, 41, -1)]
    figure = drawn(results, "old-classes")
    assert names(figure) == [*worst, "thing 1-0 (C1)"]
    assert "the 20 of 61 that differ most" in figure.get_suptitle()
    lowest = [f"thing 2-{number} (C2)" for number in range(60, 40, -1)]
    assert names(drawn(results, "new-classes")) == lowest


def test_the_text_says_so_and_the_rest_is_in_the_csv() -> None:
    results = graded(61)
    text = render_markdown(results, plots={"old-classes": "plots/old-classes.png"})
    assert (
        "\n\nOf 61 the picture shows the 20 old classes that changed most, those that lost most "
        "first; results.csv holds all.\n\n"
    ) in text
    assert text.index("plots/old-classes.png") < text.index("Of 61 the picture")
    csv = results_csv(results)
    assert all(f",ap50,2,domain 1,thing 1-{number}," in csv for number in range(61))


def test_without_references_the_lowest_new_classes_are_shown() -> None:
    results = graded(61).model_copy(update={"references": ()})
    assert names(drawn(results, "new-classes"))[0] == "thing 2-60 (C2)"
    assert "new classes with the lowest AP50" in changes.new_note(results)


@pytest.mark.parametrize("shape", [(2, 600), (16, 20), (40, 2)])
def test_no_figure_grows_without_bound(shape: tuple[int, int]) -> None:
    results = make_results(steps(*shape))
    results = results.model_copy(update={"strategies": results.strategies[:2]})
    for stem, draw in figures(results).items():
        content = as_png(draw(results))
        with Image.open(BytesIO(content)) as picture:
            assert max(picture.size) < 3200, stem
        assert len(content) < 300_000, stem


def test_many_columns_of_the_stage_matrix_stand_below_each_other() -> None:
    results = make_results(steps(16, 2))
    figure = drawn(results, "stage-matrix")
    taught, never, _ = figure.axes
    for axes, count in ((taught, 16), (never, 16)):
        assert len(axes.get_xticklabels()) == count
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) in (136, 135)  # every number, and none where nothing was measured
        width = axes.get_window_extent().width / count
        assert max(box.width for box in boxes) < 0.9 * width
    assert taught.get_window_extent().y0 > never.get_window_extent().y1


def test_many_merges_are_a_heat_map(tmp_path: Path) -> None:
    few, many = (drawn(make_results(steps(count, 2)), "merge") for count in (5, 16))
    assert [len(axes.get_lines()) for axes in few.axes] == [5, 4]  # one of them: half and half
    assert len({line.get_linestyle() for line in few.axes[1].get_lines()}) == 4
    (image,) = many.axes[0].get_images()
    assert image.get_array().shape == (15, 46)
    assert [text.get_text() for text in many.axes[0].get_yticklabels()][::14] == [
        "increment 2", "increment 16",
    ]  # fmt: skip
