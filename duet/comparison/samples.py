"""The indices of a strategy on resampled images, once per resample.

The same images are drawn for all models, stages, references, seeds and strategies, so that the
difference of two strategies is measured on equal terms. Training is not repeated: the intervals
speak of the choice of test images, the spread over seeds speaks of training.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duet.comparison.runs import Entry
from duet.errors import DataError
from duet.evaluation.bootstrap import Sampled, Weights, resamples, weighted_ap50
from duet.evaluation.definitions import INDICES, Index
from duet.evaluation.deployment import Retained, load_deployed, pooled, retained
from duet.evaluation.indices import Term
from duet.evaluation.matches import ClassMatches, Matches, load_matches
from duet.report.phrases import listed
from duet.results.files import RESULTS_FILE
from duet.trees import resolved

CLOSE = 1e-6
"""How far the indices from the matches may be from those of `results.json`: rounding alone."""


KEPT = 500_000_000
"""Bytes of weights that are kept: those of 50 000 images and 1 000 resamples have 200 MB."""

_ANEW = "give the `duet run` command of this run again; it evaluates anew"


class NoEvidenceError(Exception):
    """A run does not keep the matches that its numbers come from."""


@dataclass
class Sampler:
    """Indices on resampled images; every class of a file is resampled once.

    One file and the weights of a few sets of images are held at a time: what is left of a file is a
    value per class and resample.

    Attributes:
        count: Number of resamples.
        seed: Of the resamples.
        images: Per file of matches, its set of images: domain and hash of the content.
        lacking: Folders of the runs that do not keep the matches behind their numbers.
    """

    count: int
    seed: int
    images: dict[Path, tuple[str, bytes]] = field(default_factory=dict)
    lacking: dict[Path, None] = field(default_factory=dict)
    _samples: dict[tuple[Path, str], dict[str, Sampled]] = field(default_factory=dict)
    _weights: dict[tuple[str, bytes], Weights] = field(default_factory=dict)
    _last: tuple[Path, Matches] | None = None
    _names: dict[Path, frozenset[str]] = field(default_factory=dict)
    _ap50: dict[tuple[Path, str], Sampled] = field(default_factory=dict)
    _recalls: dict[tuple[Any, ...], Retained] = field(default_factory=dict)

    def read(self, entries: Iterable[Entry]) -> None:
        """Resample every strategy of every run that keeps its matches."""
        for entry in entries:
            try:
                self._samples[entry.run.folder, entry.strategy.name] = self.indices(entry)
            except NoEvidenceError:
                self.lacking[entry.run.folder] = None

    def pooled(self, entries: Sequence[Entry], name: str) -> Sampled | None:
        """Return the mean over runs of an index, per resample; None if a run lacks it."""
        keys = [(entry.run.folder, entry.strategy.name) for entry in entries]
        found = [self._samples.get(key, {}).get(name) for key in keys]
        known = [values for values in found if values is not None]
        return np.mean(known, axis=0) if known and len(known) == len(found) else None

    def undefined(self) -> float:
        """Return the largest share of resamples that left an index of a run undefined."""
        columns = (values for row in self._samples.values() for values in row.values())
        shares = (float(np.isnan(values[1:]).mean()) for values in columns if len(values) > 1)
        return max(shares, default=0.0)

    def indices(self, entry: Entry) -> dict[str, Sampled]:
        """Return the indices of one strategy in one run that are ratios, by name.

        Each is ``(count + 1,)``; the first value is that of the images as they are. NaN where a
        resample leaves an index undefined; an index that the run does not define is left out.

        Raises:
            NoEvidenceError: The run keeps no matches for one of the cells.
            DataError: A file of matches is damaged, or tells other numbers than `results.json`.
        """
        found: dict[str, Sampled] = {}
        for index in INDICES:
            terms = entry.strategy.indices.terms(index)
            if terms:
                ratios = [self._ratio(entry, term, index) for term in terms]
                found[index.name] = np.mean(ratios, axis=0)
            elif index.parts and set(index.parts) <= set(found):
                parts = np.stack([found[name] for name in index.parts])
                harmonic = index.mean == "harmonic"
                found[index.name] = _harmonic(parts) if harmonic else parts.mean(axis=0)
        _require_equal(entry, found)
        return found

    def other_images(self) -> tuple[str, ...]:
        """Return the domains that were evaluated on several sets of images, one sentence each."""
        sets: dict[str, dict[bytes, Path]] = {}
        for path, (domain, content) in self.images.items():
            sets.setdefault(domain, {}).setdefault(content, path)
        return tuple(
            f"content of the evaluated images of {domain}: "
            + " is not that of ".join(str(path) for path in list(paths.values())[:2])
            for domain, paths in sets.items()
            if len(paths) > 1
        )

    def _ratio(self, entry: Entry, term: Term, index: Index) -> Sampled:
        if index.of == "recall":
            kept = self._retained(entry, term)
            after = kept.at_precision if index.at_precision else kept.after
            return _divided(after, kept.before)
        classes, domain = term.classes, term.domain
        after = self._map50(entry, _scores_file(entry, term.stage, domain), domain, classes)
        if index.against == "earlier":
            other = _scores_file(entry, term.increment, domain)
        else:
            reference = entry.run.results.reference(domain, classes)
            other = reference.evidence if reference else None
        before = self._map50(entry, other, domain, classes)
        return _divided(after, before)

    def _retained(self, entry: Entry, term: Term) -> Retained:
        """Return what of the objects of a term is found by the detectors of both its sides."""
        stages = (term.increment, term.stage)
        key = (entry.run.folder, entry.strategy.name, term.domain, *stages, term.classes)
        if key in self._recalls:
            return self._recalls[key]
        (earlier, keys), (later, others) = (self._shown(entry, stage, term) for stage in stages)
        if not np.array_equal(keys, others):
            raise DataError(
                f"two evaluations of {term.domain} speak of other images",
                where=str(entry.run.folder),
                remedy=_ANEW,
            )
        earlier, later = _by_key(earlier, keys), _by_key(later, keys)
        self._recalls[key] = retained(earlier, later, self._weights_for(term.domain, keys))
        return self._recalls[key]

    def _shown(
        self, entry: Entry, stage: int, term: Term
    ) -> tuple[ClassMatches, npt.NDArray[np.uint64]]:
        """Return what a stage shows of a term's classes, and which images these are."""
        scores = entry.strategy.scores_at(stage, term.domain)
        deployed = scores.deployed if scores else None
        path = _existing(entry, deployed.evidence if deployed else None)
        assert deployed is not None
        matches = load_deployed(path).matches
        limits = {name: row.threshold for name, row in deployed.classes.items()}
        if lacking := [n for n in term.classes if n in matches.classes and n not in limits]:
            raise DataError(
                f"stage {stage} in {term.domain} has no threshold of {listed(lacking)}, though "
                "their matches are kept",
                where=str(entry.run.folder / RESULTS_FILE),
                remedy=_ANEW,
            )
        return pooled(matches, term.classes, limits), matches.keys

    def _map50(
        self, entry: Entry, evidence: str | None, domain: str, classes: Sequence[str]
    ) -> Sampled:
        """Return the mean AP50 of those classes that the resample holds, ``(count + 1,)``."""
        path = _existing(entry, evidence)
        if path not in self._names:
            self._read(path, domain)
        known = self._names[path]
        found = [self._class(path, domain, name) for name in classes if name in known]
        if not found:
            raise DataError(
                f"the matches hold none of the classes {listed(list(classes))}",
                where=str(path),
                remedy=f"remove the file and {_ANEW}",
            )
        values = np.stack(found)
        there = ~np.isnan(values)
        number = there.sum(axis=0)
        total = np.where(there, values, 0).sum(axis=0)
        return _divided(total, number)

    def _read(self, path: Path, domain: str) -> Matches:
        if self._last is None or self._last[0] != path:
            self._last = None  # before the next one is read
            self._last = path, load_matches(path)
        matches = self._last[1]
        self.images[path] = domain, _content(matches.keys)
        self._names[path] = frozenset(matches.classes)
        return matches

    def _class(self, path: Path, domain: str, name: str) -> Sampled:
        if (path, name) not in self._ap50:
            matches = self._read(path, domain)
            found = _by_key(matches.classes[name], matches.keys)
            weights = self._weights_for(domain, matches.keys)
            self._ap50[path, name] = weighted_ap50(found, weights)
        return self._ap50[path, name]

    def _weights_for(self, domain: str, keys: npt.NDArray[np.uint64]) -> Weights:
        """Return the weights of a file's images in the order of their keys, see `_by_key`."""
        files = domain, _content(keys)
        if files not in self._weights:
            drawn = resamples(len(keys), self.count, seed=self.seed, name=domain)
            self._weights[files] = drawn
            for other in list(self._weights)[:-1]:  # the oldest first
                if sum(one.nbytes for one in self._weights.values()) > KEPT:
                    del self._weights[other]
        return self._weights[files]


