"""The wheel holds what a user needs and nothing else, and runs without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling import build
from places import REPO

from duet.emoji.packages import EXTRA


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    before = Path.cwd()
    os.chdir(REPO)  # a build backend works in the working folder
    try:
        name = build.build_wheel(str(folder))
    finally:
        os.chdir(before)
    with zipfile.ZipFile(folder / name) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def metadata(unpacked: Path) -> Message:
    (path,) = unpacked.glob("*.dist-info/METADATA")
    return Parser().parsestr(path.read_text(encoding="utf-8"))


def test_the_wheel_holds_the_package_and_what_ships_with_it(unpacked: Path) -> None:
    shipped = unpacked / "duet" / "_shipped"
    for folder in ("configs", "weights"):
        files = {p.relative_to(REPO / folder) for p in (REPO / folder).rglob("*") if p.is_file()}
        kept = {
            p.relative_to(shipped / folder) for p in (shipped / folder).rglob("*") if p.is_file()
        }
        assert kept == files
        assert files
    modules = {path.relative_to(REPO / "duet") for path in REPO.glob("duet/**/*.py")}
    assert {
        path.relative_to(unpacked / "duet") for path in unpacked.glob("duet/**/*.py")
    } == modules
    assert (unpacked / "duet" / "py.typed").is_file()


def test_the_wheel_holds_nothing_of_the_repository_besides(unpacked: Path) -> None:
    top = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"duet"}
    other = {path.name for path in unpacked.rglob("*") if path.is_dir()}
    assert not other & {"archives", "published", "tools", "tests", "docs", "__pycache__"}


def test_the_core_needs_nothing_of_the_demo(metadata: Message) -> None:
    needs = metadata.get_all("Requires-Dist") or []
    core = {line.split(">")[0].split("<")[0] for line in needs if "extra ==" not in line}
    assert {"torch", "pycocotools", "safetensors"} <= core
    assert not core & set(EXTRA.values())
    assert "demo" in (metadata.get_all("Provides-Extra") or [])


def test_the_wheel_runs_as_a_module_from_any_folder(unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger ran')")
    done = subprocess.run(
        [sys.executable, "-m", "duet", "weights", "ls", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row["path"] for row in json.loads(done.stdout)["weights"]}
    shipped = unpacked / "duet" / "_shipped" / "weights" / "yolo11n-emoji.safetensors"
    assert rows["yolo11n-emoji"] == str(shipped)
