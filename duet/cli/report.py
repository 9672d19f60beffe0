"""`duet report`: words and pictures from a finished run."""

from __future__ import annotations

import json as json_module
from pathlib import Path

import click

from duet.cli.common import PATH, say
from duet.text import printable

EPILOG = """\b
Examples:
  duet report runs/demo
  duet report runs/demo --json | jq .summary
"""


@click.command("report", epilog=EPILOG)
@click.argument("run", type=PATH, metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def report(run: Path, as_json: bool) -> None:
    """Write report.md and plots for a finished run.

    Reads RUN/results.json and nothing else, computes no metric, and replaces an earlier report.
    """
    from duet.cli.common import tell_changed, tell_leftovers_in
    from duet.files import OWN
    from duet.report.markdown import write_report
    from duet.report.tables import summary_table
    from duet.report.words import answer
    from duet.results.files import load_results

    tell_leftovers_in(run, only=OWN)
    path = write_report(run)
    results = load_results(run)
    tell_changed(run)
    if as_json:
        summary = {
            "schema": 1,
            "report": str(path),
            "main_method": results.main_method,
            "answer": list(answer(results)),
            "summary": {m.name: m.indices.numbers() for m in results.methods},
        }
        click.echo(json_module.dumps(summary, indent=2, allow_nan=False))
        return
    title = printable(results.series.name)
    say(f"{title} (%)\n\n{summary_table(results).as_text()}\n\nreport: {path}")