def _content(keys: npt.NDArray[np.uint64]) -> bytes:
    """Return a hash of a set of images, whatever their order."""
    return hashlib.sha256(np.sort(keys).tobytes()).digest()


def _by_key(found: ClassMatches, keys: npt.NDArray[np.uint64]) -> ClassMatches:
    """Return the same with images numbered in the order of their keys.

    So equal images get equal weights in every file, whatever the order of its images.
    """
    places = np.argsort(np.argsort(keys, kind="stable"), kind="stable")
    return replace(found, images=places[found.images], owners=np.sort(places[found.owners]))


def _existing(entry: Entry, evidence: str | None) -> Path:
    """Return a file of a run that its numbers come from.

    Raises:
        NoEvidenceError: It is not there.
    """
    path = entry.run.folder / evidence if evidence else None
    if path is None or not os.path.lexists(path):  # what is there, but no file, is damage
        raise NoEvidenceError(str(entry.run.folder))
    return resolved(path)


def _divided(above: Sampled, below: npt.NDArray[Any]) -> Sampled:
    """Return the quotient, NaN where ``below`` is 0 or NaN."""
    quotient = np.full_like(above, np.nan)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient


def _scores_file(entry: Entry, stage: int, domain: str) -> str | None:
    scores = entry.strategy.scores_at(stage, domain)
    return scores.evidence if scores else None


def _harmonic(values: npt.NDArray[np.float64]) -> Sampled:
    """Return the harmonic mean per resample, of one row each; 0 where one value is 0."""
    zero = (values == 0).any(axis=0)
    mean: Sampled = len(values) / (1 / np.where(values == 0, 1, values)).sum(axis=0)
    return np.where(zero, 0.0, mean)


def _require_equal(entry: Entry, found: Mapping[str, Sampled]) -> None:
    for name, values in found.items():
        stored = entry.strategy.indices.value(name)
        if stored is None or not abs(values[0] - stored) <= CLOSE:  # NaN is not close
            raise DataError(
                f"the matches of {entry.strategy.name} give {name.upper()} {values[0]:.6f}, "
                f"results.json says {stored}",
                where=str(entry.run.folder),
                remedy=_ANEW,
            )
