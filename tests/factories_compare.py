"""Synthetic finished runs with the matches behind their numbers; the same images for every run."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from factories_results import TWO_PHASE, Steps, make_results

from duet.evaluation.ap import ClassAP
from duet.evaluation.bootstrap import weighted_ap50
from duet.evaluation.deployment import Deployed, save_deployed
from duet.evaluation.doubles import Doubles
from duet.evaluation.indices import compute_indices
from duet.evaluation.matches import ClassMatches, Matches, load_matches, save_matches
from duet.evaluation.matrix import Slice, StageMatrix
from duet.evaluation.pairs import cells_needed, reference_slices
from duet.increments.scores import ScoreMap
from duet.results.files import save_results
from duet.results.schema import (
    ClassScores,
    ReferenceEntry,
    Results,
    StageCost,
    StrategyResult,
)
from duet.runs.deployed import deployments, recalls

IMAGES, LEAST = 80, 0.5


@dataclass(frozen=True)
class Skill:
    """How a synthetic method behaves: shares of objects found.

    Attributes:
        old: Of what an earlier stage learned, relative to when it was learned.
        new: Of the classes of the last stage.
        salt: Another number is another method of the same skill.
    """

    old: float
    new: float
    salt: int = 0


SKILLS = {"good": Skill(0.95, 0.9), "twin": Skill(0.95, 0.9, 1), "bad": Skill(0.2, 0.9, 2)}


def write_run(
    folder: Path,
    skills: Mapping[str, Skill] = SKILLS,
    *,
    seed: int = 0,
    steps: Steps = TWO_PHASE,
    data_seed: int = 0,
    evidence: bool = True,
    references: bool = True,
    order: Sequence[int] | None = None,
) -> Path:
    """Write a run folder with `results.json` and `evaluations/*.npz`; return it."""
    plain = make_results(steps, references=references)
    world = _World(folder, steps, seed, data_seed, order, evidence)
    known = {part: world.reference(part) for part in reference_slices(steps)} if references else {}
    values = {part: entry.map50 for part, entry in known.items()}
    methods = tuple(world.method(name, skill, values or None) for name, skill in skills.items())
    results = plain.model_copy(
        update={
            "strategies": methods,
            "main_strategy": methods[0].name,
            "references": tuple(known.values()),
            "protocol": plain.protocol.model_copy(update={"seed": seed}),
        }
    )
    save_results(folder, Results.model_validate(results.model_dump()))
    return folder


@dataclass(frozen=True)
class _World:
    folder: Path
    steps: Steps
    seed: int
    data_seed: int
    order: Sequence[int] | None
    evidence: bool

    def reference(self, part: Slice) -> ReferenceEntry:
        """Return a model trained only on a slice: it finds 95 % of the objects."""
        domain, classes = part
        number = number_of(f"{part}")
        matches = self.matches(domain, dict.fromkeys(classes, 0.95), [self.seed, number])
        ap50, file = self.stored(f"reference-{number}", matches)
        return ReferenceEntry(
            domain=domain, classes=classes, map50=float(np.mean(list(ap50.values()))),
            ap50=ap50, seconds=60.0, evidence=file,
        )  # fmt: skip

    def method(
        self, name: str, skill: Skill, references: Mapping[Slice, float] | None
    ) -> StrategyResult:
        matrix, seen = StageMatrix(), dict[tuple[int, str], ClassAP]()
        cells = cells_needed(self.steps)
        every = [label for _, classes in self.steps for label in classes]
        for stage in range(1, len(self.steps) + 1):
            for domain in dict.fromkeys(d for s, d, _ in cells if s == stage):
                shares = {
                    label: self.share(skill, stage, number, domain)
                    for number, (_, classes) in enumerate(self.steps[:stage], start=1)
                    for label in classes
                }
                shares |= {
                    label: 0.3
                    for s, d, classes in cells if (s, d) == (stage, domain)
                    for label in classes if label not in shares
                }  # fmt: skip
                salt = [self.seed, skill.salt, stage, number_of(domain)]
                ap50, file = self.stored(
                    f"{name}-{stage}-{domain}", self.matches(domain, shares, salt)
                )
                seen[stage, domain] = ClassAP(ap50, ap50, file, self.shown(file))
                for s, d, classes in cells:
                    if (s, d) == (stage, domain):
                        value = float(np.mean([ap50[label] for label in classes]))
                        matrix = matrix.with_value(s, d, classes, value)
        known = dict.fromkeys(every, ScoreMap(threshold=LEAST))
        maps = dict.fromkeys(range(1, len(self.steps) + 1), known)
        there = self.folder, self.steps, maps, seen
        deployed = deployments(*there)
        scores = [
            ClassScores.of(stage, domain, one, deployed.get((stage, domain)))
            for (stage, domain), one in seen.items()
        ]
        return StrategyResult(
            name=name, title=name.title(),
            indices=compute_indices(self.steps, matrix, references, recalls=recalls(*there)),
            matrix=matrix.as_records(),
            class_scores=tuple(scores),
            costs=tuple(StageCost(title=d, seconds=50.0 + self.seed) for d, _ in self.steps),
            parameters=2_500_000 + skill.salt, latency_ms=10.0 + self.seed, memory_mb=800.0,
        )  # fmt: skip

    def share(self, skill: Skill, stage: int, learned: int, domain: str) -> float:
        """Return the share of objects of a class that the detector finds in a domain."""
        at_home = self.steps[learned - 1][0] == domain
        kept = 0.9 if learned == 1 else skill.new
        return (kept if at_home else 0.5) * (skill.old if stage > learned else 1.0)

    def matches(self, domain: str, shares: Mapping[str, float], salt: Sequence[int]) -> Matches:
        """Draw the detections of a model that finds given shares of the objects of each class."""
        every = [label for _, classes in self.steps for label in classes]
        labelled = np.random.default_rng([self.data_seed, number_of(domain)]).poisson(
            0.4, (len(every), IMAGES)
        )  # fmt: skip
        random = np.random.default_rng(salt)
        keys = np.random.default_rng([self.data_seed, number_of(domain), 1]).integers(
            0, 2**63, IMAGES, dtype=np.uint64
        )  # fmt: skip
        found = {
            label: _drawn(labelled[every.index(label)], share, random)
            for label, share in shares.items()
        }
        if self.order is None:
            return Matches(keys, found)
        return _reordered(Matches(keys, found), np.asarray(self.order))

    def shown(self, file: str | None) -> str | None:
        """Write the same matches as what users see, no box twice; return the path of the file."""
        if file is None:
            return None
        seen = file.replace(".npz", ".seen.npz")
        matches = load_matches(self.folder / file)
        nothing = np.zeros((0, 2), np.int64), np.zeros((0, 2), np.float32)
        doubles = Doubles(tuple(matches.classes), *nothing, IMAGES)
        save_deployed(self.folder / seen, Deployed(matches, doubles))
        return seen

    def stored(self, name: str, matches: Matches) -> tuple[dict[str, float | None], str | None]:
        """Write the matches; return AP50 per class and the path of the file."""
        ones = np.ones((1, IMAGES), np.float32)
        ap50 = {
            label: float(weighted_ap50(found, ones)[0]) for label, found in matches.classes.items()
        }
        if not self.evidence:
            return dict(ap50), None
        file = f"evaluations/{name}.npz"
        save_matches(self.folder / file, matches)
        return dict(ap50), file


def number_of(text: str) -> int:
    """Return a number that stands for a text."""
    return zlib.crc32(text.encode())


def _drawn(
    truths: npt.NDArray[np.int64], share: float, random: np.random.Generator
) -> ClassMatches:
    objects = np.repeat(np.arange(len(truths)), truths)
    hits = objects[random.uniform(size=len(objects)) < share]
    wrong = random.integers(0, len(truths), 60)
    images = np.concatenate([hits, wrong])
    scores = np.concatenate([random.beta(5, 2, len(hits)), random.beta(2, 5, len(wrong))])
    order = np.argsort(-scores, kind="stable")
    flags = order < len(hits)
    return ClassMatches.counted(
        scores[order].astype(np.float32), images[order], flags, np.zeros(len(order), np.bool_),
        truths, np.where(flags, np.float32(0.75), 0),
    )  # fmt: skip


def _reordered(matches: Matches, order: npt.NDArray[np.int64]) -> Matches:
    """Return the same matches with the images in another order of files."""
    place = np.argsort(order)
    return Matches(
        matches.keys[order],
        {
            name: ClassMatches.counted(
                item.scores,
                place[item.images],
                item.hit,
                item.ignored,
                item.truths[order],
                item.iou,
            )
            for name, item in matches.classes.items()
        },
    )
