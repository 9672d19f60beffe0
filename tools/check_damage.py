"""Damage every file of a finished run and show that no command makes a wrong detector of it.

    python tools/check_damage.py --json

Draws a tiny series and runs it once. Then every file of the run folder is cut, gets a flipped bit
at a random place, is emptied and is removed. After that

- the same `duet run` must end in the very detectors, increments, evaluations and numbers, and name
  each damaged result that it computed again (files of one kind are damaged together, in each folder
  of the lab one);
- `report`, `compare`, `merge`, `log`, `predict` and `increment`, which read what a run left, must
  refuse the file by name, or give what they gave before.

Exit code 1 if anything else happens. About fifteen minutes on two free cores.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from check_kill import entry
from check_kill_commands import MODULES, launch, made_apart, wait

from duet.files import sha256_file

VOLATILE = ("seconds", "latency_ms", "memory_mb", "costs", "date", "sha256")
"""Keys of results.json that tell of time, or of a hash over them."""

RESULTS = ("outcome.json", "trained.safetensors", "fisher.safetensors")
"""Files of a job that are read when it is asked for again."""


def _cut(path: Path, moments: random.Random) -> None:
    os.truncate(path, moments.randrange(path.stat().st_size))


def _flip(path: Path, moments: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place = moments.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path, random.Random], object]] = {
    "cut": _cut,
    "flipped": _flip,
    "emptied": lambda path, _: path.write_bytes(b""),
    "removed": lambda path, _: path.unlink(),
}


@dataclass
class Report:
    """What was tried, and what went wrong."""

    files: int = 0
    runs: int = 0
    recomputed: int = 0
    commands: int = 0
    refused: int = 0
    same: int = 0
    wrong: list[str] = field(default_factory=list)


@click.command()
@click.option("--seed", default=0, show_default=True, help="Of places and bits.")
@click.option("--work", type=click.Path(path_type=Path), help="Keep everything here.")
@click.option("--run/--no-run", "rerun", default=True, help="Try `duet run` on damaged runs.")
@click.option("--read/--no-read", "reading", default=True, help="Try the commands that read them.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def main(seed: int, work: Path | None, rerun: bool, reading: bool, as_json: bool) -> None:
    """Damage, repeat, compare."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        series, methods = made_apart(folder)
        options = [word for method in methods for word in ("--strategy", method)]
        words = ["run", str(series), "--jobs", "2", *options]
        calm, moments, report = folder / "calm", random.Random(seed), Report()
        _run(words, calm)
        report.files = sum(path.is_file() for path in calm.rglob("*"))
        if rerun:
            try_run(words, calm, folder / "damaged", moments, report)
        if reading:
            try_commands(series, calm, folder / "read", moments, report)
    record = {**asdict(report), "ok": not report.wrong}
    click.echo(json.dumps(record, indent=2) if as_json else record)
    sys.exit(1 if report.wrong else 0)


def _run(words: list[str], out: Path) -> str:
    done = subprocess.run(entry(words, out), capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"the run failed: {done.stderr}")
    return done.stderr


# ---- the same run again --------------------------------------------------------------------------


def _told_aside(name: str, told: str) -> bool:
    aside = [part for part in Path(name).parts if re.match(r"damaged-\d+-", part)]
    return bool(aside) and all(part in told for part in aside)


def try_run(
    words: list[str], calm: Path, place: Path, moments: random.Random, report: Report
) -> None:
    """Damage one kind of file at a time, run again, compare."""
    expected = content_of(calm)
    for damage, (kind, names) in itertools.product(DAMAGES, groups(calm).items()):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(calm, place)
        for name in names:
            DAMAGES[damage](place / name, moments)
        told = _run(words, place)
        # A damaged folder is set aside as it is, under a name that is told.
        found = {n: c for n, c in content_of(place).items() if not _told_aside(n, told)}
        case = f"{damage} {kind}"
        keys = sorted(found.keys() | expected.keys())
        different = [key for key in keys if found.get(key) != expected.get(key)]
        unnamed = [name for name in names if must_be_named(name, damage) and name not in told]
        report.runs += 1
        report.recomputed += sum(" again" in line for line in told.splitlines())
        report.wrong += [f"{case}: other content of {name}" for name in different]
        report.wrong += [f"{case}: {name} is not named" for name in unnamed]
        click.echo(f"{case}: {len(names)} files, {len(different) + len(unnamed)} wrong", err=True)


