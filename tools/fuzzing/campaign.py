"""Mutations one after the other: copy, spoil, run, judge."""

from __future__ import annotations

import getpass
import os
import random
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fuzzing import setup
from fuzzing.child import Outcome, run, warm
from fuzzing.forms import spoil
from fuzzing.judge import Case, judge, listing, result, stamps
from fuzzing.kinds import KINDS, Kind

GOOD = "good"
_THEIRS = {f"torchinductor_{getpass.getuser()}", ".ses"}
"""What PyTorch and ONNX Runtime leave in the folder for temporary files."""


@dataclass(frozen=True)
class Trial:
    """One command on one spoiled file.

    Attributes:
        number: Of the mutation; `--only` repeats it.
        found: Rule that did not hold -> what was seen.
    """

    number: int
    kind: str
    file: str
    how: str
    command: str
    code: int
    cpu_s: float
    memory_mb: float
    found: Mapping[str, str]


def chosen(words: str | None) -> dict[str, Kind]:
    """Return the kinds that a list with commas names; a leading - leaves one out."""
    named = [word.strip() for word in (words or "").split(",") if word.strip()]
    unknown = {word.lstrip("-") for word in named} - set(KINDS)
    if unknown:
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; known: {', '.join(KINDS)}")
    wanted = {word for word in named if not word.startswith("-")} or set(KINDS)
    return {n: k for n, k in KINDS.items() if n in wanted and f"-{n}" not in named}


def campaign(
    folder: Path,
    kinds: Mapping[str, Kind],
    count: int,
    seed: int,
    only: int | None = None,
    *,
    keep: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Trial]:
    """Spoil files, every kind in turn, and judge the commands that read them.

    Args:
        folder: Where everything happens; a set-up that is there is used.
        kinds: Rows of `KINDS`.
        count: How many; mutation ``n`` is the same whatever it is.
        seed: Of files and operators.
        only: The one mutation to do.
        keep: Keep the folders of cases with findings, and what the commands said.
        tell: Called with a line for each finding.
    """
    warm()
    setup.make(folder / GOOD, {kind.part for kind in kinds.values()})
    fuzzer = _Fuzzer(folder, keep)
    tried: list[Trial] = []
    names = list(kinds)
    for number in range(count):
        name = names[number % len(names)]
        if only is not None and number != only:
            continue
        trial = fuzzer.trial(number, name, kinds[name], random.Random(f"{seed}:{number}:{name}"))
        tried.append(trial)
        if trial.found:
            tell(f"{number} {name} {trial.file}: {trial.how}\n  duet {trial.command}")
            for rule, seen in trial.found.items():
                tell(f"  {rule}: {seen}")
    return tried


class _Fuzzer:
    def __init__(self, folder: Path, keep: bool) -> None:
        self.folder, self.keep = folder, keep
        self.good: dict[tuple[str, ...], dict[str, Any]] = {}

    def trial(self, number: int, name: str, kind: Kind, rng: random.Random) -> Trial:
        """Do one mutation."""
        good = self.folder / GOOD
        files = sorted({path for glob in kind.files for path in good.glob(glob) if path.is_file()})
        file = rng.choice(files).relative_to(good)
        command = rng.choice(kind.commands)
        words = tuple(word.replace("{file}", str(file)) for word in shlex.split(command))
        if rng.random() < 0.3:
            words = tuple(word for word in words if word != "--json")
        expected = self._expected(kind, words) if "--json" in words else None
        case_folder = self._copy(f"case-{number}")
        _own(case_folder / file)
        how = spoil(kind.form, case_folder / file, rng)
        case = Case(name, case_folder, str(file), how, words, listing(case_folder))
        stamped = stamps(good)
        outcome = self._run(words, kind, case_folder)
        found = judge(case, kind, outcome, expected)
        changed = {path for path, stamp in stamps(good).items() if stamped.get(path) != stamp}
        if changed:
            found["linked"] = f"wrote through links into {sorted(changed)[:3]}"
        left = sorted({path.name for path in (self.folder / "temporary").iterdir()} - _THEIRS)
        if left and not outcome.hung:
            found["leftovers"] = ", ".join(left)[:200]
        self._tidy(case_folder, outcome, keep=self.keep and bool(found))
        return Trial(
            number, name, str(file), how[:300], shlex.join(words), outcome.code,
            round(outcome.cpu_s, 2), round(outcome.memory_mb), found,
        )  # fmt: skip

    def _run(self, words: Sequence[str], kind: Kind, folder: Path) -> Outcome:
        wall = 12 * kind.cpu_s
        return run(words, folder, self.folder, cpu_s=kind.cpu_s + 2, wall_s=wall)

    def _copy(self, name: str) -> Path:
        """Copy the set-up; files are shared, as only the spoiled one is written to."""
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder / GOOD, target, copy_function=os.link)
        return target

    def _expected(self, kind: Kind, words: tuple[str, ...]) -> dict[str, Any]:
        """Return what two runs of a command on the good set-up agree on."""
        if words not in self.good:
            both = []
            for _ in range(2):
                folder = self._copy("case-good")
                outcome = self._run(words, kind, folder)
                if outcome.code:
                    said = f"{outcome.out[-1000:]}{outcome.err[-1000:]}"
                    raise RuntimeError(f"{shlex.join(words)}: exit {outcome.code}: {said}")
                both.append(result(kind, folder, outcome))
                self._tidy(folder, outcome, keep=False)
            one, other = both
            self.good[words] = {key: one[key] for key in one if other.get(key) == one[key]}
        return self.good[words]

    def _tidy(self, folder: Path, outcome: Outcome, *, keep: bool) -> None:
        if keep:
            (folder / "said.txt").write_text(f"{outcome.out}\n---\n{outcome.err}", "utf-8")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        for path in (self.folder / "temporary").iterdir():
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True) if path.exists() else None


def _own(path: Path) -> None:
    """Give a shared file bytes of its own."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
