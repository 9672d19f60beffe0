"""The pictures of a report: what is right, wrong and missed, and how that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories_results import make_results, write_gallery_images
from PIL import Image, ImageColor

from duet.report.colours import (
    GREEN,
    GREY,
    INCREMENT_COLOURS,
    INK,
    ORANGE,
    increment_colour,
    ink_on,
)
from duet.report.gallery import (
    GAP,
    MISSED,
    RIGHT,
    UNJUDGED,
    WRONG,
    gallery_picture,
    picture,
)
from duet.report.marks import marks
from duet.report.panes import LINE, PANE, Mark, as_jpeg, canvas, draw_marks
from duet.results.boxes import FoundBox, GalleryImage, GallerySide, TruthBox
from duet.results.schema import Results

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


def colours(picture: Any) -> set[str]:
    """Return the colours of a picture that boxes, signs and labels may have.

    Not those of a few pixels, which the edges of letters have by chance.
    """
    pixels = {colour for count, colour in picture.getcolors(1 << 24) if count > 40}
    kinds = (GREEN, ORANGE, GREY, INK, *INCREMENT_COLOURS)
    return {kind for kind in kinds if ImageColor.getrgb(kind) in pixels}


def panes(sheet: Any, height: int) -> list[Any]:
    """Return the four pictures of a sheet, row by row; the third may hold the legend instead."""
    head = 2 * LINE + 4
    places = [
        (GAP + across * (PANE + GAP), GAP + head + down * (height + head + GAP))
        for down in (0, 1) for across in (0, 1)
    ]  # fmt: skip
    return [sheet.crop((x, y, x + PANE, y + height)) for x, y in places]


def grey(run_folder: Path, results: Results) -> Results:
    """Write images without any colour that a box could have."""
    for item in results.gallery:
        path = run_folder / item.file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (item.width, item.height), (200, 201, 202)).save(path)
    return results


def drawn(run_folder: Path, results: Results, item: GalleryImage) -> list[Any]:
    sheet = gallery_picture(results, item, picture(run_folder / item.file))
    return panes(sheet, PANE * item.height // item.width)


def test_colour_tells_the_kinds_apart(tmp_path: Path, shown: Results) -> None:
    labels, before, legend, after = drawn(tmp_path, grey(tmp_path, shown), shown.gallery[0])
    assert colours(labels) == {increment_colour(1), increment_colour(2)}
    assert colours(before) == {INK}  # missed, of the class that it knows
    assert colours(after) == {GREEN, ORANGE, INK, GREY}
    # Of the legend the first lines are cut off, which are as high as the titles of other panes.
    assert colours(legend) >= {ORANGE, INK, GREY, increment_colour(1), increment_colour(2)}


def runs(pixels: Sequence[Any], colour: str) -> list[int]:
    """Return the lengths of the pieces of a line that have a colour."""
    wanted = ImageColor.getrgb(colour)
    return [len(list(same)) for is_it, same in groupby(pixels, lambda p: p == wanted) if is_it]


def test_line_and_sign_tell_them_apart_without_colour() -> None:
    looks = (RIGHT, WRONG, MISSED, UNJUDGED)
    assert [look.sign for look in looks] == ["✓ ", "✗ ", "? ", ""]
    found = []
    for look in looks:
        made, draw = canvas(200, 120)
        draw_marks(draw, made.size, [Mark((20, 40, 180, 100), look, "", below=True)])
        top = runs([made.getpixel((x, 40)) for x in range(200)], look.colour)
        left = runs([made.getpixel((20, y)) for y in range(38, 80)], look.colour)
        assert max(left) == max(top[:-1] or [42 - 2])
        found.append(tuple(sorted(set(top[:-1]))))
    assert found == [(), (9,), (3,), (3, 10)]  # one line; dashes; dots; both


@pytest.mark.parametrize("colour", [GREEN, ORANGE, GREY, INK, *INCREMENT_COLOURS])
def test_labels_are_readable_on_every_colour(colour: str) -> None:
    def light(text: str) -> float:
        parts = [value / 255 for value in ImageColor.getrgb(text)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    high, low = sorted((light(colour), light(ink_on(colour))), reverse=True)
    assert high / low >= 4.5  # WCAG 2, AA


def test_labels_stay_inside_and_off_each_other() -> None:
    made, draw = canvas(300, 200)
    boxes = [(0, 0, 40, 30), (2, 1, 42, 31), (4, 0, 44, 29), (270, 180, 330, 260), (-90, 90, 9, 99)]
    marks_ = [Mark(box, RIGHT, "a long name 99") for box in boxes]
    places = draw_marks(draw, made.size, marks_)
    for left, top, right, bottom in places:
        assert 0 <= left < right < 300
        assert 0 <= top < bottom < 200
    for one, other in combinations(places, 2):
        apart = one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
        assert apart, (one, other)


def test_boxes_of_strangers_are_drawn_as_far_as_they_lie_inside(
    tmp_path: Path, shown: Results
) -> None:
    boxes = [(-1e300, -5, 1e300, 40), (150, 150, 20, 20), (5e9, 5e9, 6e9, 6e9)]
    name = shown.gallery[0].labelled[0]
    after = side(*(found(name, box) for box in boxes), classes=(name,))
    item = shown.gallery[0].model_copy(update={"after": after, "truths": ()})
    *_, last = drawn(tmp_path, grey(tmp_path, shown), item)
    assert ORANGE in colours(last)


def test_plain_fine_tuning_stands_below_the_labels(tmp_path: Path, shown: Results) -> None:
    item = shown.gallery[0]
    beside = side(found("stranger"), classes=item.before.classes)
    item = item.model_copy(update={"beside": beside})
    _, _, tuned, after = drawn(tmp_path, grey(tmp_path, shown), item)
    assert colours(tuned) == {GREY, INK}  # nobody labelled a stranger; what is known is missed
    assert colours(after) == {GREEN, ORANGE, INK, GREY}


@pytest.mark.parametrize("size", [(160, 160), (1280, 720), (300, 900), (4000, 40)])
def test_panes_keep_the_shape_of_the_image(
    tmp_path: Path, shown: Results, size: tuple[int, int]
) -> None:
    item = shown.gallery[0].model_copy(update={"width": size[0], "height": size[1]})
    seen = np.full((size[1], size[0], 3), 200, np.uint8)
    sheet = np.asarray(gallery_picture(shown, item, seen))
    scale = min(PANE / size[0], PANE / size[1])
    width, height = round(size[0] * scale), round(size[1] * scale)
    top = GAP + 2 * LINE + 4
    assert (sheet[top + height - 1, GAP : GAP + width] == 200).mean() > 0.9
    assert (sheet[top + height :, GAP : GAP + PANE][:GAP] == 255).all()
    assert (sheet[top : top + height, GAP + width : 2 * GAP + PANE] == 255).all()


def test_pictures_stay_small(tmp_path: Path, shown: Results) -> None:
    item = shown.gallery[0]
    files = [as_jpeg(gallery_picture(shown, item, picture(tmp_path / item.file))) for _ in range(2)]
    assert files[0] == files[1]
    assert len(files[0]) < 100_000
    with Image.open(BytesIO(files[0])) as opened:
        assert opened.width == 2 * PANE + 3 * GAP
