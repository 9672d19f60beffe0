"""The report's figures: `Results` in, matplotlib `Figure` out; equal input gives equal bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from duet.evaluation.definitions import RATIOS
from duet.evaluation.matrix import Slice
from duet.report.changes import new_classes, old_classes
from duet.report.colours import BLUE, GREY, INK, increment_colour
from duet.report.dumbbells import new_classes_figure, old_classes_figure
from duet.report.phrases import FEW_NOTE, marked, percent, set_name
from duet.report.plots import LEFT, drawn, figure_grid, percent_axis
from duet.report.tables import is_taught, ordered_slices, ordered_strategies
from duet.results.measured import few_behind
from duet.results.schema import MergeEntry, Results
from duet.text import plot_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 4
"""Panels beside each other."""

BESIDE = 8
"""Columns of the stage matrix that fit beside each other; of more, those that nobody labelled stand
below those that were taught."""

NUMBERED = 24
"""Columns or stages up to which every cell of the stage matrix has its number written in it."""

LINES = ("-", "--", ":", "-.")
"""One for each merge, told apart in grey, too; more merges than that are shown as a heat map."""


def figures(results: Results) -> dict[str, Callable[[Results], Figure]]:
    """Return file stem -> function, for every figure that these results can fill."""
    main = results.main
    known: dict[str, Callable[[Results], Figure]] = {"indices": indices_figure}
    if main.matrix:
        known["stage-matrix"] = matrix_figure
    if old_classes(results):
        known["old-classes"] = old_classes_figure
    if new_classes(results):
        known["new-classes"] = new_classes_figure
    if any(merge.tensors for merge in main.merges):
        known["merge"] = merge_figure
    return known


@drawn
def indices_figure(results: Results) -> Figure:
    """All strategies side by side: one panel per index, one bar per strategy, with its value."""
    # What was kept and what was learned stand side by side: the question of the report.
    panels = sorted(RATIOS, key=lambda index: index.name not in ("ri", "pi"))
    strategies = ordered_strategies(results)
    shown = [p for p in panels if any(m.indices.value(p.name) is not None for m in strategies)]
    shown = shown or panels[:1]
    columns = min(len(shown), PANELS)
    rows = -(-len(shown) // columns)
    figure, grid = figure_grid(
        rows, columns, width=2.3 * columns + 1.8, height=rows * (0.36 * len(strategies) + 1.2),
        sharey=True,
    )  # fmt: skip
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    noted = False
    for axes, index in zip(grid, shown, strict=False):
        values = [strategy.indices.value(index.name) for strategy in strategies]
        colours = [BLUE if m.name == results.main_strategy else GREY for m in strategies]
        bars = axes.barh(
            range(len(strategies)), [v or 0 for v in values], color=colours, height=0.68
        )
        few = [few_behind(results, strategy, index) for strategy in strategies]
        texts = [marked(percent(v, unit=False), f) for v, f in zip(values, few, strict=True)]
        noted = noted or any(few)
        labels = axes.bar_label(bars, texts, padding=3)
        for label in labels:  # readable where it crosses the 100 % line
            label.set(fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})
            label.set_in_layout(False)  # inside of the axes
        top = max([1.0, *(v for v in values if v is not None)])
        axes.set_xlim(0, 1.22 * top)
        axes.axvline(1, color="#555555", linewidth=0.8, linestyle=":")
        axes.set_title(f"{index.title}: {index.panel}", fontsize=9.5, loc="left")
        axes.tick_params(axis="y", length=0)
        percent_axis(axes.xaxis, ticks=(0, 0.5, 1))
    grid[0].set_yticks(
        range(len(strategies)), [plot_text(strategy.title) for strategy in strategies]
    )
    grid[0].invert_yaxis()
    if noted:
        figure.supxlabel(FEW_NOTE, x=0.01, ha="left", fontsize=8.5)
    figure.suptitle("How much each strategy keeps and learns (%, higher is better)", **LEFT)
    return figure


@drawn
def matrix_figure(results: Results) -> Figure:
    """Heat map of mAP50 (%): stages down, class sets in domains across."""
    slices, stages = ordered_slices(results), results.final_stage
    count = sum(is_taught(results, part) for part in slices)  # these come first
    groups = [("classes learned there", slices[:count])]
    groups.append(("classes never labelled there", slices[count:]))
    groups = [(title, parts) for title, parts in groups if parts]
    stacked = len(slices) > BESIDE
    if not stacked:
        figure, grid = figure_grid(
            1, len(groups), width=max(5.5, 1.05 * len(slices) + 2.4), height=0.62 * stages + 1.9,
            sharey=True, width_ratios=[len(parts) for _, parts in groups],
        )  # fmt: skip
    else:
        widest = max(len(parts) for _, parts in groups)
        figure, grid = figure_grid(
            len(groups), 1, width=min(0.55 * widest, 14) + 2.6,
            height=(min(0.3 * stages, 10) + 1.6) * len(groups) + 0.6,
        )  # fmt: skip
    for axes, (title, parts) in zip(grid, groups, strict=True):
        image = _heat(axes, results, parts, stacked=stacked)
        if len(groups) > 1:
            axes.set_title(title, fontsize=9.5, loc="left")
    bar = figure.colorbar(image, ax=grid, shrink=0.5 if stacked else 0.9, fraction=0.05, pad=0.02)
    percent_axis(bar.ax.yaxis, ticks=(0, 0.5, 1))
    bar.outline.set_visible(False)
    figure.suptitle(f"mAP50 (%) after every stage: {plot_text(results.main.title)}", **LEFT)
    return figure


def _heat(axes: Axes, results: Results, parts: Sequence[Slice], *, stacked: bool) -> Any:
    """Draw some columns of the stage matrix, with a number in each cell where that can be read."""
    main, stages = results.main, range(1, results.final_stage + 1)
    table = [[main.map50_at(stage, *part) for part in parts] for stage in stages]
    shades = [[float("nan") if value is None else value for value in line] for line in table]
    image = axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if max(len(parts), len(stages)) <= NUMBERED:
        for row, line in enumerate(table):
            for column, value in enumerate(line):
                colour = GREY if value is None else "white" if value > 0.55 else INK
                if value is not None or not stacked:
                    axes.text(
                        column, row, percent(value, unit=False), ha="center", va="center",
                        color=colour, fontsize=8 if stacked else None, in_layout=False,
                    )  # fmt: skip
    across, down = len(parts) - 0.5, len(stages) - 0.5
    between: dict[str, Any] = {"colors": "white", "linewidth": 1.5, "in_layout": False}
    axes.vlines([column - 0.5 for column in range(1, len(parts))], -0.5, down, **between)
    axes.hlines([row - 0.5 for row in stages[:-1]], -0.5, across, **between)
    gap = " " if stacked else "\n"
    names = [
        f"{plot_text(set_name(results, classes), 24)}{gap}in {plot_text(domain, 24)}"
        for domain, classes in parts
    ]
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "fontsize": 8} if stacked else {}
    thin = -(-len(parts) // NUMBERED)
    axes.set_xticks(range(0, len(parts), thin), names[::thin], **turned, rotation_mode="anchor")
    thin = -(-len(stages) // NUMBERED)
    axes.set_yticks(range(0, len(stages), thin), [f"after stage {s}" for s in stages[::thin]])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


@drawn
def merge_figure(results: Results) -> Figure:
    """Weight of the old model and share of sign conflicts per shared tensor, in network order."""
    merges = [merge for merge in results.main.merges if merge.tensors]
    lines = len(merges) <= len(LINES)
    height = 5.4 if lines else min(0.22 * len(merges), 5) * 2 + 2.4
    figure, grid = figure_grid(2, 1, width=10, height=height, sharex=True)
    found = {(merge.increment, row.name): row for merge in merges for row in merge.tensors}
    names = sorted({row.name for merge in merges for row in merge.tensors}, key=natural_key)
    for axes, (key, title) in zip(grid, _MERGED.items(), strict=True):
        rows = [
            [getattr(found.get((merge.increment, name)), key, None) for name in names]
            for merge in merges
        ]
        values = [[float("nan") if x is None else x for x in row] for row in rows]
        if lines:
            _merge_lines(axes, merges, values, key)
        else:
            image = _merge_heat(axes, merges, values, key)
            bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
            percent_axis(bar.ax.yaxis)
            bar.outline.set_visible(False)
        axes.set_title(title, loc="left")
    _block_ticks(grid[1], names)
    if lines and len(merges) > 1:
        handles, texts = grid[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside lower left", ncols=4, frameon=False)
    figure.suptitle(f"What the merge did, layer by layer: {plot_text(results.main.title)}", **LEFT)
    return figure


_MERGED = {
    "alpha": "Weight of the old model in % (50: both models count the same)",
    "sign_conflict": "Sign conflicts: % of the weights that old and new training push in opposite "
    "directions",
}
"""Field of a tensor -> the title of its panel."""


def _merge_lines(
    axes: Axes, merges: Sequence[MergeEntry], values: Sequence[Sequence[float]], key: str
) -> None:
    """Draw one line per merge."""
    for merge, row, line in zip(merges, values, LINES, strict=False):
        axes.plot(
            row, label=f"merge of increment {merge.increment}", linestyle=line,
            color=increment_colour(merge.increment), marker=".", markersize=4, linewidth=0.9,
        )  # fmt: skip
    if key == "alpha":
        axes.axhline(0.5, color="#555555", linewidth=0.8, linestyle=":")
    else:
        highest = max((value for row in values for value in row if value == value), default=0)
        axes.set_ylim(0, max(0.5, highest) * 1.05)
    percent_axis(axes.yaxis)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.7)


def _merge_heat(
    axes: Axes, merges: Sequence[MergeEntry], values: Sequence[Sequence[float]], key: str
) -> Any:
    """Draw one row per merge; return the image."""
    colours = "Blues" if key == "alpha" else "Oranges"
    image = axes.imshow(values, cmap=colours, aspect="auto", interpolation="nearest")
    thin = -(-len(merges) // NUMBERED)
    names = [f"increment {merge.increment}" for merge in merges[::thin]]
    axes.set_yticks(range(0, len(merges), thin), names, fontsize=8)
    axes.spines[:].set_visible(False)
    return image


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key that puts ``model.10`` after ``model.9``."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts if part)


def _block_ticks(axes: Axes, names: Sequence[str]) -> None:
    """Label the first tensor of every block (``model.4.``...) for which there is room."""
    blocks = [match.group(0) if (match := re.match(r"\D*\d+", name)) else name for name in names]
    kept: list[int] = []
    for place, block in enumerate(blocks):
        begins = place == 0 or blocks[place - 1] != block
        if begins and (not kept or place - kept[-1] >= len(blocks) / 50):
            kept.append(place)
    axes.set_xticks(kept, [plot_text(blocks[i]) for i in kept], rotation=60, ha="right", fontsize=8)
    axes.set_xlabel("shared tensors in network order")
