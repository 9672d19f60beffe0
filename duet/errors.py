"""Errors that users see: what is wrong, where, and what to do about it.

Every error that `duet` raises on purpose is a `DuetError`. The command line prints it as one
paragraph and exits with the class's `exit_code`; a traceback therefore always means a bug.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from duet.text import clipped, without_addresses, without_secrets

PROBLEMS_SHOWN = 20
"""Problems that one message lists; it says how many more there are."""

_PROBLEM, _LINE, _WHAT, _REMEDY = 600, 1200, 12_000, 1200  # characters: messages stay readable
_NEAR = 1000  # known words that are compared letter by letter with a misspelled one


class DuetError(Exception):
    """Something went wrong that the user can act on (exit code 1).

    Args:
        what: One sentence: what is wrong, with the value got and the value expected.
        where: File, key or tensor concerned.
        remedy: What the user can do now.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "runtime"

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        lines = (clipped(line, _LINE) for line in what.split("\n"))
        self.what = without_secrets(clipped("\n".join(lines), _WHAT))
        self.where = without_addresses(where) if where else where
        self.remedy = without_secrets(clipped(remedy, _REMEDY)) if remedy else remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"\n  {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{advice}"

    def as_dict(self) -> dict[str, object]:
        """Return the error as JSON-ready data for `--json`."""
        return {
            "error": self.kind,
            "message": self.what,
            "where": self.where,
            "suggestion": self.remedy,
            "exit_code": self.exit_code,
        }

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> DuetError:
        """Return the error that `as_dict` told, of its class."""
        named = (kind for kind in DuetError.__subclasses__() if "exit_code" in vars(kind))
        kinds = {kind.exit_code: kind for kind in named}
        kind = kinds.get(record["exit_code"], DuetError)
        return kind(record["message"], where=record["where"], remedy=record["suggestion"])


class ConfigError(DuetError):
    """A command line or configuration value is wrong (exit code 2)."""

    exit_code = 2
    kind = "config"


class DataError(DuetError):
    """Images, labels or a series cannot be used (exit code 3)."""

    exit_code = 3
    kind = "data"


class ModelError(DuetError):
    """Weights, task vectors or models cannot be used (exit code 4)."""

    exit_code = 4
    kind = "model"


class MissingExtraError(DuetError):
    """An optional package is not installed (exit code 5)."""

    exit_code = 5
    kind = "missing-extra"


class GateError(DuetError):
    """A quality gate that the user asked for was not met (exit code 6)."""

    exit_code = 6
    kind = "gate"


class Collected:
    """Errors that are told together: each ``with collected.noted():`` may fail without the next."""

    def __init__(self) -> None:
        self._errors: list[DuetError] = []

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._errors)

    def note(self, error: DuetError) -> None:
        """Keep an error, once."""
        if str(error) not in map(str, self._errors):
            self._errors.append(error)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keep the error that the block raises."""
        try:
            yield
        except DuetError as error:
            self.note(error)

    def raise_all(self, summary: str) -> None:
        """Raise what was kept: one error as it is, several as one of the first one's kind.

        Raises:
            DuetError: There is any.
        """
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            listed = []
            for error in self._errors:
                line = f"{error.where}: {error.what}" if error.where else error.what
                listed.append(f"{line}\n  {error.remedy}" if error.remedy else line)
            listed = [line.replace("\n", "\n    ") for line in listed]
            raise type(self._errors[0])(together(listed, summary=summary))


@contextmanager
def named_in(file: object | None) -> Iterator[None]:
    """Add to an error of the block the file in which the user named what it is about."""
    try:
        yield
    except DuetError as error:
        told = str(file)
        if file is None or told in str(error):
            raise
        where = f"{told}: {error.where}" if error.where else told
        raise type(error)(error.what, where=where, remedy=error.remedy) from error


def together(problems: Sequence[str], *, summary: str) -> str:
    """Join the problems of one input into the `what` of a single error: all, if they are few."""
    kept = [clipped(problem, _PROBLEM) for problem in problems[:PROBLEMS_SHOWN]]
    if len(problems) > PROBLEMS_SHOWN:
        kept.append(f"and {len(problems) - PROBLEMS_SHOWN} more")
    listed = "".join(f"\n  - {problem}" for problem in kept)
    return f"{summary} ({len(problems)} problem{'s' if len(problems) != 1 else ''}):{listed}"


def write_remedy(error: BaseException | None, elsewhere: str = "another folder") -> str:
    """Return what to do about a write that the file system refused.

    Args:
        error: What it raised; libraries dress it in errors of their own.
        elsewhere: What else the user can choose.
    """
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    number = None if error is None else error.errno
    if number == errno.ENAMETOOLONG:
        return f"choose a shorter name, or {elsewhere} with a shorter path"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"choose {elsewhere}, one that you may write to"
    if number in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
        return f"something else has a name that is needed: move it away, or choose {elsewhere}"
    return f"free some disk space or choose {elsewhere}"


def in_short(error: Exception) -> str:
    """Return the type and the text of another program's error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the nearest known word, or an empty string.

    Of a long list only words of about the same length count, and at most a thousand of these.
    """
    # Words whose lengths differ by more cannot be as alike as the cutoff asks.
    least, most = len(word) * 3 // 7, len(word) * 7 // 3 + 1
    likely = [other for other in known if len(other) <= 100 and least <= len(other) <= most]
    near = (
        difflib.get_close_matches(word, likely[:_NEAR], n=1, cutoff=0.6) if len(word) <= 100 else []
    )
    return f", did you mean '{near[0]}'?" if near else ""
