"""`duet compare`: which strategy is better, and whether the difference is noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duet.cli.common import PATH, json_option, tell_changed, tell_leftovers
from duet.cli.options import gate_of, gate_options
from duet.cli.running import emit_gated
from duet.evaluation.definitions import RANKED
from duet.progress import note

EPILOG = """\b
Examples:
  duet compare runs/shop
  duet compare runs/short runs/long --metric ri
  duet compare runs/repeats --bootstrap 2000 --out comparison.md
  duet compare runs/repeats --min ri=0.95,fr=0.95 --max-double 15
  duet compare runs/repeats --json | jq '.strategies[] | [.strategy, .h.mean]'
"""


@click.command("compare", epilog=EPILOG)
@click.argument("runs", nargs=-1, required=True, type=PATH, metavar="RUN...")
@click.option(
    "--metric",
    type=click.Choice([index.name for index in RANKED]),
    help="What to rank by [h, else the first that the runs define].",
)
@click.option(
    "--bootstrap", type=click.IntRange(0, 100_000), default=1000, show_default=True,
    help="Resamples of the test images; 0 for no intervals.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=PATH, help="Also write a Markdown page.")
@click.option("--force", is_flag=True, help="Compare runs of different protocols too.")
@gate_options
@json_option
def compare(
    runs: tuple[Path, ...],
    metric: str | None,
    bootstrap: int,
    seed: int,
    out: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Rank the strategies of finished runs: indices, intervals, what is noise, what it costs.

    RUN is a run folder, or a folder of repeats (`duet run --seeds`). Strategies of one name are
    one row, averaged over seeds. Differences to the best are tested on resampled test images, the
    same for all strategies, and against the spread over seeds. Needs no images and no GPU.
    """
    from duet.comparison.gated import judge
    from duet.comparison.page import as_markdown, check_page
    from duet.comparison.ranking import compare as rank
    from duet.comparison.runs import find_runs
    from duet.comparison.tables import as_dict, as_text
    from duet.files import write_text
    from duet.results.gated import kept_before

    if out is not None:
        check_page(out)
    gate = gate_of(options)
    before = kept_before(gate) if gate is not None else None
    known = find_runs(runs)
    for run in known:
        tell_changed(run.folder)
    found = rank(known, metric=metric, bootstrap=bootstrap, seed=seed, force=force)
    if out is not None:
        tell_leftovers(out)
        write_text(out, as_markdown(found))
        note(f"written: {out}")
    apart = bool(found.differing)
    verdict = judge(gate, known, before=before, apart=apart) if gate is not None else None
    emit_gated(as_dict(found), verdict, as_json, lambda _: as_text(found))
    if verdict is not None:
        verdict.require(", ".join(map(str, runs)))
