"""JSON beside weights, and safetensors of strangers: read, or refused in one clear error."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from duet.cli.main import _run
from duet.errors import DataError, DuetError, ModelError
from duet.files import JSON_DEPTH, parse_json, read_json
from duet.increments.base import load_start, read_sidecar
from duet.increments.tensorfile import LONGEST_HEADER, MOST_TENSORS, read_tensors
from duet.weights.facts import read_facts

BROKEN = {
    "empty": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "null": b"null",
    "a text": b'"x"',
    "a number": b"7",
    "not UTF-8": b'{"sha256": "\xff"}',
    "UTF-16": '{"sha256": "x"}'.encode("utf-16"),
    "deep lists": b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep objects": b'{"a": ' * 900 + b"1" + b"}" * 900,
    "a number of 5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "half a character": b'{"a": "\\ud800"}',
    "half a character as key": b'{"a": [{"\\udfff": 1}]}',
    "NUL": b"\0",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_json_is_one_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(BROKEN[kind])
    for error in (DataError, ModelError):
        with pytest.raises(error) as caught:
            read_json(path, error=error)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 500
        assert caught.value.remedy


@pytest.mark.parametrize("missing", ["no.json", "folder"])
def test_unreadable_json_is_one_error(missing: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="cannot read"):
        read_json(tmp_path / missing)


def test_json_that_is_fine() -> None:
    value = {"a": [1, {"b": ["ü", "\U0001f600", None, 1.5]}]}
    assert parse_json(json.dumps(value)) == value
    assert parse_json("[]", expected=list) == []
    deep = "[" * JSON_DEPTH + "]" * JSON_DEPTH
    assert parse_json(deep, expected=list)
    with pytest.raises(ValueError, match="deeper than"):
        parse_json(f"[{deep}]", expected=list)
    with pytest.raises(ValueError, match="'a' stands there twice"):
        parse_json('{"b": [{"a": 1, "a": 1}]}')


WRONG = {
    "no hash": ({}, "sha256: missing"),
    "hash is a number": ({"sha256": 1}, "sha256: .*, got 1"),
    "classes are a text": ({"sha256": "x", "classes": "cat"}, "classes: .* a list, got 'cat'"),
    "a class is a number": ({"sha256": "x", "classes": ["cat", 1]}, "classes.1: .*, got 1"),
    "architecture": ({"sha256": "x", "architecture": ["a"]}, "architecture: .*, got \\['a'\\]"),
}


@pytest.mark.parametrize("kind", [*BROKEN, *WRONG])
def test_every_reader_refuses_a_broken_sidecar(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({"w": torch.ones(2)}, path)
    content = BROKEN[kind] if kind in BROKEN else json.dumps(WRONG[kind][0]).encode()
    path.with_suffix(".json").write_bytes(content)
    for read in (load_start, read_sidecar, read_facts):
        with pytest.raises(ModelError, match=WRONG.get(kind, ("", "theirs.json"))[1]):
            read(path)
    assert _run(["weights", "get", str(path)]) == 4
    assert "Traceback" not in capsys.readouterr().err


def test_weights_without_tensors_are_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="holds no tensors"):
        read_facts(tmp_path / "none.safetensors")


def with_header(path: Path, entries: int, name: str) -> Path:
    rows = ",".join(
        f'"{name}{index}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
        for index in range(entries)
    )
    header = f"{{{rows}}}".encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


@pytest.mark.parametrize(
    ("entries", "name", "match"),
    [
        pytest.param(600_000, "", f"more than {LONGEST_HEADER}", id="600 000 empty tensors"),
        pytest.param(MOST_TENSORS + 1, "", f"more than {MOST_TENSORS}", id="one too many"),
    ],
)
def test_header_bombs_are_refused(entries: int, name: str, match: str, tmp_path: Path) -> None:
    path = with_header(tmp_path / "bomb.safetensors", entries, name)
    with pytest.raises(ModelError, match=match):
        read_tensors(path)


def test_a_header_longer_than_its_file(tmp_path: Path) -> None:
    path = tmp_path / "short.safetensors"
    for length in (0, 8, 1 << 20, (1 << 64) - 1):
        path.write_bytes(struct.pack("<Q", length))
        with pytest.raises(DuetError, match="not a complete safetensors file"):
            read_tensors(path)
