"""The report's tables as data: a header and rows of text, for Markdown now and HTML later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from duet.errors import DataError
from duet.evaluation.definitions import INDICES, LEVELS, RATIOS, Index
from duet.evaluation.matrix import Slice
from duet.report.changes import class_changes, worst_first
from duet.report.phrases import (
    FEW_MARK,
    FEW_NOTE,
    MISSING,
    duration,
    listed,
    marked,
    percent,
    points,
    where,
)
from duet.report.words import PI, RI, average_sides
from duet.results.measured import Measured, few_behind, is_few, measured
from duet.results.schema import Results, StrategyResult
from duet.text import printable


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        header: Column titles.
        rows: One tuple of cell texts per row, as long as ``header``.
        words: How many leading columns hold words (left-aligned); the rest hold numbers.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.header)]
        if wrong:
            raise DataError(f"a row needs {len(self.header)} cells, got {len(wrong[0])}: {wrong}")

    @property
    def note(self) -> str:
        """What stands below: the meaning of the mark, if a number has it; else empty."""
        numbers = (cell for row in self.rows for cell in row[self.words :])
        return FEW_NOTE if any(cell.endswith(FEW_MARK) for cell in numbers) else ""

    def as_text(self) -> str:
        """Return the table as aligned plain text, for terminals, and its note."""
        lines = [tuple(map(printable, line)) for line in (self.header, *self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        padded = (
            "  ".join(
                cell.ljust(width) if column < self.words else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        return "\n".join([*padded, *([f"\n{self.note}"] if self.note else [])])


def ordered_strategies(results: Results) -> tuple[StrategyResult, ...]:
    """Return the main strategy first, then the others as they were run."""
    return (results.main, *(m for m in results.strategies if m.name != results.main_strategy))


def summary_table(results: Results) -> Table:
    """Return all strategies with all indices and the mAP50 behind them, in percent."""
    behind = ("old before", "old after", "new", "new reference")
    header = ("Strategy", *(index.title for index in RATIOS), *behind)
    rows = (_summary_row(results, strategy) for strategy in ordered_strategies(results))
    return Table(header, tuple(rows))


def levels_table(results: Results) -> Table:
    """Return all strategies with the indices that are no ratios: percent and points of mAP50."""
    rows = (
        (
            strategy.title,
            *(percent(strategy.indices.value(index.name), unit=False) for index in LEVELS),
        )
        for strategy in ordered_strategies(results)
    )
    return Table(("Strategy", *(index.title for index in LEVELS)), tuple(rows))


def summary_text(results: Results, report: Path) -> str:
    """Return a run for terminals: `summary_table`, and where its report is."""
    title = printable(results.series.name)
    return f"{title} (%)\n\n{summary_table(results).as_text()}\n\nreport: {report}"


def _summary_row(results: Results, strategy: StrategyResult) -> tuple[str, ...]:
    before, after = average_sides(measured(results, strategy, RI))
    reference, reached = average_sides(measured(results, strategy, PI))
    ratios = (
        marked(
            percent(strategy.indices.value(index.name), unit=False),
            few_behind(results, strategy, index),
        )
        for index in RATIOS
    )
    sides = (before, after, reached, reference)
    return (strategy.title, *ratios, *(percent(value, unit=False) for value in sides))


def series_table(results: Results) -> Table:
    """Return the increments: short name of the class set, domain, classes, counts per split."""
    steps = results.series.increments
    splits = list(dict.fromkeys(split for step in steps for split in step.counts))
    rows = []
    for number, step in enumerate(steps, start=1):
        counts = [step.counts.get(split) for split in splits]
        cells = (f"{c.images} / {c.boxes}" if c else MISSING for c in counts)
        rows.append((f"C{number}", step.domain, ", ".join(step.classes), *cells))
    header = ("Classes", "Domain", "Names", *(f"{split}: images / objects" for split in splits))
    return Table(header, tuple(rows), words=3)


def class_table(results: Results) -> Table:
    """Return AP50 per class of the main strategy: when learned, at the end, and the reference.

    Old classes that lost most come first, then the new ones, lowest first.
    """
    rows = tuple(
        (
            item.name,
            f"C{item.increment} in {item.domain}",
            _objects(item.objects, few=is_few(item.objects)),
            percent(item.learned, unit=False),
            percent(item.final, unit=False),
            # The newest classes had no later stage in which they could change.
            points(item.change if item.increment < results.final_stage else None, unit=False),
            percent(item.reference, unit=False),
            _objects(item.trained),
        )
        for item in worst_first(class_changes(results, results.main), results.final_stage)
    )
    header = (
        "Class", "Learned as", "objects", "when learned", "final model", "change", "reference",
        "trained on",
    )  # fmt: skip
    return Table(header, rows, words=2)


def _objects(number: int | None, *, few: bool = False) -> str:
    return MISSING if number is None else marked(str(number), few)


def terms_table(results: Results) -> Table:
    """Return every pair of the main strategy with both of its sides, also where one is 0."""
    rows = tuple(
        _term_row(results, index, item)
        for index in INDICES
        if index.against
        for item in measured(results, results.main, index)
        if item.value is not None and item.against is not None
    )
    header = (
        "Index", "Model", "Measured on", "Compared with", "objects", "value", "compared", "ratio",
    )  # fmt: skip
    return Table(header, rows, words=4)


def _term_row(results: Results, index: Index, item: Measured) -> tuple[str, ...]:
    there = where(results, *item.pair.slice)
    earlier = index.against == "earlier"
    other = f"after stage {item.pair.increment}" if earlier else f"trained only on {there}"
    return (
        f"{index.title} ({index.of})",
        f"after stage {item.pair.stage}",
        there,
        other,
        _objects(sum(item.objects.values()) if item.objects else None),
        percent(item.value, unit=False),
        percent(item.against, unit=False),
        marked(percent(item.ratio), item.ratio is not None and item.few),
    )


def ordered_slices(results: Results) -> tuple[Slice, ...]:
    """Return the columns of the main strategy's matrix: what was taught first, in series order."""
    slices = dict.fromkeys((cell.domain, cell.classes) for cell in results.main.matrix)
    return tuple(sorted(slices, key=lambda part: _taught_in(results, part)))


