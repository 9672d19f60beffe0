"""What an increment remembers of its stage: an evaluation kept beside it, and no image.

`evaluation.json` has the form of what `duet eval --out` writes, with one cell, so that gates read
it. It is no part of the increment: merges and fingerprints are the same with and without it. It
names the increment that it belongs to, so that one learned again is not told by what was before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from duet.config import Config, Schema, parse_config
from duet.errors import DataError, DuetError
from duet.evaluation.cells import Cell
from duet.evaluation.deployment import Deployed, save_deployed
from duet.evaluation.histograms import score_histogram
from duet.fields import Count
from duet.files import read_json, sha256_file
from duet.sealed import unsealed, write_sealed

EVALUATION, EVIDENCE = "evaluation.json", "evaluation.npz"


class ScoreStatistics(Config):
    """How the scores of one class lie, as users see them: `score_histogram`, sure ones last."""

    right: tuple[Count, ...]
    wrong: tuple[Count, ...]


class Remembered(Config):
    """The detector after a stage, on what the stage taught, in its domain.

    Attributes:
        increment: `IncrementManifest.fingerprint` of the increment beside it.
        fingerprint: `DetectorState.fingerprint` of the detector.
        cells: The one that was taught.
        scores: Class name -> statistics of its scores.
        evidence: SHA-256 of `evaluation.npz`, see `save_deployed`: what users are shown; images are
            numbers from 0.
    """

    schema_version: Schema = Field(default=1, alias="schema")
    increment: str
    fingerprint: str
    cells: tuple[Cell]
    scores: Mapping[str, ScoreStatistics]
    evidence: str

    @model_validator(mode="after")
    def _fits(self) -> Remembered:
        shown = self.cell.deployed.classes
        if self.scores.keys() != shown.keys():
            raise ValueError("scores are to be kept of just the classes of its cell")
        if not all(0 < one.threshold < 1 for one in shown.values()):
            raise ValueError("thresholds are between 0 and 1")
        return self

    @property
    def cell(self) -> Cell:
        """What was measured."""
        return self.cells[0]


def keep_evaluation(
    folder: Path, *, increment: str, fingerprint: str, cell: Cell, seen: Deployed
) -> None:
    """Write what an increment remembers into its folder.

    Args:
        folder: Increment folder.
        increment: Fingerprint of its manifest.
        fingerprint: Of the detector after its stage.
        cell: What was measured.
        seen: What users are shown of the classes of the cell.
    """
    numbers = np.arange(len(seen.matches.keys), dtype=np.uint64)
    save_deployed(folder / EVIDENCE, replace(seen, matches=replace(seen.matches, keys=numbers)))
    scores = {}
    for name, found in seen.matches.classes.items():
        right, wrong = score_histogram(found)
        scores[name] = ScoreStatistics(right=right, wrong=wrong)
    kept = Remembered(
        increment=increment,
        fingerprint=fingerprint,
        cells=(cell,),
        scores=scores,
        evidence=sha256_file(folder / EVIDENCE),
    )
    write_sealed(folder / EVALUATION, kept.model_dump(mode="json", by_alias=True))


def remembered(folder: Path, increment: str, tell: Callable[[str], None]) -> Remembered | None:
    """Read what an increment remembers; None if it remembers nothing.

    Args:
        folder: Increment folder.
        increment: Fingerprint of its manifest: what another one left is passed over.
        tell: Told of what is damaged, which is passed over.
    """
    path = folder / EVALUATION
    if not path.is_file():
        return None
    try:
        content = unsealed(read_json(path))
        kept = parse_config(Remembered, content, where=str(path), error=DataError)
    except (DuetError, ValueError) as error:
        why = error.what if isinstance(error, DuetError) else error
        tell(f"{path}: {why}; nothing is remembered of that stage")
        return None
    return kept if kept.increment == increment else None
