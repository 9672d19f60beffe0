"""README and docs: their commands exist, their YAML loads, their Python runs."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import click
import factories_run as make
import pytest
import yaml
from places import REPO

from duet.cli.main import cli
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
        if "schema" in data or "method" in data:  # others show a part of a file
            model = Recipe if "method" in data else SeriesConfig
            assert model.model_validate(data).increments


def test_the_python_example_runs(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    base = tmp_path_factory.getbasetemp()
    run, _ = make.finished_run(base)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(run)
    (tmp_path / "weights").mkdir()
    for suffix in (".safetensors", ".json"):
        target = tmp_path / "weights" / f"yolo11n-emoji{suffix}"
        target.symlink_to(make.tiny(base).weights.with_suffix(suffix))
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(REPO / "README.md", "python")
    exec(compile(example, "README.md", "exec"), {})
    assert "aeroplane" in capsys.readouterr().out
