"""The report's figures: `Results` in, matplotlib `Figure` out; equal input gives equal bytes.

Colours are Okabe and Ito's (2008), told apart with any colour vision; every coloured mark also
carries a number, a shape or a place. Figures are built without pyplot, so no global state remains.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from duet.evaluation.definitions import RATIOS
from duet.files import atomic_path
from duet.report.phrases import FEW_NOTE, marked, percent, set_name
from duet.report.tables import is_taught, ordered_slices, ordered_strategies
from duet.report.words import ClassChange, class_changes
from duet.results.measured import few_behind
from duet.results.schema import MergeEntry, Results
from duet.text import plot_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
)  # fmt: skip
GREY, INK = "#9A9A9A", "#222222"
PANELS = 4
"""Panels beside each other."""

INCREMENT_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER)
"""Colour of the classes of increment 1, 2, ...; repeats after six."""

_STYLE: Mapping[str, Any] = {
    "svg.hashsalt": "duet",  # fixed ids: the same figure is the same file
    "svg.fonttype": "none",  # text stays text: selectable, searchable, small
    "font.family": "DejaVu Sans",  # ships with matplotlib, so pictures equal on every machine
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "text.color": INK,
    "text.parse_math": False,  # names of users hold dollar signs
    "text.usetex": False,
    "axes.labelcolor": INK,
}


def increment_colour(number: int) -> str:
    """Return the hexadecimal colour of increment ``number`` (1..T)."""
    return INCREMENT_COLOURS[(number - 1) % len(INCREMENT_COLOURS)]


@contextmanager
def styled() -> Iterator[None]:
    """Draw with duet's own settings alone, whatever the user's ``matplotlibrc`` says.

    Text is text: a name such as ``$x_$`` is no mathematics, and no TeX is called.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


_P = ParamSpec("_P")


