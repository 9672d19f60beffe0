"""Who imports whom, also inside functions and for types, which the layers of import-linter miss."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

from places import REPO

PATHS = {
    ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): path
    for path in REPO.glob("duet/**/*.py")
}
TOOLS = sorted(REPO.glob("tools/**/*.py"))


def imported(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, wherever; ``from a import b`` may be ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            inner = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name if name in PATHS else node.module for name in inner)


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {
        name: {other for other in imported(path) if other in PATHS and other != name}
        for name, path in PATHS.items()
    }
    assert len(graph) > 200
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_the_package_knows_nothing_of_the_repository_around_it() -> None:
    around = {path.stem for path in (*TOOLS, *REPO.glob("tests/**/*.py"))}
    around |= {path.parent.name for path in TOOLS} | {"tests"}
    around -= {"__init__"}
    found = {
        name: {one.partition(".")[0] for one in imported(path)} for name, path in PATHS.items()
    }
    assert not {name: tops & around for name, tops in found.items() if tops & around}


def test_tools_use_the_library_and_commands_only_as_a_whole() -> None:
    found = {path.name: set(imported(path)) for path in TOOLS}
    inner = {
        name: {one for one in modules if one.startswith("duet.cli") and one != "duet.cli.main"}
        for name, modules in found.items()
    }
    assert not {name: modules for name, modules in inner.items() if modules}
