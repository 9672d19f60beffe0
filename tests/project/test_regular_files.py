"""What is no file, leads to itself or says a thing twice is an error that names it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from factories_compare import write_run

from duet.cli.main import _run
from duet.config import load_yaml
from duet.emoji.build import build
from duet.errors import ConfigError, DuetError
from duet.evaluation.matches import load_matches
from duet.files import read_json, sha256_file
from duet.images import read_image
from duet.increments.base import open_base
from duet.increments.guard import load_pt
from duet.increments.manifest import read_any_manifest
from duet.increments.tensorfile import read_tensors
from duet.results.files import load_results
from duet.series.formats.coco_json import read_json as read_coco
from duet.series.formats.voc_xml import read_xml
from duet.series.formats.yolo_labels import read_labels
from duet.series.images import inspect_images
from duet.series.problems import Problem

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")

RAISING: list[tuple[str, Callable[[Path], Any]]] = [
    ("manifest.json", lambda path: read_any_manifest(path.parent)),
    ("results.json", lambda path: load_results(path.parent)),
    ("emoji.json", lambda path: build(path.parent, train=1, val=1, test=1)),
    ("a.yaml", load_yaml),
    ("a.json", read_json),
    ("a.safetensors", read_tensors),
    ("a.safetensors", open_base),
    ("a.pt", load_pt),
    ("a.npz", load_matches),
    ("a.png", read_image),
]
TELLING: list[tuple[str, Callable[[Path], Any]]] = [
    ("a.txt", lambda path: read_labels(path, class_count=2).problems[0]),
    ("a.xml", lambda path: read_xml(path).problems[0]),
    ("a.json", read_coco),
    ("a.png", lambda path: inspect_images([path], verify="full")[path].problem),
]


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """A reader that waits at a FIFO fails its test; it does not stop the suite."""

    def stop(_number: int, _frame: object) -> None:
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("name", "read"), RAISING)
def test_readers_refuse_a_fifo(name: str, read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DuetError) as caught:
        read(tmp_path / name)
    assert isinstance(caught.value, ConfigError) == name.endswith(".yaml")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("name", "read"), TELLING)
def test_readers_tell_of_a_fifo(name: str, read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    problem = read(tmp_path / name)
    assert problem.severity == "error"
    assert name in str(problem.where)


@pytest.mark.parametrize("command", ["data check", "run --dry-run", "data convert --to coco"])
@pytest.mark.parametrize("name", ["s.yaml", "data.yaml"])
def test_a_link_to_itself_is_an_error_of_its_name(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    increments = [{"domain": "day", "data": "data.yaml", "classes": ["cup"]}]
    (tmp_path / "s.yaml").write_text(json.dumps({"name": "s", "increments": increments}))
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to(name)
    more = [str(tmp_path / "out")] if "convert" in command else []
    code = _run([*command.split(), str(tmp_path / "s.yaml"), *more])
    said = capsys.readouterr().err
    assert code in (2, 3)
    assert name in said


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a pipe"])
def test_a_page_takes_the_place_of_nothing_else(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, pipe = write_run(tmp_path / "run"), tmp_path / "page.md", tmp_path / "pipe"
    os.mkfifo(pipe)
    {
        "pipe": lambda: os.mkfifo(out),
        "device": lambda: out.symlink_to("/dev/zero"),
        "folder": out.mkdir,
        "link to a pipe": lambda: out.symlink_to(pipe),
    }[kind]()
    assert _run(["compare", str(run), "--out", str(out)]) == 2
    assert "already exists and is no page" in capsys.readouterr().err
    assert out.is_fifo() == ("pipe" in kind)


def test_a_hash_of_a_device_is_no_hash(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="neither a file nor a folder"):
        sha256_file(tmp_path / "link")


def test_a_coco_key_that_stands_twice_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}], "annotations": '
        '[{"id": 1, "image_id": 1, "category_id": 1, "category_id": 2, "bbox": [1, 1, 2, 2]}], '
        '"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}'
    )
    problem = read_coco(tmp_path / "a.json")
    assert isinstance(problem, Problem)
    assert "the key 'category_id' stands there twice" in problem.what
