"""Names out of files choose no path: those of series, methods, increments, domains, classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from duet.config import parse_config
from duet.errors import DuetError
from duet.families.foreign import file_name
from duet.increments.folders import new_folder
from duet.increments.manifest import Lineage, PartEntry
from duet.names import LONGEST, as_name, key, problem_with
from duet.recipes.recipe import Entry
from duet.series.document import SeriesConfig
from duet.training.config import Strategy

GOOD = (
    "night", "2-phase", "Nacht & Nebel", "Москва", "夜", "a.b", "x; touch FILE #", "$5", "console",
    "com", "nullable", "-x", "a" * LONGEST,
)  # fmt: skip
BAD = (
    "", " ", ".", "..", "../../elsewhere", "/elsewhere", "a/b", "a\\b", "C:", "C:night", ".hidden",
    "night.", "night ", " night", "a\0b", "a\nb", "a\x1b[2Jb", "a\x9bb", "a\u202eb", "a\u200bb",
    "a\u2028b", "CON", "nul", "Aux", "NUL.txt", "com1", "LPT9.x", "COM¹", "conin$", "what?", "*",
    "a|b", "a<b", 'a"b', "a" * (LONGEST + 1), "夜" * LONGEST, "\ud800",
)  # fmt: skip
CLASS = "0" * 64


def series(**more: Any) -> dict[str, Any]:
    item = {"domain": "flat", "data": "data.yaml", "classes": ["cat"]}
    return {"name": "shop", "increments": [{**item, **more}]}


MODELS = {
    "series": (SeriesConfig, lambda name: {**series(), "name": name}),
    "increment": (SeriesConfig, lambda name: series(name=name)),
    "domain": (SeriesConfig, lambda name: series(domain=name)),
    "method": (Strategy, lambda name: {"name": name}),
    "entry of a recipe": (Entry, lambda name: {"path": "somewhere", "name": name}),
    "part of a detector": (PartEntry, lambda name: {"increment": name, "classes": ["cat"]}),
    "lineage": (Lineage, lambda name: {"increment": name, "manifest": CLASS}),
}


@pytest.mark.parametrize("where", MODELS)
@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_a_name_that_chooses_a_path_is_refused(name: str, where: str) -> None:
    model, document = MODELS[where]
    with pytest.raises(DuetError):
        parse_config(model, document(name), where="a file")


@pytest.mark.parametrize("where", MODELS)
def test_other_names_are_taken_as_they_are(where: str) -> None:
    model, document = MODELS[where]
    for name in GOOD:
        assert problem_with(name) is None
        parse_config(model, document(name), where="a file")


@pytest.mark.parametrize("text", BAD, ids=ascii)
def test_any_text_becomes_a_name(text: str) -> None:
    assert problem_with(as_name(text)) is None


def test_texts_that_differ_become_names_that_differ() -> None:
    assert len({key(as_name(text)) for text in BAD}) == len(BAD)
    assert [as_name(name) for name in GOOD] == list(GOOD)


def test_a_file_of_any_name_has_a_name_in_the_merge() -> None:
    for path in ("...pt", "CON.pt", "a:b.pt", "../weights/best.pt"):
        assert problem_with(file_name(Path(path))) is None


@pytest.mark.parametrize(("one", "other"), [("Night", "night"), ("Caf\u00e9", "Cafe\u0301")])
def test_increments_that_are_one_folder_on_some_system_are_told_apart(one: str, other: str) -> None:
    item = {"data": "data.yaml", "classes": ["cat"]}
    twice = [{**item, "name": one, "domain": "a"}, {**item, "name": other, "domain": "b"}]
    with pytest.raises(DuetError, match="occur twice"):
        parse_config(SeriesConfig, {"name": "shop", "increments": twice}, where="a file")
    domains = [{**item, "domain": one}, {**item, "domain": other}]
    config = parse_config(SeriesConfig, {"name": "shop", "increments": domains}, where="a file")
    first, second = config.increment_names()
    assert key(first) != key(second)


@pytest.mark.parametrize(
    "manifest", ['{"name": "an app", "icons": []}', "[]", "no JSON", '{"format": ["duet"]}']
)
def test_a_manifest_of_another_program_is_not_ours_to_replace(
    manifest: str, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with (
        pytest.raises(DuetError, match="not a folder that duet wrote"),
        new_folder(tmp_path, "duet-detector", overwrite=True),
    ):
        pass
    assert (tmp_path / "manifest.json").read_text() == manifest


@pytest.mark.parametrize("exchange", [True, False])
def test_what_people_keep_in_a_folder_of_ours_stays(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from duet.increments import folders

    if not exchange:
        monkeypatch.setattr(folders, "_exchange", lambda _a, _b: False)
    target = tmp_path / "1-flat"
    (target / "export").mkdir(parents=True)
    (target / "export" / "model.onnx").write_text("exported")
    (target / "notes.txt").write_text("mine")
    (target / "trace.json").write_text("ours, of the old one")
    about = {"format": "duet-detector", "files": {"trace.json": CLASS}}
    (target / "manifest.json").write_text(json.dumps(about))
    with new_folder(target, "duet-detector", overwrite=True) as fresh:
        (fresh / "manifest.json").write_text("new")
    assert (target / "manifest.json").read_text() == "new"
    assert (target / "export" / "model.onnx").read_text() == "exported"
    assert (target / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in target.iterdir()) == [
        "export",
        "manifest.json",
        "notes.txt",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["1-flat"]
