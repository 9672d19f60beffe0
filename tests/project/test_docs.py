"""README and docs: their commands exist, their YAML loads, their Python runs."""

from __future__ import annotations

import re
import shlex
import shutil
import textwrap
from pathlib import Path
from typing import Any

import click
import cv2
import factories_run as make
import numpy as np
import pytest
import yaml
from factories_foreign import stored
from factories_series import make_dataset, write_image
from factories_training import trained_here
from places import REPO

from duet.cli.main import cli
from duet.evaluation.gate import Gate
from duet.merging.table import METHODS
from duet.recipes.recipe import Recipe
from duet.series.document import SeriesConfig

PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced code blocks of one language."""
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for block in found]


def command_lines(page: Path) -> list[str]:
    """Return every `duet ...` line of the page's shell blocks, continuations joined."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    lines = [line.split(" #")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line.startswith("duet ")]


COMMANDS = [(page.name, line) for page in PAGES for line in command_lines(page)]


def test_the_pages_hold_commands() -> None:
    assert len([name for name, _ in COMMANDS if name == "README.md"]) >= 8


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line[:60] for _, line in COMMANDS])
def test_a_documented_command_parses(page: str, line: str) -> None:
    command: click.Command = cli
    words = shlex.split(line)[1:]
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, f"{page}: {line}"
        command = found
    command.make_context(command.name, words)  # raises on an unknown option or a missing argument


def test_the_places_that_pages_name_exist() -> None:
    named = [
        (page.name, place)
        for page in (*PAGES, REPO / "CONTRIBUTING.md", REPO / "SECURITY.md")
        for place in re.findall(
            r"`((?:configs|docs|duet|tests|tools|weights)/[\w./-]*)`", page.read_text("utf-8")
        )
    ]
    assert len(named) > 50
    # A word in capitals stands for what the reader adds.
    places = [(page, re.sub(r"/[A-Z]+\.\w+$", "", place)) for page, place in named]
    assert [pair for pair in places if not (REPO / pair[1]).exists()] == []


def test_the_targets_of_make_that_pages_name_exist() -> None:
    pages = (*PAGES, REPO / "CONTRIBUTING.md")
    named = {
        name
        for page in pages
        for name in re.findall(r"`make ([a-z]+(?:-[a-z]+)?)`", page.read_text("utf-8"))
    }
    assert {"quick", "test", "test-all", "check"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))


def test_the_citation_is_of_this_version() -> None:
    about = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(about)
    assert about["cff-version"] == "1.2.0"
    project = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{about["version"]}"\n' in project
    for work in about["references"]:
        assert {"type", "title", "authors", "year"} <= set(work)
        assert re.fullmatch(r"10\.48550/arXiv\.\d{4}\.\d{5}", work["doi"])
    cited = {work["doi"].rpartition("arXiv.")[2] for work in about["references"]}
    shipped = " ".join(row.reference for row in METHODS.values())
    assert {number for number in cited if number not in shipped} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_configurations_load(page: Path) -> None:
    for block in blocks(page, "yaml"):
        data = yaml.safe_load(block)
        if "max_drop" in data:
            assert Gate.model_validate(data).max_drop
        elif "schema" in data or "method" in data:  # others show a part of a file
            model = Recipe if "method" in data else SeriesConfig
            assert model.model_validate(data).increments


def film(path: Path) -> Path:
    """Write a short video of random pictures."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 64))
    for seed in range(3):
        writer.write(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    writer.release()
    return path


def shop(folder: Path) -> dict[str, str]:
    """Make two folders of YOLO, a series, a schedule and start weights of Ultralytics."""
    made = {"day": ("cup", "plate"), "night": ("can", "jar")}
    for seed, (name, classes) in enumerate(made.items()):
        make_dataset(folder / name, names=classes, counts={"train": 8, "val": 4}, seed=seed)
    stored(folder / "yolo11n.pt")
    schedule = {"epochs": 1, "batch": 4, "image_size": 64, "warmup_epochs": 0, "fisher_images": 0}
    (folder / "train.yaml").write_text(yaml.safe_dump(schedule))
    steps = [
        {"domain": name, "data": f"{name}/data.yaml", "classes": list(classes)}
        for name, classes in made.items()
    ]
    series = {"schema": 1, "name": "shop", "increments": steps, "defaults": {"train": "train.yaml"}}
    (folder / "shop.yaml").write_text(yaml.safe_dump(series))
    return {}


def emoji(folder: Path, base: Path) -> dict[str, str]:
    """Take the tiny embedded series and its finished run, so that nothing is left to train."""
    run, _ = make.finished_run(base)
    shutil.copytree(run, folder / "runs" / "shop")
    tiny = make.tiny(base)
    return {
        "shop.yaml": str(tiny.series), '"yolo11n.pt"': "None", '"night"': '"comic"',
        '"can"': '"dog"', '["duet-plus", "seq-ft"]': repr([str(tiny.method), "seq-ft"]),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("data", ["two folders", "embedded"])
def test_the_session_of_the_readme_runs(
    data: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Word for word, but for the address of the camera and the names of the other series."""
    other = shop(tmp_path) if data == "two folders" else emoji(tmp_path, base)
    write_image(tmp_path / "photo.jpg", seed=1)
    (session,) = blocks(REPO / "README.md", "python")
    assert len([line for line in session.splitlines() if line.strip()]) <= 15
    for word, another in {**other, "rtsp://camera/1": str(film(tmp_path / "film.mp4"))}.items():
        assert word in session
        session = session.replace(word, another)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with trained_here():
        exec(compile(session, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "MergeSummary" in out
    assert [line.split(" ")[0] for line in out.splitlines()[-3:]] == ["0.0", "0.2", "0.4"]
    assert names["run"].report.is_file()
    assert (tmp_path / "shop.onnx").is_file()
    kept = names["duet"].load("models/shop")
    assert kept.facts == names["lighter"].facts
    assert not {"can", "dog"} & set(kept.classes) - set(names["day"].classes)
