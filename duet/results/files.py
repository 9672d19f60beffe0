"""`results.json` and `results.csv` of a run folder: written, read, and known to be as written.

Version 2 of `results.json` holds every class set once, in ``class_sets``, and calls it by its place
there, from 0: ``"classes": 3``. What is known of each class of a set is a list in the order of the
set: ``{"of": 3, "values": [0.91, 0.84]}``, or one such list per quantity. Version 1 says the names
each time; it is read, and written no more.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from duet.config import Config, parse_config
from duet.errors import ConfigError, DataError
from duet.evaluation.definitions import INDICES
from duet.fields import ClassSets, Names
from duet.files import read_json, sha256_json, write_text
from duet.results.schema import ClassScores, Results, StrategyResult
from duet.sealed import SEAL
from duet.text import shown, spreadsheet

RESULTS_FILE, CSV_FILE = "results.json", "results.csv"
SCHEMA_VERSION = 2
_ASIDE = ("commands", "environment", SEAL)
_WIDTH = 160
"""Letters of a line of `results.json` that holds more than one value."""


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("a class set names each of its classes once")
    return names


class _Head(Config):
    """What stands in a file before what it says."""

    class_sets: tuple[Annotated[Names, AfterValidator(_distinct)], ...] = ()


def save_results(run_folder: Path, results: Results) -> Path:
    """Write `results.json` and `results.csv` into ``run_folder``; return the JSON's path.

    Raises:
        DuetError: The folder cannot be written.
    """
    path = run_folder / RESULTS_FILE
    write_text(run_folder / CSV_FILE, results_csv(results))
    sets = ClassSets()
    content = results.model_dump(mode="json", context=sets)
    document = {"schema_version": SCHEMA_VERSION, "class_sets": sets.as_lists(), **content}
    write_text(path, laid_out({**document, SEAL: _seal_of(document)}) + "\n")
    return path


def load_results(run_folder: Path) -> Results:
    """Read `results.json` of a run.

    Raises:
        DataError: There is none, it is not JSON, another version of duet wrote it, or its content
            does not follow the schema.
    """
    return parse_results(read_document(run_folder), where=str(run_folder / RESULTS_FILE))


def read_document(run_folder: Path) -> dict[str, Any]:
    """Read `results.json` of a run as JSON alone.

    Raises:
        DataError: There is none, or it is not JSON.
    """
    path = run_folder / RESULTS_FILE
    if not path.exists():
        raise DataError(
            "no results.json here",
            where=str(run_folder),
            remedy="pass the folder of a finished run; `duet run SERIES --out RUN` makes one",
        )
    try:
        return read_json(path)
    except DataError as error:
        raise DataError(
            f"cannot be read as JSON: {error.what}", where=str(path), remedy=error.remedy
        ) from None


def parse_results(document: Mapping[str, Any], *, where: str) -> Results:
    """Return the results that a `results.json` holds.

    Args:
        document: What `read_document` read; stays as it is.
        where: Its path, for errors.

    Raises:
        DataError: Another version of duet wrote it, or its content does not follow the schema.
    """
    version = document.get("schema_version")
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise DataError(
            f"schema_version is {shown(version)}, this duet reads 1 to {SCHEMA_VERSION}",
            where=where,
            remedy="use the duet version that wrote it, or run the series again",
        )
    content = {key: document[key] for key in document if key not in ("schema_version", SEAL)}
    try:
        sets = None
        if version > 1:
            head = {key: content.pop(key) for key in _Head.model_fields if key in content}
            sets = ClassSets(parse_config(_Head, head, where=where).class_sets)
        return parse_config(Results, content, where=where, context=sets)
    except ConfigError as error:
        raise DataError(
            error.what.replace("the configuration", "its content"),
            where=where,
            remedy="take the file from its source again, or give the `duet run` command again",
        ) from None


def laid_out(value: Any, indent: str = "") -> str:
    """Return JSON in which a list of values, and whatever else is short, takes one line.

    Args:
        value: JSON-ready; NaN is refused.
        indent: What stands before its last line.
    """
    if isinstance(value, dict):
        inner = indent + " "
        parts = [f"{json.dumps(key)}: {laid_out(item, inner)}" for key, item in value.items()]
        left, right = "{}"
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        inner = indent + " "
        parts = [laid_out(item, inner) for item in value]
        left, right = "[]"
    else:
        return json.dumps(value, allow_nan=False)
    if sum(map(len, parts)) + 2 * len(parts) <= _WIDTH and not any("\n" in one for one in parts):
        return f"{left}{', '.join(parts)}{right}"
    body = ",\n".join(inner + one for one in parts)
    return f"{left}\n{body}\n{indent}{right}"


def was_changed(document: Mapping[str, Any]) -> bool:
    """Tell whether the numbers of a `results.json` are others than the run wrote."""
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
    seen = functools.cache(spreadsheet)  # names stand in thousands of rows
    writer.writerows(
        [seen(cell) if isinstance(cell, str) else cell for cell in row] for row in rows
    )
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
