"""Label files of every odd kind: read as every program reads them, or a problem with a place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from factories_formats import coco_document, codes, make_coco, simple_voc, voc_xml
from factories_series import make_dataset

from duet.series.formats import coco, voc, yolo
from duet.series.formats.base import Reading

FILES = ["train2017-0.png", "train2017-1.png"]
BOX = "[10, 10, 20, 30]"


def judge(reading: Reading, code: str | None, objects: int) -> None:
    """Assert the one kind of problem, its length, and how many objects the first image keeps."""
    assert codes(reading) == ([code] if code else [])
    assert all(len(problem.what) < 400 for problem in reading.problems)
    assert all(str(problem.where) for problem in reading.problems)
    images = [image.stem for image in reading.data.splits["train"].images]
    kept = dict(zip(images, reading.data.splits["train"].annotations, strict=True))
    first = [labelled for name, labelled in kept.items() if name in ("train2017-0", "a", "train0")]
    assert sum(len(labelled.class_ids) for labelled in first) == objects


# -- COCO ------------------------------------------------------------------------------------------


def document() -> dict[str, Any]:
    return coco_document(FILES, [(10, 10, 20, 30)] * 2)


def changed(old: str, new: str) -> str:
    text = json.dumps(document())
    assert old in text
    return text.replace(old, new, 1)


COCO = {
    "nan": (changed(BOX, "[10, NaN, 20, 30]"), "label.number", 0),
    "infinity": (changed(BOX, "[10, -Infinity, 20, 30]"), "label.number", 0),
    "too-large": (changed(BOX, "[10, 1e400, 20, 30]"), "label.number", 0),
    "too-small": (changed(BOX, "[10, 1e-400, 20, 30]"), None, 1),
    "many-digits": (changed(BOX, f"[10, {'9' * 400}, 20, 30]"), "label.number", 0),
    "endless-digits": (changed(BOX, f"[10, {'9' * 5000}, 20, 30]"), "data.file", 0),
    "far-away": (changed(BOX, "[1.7e308, 1, 1.7e308, 1]"), "label.range", 0),
    "negative-width": (changed(BOX, "[10, 10, -20, 30]"), "label.degenerate", 0),
    "five-numbers": (changed(BOX, "[10, 10, 20, 30, 1]"), "label.fields", 0),
    "text-box": (changed(BOX, '"10 10 20 30"'), "label.fields", 0),
    "nested-box": (changed(BOX, f"[{BOX}]"), "label.fields", 0),
    "texts-in-box": (changed(BOX, '["10", "10", "20", "30"]'), "label.number", 0),
    "huge-image-id": (changed('"image_id": 3', f'"image_id": {"9" * 30}'), "label.image", 0),
    "bool-image-id": (changed('"image_id": 3', '"image_id": true'), "label.image", 0),
    "bool-category-id": (changed('"category_id": 18', '"category_id": true'), "label.class", 0),
    "exponent-id": (changed('"id": 3', '"id": 3e0'), None, 1),
    "negative-size": (changed('"width": 100', '"width": -100'), None, 1),
    "huge-size": (changed('"width": 100', '"width": 1e308'), "label.size", 1),
    "endless-size": (changed('"width": 100', '"width": 1e400'), None, 1),
    "byte-order-mark": ("\ufeff" + json.dumps(document()), None, 1),
    "utf-16": (json.dumps(document()).encode("utf-16"), None, 1),
    "latin-1": (changed('"dog"', '"d\u00f6g"').encode("latin-1"), "data.file", 0),
    "nul-in-name": (changed("train2017-0", "a\\u0000"), "image.missing", 0),
    "surrogate-in-name": (changed("train2017-0", "\\ud800"), "image.missing", 0),
    "long-name": (changed("train2017-0.png", "x" * 200), "image.missing", 0),
    "outside": (changed("train2017-0.png", "../../../gone.png"), "image.missing", 0),
    "deep-part": (changed('"area": 1.0', f'"area": {"[" * 900}{"]" * 900}'), None, 1),
    "too-deep": (changed('"area": 1.0', f'"area": {"[" * 10**5}{"]" * 10**5}'), "data.file", 0),
    "comment": (f"// x\n{json.dumps(document())}", "data.file", 0),
    "two-documents": (json.dumps(document()) * 2, "data.file", 0),
    "junk-behind": (f"{json.dumps(document())}x", "data.file", 0),
    "compressed": (b"\x1f\x8b\x08junk", "data.file", 0),
    "no-list": (json.dumps(document() | {"annotations": {"1": {}}}), "data.images", 0),
    "number-for-list": (json.dumps(document() | {"annotations": 3}), "data.images", 0),
    "null-for-list": (json.dumps(document() | {"annotations": None}), None, 0),
    "list-for-object": (json.dumps(document() | {"annotations": [[1, 2]]}), "label.image", 0),
    "crowd-of-two": (changed('"iscrowd": 0', '"iscrowd": 2'), "label.fields", 0),
    "crowd-of-nan": (changed('"iscrowd": 0', '"iscrowd": NaN'), "label.fields", 0),
}


@pytest.mark.parametrize("name", COCO)
def test_coco(tmp_path: Path, name: str) -> None:
    content, code, objects = COCO[name]
    make_coco(tmp_path)
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "annotations" / "instances_train2017.json").write_bytes(data)
    reading = coco.read(tmp_path, domain="day")
    if name.endswith("in-name") or code == "data.file" or code == "image.missing":
        assert code in (codes(reading) or [None])
        return
    judge(reading, code, objects)


def test_a_json_of_another_encoding_says_so(tmp_path: Path) -> None:
    make_coco(tmp_path)
    content = changed('"dog"', '"d\u00f6g"')
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_bytes(content.encode("latin-1"))
    (problem,) = (p for p in coco.read(tmp_path, domain="day").problems if p.code == "data.file")
    assert problem.what.startswith("not UTF-8: line 1, column ")
    assert problem.what.endswith("byte 0xf6")
    assert problem.remedy == "save the file as UTF-8"
    path.write_bytes(b'{"images": [} "d\xc3\xb6g"')
    (problem,) = (p for p in coco.read(tmp_path, domain="day").problems if p.code == "data.file")
    assert problem.what.startswith("not valid JSON: parse error")
    assert "b'" not in problem.what
    assert "\\" not in problem.what


# -- VOC -------------------------------------------------------------------------------------------

XML = voc_xml([("cat", (11, 11, 30, 40), False)])


def xml(old: str, new: str) -> str:
    assert old in XML
    return XML.replace(old, new, 1)


def entities(text: str, *, name: str) -> str:
    return f"<!DOCTYPE a [{text}]>{xml('<name>cat', f'<name>{name}')}"


VOC = {
    "byte-order-mark": (f"\ufeff{XML}", None, 1),
    "utf-16": (f'<?xml version="1.0" encoding="utf-16"?>{XML}'.encode("utf-16"), None, 1),
    "undeclared-latin-1": (xml(">cat", ">k\u00e4tze").encode("latin-1"), "label.file", 0),
    "unknown-encoding": (f'<?xml version="1.0" encoding="klingon"?>{XML}', "label.file", 0),
    "entity": (entities('<!ENTITY e "cat">', name="&e;"), "label.file", 0),
    "file-entity": (entities('<!ENTITY e SYSTEM "file:///x">', name="&e;"), "label.file", 0),
    "namespace": (xml("<annotation>", '<annotation xmlns="http://x">'), "label.file", 0),
    "fraction": (xml(">11<", ">11.25<"), None, 1),
    "comma": (xml(">11<", ">11,5<"), "label.number", 0),
    "nan": (xml(">11<", ">nan<"), "label.number", 0),
    "infinity": (xml(">11<", ">inf<"), "label.number", 0),
    "too-large": (xml(">11<", ">1e400<"), "label.number", 0),
    "empty-corner": (xml(">11<", "><"), "label.number", 0),
    "underscore": (xml(">11<", ">1_1<"), "label.number", 0),
    "other-digits": (xml(">11<", ">\u0661\u0661<"), "label.number", 0),
    "no-corner": (xml("<xmin>11</xmin>", ""), "label.fields", 0),
    "no-name": (xml("<name>cat</name>", ""), "label.fields", 0),
    "swapped": (xml("<xmin>11", "<xmin>60"), "label.degenerate", 0),
    "far-away": (xml(">30<", ">1e300<"), "label.range", 0),
    "zero-corners": (xml(">11<", ">0<").replace(">11<", ">0<").replace(">30<", ">0<")
                     .replace(">40<", ">0<"), "label.dummy", 0),
    "cut": (XML[:-30], "label.file", 0),
    "empty": ("", "label.file", 0),
    "nul": (xml(">cat", ">c\0t"), "label.file", 0),
    "deep": (f"<annotation>{'<a>' * 20_000}{'</a>' * 20_000}</annotation>", None, 0),
    "comment-in-number": (xml(">11<", "><!-- x -->11<"), None, 1),
    "rotated": (XML.replace("bndbox", "robndbox"), "label.fields", 0),
    "difficult-2": (xml("<difficult>0", "<difficult>2"), "label.fields", 0),
    "endless-size": (xml("<width>100", "<width>inf"), None, 1),
    "two-documents": (XML + XML, "label.file", 0),
    "capitals": (XML.upper(), "label.file", 0),
}  # fmt: skip


@pytest.mark.parametrize("name", VOC)
def test_voc(tmp_path: Path, name: str) -> None:
    content, code, objects = VOC[name]
    simple_voc(tmp_path)
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "Annotations" / "a.xml").write_bytes(data)
    judge(voc.read(tmp_path, domain="day"), code, objects)


# -- YOLO ------------------------------------------------------------------------------------------

YOLO = {
    "byte-order-mark": ("\ufeff0 .5 .5 .2 .2\n", None, 1),
    "windows": ("0 .5 .5 .2 .2\r\n1 .4 .4 .1 .1\r\n", None, 2),
    "old-mac": ("0 .5 .5 .2 .2\r1 .4 .4 .1 .1\r", None, 2),
    "tabs": ("0\t.5\t.5\t.2\t.2", None, 1),
    "commas": ("0,.5,.5,.2,.2", "label.columns", 0),
    "decimal-commas": ("0 0,5 0,5 0,2 0,2", "label.number", 0),
    "nan": ("0 nan .5 .2 .2", "label.number", 0),
    "nan-class": ("nan .5 .5 .2 .2", "label.number", 0),
    "infinity": ("0 inf .5 .2 .2", "label.number", 0),
    "too-small": ("0 .5 .5 1e-400 .2", "label.degenerate", 0),
    "too-large": ("0 .5 .5 1e400 .2", "label.number", 0),
    "endless-class": ("9" * 400 + " .5 .5 .2 .2", "label.number", 0),
    "large-class": ("2147483648 .5 .5 .2 .2", "label.class", 0),
    "negative-class": ("-1 .5 .5 .2 .2", "label.class", 0),
    "float-class": ("1.0 .5 .5 .2 .2", None, 1),
    "half-class": ("1.5 .5 .5 .2 .2", "label.class", 0),
    "word-behind": ("0 .5 .5 .2 .2 cat", "label.columns", 0),
    "comment": ("# x\n0 .5 .5 .2 .2", "label.columns", 1),
    "outline": ("0 .1 .1 .3 .1 .3 .3 .1 .3", None, 1),
    "odd-outline": ("0 .1 .1 .3 .1 .3 .3 .1", "label.columns", 0),
    "outline-in-pixels": ("0 " + "100 200 " * 500, "label.range", 0),
    "line-as-outline": ("0 .1 .1 .2 .1 .3 .1", "label.degenerate", 0),
    "utf-16": ("0 .5 .5 .2 .2".encode("utf-16"), "label.file", 0),
    "latin-1": (b"0 .5 .5 .2 .2 \xe4", "label.file", 0),
    "nul": ("0 .5 .5 .2 .2\0", "label.number", 0),
    "underscore": ("0 .5 .5 0.2_5 .2", "label.number", 0),
    "hexadecimal": ("0x0 .5 .5 .2 .2", "label.number", 0),
    "other-digits": ("\u0660 .5 .5 .2 .2", "label.number", 0),
    "plus": ("+0 +.5 .5 .2 .2", None, 1),
    "percent": ("0 50% 50% 20% 20%", "label.number", 0),
    "pixels": ("0 10 10 20 20", "label.range", 0),
    "class-name": ("cat .5 .5 .2 .2", "label.number", 0),
    "long-word": ("0 .5 .5 .2 " + "x" * 10**5, "label.number", 0),
    "all-bytes": (bytes(range(256)), "label.file", 0),
}


@pytest.mark.parametrize("name", YOLO)
def test_yolo(tmp_path: Path, name: str) -> None:
    content, code, objects = YOLO[name]
    source = make_dataset(tmp_path)
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "labels" / "train" / "train0.txt").write_bytes(data)
    reading = yolo.read(source, domain="day")
    if name == "outline-in-pixels":
        assert codes(reading) == ["label.degenerate", "label.range"]
        assert all(len(problem.what) < 400 for problem in reading.problems)
        return
    judge(reading, code, objects)
