"""Finding finished runs, telling whether they may be compared, and grouping them by strategy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from duet.errors import DataError, together
from duet.evaluation.matrix import slice_title
from duet.evaluation.pairs import ri_pairs
from duet.results.files import RESULTS_FILE, load_results
from duet.results.schema import Results, StrategyResult
from duet.trees import resolved

Key = tuple[tuple[tuple[str, tuple[str, ...]], ...], int]
"""(order of the increments, seed): two strategies with the same key are a pair."""


SHOWN = 300
"""Letters of a fact that an error message shows."""


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        folder: Run folder.
        group: What the user named: the run folder, or the folder of repeats that it lies in.
        results: Its `results.json`.
    """

    folder: Path
    group: str
    results: Results

    @property
    def key(self) -> Key:
        """Order of the increments, and the seed; the order of classes in one means nothing."""
        steps = self.results.series.steps
        return tuple((d, tuple(sorted(c))) for d, c in steps), self.results.protocol.seed


@dataclass(frozen=True)
class Entry:
    """One strategy of one run."""

    run: Run
    strategy: StrategyResult


def find_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Read the runs that ``paths`` name: run folders, or folders of repeats.

    Raises:
        DataError: A folder holds no finished run, or a file cannot be used.
    """
    folders: dict[Path, tuple[Path, str]] = {}
    names = _short_names(paths)
    for path, name in zip(paths, names, strict=True):
        for folder in _run_folders(path):
            folders.setdefault(resolved(folder), (folder, name))
    return tuple(Run(folder, name, _read(folder)) for folder, name in folders.values())


def _read(folder: Path) -> Results:
    """Read `results.json` and look at what its schema does not check."""
    results = load_results(folder)
    try:
        ri_pairs(results.series.steps)
        for strategy in results.strategies:
            strategy.stage_matrix()
    except DataError as error:
        raise DataError(
            error.what,
            where=str(folder / RESULTS_FILE),
            remedy="give the `duet run` command of this run again",
        ) from None
    return results


def _run_folders(path: Path) -> list[Path]:
    if (path / RESULTS_FILE).is_file():
        return [path]
    found = sorted(item.parent for item in path.glob(f"*/{RESULTS_FILE}"))
    if not found:
        raise DataError(
            "no finished run here: neither results.json nor folders that hold one",
            where=str(path),
            remedy="pass the folders of finished runs, or a folder that `duet run --seeds` filled",
        )
    return found


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return the last part of each path, or the whole where that is not enough."""
    names = [resolved(path).name for path in paths]
    return [
        name if names.count(name) == 1 else str(path)
        for path, name in zip(paths, names, strict=True)
    ]


def differences(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what keeps runs from being compared, one sentence per fact; empty if nothing does.

    Seeds and the order of the increments may differ.
    """
    facts = []
    for name in _facts(runs[0]):
        values: dict[str, list[str]] = {}
        for run in runs:
            values.setdefault(_facts(run).get(name, "none"), []).append(str(run.folder))
        if len(values) > 1:
            letters = enumerate(zip(*values, strict=False))
            same = next((place for place, found in letters if len(set(found)) > 1), 0)
            told = "; ".join(
                f"{_around(value, same)} in {_some(folders)}" for value, folders in values.items()
            )
            facts.append(f"{name}: {told}")
    return tuple(facts)


def require_equal(found: Sequence[str]) -> None:
    """Refuse runs whose numbers do not mean the same.

    Args:
        found: What `differences` returned.

    Raises:
        DataError: With everything that differs.
    """
    if found:
        raise DataError(
            together(found, summary="these runs measure different things"),
            remedy="compare runs of one series and protocol, or give --force to see them anyway",
        )


def _facts(run: Run) -> Mapping[str, str]:
    """Return what must be equal, as text."""
    series, protocol = run.results.series, run.results.protocol
    increments = sorted(
        slice_title(step.domain, sorted(step.classes)) for step in series.increments
    )
    counted = {
        step.domain: count.images
        for step in series.increments
        for split, count in step.counts.items()
        if split != "train"
    }
    images = ", ".join(f"{domain} {number}" for domain, number in sorted(counted.items()))
    return {
        "increments": ", ".join(increments),
        "split": protocol.eval_split,
        "images of the split": images or "unknown",
        "image size": protocol.input,
        "detector": protocol.family,
        "image rule": protocol.image_rule,
        "AP": str(protocol.ap.parameters),  # who computes it is the same to the bit
    }


def _around(text: str, place: int) -> str:
    """Return a text, or of a long one what stands around a place: series have hundreds of names."""
    if len(text) <= SHOWN:
        return text
    begin = max(place - SHOWN // 4, 0)
    end = min(begin + SHOWN, len(text))
    return ("…" if begin else "") + text[begin:end] + ("…" if end < len(text) else "")


def _some(folders: Sequence[str]) -> str:
    return folders[0] if len(folders) == 1 else f"{folders[0]} and {len(folders) - 1} more"


def grouped(runs: Sequence[Run], *, apart: bool = False) -> dict[str, tuple[Entry, ...]]:
    """Return label -> the runs of one strategy, in the order in which the strategies were found.

    A strategy's label is its name. Where two folders hold different results of the same name, seed
    and order (one was trained longer, say), the labels name the folder too; equal results count
    once.

    Args:
        runs: What `find_runs` returned.
        apart: Never put runs of different arguments together.
    """
    names = dict.fromkeys(strategy.name for run in runs for strategy in run.results.strategies)
    groups: dict[str, tuple[Entry, ...]] = {}
    for name in names:
        entries = _distinct(
            [Entry(run, m) for run in runs for m in run.results.strategies if m.name == name]
        )
        labels: list[Callable[[Entry], str]] = [
            lambda e: e.strategy.name,
            lambda e: f"{e.strategy.name} ({e.run.group})",
            lambda e: f"{e.strategy.name} ({e.run.group}/{e.run.folder.name})",
        ]
        several = apart and len({entry.run.group for entry in entries}) > 1
        for label in labels[1 if several else 0 :]:
            counts = Counter((label(entry), entry.run.key) for entry in entries)
            if max(counts.values()) == 1:
                break
        for entry in entries:
            groups[label(entry)] = (*groups.get(label(entry), ()), entry)
    return groups


def _distinct(entries: Sequence[Entry]) -> list[Entry]:
    """Drop entries that repeat the numbers of an earlier one of the same seed and order."""
    kept: list[Entry] = []
    for entry in entries:
        same = (
            other.run.key == entry.run.key
            and other.strategy.matrix == entry.strategy.matrix
            and other.strategy.indices == entry.strategy.indices
            for other in kept
        )
        if not any(same):
            kept.append(entry)
    return kept
