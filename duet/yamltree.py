"""YAML that strangers wrote, as plain data: nothing runs, nothing grows, texts stay as written.

PyYAML's (libyaml's) events are turned into mappings and lists here, without its constructors: they
read YAML 1.1, where ``02146`` is 1126, ``12:30`` is 750 and ``no`` is false.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from duet.errors import ConfigError
from duet.text import clipped, shown


class Plain(str):
    """A scalar that was written without quotes: its own spelling, which counts as a name.

    ``02146``, ``1_000``, ``12:30``, ``no`` and ``2024-01-01`` stay what was written. Fields of
    numbers are validated from the text, and `resolved` gives the value where no type is declared.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Mapped(dict[str, Any]):
    """A mapping of `parse_yaml` that knows the lines of its keys."""

    lines: dict[Any, int]


class Listed(list[Any]):
    """A list of `parse_yaml` that knows the lines of its items."""

    lines: dict[Any, int]


def line_of(data: Any, place: Iterable[str | int]) -> int | None:
    """Return the line of a value, or of what it stands in, or None if data have no lines.

    Args:
        data: Of `parse_yaml`.
        place: Keys and positions that lead to it; the last ones need not be there.
    """
    line = None
    for step in place:
        if not isinstance(data, (Mapped, Listed)) or step not in data.lines:
            break
        line, data = data.lines[step], data[step]  # type: ignore[call-overload, index]
    return line


def parse_yaml(text: str, *, where: str) -> Any:
    """Read YAML text; see `load_yaml`.

    Raises:
        ConfigError: As `load_yaml`.
    """
    import yaml

    if found := _UNPRINTABLE.search(text):
        line, column = _position(text, found.start())
        problem = f"the control character {found[0]!r} is not allowed"
        raise _not_yaml(problem, line, column, where)
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # libyaml, where PyYAML has it
    try:
        return _Tree(where).build(yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _not_yaml(problem, line, column, where) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"not valid YAML: {shown(str(error))}", where=where) from None


def resolved(value: Any) -> Any:
    """Return data of `load_yaml` with every unquoted scalar as YAML 1.2's value of it.

    ``7`` and ``0x1A`` are whole numbers, ``1e-3`` and ``.5`` numbers; all else is text, also
    ``no``, ``12:30`` and dates.
    """
    if isinstance(value, Plain):
        return _scalar(str(value))
    if isinstance(value, Mapping):
        return {resolved(key): resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item) for item in value]
    return value


_DEEPEST = 64  # levels of nesting: files of users have about five
_MOST_NODES = 2_000_000  # scalars and containers, those of aliases counted each time
_MOST_REPEATED = 100_000  # of these, what aliases and merge keys add

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE, _FALSE = frozenset({"true", "True", "TRUE"}), frozenset({"false", "False", "FALSE"})
_WORDS = _NULL | _TRUE | _FALSE  # no names: what they mean is the same to everybody
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)")
_LONGEST_NUMBER = 400  # digits; Python refuses 4300, and no field takes as many


def _scalar(text: str) -> Any:
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if len(text) > _LONGEST_NUMBER:
        return text
    if _INTEGER.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    if _NUMBER.fullmatch(text):
        return float(text)
    if special := _SPECIAL.fullmatch(text):
        return float(special[1] + special[2])
    return text


