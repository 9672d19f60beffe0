"""How the report's figures are drawn: settings, a grid of axes, and the picture as a file's bytes.

Figures are built without pyplot, so no global state remains; equal figures give equal bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from io import BytesIO
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from duet.report.colours import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS = 120
"""Pixels of an inch."""

LEFT: Mapping[str, Any] = {"x": 0.01, "ha": "left", "fontsize": 12, "fontweight": "bold"}
"""Where and how a figure's title stands."""

_STYLE: Mapping[str, Any] = {
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


def figure_grid(
    rows: int, columns: int, *, width: float, height: float, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure (inches) and its axes, row by row; called under `styled`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(grid.flat)


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file of few colours, laid out and drawn once.

    Text between flat colours is what a palette holds best: a third of the bytes of full colour.
    """
    from PIL import Image

    canvas: Any = figure.canvas
    with styled(), warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes; a line about each helps nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw()
    whole = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    few = whole.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    stream = BytesIO()
    few.save(stream, "PNG")
    return stream.getvalue()


def percent_axis(axis: Any, ticks: Sequence[float] | None = None) -> None:
    """Write fractions as percentages along an axis."""
    if ticks is not None:
        axis.set_ticks(list(ticks))
    axis.set_major_formatter(lambda value, _: f"{100 * value:g}")
