"""What must hold of a command, whatever its input: a list of what did not."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duet.doctor.repair import REPORT
from fuzzing.child import Outcome
from fuzzing.kinds import Kind

LONGEST_ERROR = 4096
MOST_MEMORY_MB = 700.0
"""More than a merge, an import or an export of the set-up takes above the warm process."""

_SHORT = 4
"""Letters; a shorter word is in a message by chance."""

_RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ASIDE = re.compile(r"damaged-\d+-")
_ERRORS = re.compile(r"^(Error \[(config|data|model|runtime)\]: |\{\"error\": )", re.MULTILINE)
_CODES = {1: "runtime", 2: "config", 3: "data", 4: "model"}


@dataclass(frozen=True)
class Case:
    """One spoiled file and one command that reads it.

    Attributes:
        folder: The copy of the set-up, in which the command ran.
        file: The spoiled file, relative to it.
        how: The operator and what it did.
        before: Paths of the copy before the command.
    """

    kind: str
    folder: Path
    file: str
    how: str
    words: tuple[str, ...]
    before: frozenset[str]


def listing(folder: Path) -> frozenset[str]:
    """Return the relative paths below a folder."""
    return frozenset(str(path.relative_to(folder)) for path in folder.rglob("*"))


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def result(kind: Kind, folder: Path, outcome: Outcome) -> dict[str, Any]:
    """Return what a command gave: its JSON as one flat table, and hashes of what it wrote."""
    try:
        found = dict(_flat("", json.loads(outcome.out)))
    except ValueError:
        found = {"stdout": outcome.out}
    for pattern in kind.results:
        for path in sorted(folder.glob(pattern)):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = digest
    return found


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, (dict, list)):
        yield path, value
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _flat(f"{path}/{key}", item)


def judge(
    case: Case, kind: Kind, outcome: Outcome, good: Mapping[str, Any] | None
) -> dict[str, str]:
    """Return what does not hold: rule -> what was seen.

    Args:
        case: The spoiled file and the command.
        kind: Its kind.
        outcome: What the command left.
        good: `result` of the unspoiled set-up without what differs from run to run; None where
            that is no measure, as in the form for people.
    """
    found = _conduct(case, kind, outcome)
    if outcome.code:
        found |= _refusal(case, kind, outcome)
    elif good is not None:
        found |= _loss(case, kind, outcome, good)
    return found


def _conduct(case: Case, kind: Kind, outcome: Outcome) -> dict[str, str]:
    found = {}
    if "Traceback (most recent call last)" in outcome.err:
        found["traceback"] = outcome.err.strip().splitlines()[-1][:200]
    if outcome.hung or outcome.cpu_s > kind.cpu_s:
        found["hang"] = f"{outcome.cpu_s:.1f} s CPU, {outcome.wall_s:.1f} s"
    if outcome.memory_mb > MOST_MEMORY_MB:
        found["memory"] = f"{outcome.memory_mb:.0f} MB"
    raw = _RAW.search(outcome.out + outcome.err)
    if raw:
        found["control"] = f"{raw[0]!r} in {(outcome.out + outcome.err)[: raw.end()][-60:]!r}"
    if outcome.asked_network:
        found["network"] = ", ".join(outcome.asked_network)[:200]
    if len(outcome.err) > LONGEST_ERROR and outcome.code:
        found["long"] = f"{len(outcome.err)} characters"
    places = {"made", "got", "run"}
    now = listing(case.folder)
    # A repaired copy is whole, and kept, also where it says that something is left to do by hand.
    keeps = kind.keeps or ("--fix" in case.words and f"made/{REPORT}" in now)
    # A damaged folder is set aside with all that is in it, under a name that is told.
    aside = {_ASIDE.sub("", path) for path in now if (name := _ASIDE.search(path))
             and name[0] in outcome.err}  # fmt: skip
    if lost := case.before - now - aside - {case.file}:
        found["lost"] = ", ".join(sorted(lost))[:200]
    for path in sorted(now - case.before):
        if Path(path).parts[0] not in places:
            found["outside"] = f"wrote {path}"
        elif outcome.code and not keeps and Path(path).parts[0] != "run" and path != "made":
            found["half-written"] = f"left {path}"
    return found


def _refusal(case: Case, kind: Kind, outcome: Outcome) -> dict[str, str]:
    found = {}
    last = outcome.err.strip().splitlines()[-1:] or [""]
    told = _ERRORS.search(outcome.err)
    if outcome.code not in kind.codes:
        found["code"] = f"{outcome.code}, expected {sorted(kind.codes - {0})}: {last[0][:200]}"
    elif told is None and not outcome.out.strip():
        found["unsaid"] = f"exit {outcome.code} without an error: {last[0][:200]}"
    elif told is not None and _CODES[outcome.code] != (told[2] or _said(outcome.err)):
        found["code"] = f"exit {outcome.code}, but said {told[0]}"
    if "unsaid" not in found and not _names(case, kind, outcome.err + outcome.out):
        found["unnamed"] = outcome.err[:300]
    return found


def _said(text: str) -> str:
    for line in text.splitlines():
        if line.startswith('{"error"'):
            return str(json.loads(line)["error"])
    return ""


def _names(case: Case, kind: Kind, text: str) -> bool:
    """Tell whether a text names the spoiled file, or the folder or series that it belongs to."""
    path = Path(case.file)
    words = {path.name, str(path.parent), *kind.also} - {"."}
    if len(path.stem) > _SHORT:
        words.add(path.stem)  # a label may be told by its image, a list by its split
    if path.name in ("manifest.json", "outcome.json", "job.json", "slice.npz"):
        words.add(path.parent.name)
    return any(word in text for word in words)


def _loss(case: Case, kind: Kind, outcome: Outcome, good: Mapping[str, Any]) -> dict[str, str]:
    """Tell what a command that succeeded lost without a word."""
    now = result(kind, case.folder, outcome)
    told = _told(case, kind, outcome)
    if told:
        return {}
    if kind.bound:
        differ = [key for key, value in good.items() if now.get(key) != value]
        return {"silent": f"differs in {differ[:4]}"} if differ else {}
    if "doubled" in case.how and case.how.startswith("tree"):
        return {"silent": f"a doubled key was taken: {case.how}"}
    if kind.objects is None:
        return {}
    path = case.folder / case.file
    objects = kind.objects(path) if path.is_file() else 0
    counts = [sum(v for k, v in t.items() if _COUNT.search(k)) for t in (good, now)]
    missing = counts[0] - counts[1]
    lost = _good_objects(case, kind) - objects
    return (
        {"silent": f"{missing} objects fewer, {lost} fewer in the file"} if missing > lost else {}
    )


_COUNT = re.compile(r"/splits/\w+/(objects/|ignored)")


def _good_objects(case: Case, kind: Kind) -> int:
    assert kind.objects is not None
    return kind.objects(case.folder.parent / "good" / case.file)


def _told(case: Case, kind: Kind, outcome: Outcome) -> bool:
    text = outcome.err
    try:
        document = json.loads(outcome.out)
    except ValueError:
        return _names(case, kind, text)
    for key in ("findings", "problems", "notes", "warnings", "remarks", "increments"):
        if isinstance(document, dict) and (key != "increments" or "geometry" in document):
            text += json.dumps(document.get(key, ""))
    return _names(case, kind, text)
