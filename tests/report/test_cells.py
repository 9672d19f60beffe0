"""The tables of `duet eval`: counts, shares, double boxes, marks of few objects."""

from __future__ import annotations

from duet.evaluation.cells import Cell
from duet.evaluation.deployment import ClassDeployment, Deployment
from duet.report.cells import cells_table, classes_table


def _class(objects: int, found: int, wrong: int) -> ClassDeployment:
    return ClassDeployment(
        objects=objects, found=found, wrong=wrong, threshold=0.4, lrp=None, olrp=None,
        olrp_threshold=None,
    )  # fmt: skip


def _cell(images: int = 50, **classes: ClassDeployment) -> Cell:
    ap50 = dict.fromkeys(classes, 0.5)
    shown = Deployment(
        images=images, classes=classes, ece=None, doubles_within=1, doubles_between=2
    )
    return Cell(
        domain="day", increment="pets", taught=True, split="test", images=images, map50=0.5,
        map=0.25, ap50=ap50, deployed=shown,
    )  # fmt: skip


def test_a_cell_tells_what_is_found_and_marks_few_objects() -> None:
    table = cells_table([_cell(cat=_class(40, 30, 10), dog=_class(19, 3, 1))])
    (row,) = table.rows
    assert dict(zip(table.header, row, strict=True)) == {
        "domain": "day", "classes of": "pets", "split": "test", "images": "50", "objects": "59",
        "found": "33", "wrong": "11", "precision": "75.0", "recall": "55.9", "F1": "64.1",
        "double boxes": "6", "mAP50": "50.0 *", "mAP": "25.0 *",
    }  # fmt: skip
    assert table.note
    assert not cells_table([_cell(cat=_class(40, 30, 10), dog=_class(20, 3, 1))]).note


def test_an_empty_folder_has_no_shares_and_no_mark() -> None:
    table = cells_table([_cell(images=0, cat=_class(0, 0, 0))])
    assert table.rows[0][5:] == ("0", "0", "–", "–", "–", "–", "50.0", "25.0")
    assert not table.note


def test_classes_are_marked_one_by_one() -> None:
    rows = classes_table([_cell(cat=_class(40, 30, 10), dog=_class(19, 3, 1))]).rows
    assert [row[3] for row in rows] == ["40", "19 *"]
    assert [row[6] for row in rows] == ["75.0", "26.1"]
