"""`results.csv`: every number of `results.json` in long form, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from duet.evaluation.definitions import INDICES
from duet.results.schema import Results, StrategyResult
from duet.text import spreadsheet


def results_csv(results: Results) -> str:
    """Return every number in long form, one row per strategy and value.

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
    for merge in strategy.merges:
        for tensor in merge.tensors:
            if tensor.alpha is not None:
                yield "alpha", merge.increment, "", tensor.name, tensor.alpha
            if tensor.sign_conflict is not None:
                yield "sign_conflict", merge.increment, "", tensor.name, tensor.sign_conflict
    for cost in strategy.costs:
        yield f"seconds: {cost.title}", "", "", "", cost.seconds
