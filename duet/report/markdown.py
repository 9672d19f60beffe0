"""`report.md` and its pictures, made from `results.json` alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from duet.files import atomic_path, refuse_links, write_text
from duet.report import cautions, changes, deployed, remembered, tables, words
from duet.report.pictures import draw_pictures
from duet.report.tables import Table
from duet.results.files import CSV_FILE, RESULTS_FILE, load_results
from duet.results.schema import Results
from duet.text import markdown, markdown_code, markdown_target

REPORT_FILE = "report.md"
PLOTS = "plots"

SHOWN_IMAGES = 6
"""Gallery images that the report shows; to others it has links."""

_EVER_WRITTEN = re.compile(
    r"(?:gallery(?:-\d+)?\.jpg|(?:indices|stage-matrix|old-classes|new-classes|merge)\.(?:png|svg))\Z"
)

_FILTERS: dict[str, Any] = {
    "md": markdown,
    "code": partial(markdown_code, language="sh"),
    "link": markdown_target,
    "table": lambda table: markdown_table(table),
}


def write_report(run_folder: Path, results: Results | None = None) -> Path:
    """Write `report.md` and `plots/*` for a finished run.

    Reads `results.json` and the gallery images it names, nothing else; computes no metric. Pictures
    of an earlier report that this one does not have are removed.

    Args:
        run_folder: Folder that holds `results.json`.
        results: What is in it, if that is known.

    Returns:
        Path of the report.

    Raises:
        DataError: There is no usable `results.json`.
        DuetError: The folder cannot be written, or holds a link where duet writes.
    """
    results = load_results(run_folder) if results is None else results
    refuse_links(run_folder)
    drawn = draw_pictures(run_folder, results)
    plots = {stem: f"{PLOTS}/{stem}.png" for stem in drawn.figures}
    gallery = tuple(f"{PLOTS}/gallery-{n:02d}.jpg" for n in range(1, len(drawn.gallery) + 1))
    contents = (*drawn.figures.values(), *drawn.gallery)
    for path, content in zip((*plots.values(), *gallery), contents, strict=True):
        with atomic_path(run_folder / path) as temporary:
            temporary.write_bytes(content)
    text = render_markdown(
        results, plots=plots, gallery=gallery, missing=drawn.missing, damaged=drawn.damaged
    )
    # The report comes last: when it exists, every picture it shows exists.
    write_text(run_folder / REPORT_FILE, text)
    for older in _pictures_in(run_folder / PLOTS):
        if f"{PLOTS}/{older.name}" not in {*plots.values(), *gallery}:
            older.unlink()
    return run_folder / REPORT_FILE


def render_markdown(
    results: Results,
    *,
    plots: Mapping[str, str],
    gallery: tuple[str, ...] = (),
    missing: tuple[str, ...] = (),
    damaged: tuple[str, ...] = (),
) -> str:
    """Return the report as Markdown.

    Args:
        results: The numbers.
        plots: Figure stem -> path relative to the report.
        gallery: Paths of the gallery pictures, relative to the report.
        missing: Gallery images that are not in the run folder.
        damaged: Gallery images that cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("duet.report"),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown, not HTML: the `md` filter escapes
        keep_trailing_newline=True,
    )
    environment.filters |= _FILTERS
    text = environment.get_template("report.md.j2").render(
        results=results, words=words, cautions=cautions, changes=changes, tables=tables,
        deployed=deployed, remembered=remembered, plots=plots,
        gallery=gallery, shown_images=SHOWN_IMAGES, missing=missing, damaged=damaged,
        results_file=RESULTS_FILE,
        csv_file=CSV_FILE,
    )  # fmt: skip
    return _tidy(text)


def markdown_table(table: Table) -> str:
    """Return a table in GitHub's Markdown; the leading columns of words are left-aligned."""
    rules = ["---" if column < table.words else "---:" for column in range(len(table.header))]
    rows = [table.header, *table.rows]
    cells = [[markdown(cell) for cell in row] for row in rows]
    cells.insert(1, rules)
    lines = "".join(f"| {' | '.join(row)} |\n" for row in cells)
    return f"{lines}\n{markdown(table.note)}\n" if table.note else lines


def _tidy(text: str) -> str:
    """Put one blank line around headings and never two in a row; strip line ends."""
    lines = [line.rstrip() for line in text.splitlines()]
    spaced = re.sub(r"\n*\n(#+ )", r"\n\n\1", "\n".join(lines))
    return re.sub(r"\n{3,}", "\n\n", spaced).strip() + "\n"


def _pictures_in(plots: Path) -> list[Path]:
    """Return the files that reports have ever written into the folder of their pictures."""
    if not plots.is_dir():
        return []
    return [path for path in plots.iterdir() if path.is_file() and _EVER_WRITTEN.match(path.name)]
