"""YAML and JSON from strangers: bounded, told by line and column, texts as they were written."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from factories_series import make_dataset

from duet.cli.main import _run
from duet.cli.options import parse_settings
from duet.config import load_yaml, parse_config
from duet.errors import ConfigError
from duet.recipes.recipe import load_recipe
from duet.series.document import SeriesConfig
from duet.series.formats import yolo
from duet.series.reader import read_config
from duet.training.schedule import load_schedule
from duet.yamltree import parse_yaml, resolved

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def tree(text: str) -> Any:
    return parse_yaml(text, where="f.yaml")


SPELLINGS = [
    *("02146", "1_000", "12:30", "0x1A", "1.10", "no", "on", "Yes", "y", "2024-01-01", "1e3"),
    *(".5", "0o17", "+7", "1.0", "007", "2001-12-14t21:59:43.10-05:00", ".inf", "NaN", "=", "$5"),
]


@pytest.mark.parametrize("text", SPELLINGS)
@pytest.mark.parametrize(
    "form", ["names: [{}]", "names:\n  - {}\n", "names: {{0: {}}}", "names:\n  0: {}\n"]
)
def test_a_class_name_without_quotes_is_what_was_written(text: str, form: str) -> None:
    labels, problems = yolo.read_names(tree(form.format(text)), Path("data.yaml"))
    assert (labels.names, problems) == ((text,), ())


@pytest.mark.parametrize("text", SPELLINGS)
def test_names_of_a_series_are_what_was_written(text: str) -> None:
    item = f"{{domain: d, data: d, classes: [{text}, 'a b']}}"
    config = parse_config(
        SeriesConfig, tree(f"schema: 1\nname: 0815\nincrements: [{item}]"), where="s.yaml"
    )
    assert (config.name, config.increments[0].classes) == ("0815", (text, "a b"))
    assert type(config.name) is str  # the mark of the reader does not spread


@pytest.mark.parametrize("text", ["null", "~", "", "true", "False", "!!null x", "[a]"])
def test_a_name_that_is_no_text_is_refused_with_the_remedy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    item = f"  - domain: d\n    data: d\n    classes:\n      - {text}\n"
    path.write_text(f"name: a\nincrements:\n{item}")
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert "in quotes" in str(caught.value) or "!!null" in str(caught.value) or text == "[a]"
    (tmp_path / "d.yaml").write_text(f"names:\n  - {text}\ntrain: a\nval: a\n")
    problems = yolo.read(tmp_path / "d.yaml", domain="d").problems
    assert {p.code for p in problems} & {"data.names", "data.file"}


def test_numbers_where_numbers_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("epochs: 7\nlr: 1e-3\namp: true\ndevice: 0\nfinal_lr: .5\n")
    schedule = load_schedule(path)
    assert (schedule.epochs, schedule.lr, schedule.precision) == (7, 1e-3, "fp16")
    assert (schedule.device, schedule.final_lr) == ("0", 0.5)
    path.write_text(
        "schema: 1\nmethod: duet\nparams: {alpha_base: 0.5, gamma: 0.25}\nincrements: [a]\n"
    )
    assert load_recipe(path).params == {"alpha_base": 0.5, "gamma": 0.25}
    assert parse_settings(["a=1e-3", "b=no", "c=[1, x]", "d=null", "e=true"]) == {
        "a": 1e-3, "b": "no", "c": [1, "x"], "d": None, "e": True,
    }  # fmt: skip


def test_values_without_a_declared_type_follow_yaml_1_2() -> None:
    text = "[7, -1, 0x1A, 0o17, 012, 1.5, 1e3, .inf, true, ~, no, 1_000, 12:30, '7', 2024-01-01]"
    expected = [7, -1, 26, 15, 12, 1.5, 1000.0, float("inf"), True, None]
    assert resolved(tree(text)) == [*expected, "no", "1_000", "12:30", "7", "2024-01-01"]
    assert resolved(tree("9" * 5000)) == "9" * 5000


def test_anchors_and_merge_keys_of_users_work() -> None:
    text = (
        "base: &b {epochs: 3, lr: 1}\nuse:\n  <<: *b\n  lr: 2\nboth: {<<: *b, <<: {x: y}, '<<': 1}"
    )
    found = resolved(tree(text))
    assert found["use"] == {"epochs": 3, "lr": 2}
    assert found["both"] == {"epochs": 3, "lr": 1, "x": "y", "<<": 1}
    assert resolved(tree("a: &x 1\n*x : 2")) == {"a": 1, 1: 2}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"{BOMB}k: *i", "aliases repeat"),
        ("k: &k [*k]", "line 1, column 8"),
        ("a: 1\nk: *nobody", "line 2, column 4"),
        ("[" * 100_000, "line 1, column 65"),
        ("{a: " * 5000, "nesting"),
        ("- " * 5000, "nesting"),
        ("a: 1\nb: !!int x", "line 2, column 4"),
        ("a: !!float x", "line 1, column 4"),
        ("a: !!bool x", "line 1, column 4"),
        ("a: !!timestamp x", "line 1, column 4"),
        ("a: !!timestamp 2026-99-99", "line 1, column 4"),
        ("a: !!binary '*'", "line 1, column 4"),
        ("a: !!set {x}", "line 1, column 4"),
        ("a: !!int " + "9" * 5000, "line 1, column 4"),
        ("a: !!python/object/apply:os.system [x]", "line 1, column 4"),
        ("a: !mine x", "line 1, column 4"),
        ('a: "x\\0y"', "line 1, column 4"),
        ('a: "\\ud800"', "line 1, column"),
        ("a: b\nc: '\x9b'", "line 2, column 5"),
        ("a: \x1b[2J", "line 1, column 4"),
        ("a: \ufffe", "line 1, column 4"),
        ("a: 1\na: 2", "line 2, column 1"),
        ("a: 1\n---\na: 2", "one document"),
        ("? [a, b]\n: c", "line 1, column 3"),
        ("a: b: c", "line 1, column 5"),
        ("a: [1, 2", "line 2, column"),
        ("\tx: 1", "line 1, column 1"),
        ("a: &x 1\nb: {<<: 3}", "takes a mapping"),
        ("%YAML 9.9\n--- a", "line 1"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_odd_documents_are_errors_with_a_place(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert place in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "content", [b"\xff\xfea\x00", b"a: 1\nb: \xe9\n", b"a: \xed\xa0\x80"], ids=repr
)
def test_bytes_that_are_no_utf_8_are_told_by_place(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"not UTF-8: line \d, column \d"):
        load_yaml(path)


def test_odd_texts_that_are_only_text(tmp_path: Path) -> None:
    assert tree("a: 2026-99-99") == {"a": "2026-99-99"}
    assert tree("\ufeffa: é".lstrip("\ufeff")) == {"a": "é"}
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: b\n")
    assert load_yaml(path) == {"a": "b"}
    assert tree("~: 1") == {"~": "1"}
    assert tree("") is None


@pytest.mark.slow
def test_messages_stay_short_whatever_the_values(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    deep = "[" * 60 + "]" * 60
    for wrong in ("x" * 50_000, deep, f"[{'a, ' * 50_000}]", f"{{{'a: b, ' * 0}k: {deep}}}"):
        path.write_text(f"name: {wrong}\nincrements: {wrong}\nroot: {wrong}\n")
        with pytest.raises(ConfigError) as caught:
            read_config(path)
        assert len(str(caught.value)) < 4000
    many = "".join(f"key{i}: 1\n" for i in range(500))
    path.write_text(f"name: a\nincrements: [{{domain: d, data: d, classes: [a]}}]\n{many}")
    with pytest.raises(ConfigError, match="500 problems") as caught:
        read_config(path)
    assert "and 480 more" in str(caught.value)


@pytest.mark.parametrize("written", ["'1'", "true", "1.0", "1e0", "2", "[1]"])
def test_a_version_is_the_whole_number(written: str, tmp_path: Path) -> None:
    item = "{domain: d, data: d, classes: [a]}"
    path = tmp_path / "s.yaml"
    for version in (written, "1", "0x1"):
        path.write_text(f"schema: {version}\nname: a\nincrements: [{item}]\n")
        if version != written:
            read_config(path)
            continue
        with pytest.raises(ConfigError, match=r"line 1: schema: .*got") as caught:
            read_config(path)
        assert written == "2" or "whole number, without quotes" in str(caught.value)


def test_wrong_fields_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: a\nroot: true\n\nincrements:\n- domain: d\n  data: &d [1]\n  tset: x\n"
        "  classes: [a]\n- {data: *d, domain: e,\n   classes: [1, true]}\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    told = str(caught.value)
    for line in (
        "line 2: root: ", "line 6: increments.0.data: ", "line 7: increments.0.tset: unknown key",
        "line 9: increments.1.data: ", "line 10: increments.1.classes.1: ",
    ):  # fmt: skip
        assert f"- {line}" in told
    path.write_text("name: a\n")
    with pytest.raises(ConfigError, match="- increments: missing"):
        read_config(path)


@pytest.mark.slow
def test_class_lists_of_a_hundred_thousand_names(tmp_path: Path) -> None:
    """All in seconds: quadratic searches took minutes for each of these."""
    count = 100_000
    source = make_dataset(tmp_path)
    names = "".join(f"- class{i}\n" for i in range(count))
    source.write_text(f"train: images/train\nval: images/val\nnames:\n{names}")
    listed = names.replace("- ", "    - ").replace("class", "klass")
    (tmp_path / "s.yaml").write_text(
        "name: a\nincrements:\n- {domain: d, data: data.yaml, classes: [class1]}\n"
        f"- domain: e\n  data: data.yaml\n  classes:\n{listed}"
    )
    began = time.process_time()
    assert _run(["data", "check", str(tmp_path / "s.yaml")]) == 3
    assert time.process_time() - began < 40  # about 5 s here
    assert _run(["data", "convert", str(source), str(tmp_path / "coco"), "--to", "coco"]) == 0
    assert (
        _run(["data", "convert", str(tmp_path / "coco"), str(tmp_path / "b"), "--to", "voc"]) == 0
    )
    assert time.process_time() - began < 60


def test_the_numbers_case_from_the_door(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`names: [02146, ...]` once became 1126 everywhere, without a word."""
    source = make_dataset(tmp_path)
    source.write_text("train: images/train\nval: images/val\nnames: [02146, 12:30, no]\n")
    for written in ("[02146, 12:30, no]", "['02146', '12:30', 'no']"):
        (tmp_path / "s.yaml").write_text(
            f"name: a\nincrements: [{{domain: d, data: data.yaml, classes: {written}}}]\n"
        )
        _run(["data", "check", str(tmp_path / "s.yaml"), "--json"])
        shown = json.loads(capsys.readouterr().out)
        assert shown["increments"][0]["classes"] == ["02146", "12:30", "no"]
        assert not any(p["code"] == "class.unknown" for p in shown["problems"])
