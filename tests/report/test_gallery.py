"""The pictures of a report: what is right, wrong and missed, and how that is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from factories_results import make_results, write_gallery_images
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from duet.report.figures import GREEN, GREY, INK, ORANGE, increment_colour, save_figure
from duet.report.gallery import gallery_figure
from duet.report.marks import marks
from duet.results.schema import FoundBox, GalleryImage, GallerySide, Results, TruthBox

BOX = (10.0, 10.0, 50.0, 50.0)
NEAR = (12.0, 12.0, 52.0, 52.0)  # IoU 0.82 with BOX
HALF = (10.0, 10.0, 50.0, 29.0)  # IoU 0.475
FAR = (80.0, 80.0, 120.0, 120.0)


def found(name: str, xyxy: tuple[float, ...] = BOX, score: float = 0.9) -> FoundBox:
    return FoundBox.model_validate({"name": name, "xyxy": xyxy, "score": score})


def truth(name: str, xyxy: tuple[float, ...] = BOX, *, ignored: bool = False) -> TruthBox:
    return TruthBox.model_validate({"name": name, "xyxy": xyxy, "ignored": ignored})


def side(*boxes: FoundBox, classes: tuple[str, ...] = ("cat", "dog")) -> GallerySide:
    return GallerySide(title="after increment 1", detections=boxes, classes=classes)


def image(*truths: TruthBox, **fields: Any) -> GalleryImage:
    fields = {"labelled": ("cat", "dog"), "before": side(), "after": side(), **fields}
    return GalleryImage(
        file="gallery/00.png", domain="day", width=160, height=160, truths=truths, **fields
    )


@pytest.mark.parametrize(
    ("truths", "boxes", "expected"),
    [
        pytest.param([], [], "0 right, 0 wrong, 0 missed", id="nothing"),
        pytest.param([truth("cat")], [found("cat", NEAR)], "1 right, 0 wrong, 0 missed", id="hit"),
        pytest.param([truth("cat")], [found("dog")], "0 right, 1 wrong, 1 missed", id="class"),
        pytest.param([truth("cat")], [found("cat", HALF)], "0 right, 1 wrong, 1 missed", id="half"),
        pytest.param(
            [truth("cat")], [found("cat"), found("cat", NEAR, 0.5)], "1 right, 1 wrong, 0 missed",
            id="an-object-is-found-once",
        ),
        pytest.param(
            [truth("bird")], [], "0 right, 0 wrong, 0 missed", id="a-class-that-it-does-not-know"
        ),
        pytest.param(
            [], [found("bird")], "0 right, 0 wrong, 0 missed, 1 box not judged", id="unlabelled"
        ),
        pytest.param(
            [truth("cat", ignored=True)], [found("cat", HALF)],
            "0 right, 0 wrong, 0 missed, 1 box not judged", id="on-an-ignored-object",
        ),
        pytest.param(
            [truth("cat", ignored=True)], [found("cat", FAR)], "0 right, 1 wrong, 0 missed",
            id="beside-it",
        ),
    ],
)  # fmt: skip
def test_boxes_are_judged_as_ap_does(
    truths: list[TruthBox], boxes: list[FoundBox], expected: str
) -> None:
    assert marks(image(*truths), side(*boxes)).as_text() == expected


def test_the_most_confident_chooses_first() -> None:
    sure, unsure = found("cat", NEAR, 0.9), found("cat", BOX, 0.4)
    judged = marks(image(truth("cat")), side(unsure, sure))
    assert (judged.right, judged.wrong) == ((sure,), (unsure,))


def test_it_takes_the_object_that_it_overlaps_most() -> None:
    judged = marks(image(truth("cat", NEAR), truth("cat")), side(found("cat")))
    assert [one.xyxy for one in judged.missed] == [NEAR]


def test_in_files_of_older_versions_nothing_is_called_wrong() -> None:
    old = image(truth("cat"), truth("bird", FAR), labelled=())
    judged = marks(old, side(found("dog"), classes=()))
    assert (judged.wrong, len(judged.open)) == ((), 1)
    assert [one.name for one in judged.missed] == ["cat", "bird"]


@pytest.fixture
def shown(tmp_path: Path) -> Results:
    """One image with one box of each kind, and the same beside it."""
    results = make_results(gallery=1)
    old, new = results.series.increments[0].classes[0], results.series.increments[1].classes[0]
    kinds = (found(old), found(old, FAR), found("stranger", (0, 60, 30, 90)))
    one = image(
        truth(old), truth(new, (60, 10, 100, 40)), truth(old, (0, 100, 30, 130)),
        labelled=(old, new), before=side(classes=(old,)), after=side(*kinds, classes=(old, new)),
    )  # fmt: skip
    made = results.model_copy(update={"gallery": (one,)})
    write_gallery_images(tmp_path, made)
    return made


def drawn(axes: Any) -> list[tuple[str, str]]:
    """Return colour and line of every box, without the white one below it."""
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    looks = [(to_hex(box.get_edgecolor()).upper(), box.get_linestyle()) for box in boxes]
    assert looks[::2] == [("#FFFFFF", "-")] * (len(looks) // 2)
    return sorted(looks[1::2])


def test_colour_line_and_sign_tell_the_kinds_apart(tmp_path: Path, shown: Results) -> None:
    figure = gallery_figure(tmp_path, shown, shown.gallery)
    labels, before, after = figure.axes
    assert drawn(labels) == sorted(
        (increment_colour(number), "-") for number in (1, 2, 1)
    )  # labels keep the colour of their increment
    assert drawn(before) == [(INK, ":"), (INK, ":")]  # of the class that it knows
    assert drawn(after) == sorted(
        [(GREEN, "-"), (ORANGE, "--"), (INK, ":"), (INK, ":"), (GREY, "-.")]
    )
    names = {text.get_text()[:2] for text in after.texts}
    assert names == {"✓ ", "✗ ", "? ", "st"}
    assert after.get_title(loc="left").splitlines()[1] == (
        "1 right, 1 wrong, 2 missed, 1 box not judged"
    )
    (legend,) = figure.legends
    explained = " ".join(text.get_text() for text in legend.get_texts())
    for word in ("✓ right", "✗ wrong", "? missed", "not judged", "label of C1", "label of C2"):
        assert word in explained


def test_plain_fine_tuning_stands_between(tmp_path: Path, shown: Results) -> None:
    beside = side(found("stranger")).model_copy(update={"title": "plain fine-tuning, the end"})
    item = shown.gallery[0].model_copy(update={"beside": beside})
    alone = shown.gallery[0]
    figure = gallery_figure(tmp_path, shown, [item, alone])
    titles = [axes.get_title(loc="left").splitlines()[:1] for axes in figure.axes]
    after = ["after increment 1"]
    assert titles[:4] == [["day: labels"], after, ["plain fine-tuning, the end"], after]
    assert titles[4:] == [["day: labels"], after, [], after]  # it was not run on this one
    assert not figure.axes[6].images


def test_pictures_stay_small(tmp_path: Path, shown: Results) -> None:
    figure = gallery_figure(tmp_path, shown, shown.gallery)
    save_figure(figure, tmp_path / "one.jpg")
    save_figure(figure, tmp_path / "two.jpg")
    assert (tmp_path / "one.jpg").read_bytes() == (tmp_path / "two.jpg").read_bytes()
    assert (tmp_path / "one.jpg").stat().st_size < 200_000