def drawn(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Make a function that returns a figure do so under `styled`."""

    @wraps(draw)
    def under_own_settings(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with styled():
            return draw(*args, **kwargs)

    return under_own_settings


def figures(results: Results) -> dict[str, Callable[[Results], Figure]]:
    """Return file stem -> function, for every figure that these results can fill."""
    main = results.main
    known: dict[str, Callable[[Results], Figure]] = {"indices": indices_figure}
    if main.matrix:
        known["stage-matrix"] = matrix_figure
    changes = class_changes(results, main)
    if any(item.change is not None and item.increment < results.final_stage for item in changes):
        known["old-classes"] = old_classes_figure
    if any(item.learned is not None and item.increment >= 2 for item in changes):
        known["new-classes"] = new_classes_figure
    if any(merge.tensors for merge in main.merges):
        known["merge"] = merge_figure
    return known


def save_figure(figure: Figure, target: Path) -> None:
    """Write one figure; the suffix (.png, .svg or .jpg) chooses the format.

    Raises:
        DuetError: The file cannot be written.
    """
    # Neither a date nor a version string: the bytes depend on the picture alone.
    options: dict[str, Any] = {"metadata": {"Date": None}}
    if target.suffix == ".png":
        # A tenth larger than at zlib's usual level, in a third of the time.
        options = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 4}}
    elif target.suffix == ".jpg":  # photographs, in a tenth of the bytes
        options = {"pil_kwargs": {"quality": 88}}
    with styled(), atomic_path(target) as temporary, warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes; a line about each helps nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary, dpi=144, **options)
    figure.set_layout_engine("none")  # another format of it need not be laid out again


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
        top = max([1.0, *(v for v in values if v is not None)])
        axes.set_xlim(0, 1.22 * top)
        axes.axvline(1, color="#555555", linewidth=0.8, linestyle=":")
        axes.set_title(f"{index.title}: {index.panel}", fontsize=9.5, loc="left")
        axes.tick_params(axis="y", length=0)
        _percent_axis(axes.xaxis, ticks=(0, 0.5, 1))
    grid[0].set_yticks(
        range(len(strategies)), [plot_text(strategy.title) for strategy in strategies]
    )
    grid[0].invert_yaxis()
    if noted:
        figure.supxlabel(FEW_NOTE, x=0.01, ha="left", fontsize=8.5)
    figure.suptitle("How much each strategy keeps and learns (%, higher is better)", **_LEFT)
    return figure


@drawn
def matrix_figure(results: Results) -> Figure:
    """Heat map of mAP50 (%): stages down, class sets in domains across."""
    cells, slices = results.main.matrix, ordered_slices(results)
    figure, (axes,) = figure_grid(
        1, 1, width=max(5.5, 1.05 * len(slices) + 2.4), height=0.62 * results.final_stage + 1.9
    )
    values = {(cell.stage, cell.domain, cell.classes): cell.map50 for cell in cells}
    rows = range(1, results.final_stage + 1)
    table = [[values.get((stage, *part), float("nan")) for part in slices] for stage in rows]
    image = axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, line in enumerate(table):
        for column, value in enumerate(line):
            known = value == value  # NaN marks a cell that was not measured
            colour = ("white" if value > 0.55 else INK) if known else GREY
            text = percent(value if known else None, unit=False)
            axes.text(column, row, text, ha="center", va="center", color=colour)
    for column in range(1, len(slices)):
        axes.axvline(column - 0.5, color="white", linewidth=1.5)
    for row in range(1, results.final_stage):
        axes.axhline(row - 0.5, color="white", linewidth=1.5)
    count = sum(is_taught(results, part) for part in slices)  # these come first
    if 0 < count < len(slices):
        axes.axvline(count - 0.5, color="white", linewidth=9)
        for column, text in ((0, "classes learned there"), (count, "classes never labelled there")):
            axes.text(column - 0.42, -0.58, text, fontsize=9, ha="left", va="bottom")
    names = [
        f"{plot_text(set_name(results, classes))}\nin {plot_text(domain)}"
        for domain, classes in slices
    ]
    axes.set_xticks(range(len(slices)), names)
    axes.set_yticks([s - 1 for s in rows], [f"after stage {stage}" for stage in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.9)
    _percent_axis(bar.ax.yaxis, ticks=(0, 0.5, 1))
    bar.outline.set_visible(False)
    figure.suptitle(f"mAP50 (%) after every stage: {plot_text(results.main.title)}", **_LEFT)
    return figure


@drawn
def old_classes_figure(results: Results) -> Figure:
    """AP50 of every old class in its own domain: when learned and in the final model."""
    changes = [
        item
        for item in class_changes(results, results.main)
        if item.increment < results.final_stage and item.change is not None
    ]
    changes.sort(key=lambda item: (item.increment, item.change))
    title = "Old classes in their own images: AP50 (%) when learned and now"
    return _dumbbells(
        results, changes, title,
        start=("when learned", lambda item: item.learned),
        end=("final model", lambda item: item.final),
    )  # fmt: skip


@drawn
def new_classes_figure(results: Results) -> Figure:
    """AP50 of every new class right after its stage, beside the model trained only on them."""
    changes = [
        item
        for item in class_changes(results, results.main)
        if item.increment >= 2 and item.learned is not None
    ]
    changes.sort(key=lambda item: (item.increment, item.learned))
    title = "New classes: AP50 (%) of a model trained only on them, and of this detector"
    return _dumbbells(
        results, changes, title,
        start=("trained only on them", lambda item: item.reference),
        end=("this detector, when learned", lambda item: item.learned),
    )  # fmt: skip


@drawn
def merge_figure(results: Results) -> Figure:
    """Weight of the old model and share of sign conflicts per shared tensor, in network order."""
    merges = [merge for merge in results.main.merges if merge.tensors]
    figure, grid = figure_grid(2, 1, width=10, height=5.4, sharex=True)
    for merge in merges:
        rows = sorted(merge.tensors, key=lambda tensor: natural_key(tensor.name))
        colour = increment_colour(merge.increment)
        style: dict[str, Any] = {"color": colour, "marker": ".", "markersize": 4, "linewidth": 0.9}
        label = f"merge of increment {merge.increment}"
        for axes, key in zip(grid, ("alpha", "sign_conflict"), strict=True):
            known = (getattr(row, key) for row in rows)
            axes.plot([float("nan") if x is None else x for x in known], label=label, **style)
    grid[0].axhline(0.5, color="#555555", linewidth=0.8, linestyle=":")
    titles = (
        "Weight of the old model in % (dotted: both models count the same)",
        "Sign conflicts: % of the weights that old and new training push in opposite directions",
    )
    highest = max((t.sign_conflict or 0 for m in merges for t in m.tensors), default=0)
    grid[1].set_ylim(0, max(0.5, highest) * 1.05)
    for axes, title in zip(grid, titles, strict=True):
        axes.set_title(title, loc="left")
        _percent_axis(axes.yaxis)
        axes.grid(axis="y", color="#E4E4E4", linewidth=0.7)
    _block_ticks(grid[1], merges[0])
    if len(merges) > 1:
        lines, names = grid[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower left", ncols=4, frameon=False)
    figure.suptitle(f"What the merge did, layer by layer: {plot_text(results.main.title)}", **_LEFT)
    return figure


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key that puts ``model.10`` after ``model.9``."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts if part)


# --- shared parts -------------------------------------------------------------------------------

_LEFT: Mapping[str, Any] = {"x": 0.01, "ha": "left", "fontsize": 12, "fontweight": "bold"}

_Side = tuple[str, Callable[[ClassChange], float | None]]


def figure_grid(
    rows: int, columns: int, *, width: float, height: float, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure (inches) and its axes, row by row; called under `styled`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(grid.flat)


def _percent_axis(axis: Any, ticks: Sequence[float] | None = None) -> None:
    if ticks is not None:
        axis.set_ticks(list(ticks))
    axis.set_major_formatter(lambda value, _: f"{100 * value:g}")


def _dumbbells(
    results: Results, changes: Sequence[ClassChange], title: str, *, start: _Side, end: _Side
) -> Figure:
    """Draw one panel per increment and one row per class: hollow start, filled end, a line."""
    groups = [
        [item for item in changes if item.increment == number]
        for number in dict.fromkeys(item.increment for item in changes)
    ]
    figure, grid = figure_grid(
        len(groups), 1, width=8, height=0.27 * len(changes) + 0.45 * len(groups) + 1.1,
        sharex=True, height_ratios=[len(group) + 0.4 for group in groups],
    )  # fmt: skip
    for axes, group in zip(grid, groups, strict=True):
        for row, item in enumerate(group):
            _dumbbell(axes, row, start[1](item), end[1](item))
        where = f"C{group[0].increment} in {plot_text(group[0].domain)}"
        axes.set_title(where, loc="left", fontsize=9.5)
        axes.set_yticks(range(len(group)), [plot_text(item.name) for item in group])
        axes.set_ylim(len(group) - 0.4, -0.6)
        axes.set_xlim(0, 1.01)
        axes.tick_params(axis="y", length=0)
        _percent_axis(axes.xaxis, ticks=(0, 0.25, 0.5, 0.75, 1))
        axes.grid(axis="x", color="#E4E4E4", linewidth=0.7)
        axes.set_axisbelow(True)
    _dumbbell_legend(figure, start[0], end[0])
    figure.suptitle(title, **_LEFT)
    return figure


def _dumbbell(axes: Axes, row: int, first: float | None, last: float | None) -> None:
    if first is not None and last is not None:
        colour = ORANGE if last < first else BLUE
        axes.plot([first, last], [row, row], color=colour, linewidth=2.4, zorder=1)
    if first is not None:
        axes.scatter(first, row, s=42, facecolor="white", edgecolor=INK, zorder=2, clip_on=False)
    if last is not None:
        axes.scatter(last, row, s=42, color=INK, zorder=3, clip_on=False)
    text = f"{percent(first, unit=False)} → {percent(last, unit=False)}"
    axes.text(1.03, row, text, va="center", fontsize=8.5)


def _dumbbell_legend(figure: Figure, start: str, end: str) -> None:
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {"linestyle": "", "marker": "o", "markeredgecolor": INK}
    handles = [
        Line2D([], [], markerfacecolor="white", label=start, **dot),
        Line2D([], [], markerfacecolor=INK, label=end, **dot),
        Line2D([], [], color=ORANGE, linewidth=2.4, label="lower"),
        Line2D([], [], color=BLUE, linewidth=2.4, label="higher"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=8.5)


def _block_ticks(axes: Axes, merge: MergeEntry) -> None:
    """Label the first tensor of every block (``model.4.``...), at most about 25 of them."""
    names = sorted((tensor.name for tensor in merge.tensors), key=natural_key)
    blocks = [match.group(0) if (match := re.match(r"\D*\d+", name)) else name for name in names]
    starts = [i for i, block in enumerate(blocks) if i == 0 or blocks[i - 1] != block]
    kept = starts[:: -(-len(starts) // 25)]
    axes.set_xticks(kept, [plot_text(blocks[i]) for i in kept], rotation=60, ha="right", fontsize=8)
    axes.set_xlabel("shared tensors in network order")
