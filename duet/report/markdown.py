"""`report.md` and its pictures, made from `results.json` alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from duet.files import refuse_links, write_text
from duet.report import cautions, deployed, remembered, tables, words
from duet.report.figures import figures, save_figure
from duet.report.gallery import gallery_figure, unusable_images
from duet.report.tables import Table
from duet.results.files import CSV_FILE, RESULTS_FILE, load_results
from duet.results.schema import Results
from duet.text import markdown, markdown_code, markdown_target

REPORT_FILE = "report.md"
PLOTS = "plots"

SHEET_IMAGES = 6
"""Images on the contact sheet; every image also has a file of its own."""


_FILTERS: dict[str, Any] = {
    "md": markdown,
    "code": partial(markdown_code, language="sh"),
    "link": markdown_target,
    "table": lambda table: markdown_table(table),
}


def write_report(run_folder: Path) -> Path:
    """Write `report.md` and `plots/*` for a finished run.

    Reads `results.json` and the gallery images it names, nothing else; computes no metric.

    Args:
        run_folder: Folder that holds `results.json`.

    Returns:
        Path of the report.

    Raises:
        DataError: There is no usable `results.json`.
        DuetError: The folder cannot be written, or holds a link where duet writes.
    """
    results = load_results(run_folder)
    refuse_links(run_folder)
    missing, damaged = unusable_images(run_folder, results)
    plots = _write_figures(run_folder, results)
    gallery = _write_gallery(run_folder, results, {*missing, *damaged})
    if gallery:
        plots["gallery"] = f"{PLOTS}/gallery.jpg"
    text = render_markdown(results, plots=plots, gallery=gallery, missing=missing, damaged=damaged)
    # The report comes last: when it exists, every picture it shows exists.
    write_text(run_folder / REPORT_FILE, text)
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
        gallery: Paths of the single gallery pictures, relative to the report.
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
        results=results, words=words, cautions=cautions, tables=tables, deployed=deployed,
        remembered=remembered, plots=plots,
        gallery=gallery, missing=missing, damaged=damaged, results_file=RESULTS_FILE,
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


def _write_figures(run_folder: Path, results: Results) -> dict[str, str]:
    paths: dict[str, str] = {}
    for stem, draw in figures(results).items():
        figure = draw(results)
        for suffix in (".png", ".svg"):
            save_figure(figure, run_folder / PLOTS / f"{stem}{suffix}")
        paths[stem] = f"{PLOTS}/{stem}.png"
    return paths


def _write_gallery(run_folder: Path, results: Results, absent: set[str]) -> tuple[str, ...]:
    items = [item for item in results.gallery if item.file not in absent]
    if not items:
        return ()
    sheet = gallery_figure(run_folder, results, items[:SHEET_IMAGES])
    save_figure(sheet, run_folder / PLOTS / "gallery.jpg")
    paths = [f"{PLOTS}/gallery-{number:02d}.jpg" for number in range(1, len(items) + 1)]
    for item, path in zip(items, paths, strict=True):
        save_figure(gallery_figure(run_folder, results, [item]), run_folder / path)
    return tuple(paths)
