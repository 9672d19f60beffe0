"""Spoil inputs of every kind, one at a time, and see that duet says so.

    python tools/fuzz.py --count 400 --json

Makes one small good set-up (data sets, a finished run, exports, archives), then for each mutation
copies it, spoils one file by a seeded operator and runs a command that reads it. What must hold:
the right exit code, no traceback, no hang, a short message that names the file and holds no
control characters, nothing written elsewhere, nothing lost without a word. Exit code 1 if not.
Forks, so not for Windows. About a minute for the set-up and a second a mutation.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

os.environ.setdefault("OMP_NUM_THREADS", "1")


@click.command()
@click.option("--count", default=400, show_default=True, help="Mutations.")
@click.option("--seed", default=0, show_default=True)
@click.option("--kinds", help="With commas between; a leading - leaves one out [all].")
@click.option("--only", type=int, help="Do this mutation only, as numbered by a run with --json.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the set-up and findings.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def main(
    count: int, seed: int, kinds: str | None, only: int | None, keep: Path | None, as_json: bool
) -> None:
    """Spoil, run, judge."""
    from fuzzing.campaign import campaign, chosen

    with tempfile.TemporaryDirectory() as temporary:
        tried = campaign(
            (keep or Path(temporary)).resolve(), chosen(kinds), count, seed, only,
            keep=keep is not None, tell=lambda line: click.echo(line, err=True),
        )  # fmt: skip
    rules = Counter(rule for trial in tried for rule in trial.found)
    codes = Counter(trial.code for trial in tried)
    if as_json:
        document = {
            "seed": seed, "mutations": len(tried),
            "cpu_s": round(sum(trial.cpu_s for trial in tried)),
            "codes": dict(sorted(codes.items())), "rules": dict(rules),
            "findings": [asdict(trial) for trial in tried if trial.found],
        }  # fmt: skip
        click.echo(json.dumps(document, indent=1))
    else:
        by = ", ".join(f"exit {code}: {number}" for code, number in sorted(codes.items()))
        click.echo(f"{len(tried)} mutations, {by}; {dict(rules) or 'all held'}")
    sys.exit(1 if rules else 0)


if __name__ == "__main__":
    main()
