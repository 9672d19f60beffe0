"""What a command would print, as an object: JSON-ready data with a text for people."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from duet.text import for_people, printable


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
