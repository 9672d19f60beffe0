"""`duet report`: words and pictures from a finished run."""

from __future__ import annotations

from pathlib import Path

import click

from duet.cli.common import PATH, emit, json_option, tell_changed, tell_leftovers_in

EPILOG = """\b
Examples:
  duet report runs/demo
  duet report runs/demo --json | jq .summary
"""


@click.command("report", epilog=EPILOG)
@click.argument("run", type=PATH, metavar="RUN")
@json_option
def report(run: Path, as_json: bool) -> None:
    """Write report.md and plots for a finished run.

    Reads RUN/results.json and nothing else, computes no metric, and replaces an earlier report.
    """
    from duet.files import OWN
    from duet.report.markdown import write_report
    from duet.report.tables import summary_text
    from duet.report.words import as_dict
    from duet.results.files import RESULTS_FILE, parse_results, read_document

    tell_leftovers_in(run, only=OWN)
    document = read_document(run)
    results = parse_results(document, where=str(run / RESULTS_FILE))
    path = write_report(run, results)
    tell_changed(run, document)
    emit(as_dict(results, path), as_json, lambda _: summary_text(results, path))
