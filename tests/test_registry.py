"""`duet.registry`: tables of rows by name."""

from __future__ import annotations

import doctest
import sys
from dataclasses import dataclass

import pytest

import duet.registry
from duet.errors import ConfigError
from duet.registry import Table

LAZY = "xml.dom.pulldom"  # of the standard library, used by nothing here


@dataclass(frozen=True)
class Shape:
    """A row that is more than the path of a module."""

    corners: int
    module: str = LAZY


SHAPES = Table(
    "shape", "shapes", {"square": Shape(4), "round": Shape(0, "math")},
    module=lambda row: row.module, where="look.shape", hint="; draw another",
)  # fmt: skip


def test_a_table_is_a_read_only_mapping_in_the_order_written() -> None:
    rows = {"b": "json", "a": "math"}
    table = Table("thing", "things", rows)
    rows["c"] = "csv"  # of whoever built it, not of the table
    assert list(table) == ["b", "a"]
    assert len(table) == 2
    assert table == {"b": "json", "a": "math"}
    assert "c" not in table
    with pytest.raises(TypeError):
        table["c"] = "csv"  # type: ignore[index]


def test_an_empty_table_knows_no_name() -> None:
    with pytest.raises(ConfigError, match="unknown thing 'x'"):
        Table[str]("thing", "things", {}).find("x")


def test_a_row_is_found_without_its_module_and_loaded_with_it() -> None:
    before = sys.modules.pop(LAZY, None)
    try:
        assert SHAPES.find("square").corners == 4
        assert LAZY not in sys.modules
        assert SHAPES.load("square") is sys.modules[LAZY]
    finally:
        if before is not None:
            sys.modules[LAZY] = before


@pytest.mark.parametrize("ask", [SHAPES.find, SHAPES.load])
def test_a_misspelled_name_is_refused_with_the_nearest_and_all(ask: object) -> None:
    with pytest.raises(ConfigError) as caught:
        ask("sqare")  # type: ignore[operator]
    assert str(caught.value) == (
        "look.shape: unknown shape 'sqare', did you mean 'square'?\n"
        "  known shapes: square, round; draw another"
    )


def test_the_example_in_the_docstring_is_true() -> None:
    result = doctest.testmod(duet.registry)
    assert result.attempted == 3
    assert result.failed == 0
