"""A comparison as tables, sentences and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from duet.comparison.ranking import METRICS, Comparison, Cost, Difference, Row, Value
from duet.evaluation.definitions import RANKED, RATIOS
from duet.report.deployed import SEEN, seen_cells
from duet.report.phrases import (
    MISSING,
    count_of,
    duration,
    few_named,
    listed,
    marked,
    percent,
    points,
    where,
)
from duet.report.tables import Table
from duet.results.measured import FEW_OBJECTS, Counts, few_anywhere
from duet.text import printable

TITLES = {index.name: index.title for index in RANKED}
COLUMNS = (*(index.name for index in RATIOS), "old", "new")
VERDICTS = (
    "Within noise of it",
    "Below it beyond noise",
    "Above it beyond noise on the runs that both have",
    "Not known whether noise (one seed and no interval)",
)
SHOWN_UNDEFINED = 0.001
"""Share of undefined resamples from which on the text speaks of them."""


def ranking_table(found: Comparison) -> Table:
    """Return every strategy with its indices and its difference to the best, in per cent."""
    name = TITLES[found.metric]
    titles = [TITLES.get(key, key) for key in COLUMNS]
    header = (
        "Strategy",
        "seeds",
        *titles,
        f"{name} to best",
        "95 % images",
        "95 % training",
        "noise",
    )
    rows = tuple(
        (
            row.label,
            str(len(row.seeds)),
            *(_mean_sd(row.values.get(key)) for key in COLUMNS),
            *_to_best(row, found.rows[0], found.metric),
        )
        for row in found.rows
    )
    return Table(header, rows)


def interval_table(found: Comparison) -> Table:
    """Return the interval over test images of every index of every strategy, in per cent."""
    rows = tuple(
        (row.label, *(_interval(row.values.get(key)) for key in METRICS)) for row in found.rows
    )
    return Table(("Strategy", *(TITLES[key] for key in METRICS)), rows)


def cost_table(found: Comparison) -> Table:
    """Return what every strategy costs, beside its place in the ranking."""
    header = (
        "Strategy",
        TITLES[found.metric],
        "training",
        "peak memory",
        "parameters",
        "one image",
    )
    rows = tuple(
        (row.label, _mean_sd(row.values.get(found.metric)), *_cost(row.cost)) for row in found.rows
    )
    return Table(header, rows)


def seen_table(found: Comparison) -> Table | None:
    """Return what is shown at the thresholds, runs summed; None where nobody looked."""
    rows = tuple((row.label, *seen_cells(row.seen)) for row in found.rows if row.seen is not None)
    return Table(("Strategy", *SEEN), rows) if rows else None


def retention_table(found: Comparison) -> Table | None:
    """Return RI per domain and class set; None where there is only one that could be forgotten."""
    parts = list(dict.fromkeys(part for row in found.rows for part in row.retention))
    if len(parts) < 2:
        return None
    names = [domain for domain, _ in parts]
    if len(set(names)) < len(names):
        names = [where(found.runs[0].results, *part) for part in parts]
    rows = tuple(
        (row.label, *(_mean_sd(row.retention.get(part)) for part in parts)) for row in found.rows
    )
    return Table(("Strategy", *names), rows)


def sentences(found: Comparison) -> tuple[str, ...]:
    """Return the answer in words: the best, what cannot be told from it, what is worse."""
    best, name = found.rows[0], TITLES[found.metric]
    value = best.values.get(found.metric)
    if value is None:  # too few increments, or a detector that learned nothing
        return ("No index is defined in these runs: see their reports.", *cautions(found))
    over = f", 95 % interval over test images {_interval(value)}" if value.low is not None else ""
    lines = [f"Highest {name}: {best.label} with {_mean_sd(value, ' %')}{over}."]
    groups: dict[str, list[str]] = {}
    for row in found.rows[1:]:
        if row.to_best is not None:
            groups.setdefault(_verdict(row.to_best), []).append(row.label)
    lines += [f"{text}: {listed(groups[text], limit=20)}." for text in VERDICTS if text in groups]
    return (*lines, *_other_half(found), *cautions(found))


def _other_half(found: Comparison) -> Iterator[str]:
    """Yield who learned most where strategies are ranked by what they kept."""
    learned = [row for row in found.rows if "pi" in row.values]
    if found.metric == "ri" and learned:
        most = max(learned, key=lambda row: row.values["pi"].mean)
        yield (
            "RI says nothing of what was learned: who never changes has 100 %. Highest PI: "
            f"{most.label} with {_mean_sd(most.values['pi'], ' %')}."
        )


def _verdict(difference: Difference) -> str:
    if difference.noise is None:
        return VERDICTS[3]
    if difference.noise:
        return VERDICTS[0]
    return VERDICTS[2] if difference.mean > 0 else VERDICTS[1]


def cautions(found: Comparison) -> tuple[str, ...]:
    """Return what limits the numbers."""
    lines = []
    if found.without_evidence:
        folders = listed([str(folder) for folder in found.without_evidence])
        lines.append(
            f"No evidence in {folders}: intervals are missing there. Give the `duet run` command "
            f"of the run again; it evaluates anew and trains nothing."
        )
    if len({seed for row in found.rows for seed in row.seeds}) == 1:
        lines.append("One seed: intervals speak of the test images, not of training.")
    few: Counts = {}
    for run in found.runs:
        for domain, counts in few_anywhere(run.results).items():
            few.setdefault(domain, {}).update(counts)
    if few:
        lines.append(
            f"Fewer than {FEW_OBJECTS} objects in the evaluation images (marked *): "
            f"{few_named(few)}."
        )
    lacking = [
        f"{row.label} ({value.runs} of {len(row.seeds)})"
        for row in found.rows
        if (value := row.values.get(found.metric)) and value.runs < len(row.seeds)
    ]
    if lacking:
        name = TITLES[found.metric]
        lines.append(f"{name} is not defined in all runs of {listed(lacking, limit=20)}.")
    apart = [text for row in found.rows if (text := _unshared(row, found))]
    if apart:
        lines.append(
            f"Other runs than {found.rows[0].label}: {listed(apart, limit=20)}. Means are over "
            "what each has, differences over what both share."
        )
    if found.undefined >= SHOWN_UNDEFINED:
        lines.append(f"Up to {percent(found.undefined)} of the resamples left an index undefined.")
    lines += [f"Differs between the runs, compared by --force: {fact}." for fact in found.differing]
    return tuple(lines)


def _unshared(row: Row, found: Comparison) -> str | None:
    """Return how many of a row's runs its difference to the best is over, if not over all."""
    if row.to_best is None:
        return None
    mine, best = (one.values[found.metric].runs for one in (row, found.rows[0]))
    shared = row.to_best.shared
    return None if mine == best == shared else f"{row.label} ({shared} shared)"


