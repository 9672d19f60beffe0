"""Who imports whom: arrows without circles, commands that know no other, one way to run commands.

`lint-imports` holds the layers of folders. Here all imports count, module by module: those inside
functions and those for type checkers, too, since two modules that need each other's names cannot
be read, tested or moved alone.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from places import REPO, TESTS

from duet.cli.main import COMMANDS, DATA_COMMANDS

ENTRY = "duet.cli.main"
COMMAND_MODULES = {
    target.partition(":")[0] for target in (*COMMANDS.values(), *DATA_COMMANDS.values())
} - {ENTRY}


def module_of(path: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(REPO.glob("duet/**/*.py"))}


def imported(text: str) -> Iterator[str]:
    """Yield the modules of duet that a source text imports, anywhere in it.

    A name that is no module, as in ``from duet.errors import DuetError``, counts as its module.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert not node.level, "imports name the whole place"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            known = name if name in MODULES else name.rpartition(".")[0]
            if known in MODULES:
                yield known


IMPORTS = {name: set(imported(path.read_text())) - {name} for name, path in MODULES.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one circle, first and last the same; none if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_import_is_seen() -> None:
    text = """
import duet.files as files
from duet.errors import DuetError
from duet import labels
if TYPE_CHECKING:
    from duet.series import Series
def late():
    import numpy, duet.images
    from duet.config import load_yaml
"""
    assert sorted(imported(text)) == [
        "duet.config", "duet.errors", "duet.files", "duet.images", "duet.labels", "duet.series",
    ]  # fmt: skip
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert not circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert len(MODULES) > 100
    assert sum(map(len, IMPORTS.values())) > 5 * len(MODULES)


def test_no_imports_go_in_circles() -> None:
    assert circle(IMPORTS) == []


@pytest.mark.parametrize("name", sorted(COMMAND_MODULES))
def test_no_command_imports_another(name: str) -> None:
    assert not IMPORTS[name] & COMMAND_MODULES


@pytest.mark.slow
def test_nothing_but_the_entry_imports_commands() -> None:
    """The library, tools and tests of other folders run commands as users do, or not at all."""
    own = (REPO / "duet" / "cli", TESTS / "cli")
    found = {
        f"{path.relative_to(REPO)}: {name}"
        for root in (REPO / "duet", REPO / "tools", TESTS)
        for path in root.rglob("*.py")
        if not any(map(path.is_relative_to, own))
        for name in imported(path.read_text())
        if name in COMMAND_MODULES
    }
    assert not found


@pytest.mark.slow
def test_what_tools_import_is_there() -> None:
    """A tool imports when it runs, and nothing else in the suite runs the benchmarks."""
    wanted = {
        (path.name, node.module, alias.name)
        for path in (REPO / "tools").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "duet"
        for alias in node.names
    }
    assert len(wanted) > 100
    gone = {
        f"{tool}: {module}.{name}"
        for tool, module, name in wanted
        if f"{module}.{name}" not in MODULES and not hasattr(importlib.import_module(module), name)
    }
    assert not gone
