"""A comparison as a Markdown page."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from duet.comparison.ranking import Comparison
from duet.comparison.tables import (
    cost_table,
    describe,
    interval_table,
    ranking_table,
    retention_table,
    seen_table,
    sentences,
)
from duet.errors import ConfigError
from duet.files import require_file
from duet.report.deployed import LEGEND
from duet.report.markdown import markdown_table
from duet.text import markdown

HEADING = "# Comparison"
"""What a page begins with."""

_COSTS = (
    "*training*: wall time of all trainings after the first increment's, other trainings may have "
    "run beside them. *peak memory*: main memory of the largest training process. *parameters*: "
    "trainable numbers of the final detector. *one image*: CPU time of one thread, decoded image "
    "to detections, median."
)


def check_page(out: Path) -> None:
    """Refuse a page that would take the place of something else, such as a run's results.

    Raises:
        ConfigError: The name is not that of a page, or something else has it.
    """
    if out.suffix.lower() != ".md":
        raise ConfigError(
            "the page is Markdown, so its name must end in .md", where=f"--out {out}",
            remedy="for example comparison.md",
        )  # fmt: skip
    if os.path.lexists(out):
        with contextlib.suppress(OSError):
            require_file(out)
            with out.open("rb") as page:
                if page.read(len(HEADING)) == HEADING.encode():
                    return
        raise ConfigError(
            "already exists and is no page of duet compare", where=f"--out {out}",
            remedy="choose another name or remove it first",
        )  # fmt: skip


def as_markdown(found: Comparison, *, heading: str = HEADING) -> str:
    """Return the comparison as a Markdown page, or as a section under another heading."""
    blocks = [
        heading,
        markdown(describe(found)),
        "\n".join(f"- {markdown(line)}" for line in sentences(found)),
        markdown_table(ranking_table(found)).rstrip(),
        _legend(found),
    ]
    level = heading.split(" ", 1)[0] + "#"
    retention = retention_table(found)
    if retention is not None:
        text = "RI of the classes of each earlier increment in their own domain, in per cent."
        table = markdown_table(retention).rstrip()
        blocks += [f"{level} Kept, domain by domain", text, table]
    seen = seen_table(found)
    if seen is not None:
        blocks += [f"{level} What a user sees", LEGEND, markdown_table(seen).rstrip()]
    if any(value.low is not None for row in found.rows for value in row.values.values()):
        text = f"95 % intervals over test images, {found.bootstrap} resamples, in per cent."
        blocks += [f"{level} Intervals", text, markdown_table(interval_table(found)).rstrip()]
    blocks += [f"{level} Costs", markdown_table(cost_table(found)).rstrip(), _COSTS]
    return "\n\n".join(blocks) + "\n"


def _legend(found: Comparison) -> str:
    text = "Mean ± sample standard deviation over runs. *old*: mAP50 of the final detector on the "
    text += "classes of earlier increments in their domains; *new*: mAP50 on the new classes right "
    text += "after their stage. "
    if found.bootstrap:
        text += (
            f"*95 % images*: of the difference, a paired bootstrap over test images, bias-"
            f"corrected, {found.bootstrap} resamples, averaged over seeds. "
        )
    return text + (
        "*95 % training*: t interval of the mean difference over runs, paired by seed and order. "
        "*noise*: yes if one of the two intervals holds 0."
    )
