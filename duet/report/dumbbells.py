"""Figures with a row for every class: where its AP50 began, and where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from duet.report.changes import ClassChange, new_classes, new_shown, old_classes, old_shown
from duet.report.colours import BLUE, INK, ORANGE
from duet.report.phrases import percent
from duet.report.plots import LEFT, drawn, figure_grid, percent_axis
from duet.results.schema import Results
from duet.text import plot_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.27
"""Inches from one class to the next."""

_TALL = 25
"""Rows from which on the scale also stands above them."""

_Value = Callable[[ClassChange], float | None]
_Side = tuple[str, _Value]


@drawn
def old_classes_figure(results: Results) -> Figure:
    """AP50 of every old class in its own domain: when learned and in the final model.

    Of very many classes those that changed most.
    """
    return _dumbbells(
        old_shown(results), len(old_classes(results)),
        "Old classes in their own images: AP50 (%) when learned and now",
        start=("when learned", lambda item: item.learned),
        end=("final model", lambda item: item.final),
    )  # fmt: skip


@drawn
def new_classes_figure(results: Results) -> Figure:
    """AP50 of every new class right after its stage, beside the model trained only on them.

    Of very many classes those that are furthest from their reference.
    """
    return _dumbbells(
        new_shown(results), len(new_classes(results)),
        "New classes: AP50 (%) of a model trained only on them, and of this detector",
        start=("trained only on them", lambda item: item.reference),
        end=("this detector, when learned", lambda item: item.learned),
    )  # fmt: skip


def _dumbbells(
    shown: Sequence[ClassChange], every: int, title: str, *, start: _Side, end: _Side
) -> Figure:
    """Draw one row per class: hollow start, filled end, a line between.

    Args:
        shown: The classes, in order.
        every: How many there are. Where all are shown, those of one increment stand together.
        title: Of the figure.
        start: What the hollow mark is, and its value.
        end: The same of the filled one.
    """
    rows = list(_rows(shown, whole=len(shown) == every))
    figure, (axes,) = figure_grid(1, 1, width=8, height=_ROW * len(rows) + 1.25)
    places = [place for place, (item, _) in enumerate(rows) if item is not None]
    items = [item for item, _ in rows if item is not None]
    _marks(axes, places, [(start[1](item), end[1](item)) for item in items])
    for place, (item, text) in enumerate(rows):
        if item is None:  # the name of an increment above its classes
            axes.text(0, place, text, va="center", fontsize=9.5, fontweight="bold")
            axes.axhspan(place - 0.5, place + 0.5, color="white", zorder=0.5)
    axes.set_yticks(places, [text for item, text in rows if item is not None])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.01)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labeltop=len(rows) > _TALL)
    percent_axis(axes.xaxis, ticks=(0, 0.25, 0.5, 0.75, 1))
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    _legend(figure, start[0], end[0])
    some = "" if len(shown) == every else f"\nthe {len(shown)} of {every} that differ most"
    figure.suptitle(f"{title}{some}", **LEFT)
    return figure


def _rows(shown: Sequence[ClassChange], *, whole: bool) -> Iterator[tuple[ClassChange | None, str]]:
    """Yield every class and what it is called, with a row for each increment before its classes."""
    if not whole:
        for item in shown:
            yield item, f"{plot_text(item.name, 40)} (C{item.increment})"
        return
    for number in sorted({item.increment for item in shown}):
        members = [item for item in shown if item.increment == number]
        yield None, f"C{number} in {plot_text(members[0].domain)}"
        yield from ((item, plot_text(item.name)) for item in members)


def _marks(
    axes: Axes, places: Sequence[int], values: Sequence[tuple[float | None, float | None]]
) -> None:
    both = [
        (at, first, last)
        for at, (first, last) in zip(places, values, strict=True)
        if first is not None and last is not None
    ]
    axes.hlines(
        [at for at, _, _ in both], [first for _, first, _ in both], [last for *_, last in both],
        colors=[ORANGE if last < first else BLUE for _, first, last in both], linewidth=2.4,
        zorder=1,
    )  # fmt: skip
    for side, colour, order in ((0, "white", 2), (1, INK, 3)):
        pairs = zip(places, values, strict=True)
        known = [(value, at) for at, pair in pairs if (value := pair[side]) is not None]
        axes.scatter(
            [value for value, _ in known], [at for _, at in known], s=42, facecolor=colour,
            edgecolor=INK, zorder=order, clip_on=False,
        )  # fmt: skip
    texts = [
        f"{percent(first, unit=False)} → {percent(last, unit=False)}" for first, last in values
    ]
    longest = max(range(len(texts)), key=lambda number: len(texts[number]))
    for number, (at, text) in enumerate(zip(places, texts, strict=True)):
        # One of them keeps the room for all: measuring each takes longer than drawing them.
        written = axes.text(1.03, at, text, va="center", fontsize=8.5)
        written.set_in_layout(number == longest)


def _legend(figure: Figure, start: str, end: str) -> None:
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {"linestyle": "", "marker": "o", "markeredgecolor": INK}
    handles = [
        Line2D([], [], markerfacecolor="white", label=start, **dot),
        Line2D([], [], markerfacecolor=INK, label=end, **dot),
        Line2D([], [], color=ORANGE, linewidth=2.4, label="lower"),
        Line2D([], [], color=BLUE, linewidth=2.4, label="higher"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=8.5)