def as_text(found: Comparison) -> str:
    """Return the comparison for terminals."""
    blocks = [printable(describe(found)), ranking_table(found).as_text()]
    retention = retention_table(found)
    if retention is not None:
        blocks.append(f"RI per earlier increment (%)\n\n{retention.as_text()}")
    seen = seen_table(found)
    if seen is not None:
        blocks.append(f"At the thresholds in use, all runs together\n\n{seen.as_text()}")
    blocks += [cost_table(found).as_text(), "\n".join(map(printable, sentences(found)))]
    return "\n\n".join(blocks)


def as_dict(found: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON-ready data; every number is a fraction unless named."""
    return {
        "schema": 1,
        "metric": found.metric,
        "series": found.runs[0].results.series.name,
        "bootstrap": {"resamples": found.bootstrap, "seed": found.seed, "level": 0.95},
        "best": found.rows[0].label if found.metric in found.rows[0].values else None,
        "strategies": [_row_dict(row) for row in found.rows],
        "runs": [
            {
                "folder": str(run.folder),
                "seed": run.results.protocol.seed,
                "increments": [step.domain for step in run.results.series.increments],
                "published": [entry.as_record() for entry in run.results.published],
            }
            for run in found.runs
        ],
        "objects": found.runs[0].results.objects,
        "undefined": found.undefined,
        "without_evidence": [str(folder) for folder in found.without_evidence],
        "differing": list(found.differing),
    }


def _row_dict(row: Row) -> dict[str, Any]:
    return {
        "strategy": row.label,
        "title": row.title,
        "seeds": list(row.seeds),
        **{name: asdict(value) for name, value in row.values.items()},
        "retention": [
            {"domain": domain, "classes": list(classes), **asdict(value)}
            for (domain, classes), value in row.retention.items()
        ],
        "cost": asdict(row.cost),
        "seen": row.seen.model_dump(mode="json") if row.seen else None,
        "to_best": asdict(row.to_best) if row.to_best else None,
    }


def describe(found: Comparison) -> str:
    """Return what was compared, in one line."""
    results = found.runs[0].results
    protocol = results.protocol
    steps = " → ".join(
        f"{step.domain}[{count_of(len(step.classes), 'class', 'classes')}]"
        for step in results.series.increments
    )
    increments = sorted(found.runs[0].key[0])
    orders = len({key for run in found.runs if sorted(key := run.key[0]) == increments})
    also = f" and {count_of(orders - 1, 'other order')}" if orders > 1 else ""
    return (
        f"{results.series.name}: {steps}{also}; {protocol.family}, {protocol.input}, split "
        f"{protocol.eval_split}; {count_of(len(found.runs), 'run')}. Indices and mAP50 in per cent."
    )


def _mean_sd(value: Value | None, unit: str = "") -> str:
    if value is None:
        return MISSING
    spread = f" ± {percent(value.sd, unit=False)}" if value.sd is not None else ""
    return marked(percent(value.mean, unit=False) + spread + unit, value.few)


def _interval(value: Value | Difference | None) -> str:
    if value is None or value.low is None:
        return MISSING
    write = points if isinstance(value, Difference) else percent
    return f"{write(value.low, unit=False)} to {write(value.high, unit=False)}"


def _to_best(row: Row, best: Row, metric: str) -> tuple[str, ...]:
    if row is best and metric in row.values:
        return "best", "", "", ""
    found = row.to_best
    if found is None:
        return (MISSING,) * 4
    noise = {True: "yes", False: "no", None: MISSING}[found.noise]
    spread = MISSING if found.spread is None else f"± {percent(found.spread, unit=False)}"
    return points(found.mean, unit=False), _interval(found), spread, noise


def _cost(cost: Cost) -> tuple[str, ...]:
    return (
        MISSING if cost.seconds is None else duration(cost.seconds),
        MISSING if cost.memory_mb is None else f"{cost.memory_mb:.0f} MB",
        MISSING if cost.parameters is None else f"{cost.parameters / 1e6:.2f} M",
        MISSING if cost.latency_ms is None else f"{cost.latency_ms:.1f} ms",
    )