def is_taught(results: Results, part: Slice) -> bool:
    """Tell whether some increment teaches exactly these classes in this domain."""
    return _taught_in(results, part) < results.final_stage


def _taught_in(results: Results, part: Slice) -> int:
    number = results.series.taught.get((part[0], frozenset(part[1])), results.final_stage + 1)
    return number - 1


def matrix_table(results: Results) -> Table:
    """Return the stage matrix of the main strategy: stages down, class sets across, mAP50 in %."""
    slices = ordered_slices(results)
    values = {(cell.stage, cell.domain, cell.classes): cell.map50 for cell in results.main.matrix}
    rows = tuple(
        (
            f"after stage {stage}",
            *(percent(values.get((stage, *part)), unit=False) for part in slices),
        )
        for stage in range(1, results.final_stage + 1)
    )
    return Table(("Model", *(where(results, *part) for part in slices)), rows)


def cost_table(results: Results) -> Table:
    """Return the wall-clock time of every strategy and of all references."""
    costs = [
        (strategy.title, [(cost.title, cost.seconds) for cost in strategy.costs])
        for strategy in ordered_strategies(results)
    ]
    references = [
        (f"only {where(results, r.domain, r.classes)}", r.seconds)
        for r in results.references
        if r.seconds is not None
    ]
    costs.append((f"References ({len(references)} models)", references))
    rows = tuple(
        (
            title,
            ", ".join(f"{work}: {duration(seconds)}" for work, seconds in parts),
            duration(sum(seconds for _, seconds in parts)),
        )
        for title, parts in costs
        if parts
    )
    return Table(("Strategy", "Of which", "total"), rows, words=2)


def merge_table(results: Results) -> Table:
    """Return one row per merge of the main strategy."""
    rows = []
    for merge in results.main.merges:
        alphas = [tensor.alpha for tensor in merge.tensors if tensor.alpha is not None]
        spread = f"{min(alphas):.3f} to {max(alphas):.3f}" if alphas else MISSING
        params = ", ".join(f"{key} {value}" for key, value in merge.params.items())
        rows.append(
            (
                f"increment {merge.increment}",
                f"{merge.method} ({params})" if params else merge.method,
                str(len(merge.tensors)),
                spread,
                percent(merge.sign_conflict),
            )
        )
    header = ("Merge", "Rule", "tensors", "weight of the old model", "sign conflicts")
    return Table(header, tuple(rows), words=2)


def protocol_table(results: Results) -> Table:
    """Return the choices that the numbers depend on."""
    protocol, environment = results.protocol, results.environment
    parameters = ", ".join(f"{key} {value}" for key, value in protocol.ap.parameters.items())
    rows = [
        ("Series", results.series.name),
        (
            "Detector",
            f"{protocol.family}, {protocol.input}, head form {protocol.head_form}",
        ),
        ("Evaluation split", protocol.eval_split),
        ("Images evaluated", protocol.image_rule),
        ("AP computed by", f"{protocol.ap.name} {protocol.ap.version} ({parameters})"),
        ("Seed", str(protocol.seed)),
        ("Main strategy", f"{results.main.title} ({results.main.name})"),
        *((f"  {key}", str(value)) for key, value in protocol.strategy_config.items()),
        ("Machine", f"{environment.cpu}, {environment.threads} threads, {environment.device}"),
        ("Versions", listed([f"{k} {v}" for k, v in environment.versions.items()], limit=99)),
        ("Date", environment.date),
    ]
    return Table(("What", "Value"), tuple(rows), words=2)


def definition_table() -> Table:
    """Return every index with its meaning, formula and source."""
    rows = tuple((i.title, i.meaning, i.formula, i.source) for i in INDICES)
    return Table(("Index", "Meaning", "Formula", "Source"), rows, words=4)
