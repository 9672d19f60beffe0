"""A FIFO or a device in the place of a file is refused before it is opened: it may never end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from duet.config import load_yaml
from duet.emoji.build import build
from duet.errors import ConfigError, DuetError
from duet.evaluation.matches import load_matches
from duet.files import read_json, sha256_file
from duet.images import read_image
from duet.increments.base import map_base
from duet.increments.guard import load_pt
from duet.increments.manifest import read_any_manifest
from duet.increments.tensorfile import read_tensors
from duet.report.results import load_results
from duet.series.formats.coco_json import read_json as read_coco
from duet.series.formats.voc_xml import read_xml
from duet.series.formats.yolo_labels import read_labels
from duet.series.images import inspect_images

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")

RAISING: list[tuple[str, Callable[[Path], Any]]] = [
    ("manifest.json", lambda path: read_any_manifest(path.parent)),
    ("results.json", lambda path: load_results(path.parent)),
    ("emoji.json", lambda path: build(path.parent, train=1, val=1, test=1)),
    ("a.yaml", load_yaml),
    ("a.json", read_json),
    ("a.safetensors", read_tensors),
    ("a.safetensors", map_base),
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
    assert name in problem.where


def test_a_hash_of_a_device_is_no_hash(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="neither a file nor a folder"):
        sha256_file(tmp_path / "link")
