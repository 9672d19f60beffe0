"""`results.json` and `results.csv` of a run folder: written, read, and known to be as written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from duet.config import parse_config
from duet.errors import ConfigError, DataError
from duet.evaluation.definitions import INDICES
from duet.files import read_json, sha256_json, write_json, write_text
from duet.results.schema import ClassScores, Results, StrategyResult
from duet.sealed import SEAL
from duet.text import shown, spreadsheet

RESULTS_FILE, CSV_FILE = "results.json", "results.csv"
SCHEMA_VERSION = 1
_ASIDE = ("commands", "environment", SEAL)


def save_results(run_folder: Path, results: Results) -> Path:
    """Write `results.json` and `results.csv` into ``run_folder``; return the JSON's path.

    Raises:
        DuetError: The folder cannot be written.
    """
    path = run_folder / RESULTS_FILE
    write_text(run_folder / CSV_FILE, results_csv(results))
    document = results.model_dump(mode="json")
    write_json(path, {**document, SEAL: _seal_of(document)})
    return path


def load_results(run_folder: Path) -> Results:
    """Read `results.json` of a run.

    Raises:
        DataError: There is none, it is not JSON, another version of duet wrote it, or its content
            does not follow the schema.
    """
    path = run_folder / RESULTS_FILE
    if not path.exists():
        raise DataError(
            "no results.json here",
            where=str(run_folder),
            remedy="pass the folder of a finished run; `duet run SERIES --out RUN` makes one",
        )
    try:
        data = read_json(path)
    except DataError as error:
        raise DataError(
            f"cannot be read as JSON: {error.what}", where=str(path), remedy=error.remedy
        ) from None
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"schema_version is {shown(version)}, this duet reads {SCHEMA_VERSION}",
            where=str(path),
            remedy="use the duet version that wrote it, or run the series again",
        )
    content = {key: value for key, value in data.items() if key != SEAL}
    try:
        return parse_config(Results, content, where=str(path))
    except ConfigError as error:
        raise DataError(
            error.what.replace("the configuration", "its content"),
            where=str(path),
            remedy="take the file from its source again, or give the `duet run` command again",
        ) from None


def was_changed(results_file: Path) -> bool:
    """Tell whether the numbers of a `results.json` are others than the run wrote.

    Raises:
        DataError: It cannot be read.
    """
    document = read_json(results_file)
    try:
        return bool(document.get(SEAL) != _seal_of(document))
    except ValueError:  # NaN, which duet does not write
        return True


def _seal_of(document: Mapping[str, Any]) -> str:
    """Return the hash of what was measured: all but where, when and by which command."""
    return sha256_json({key: value for key, value in document.items() if key not in _ASIDE})


def results_csv(results: Results) -> str:
    """Return every number in long form, for spreadsheets: one row per strategy and value.

    Columns: strategy, quantity, stage, domain, classes (joined with ";"), value. Fractions and
    seconds are written in full precision; a value that does not exist is an empty field. A name
    that a spreadsheet would take for a formula has a leading apostrophe (`duet.text.spreadsheet`);
    `results.json` holds it as it is.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["strategy", "quantity", "stage", "domain", "classes", "value"])
    rows: list[tuple[object, ...]] = [
        (strategy.name, *row) for strategy in results.strategies for row in _strategy_rows(strategy)
    ]
    rows += [
        ("reference", "map50", "", item.domain, ";".join(item.classes), item.map50)
        for item in results.references
    ]
    writer.writerows(map(spreadsheet, row) for row in rows)
    return stream.getvalue()


_Row = tuple[str, int | str, str, str, float | None]


def _strategy_rows(strategy: StrategyResult) -> Iterator[_Row]:
    for name, value in strategy.indices.numbers().items():
        yield name, "", "", "", value
    for index in INDICES:
        for term in strategy.indices.terms(index):
            yield f"{index.name}_term", term.stage, term.domain, ";".join(term.classes), term.ratio
    for cell in strategy.matrix:
        yield "map50", cell.stage, cell.domain, ";".join(cell.classes), cell.map50
    for scores in strategy.class_scores:
        for name, value in scores.ap50.items():
            yield "ap50", scores.stage, scores.domain, name, value
        for name, value in scores.ap.items():
            yield "ap", scores.stage, scores.domain, name, value
        for name, value in scores.objects.items():
            yield "objects", scores.stage, scores.domain, name, value
        yield from _deployed_rows(scores)
    for merge in strategy.merges:
        for tensor in merge.tensors:
            if tensor.alpha is not None:
                yield "alpha", merge.increment, "", tensor.name, tensor.alpha
            if tensor.sign_conflict is not None:
                yield "sign_conflict", merge.increment, "", tensor.name, tensor.sign_conflict
    for cost in strategy.costs:
        yield f"seconds: {cost.title}", "", "", "", cost.seconds


_SHOWN = (
    "threshold", "objects", "found", "wrong", "missed", "precision", "recall", "f1", "lrp", "olrp",
)  # fmt: skip


def _deployed_rows(scores: ClassScores) -> Iterator[_Row]:
    if scores.deployed is None:
        return
    for name in ("ece", "ece_raw", "olrp", "doubles_within", "doubles_between"):
        yield name, scores.stage, scores.domain, "", getattr(scores.deployed, name)
    for name, found in scores.deployed.classes.items():
        for key in _SHOWN:
            yield key, scores.stage, scores.domain, name, getattr(found, key)
        if (equal := found.at_precision) is not None:
            for key in ("found", "wrong"):
                yield f"{key}_at_precision", scores.stage, scores.domain, name, getattr(equal, key)
