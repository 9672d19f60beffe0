"""Sizes, tables and shipped files: what a reviewer would otherwise have to count."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import REPO

from duet.cli.main import COMMANDS, DATA_COMMANDS
from duet.emoji.looks import LOOKS
from duet.emoji.plan import DOMAINS
from duet.families.table import FAMILIES, resolve_family
from duet.merging import table as merging
from duet.recipes.recipe import load_recipe
from duet.series.formats.table import FORMATS
from duet.series.formats.table import resolve as resolve_format
from duet.series.reader import read_config
from duet.shipped import shipped
from duet.training.config import load_strategy
from duet.training.schedule import load_schedule

MODULES = sorted([*REPO.glob("duet/**/*.py"), *REPO.glob("tools/**/*.py")])
MODULE_LINES, FUNCTION_LINES = 400, 50
LONGER: dict[str, str] = {}
"""Functions that may be longer, as ``path:name`` -> reason."""

CONFIGS = shipped("configs")
MACHINE_PATH = re.compile(r"(?<![\w.~}\)])/(?:work|tmp|home|root|mnt|Users)/")


def by_name(path: Path) -> str:
    return str(path.relative_to(REPO))


@pytest.mark.parametrize("path", MODULES, ids=by_name)
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MODULE_LINES
    long = [
        f"{by_name(path)}:{node.name} ({length} lines)"
        for node, length in functions(ast.parse(text))
        if length > FUNCTION_LINES and f"{by_name(path)}:{node.name}" not in LONGER
    ]
    assert not long


def functions(tree: ast.AST) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            yield node, node.end_lineno - node.lineno + 1


def test_no_file_names_a_place_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPO, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in listed.stdout.splitlines():
        path = REPO / name
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".txt", ""} and path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found += [f"{name}:{n}" for n, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert not found


@pytest.mark.parametrize("row", [*COMMANDS.items(), *DATA_COMMANDS.items()], ids=lambda row: row[0])
def test_every_command_resolves(row: tuple[str, str]) -> None:
    name, place = row
    module, attribute = place.split(":")
    assert getattr(importlib.import_module(module), attribute).name == name


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_resolves(name: str) -> None:
    family = resolve_family(name)
    assert (family.name, family.licence) == (name, FAMILIES[name].licence)


@pytest.mark.parametrize("name", merging.METHODS)
def test_every_merge_method_resolves(name: str) -> None:
    method = merging.resolve(name)
    assert method.name == name
    assert method.params() is not None
    assert callable(method.merge)


def test_every_domain_has_a_look() -> None:
    assert list(LOOKS) == [*DOMAINS]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_resolves(name: str) -> None:
    assert callable(resolve_format(name).read)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("method/**/*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_method_loads(path: Path) -> None:
    method = load_strategy(str(path), folder=path.parent)
    assert method.name == path.stem
    row = merging.resolve(method.merge.method)
    row.params.model_validate(method.merge.params)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("merge/*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_loads(path: Path) -> None:
    recipe = load_recipe(path, {"increments": ["base", "increment"]})
    assert [entry.path for entry in recipe.increments] == ["base", "increment"]
    assert merging.resolve(recipe.method).params.model_validate(recipe.params)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("train/*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_schedule_loads(path: Path) -> None:
    assert load_schedule(path).epochs >= 1


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("series/*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_series_loads(path: Path) -> None:
    config = read_config(path)
    assert config.name == path.stem
    assert len(config.increments) >= 2
    assert config.defaults.train is not None
    assert (path.parent / config.defaults.train).is_file()