class _Tree:
    """Builds the data of one document from its events: without recursion, within bounds."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.nodes = self.repeated = 0
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.open: list[_Open] = []
        self.root: Any = None

    def build(self, events: Iterable[Any]) -> Any:
        """Return the data of the first and only document."""
        import yaml

        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error("expected one document, found another", event)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.ScalarEvent):
                value = self._value(event)
                self._keep(event, value, 1)
                self._put(value, event, 1, word=event.value)
            elif isinstance(event, yaml.CollectionStartEvent):
                is_mapping = isinstance(event, yaml.MappingStartEvent)
                self._start(event, Mapped() if is_mapping else Listed())
            elif isinstance(event, yaml.CollectionEndEvent):
                done = self.open.pop()
                data = done.close()
                self._keep(done.event, data, done.size)
                self._put(data, done.event, done.size)
        return self.root

    def _start(self, event: Any, empty: Any) -> None:
        if event.tag not in (None, "!", _TAG + ("map" if isinstance(empty, dict) else "seq")):
            raise self._error(f"the tag {shown(event.tag)} is not known here", event)
        if len(self.open) >= _DEEPEST:
            raise self._error(f"more than {_DEEPEST} levels of nesting", event)
        if self.open and self.open[-1].wants_key:
            raise self._error("a key must be a single word or text", event)
        if event.anchor:
            self.anchors.pop(event.anchor, None)
        self.open.append(_Open(event, empty))

    def _alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            known = any(item.event.anchor == event.anchor for item in self.open)
            kind = "refers to what it stands in" if known else "refers to nothing before it"
            raise self._error(f"the alias *{shown(event.anchor)[1:-1]} {kind}", event)
        value, size = self.anchors[event.anchor]
        self.repeated += size
        if self.repeated > _MOST_REPEATED:
            raise self._error(f"aliases repeat more than {_MOST_REPEATED} values", event)
        self._put(value, event, size)

    def _keep(self, event: Any, value: Any, size: int) -> None:
        if event.anchor:
            self.anchors[event.anchor] = (value, size)

    def _put(self, value: Any, event: Any, size: int, word: str | None = None) -> None:
        """Give a finished value to what it stands in; as a key, null and true are only words."""
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            raise self._error(f"more than {_MOST_NODES} values", event)
        if not self.open:
            self.root = value
            return
        parent = self.open[-1]
        parent.size += size
        if not parent.wants_key:
            parent.add(value, event, self._error)
        elif not isinstance(value, str) and word is None:
            raise self._error("a key must be a single word or text", event)
        else:
            parent.name(value if isinstance(value, str) else str(word), event, self._error)

    def _value(self, event: Any) -> Any:
        """Return the value of a scalar: its text, None, or what an explicit tag says."""
        if "\0" in event.value:
            raise self._error("a text holds the control character '\\x00'", event)
        plain = event.style in (None, "")
        if event.tag is None or (event.tag == "!" and plain):
            if not plain:
                return str(event.value)
            bare = event.value in _WORDS and event.tag is None
            return _scalar(event.value) if bare else Plain(event.value)
        kind = event.tag.removeprefix(_TAG)
        if event.tag == "!" or kind == "str":
            return str(event.value)
        wanted = _KINDS.get(kind)
        if wanted is None or not event.tag.startswith(_TAG):
            raise self._error(f"the tag {shown(event.tag)} is not known here", event)
        found = _scalar(event.value)
        if type(found) is int and wanted is float:
            found = float(found)
        if type(found) is not wanted:
            raise self._error(f"!!{kind} does not fit {shown(event.value)}", event)
        return found

    def _error(self, problem: str, event: Any) -> ConfigError:
        mark = event.start_mark
        return _not_yaml(problem, mark.line + 1, mark.column + 1, self.where)


_TAG = "tag:yaml.org,2002:"
_KINDS: Mapping[str, type] = {"int": int, "float": float, "bool": bool, "null": type(None)}

_Fail = Callable[[str, Any], ConfigError]


class _Open:
    """A mapping or list whose end has not come yet."""

    def __init__(self, event: Any, data: Any) -> None:
        self.event, self.data, self.size = event, data, 1
        data.lines = {}
        self.key: tuple[str, Any] | None = None  # and where it stands
        self.keys: dict[str, Any] = {}
        self.merged: list[Any] = []

    @property
    def wants_key(self) -> bool:
        return isinstance(self.data, dict) and self.key is None

    def name(self, key: str, event: Any, fail: _Fail) -> None:
        """Take a key; of one that is there twice the first value would be lost."""
        first = event if _merges(key, event) else self.keys.setdefault(key, event)
        if first is not event:
            place = f"line {first.start_mark.line + 1}, column {first.start_mark.column + 1}"
            raise fail(f"'{clipped(key, 100)}' first here ({place}), and again here", event)
        self.key = (key, event)

    def add(self, value: Any, event: Any, fail: _Fail) -> None:
        """Take an item, or the value of the last key."""
        if isinstance(self.data, Listed):
            self.data.lines[len(self.data)] = event.start_mark.line + 1
            self.data.append(value)
            return
        assert self.key is not None
        (key, event), self.key = self.key, None
        if not _merges(key, event):
            self.data.lines[key] = event.start_mark.line + 1
            self.data[key] = value
            return
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            raise fail("'<<' takes a mapping or a list of mappings", event)
        self.merged += sources

    def close(self) -> Any:
        """Return the data; merge keys give what the mapping does not say itself."""
        for source in self.merged:
            for key, value in source.items():
                self.data.setdefault(key, value)
        return self.data


def _merges(key: str, event: Any) -> bool:
    return key == "<<" and getattr(event, "style", "'") in (None, "")


def _position(text: str, index: int) -> tuple[int, int]:
    before = text[:index]
    return before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1


def _not_yaml(problem: str, line: int, column: int, where: str) -> ConfigError:
    return ConfigError(f"not valid YAML: line {line}, column {column}: {problem}", where=where)
