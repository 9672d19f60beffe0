"""`Table`: what duet knows by name, as literal rows; code behind a row is imported on use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from duet.errors import ConfigError, did_you_mean

Row = TypeVar("Row")


class Table(Mapping[str, Row], Generic[Row]):
    """Rows by name, in the order written; read-only.

    Args:
        kind: What one row is, for the error: ``"export form"``.
        kinds: Several of them, for its remedy: ``"forms"``.
        rows: Name -> row: a dotted path of a module, or a value of the table's own.
        module: Returns the module of a row, for `load`; a row that is a path is its own.
        where: What the error is about, such as a key of a configuration.
        hint: Added to the remedy.

    Example:
        >>> shapes = Table("shape", "shapes", {"round": "math", "square": "cmath"})
        >>> shapes.load("round").pi < 3.2
        True
        >>> shapes.find("rond")
        Traceback (most recent call last):
        duet.errors.ConfigError: unknown shape 'rond', did you mean 'round'?
          known shapes: round, square
    """

    def __init__(
        self,
        kind: str,
        kinds: str,
        rows: Mapping[str, Row],
        *,
        module: Callable[[Row], str] = str,
        where: str | None = None,
        hint: str = "",
    ) -> None:
        self._rows = dict(rows)
        self._kind, self._kinds, self._where, self._hint = kind, kinds, where, hint
        self._module = module

    def __getitem__(self, name: str) -> Row:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, name: str) -> Row:
        """Return the row called ``name``, a word of the user; nothing is imported.

        Raises:
            ConfigError: There is no such row; with the nearest name.
        """
        if name not in self._rows:
            raise ConfigError(
                f"unknown {self._kind} '{name}'{did_you_mean(name, self)}",
                where=self._where,
                remedy=f"known {self._kinds}: {', '.join(self)}{self._hint}",
            )
        return self._rows[name]

    def load(self, name: str) -> Any:
        """Import and return the module of the row called ``name``; see `find`."""
        return importlib.import_module(self._module(self.find(name)))
