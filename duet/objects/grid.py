"""What shows itself, as text in a prompt and as HTML in a notebook: a small table, or a text."""

from __future__ import annotations

import abc
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from duet.text import for_people, printable, short_list

NAMES_SHOWN = 6
"""Class names in one cell: a row of a table stays a line of a terminal."""


@dataclass(frozen=True)
class Grid:
    """Rows under a heading.

    Attributes:
        heading: One line above the table.
        header: Column titles.
        rows: One tuple of cell texts per row, as long as ``header``.
        words: How many leading columns hold words; the rest hold numbers, aligned to the right.
        foot: Lines below.
    """

    heading: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    foot: tuple[str, ...] = ()

    def text(self) -> str:
        """Return it for a terminal; no cell can write a line of its own."""
        from duet.report.tables import Table

        lines = Table(self.header, self.rows, self.words).as_text().split("\n")
        foot = (printable(line) for line in self.foot)
        return "\n".join([printable(self.heading), *(f"  {line}" for line in lines), *foot])

    def html(self) -> str:
        """Return it for a notebook."""
        from duet.report.tables import Table

        head = "".join(f"<th>{html.escape(title)}</th>" for title in self.header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(printable(cell))}</td>" for cell in row) + "</tr>"
            for row in self.rows
        )
        lines = (*filter(None, [Table(self.header, self.rows, self.words).note]), *self.foot)
        foot = "".join(f"<div>{html.escape(printable(line))}</div>" for line in lines)
        title = html.escape(printable(self.heading))
        return f"<b>{title}</b><table><tr>{head}</tr>{body}</table>{foot}"


class Shown(abc.ABC):
    """What says what it is: in a prompt, in a notebook, by `print`."""

    @abc.abstractmethod
    def _grid(self) -> Grid:
        """Return what there is to say."""

    def __repr__(self) -> str:
        """Return a table for a prompt."""
        return self._grid().text()

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        return self._grid().html()


def some(names: Sequence[str]) -> str:
    """Return a few names of many."""
    return short_list(tuple(names), limit=NAMES_SHOWN)


class Told(Mapping[str, Any]):
    """The data of `duet log`, `diff` or `compare`: a mapping that shows itself as they do.

    Args:
        value: What was found.
        data: It, JSON-ready, as ``--json`` prints it.
        text: Makes the text of the data.
    """

    def __init__(
        self, value: Any, data: dict[str, Any], text: Callable[[dict[str, Any]], str]
    ) -> None:
        self.value, self.data, self._text = value, data, text

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        """Return the text for a prompt."""
        return printable(self._text(for_people(self.data)), lines=True)

    def _repr_html_(self) -> str:
        """Return the text for a notebook."""
        return f"<pre>{html.escape(repr(self))}</pre>"