def groups(run: Path) -> dict[str, list[str]]:
    """Return kind -> files to damage at once: in the lab one file of every job."""
    found: dict[str, list[str]] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run)
        if not path.is_file() or path.name == ".lock" or not path.stat().st_size:
            continue
        top = name.parts[0]
        kind = f"lab {path.name}" if top == "lab" else f"{top} {path.suffix}"
        found.setdefault(kind if len(name.parts) > 1 else "run folder", []).append(str(name))
    return found


def must_be_named(name: str, damage: str) -> bool:
    """Tell whether the run reads this file back, so that its damage is to be told."""
    path = Path(name)
    if path.parts[0] == "lab":
        return path.name in RESULTS
    # A missing evaluation may never have been done.
    return path.parts[0] == "evaluations" and not (damage == "removed" and path.suffix == ".json")


def content_of(run: Path) -> dict[str, Any]:
    """Return what a run stands for: hashes of its files, and its numbers without times."""
    kept = ("models", "increments", "evaluations", "gallery")
    files = [path for top in kept for path in sorted((run / top).rglob("*")) if path.is_file()]
    jobs = [path for name in RESULTS[1:] for path in sorted(run.glob(f"lab/*/{name}"))]
    found: dict[str, Any] = {
        str(path.relative_to(run)): sha256_file(path)
        for path in [*files, *jobs]
        if not path.name.startswith("latency-")
    }
    results = json.loads((run / "results.json").read_text())
    found["numbers"] = json.dumps(_timeless(results)).replace(str(run), "RUN")
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in VOLATILE}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


# ---- commands that read a run --------------------------------------------------------------------


def try_commands(
    series: Path, calm: Path, folder: Path, moments: random.Random, report: Report
) -> None:
    """Damage one file at a time and run what reads it in a process of its own."""
    folder.mkdir(exist_ok=True)
    heard = folder / "heard.txt"
    for module in MODULES:
        importlib.import_module(module)

    def ask(words: list[object], out: Path) -> tuple[int | None, str, dict[str, str]]:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        code = wait(launch(words, heard))
        files = sorted(path for path in out.rglob("*") if path.is_file())
        return code, heard.read_text(), {str(f.relative_to(out)): sha256_file(f) for f in files}

    run, out = folder / "run", folder / "out"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(calm, run)
    for title, words, names in readers(series, run, out):
        code, told, expected = ask(words, out)
        if code:
            raise click.ClickException(f"{title} fails on a whole run: {told}")
        for name, damage in itertools.product(names, DAMAGES):
            DAMAGES[damage](run / name, moments)
            code, told, found = ask(words, out)
            shutil.copyfile(calm / name, run / name)
            report.commands += 1
            case = f"{title}: {damage} {name}"
            if code in (3, 4) and (Path(name).name in told or Path(name).parent.name in told):
                report.refused += 1
            elif code == 0 and found == expected:
                report.same += 1
            else:
                report.wrong.append(f"{case}: exit {code}: {told[-400:]}")
                click.echo(report.wrong[-1], err=True)
        click.echo(f"{title}: {len(names)} files, {len(report.wrong)} wrong so far", err=True)


def readers(series: Path, run: Path, out: Path) -> Iterator[tuple[str, list[object], list[str]]]:
    """Yield a title, a command, and the files of the run that it reads."""
    kept = run / "increments" / "duet-plus"
    increments = [kept / "flat", kept / "comic"]  # oldest first
    model = sorted((run / "models" / "duet-plus").iterdir())[-1]
    images = series.parent / "data" / "flat" / "images" / "test"

    def names(folder: Path) -> list[str]:
        return [str(path.relative_to(run)) for path in sorted(folder.rglob("*")) if path.is_file()]

    weights = ["--weights", series.parent / "base.safetensors"]
    stored = [name for folder in increments for name in names(folder)]
    evidence = [name for name in names(run / "evaluations") if name.endswith(".npz")]
    page = ["--bootstrap", 20, "--out", out / "page.md"]
    yield "merge", ["merge", *increments, *weights, "--out", out / "d"], stored
    yield "log", ["log", model], names(model)
    yield "predict", ["predict", model, images, "--out", out / "p"], names(model)
    yield "export", ["export", model, "--to", "pt", "--out", out / "m.pt"], names(model)
    yield "compare", ["compare", run, *page], ["results.json", *evidence]
    yield "report", ["report", run], ["results.json"]


if __name__ == "__main__":
    main()
