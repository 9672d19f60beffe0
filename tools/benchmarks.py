"""Run the embedded protocols and write docs/benchmarks.md, all of it, from what was measured.

    python tools/benchmarks.py --out runs/benchmarks                          # everything
    python tools/benchmarks.py --out runs/benchmarks --protocols 4-phase      # one of them
    python tools/benchmarks.py --out runs/benchmarks --from-runs              # the document alone

Does only what is missing under --out: a stopped command is continued by the same command, and a
method added to the table trains alone. The document holds every protocol that has finished runs.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from duet.comparison.ranking import Comparison

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"

ALL = (
    "duet-plus", "duet", "seq-ft", "masked", "frozen", "frozen-long", "lwf", "erd", "pseudo", "ewc",
    "joint-partial", "joint-full",
)  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """One benchmark.

    Attributes:
        series: Shipped series file, without its suffix.
        emoji: Protocol of `duet data emoji` that draws its scenes.
        methods: The first is the one that reports are about.
        seeds: How many seeds.
        what: The question, for the document.
        data_seed: Of the scenes: settings were chosen on seed 0, so another one is measured.
        test: Test scenes per domain.
        weights: Name of θ_0; empty = the series' own.
    """

    series: str
    emoji: str
    methods: tuple[str, ...]
    seeds: int
    what: str
    data_seed: int = 1
    test: int = 400
    weights: str = ""


FEW = ("duet-plus", "duet", "seq-ft", "frozen-long", "erd")
PROTOCOLS = {
    "2-phase": Protocol(
        "emoji-2phase", "2-phase", ALL, 3, "New classes in a new domain, once; all methods."
    ),
    "2-phase-rtdetr": Protocol(
        "emoji-2phase", "2-phase", ("duet-detr", *ALL), 1,
        "The same with a tiny RT-DETR: detectors with queries keep old classes in other ways.",
        weights="rtdetr-tiny-emoji",
    ),
    "4-phase": Protocol(
        "emoji-4phase", "4-phase", FEW, 1, "New classes in a new domain, three times in a row.",
        test=250,
    ),
    "class-only": Protocol(
        "emoji-class-only", "class-only", FEW, 1,
        "New classes in the same domain; GI is undefined.", test=250,
    ),
    "icons": Protocol(
        "icons-2phase", "icons", ("duet-plus", "frozen-long", "seq-ft", "joint-full"), 3,
        "New classes in a new domain, of other artwork: no setting was chosen on such scenes.",
        test=250,
    ),
    "domain-only": Protocol(
        "emoji-domain-only", "domain-only", FEW, 1,
        "The same classes in new domains; GI is undefined. A frozen detector refines class rows.",
        test=250,
    ),
}  # fmt: skip

INTRODUCTION = """\
# Benchmarks

Written by `tools/benchmarks.py` on {today}; do not edit. Detectors, schedules and scenes are those
that ship: `yolo11n-emoji`, where nothing else is named, at 160 px on the Emoji series. Scenes of
data seed 1 played no part in choosing any setting. mAP50 by COCO's definition; indices as
`duet report` defines them. Hand-made measurements of single questions:
[measurements.md](measurements.md).
"""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/benchmarks"))
@click.option("--protocols", default=",".join(PROTOCOLS), show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), help="Replace the protocols' own number.")
@click.option("--strategies", "methods", help="Comma-separated; replace the protocols' own.")
@click.option("--jobs", default=2, show_default=True, help="Trainings at a time.")
@click.option("--epochs", type=click.IntRange(min=1), help="Replace the schedule's, for a trial.")
@click.option("--bootstrap", default=1000, show_default=True, help="Resamples of the test images.")
@click.option("--from-runs", is_flag=True, help="Train nothing, only write the document.")
@click.option("--note", default="", help="A remark on how this was measured, for the document.")
@click.option("--document", type=click.Path(path_type=Path), default=DOCUMENT)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def main(
    out: Path, protocols: str, seeds: int | None, methods: str | None, jobs: int,
    epochs: int | None, bootstrap: int, from_runs: bool, note: str, document: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """Run what is missing and write the document."""
    from duet.comparison.tables import as_dict
    from duet.errors import ConfigError, did_you_mean
    from duet.files import write_text

    wanted = [name.strip() for name in protocols.split(",")]
    for name in wanted:
        if name not in PROTOCOLS:
            raise ConfigError(f"unknown protocol '{name}'{did_you_mean(name, PROTOCOLS)}")
        if not from_runs:
            chosen = tuple(methods.split(",")) if methods else PROTOCOLS[name].methods
            count = seeds or PROTOCOLS[name].seeds
            run_protocol(PROTOCOLS[name], out / name, chosen, count, jobs=jobs, epochs=epochs)
    found = {name: read_protocol(out / name, bootstrap) for name in PROTOCOLS}
    finished = {name: one for name, one in found.items() if one is not None}
    write_text(document, render(finished, out, note))
    click.echo(f"written: {document}", err=True)
    summary = {"schema": 1, "protocols": {name: as_dict(one) for name, one in finished.items()}}
    click.echo(json.dumps(summary, indent=2) if as_json else document.read_text())


def run_protocol(
    protocol: Protocol, folder: Path, methods: tuple[str, ...], seeds: int, *, jobs: int,
    epochs: int | None,
) -> None:  # fmt: skip
    """Draw the scenes and run all seeds, as far as that was not done before."""
    from duet.emoji.build import build
    from duet.emoji.vocabulary import FOCI
    from duet.progress import stages
    from duet.runs.inputs import read_inputs, read_strategies
    from duet.runs.plan import RunPlan
    from duet.runs.repeat import execute_repeats, repeats
    from duet.shipped import shipped

    focus = FOCI[protocol.emoji]
    build(
        folder / "data", seed=protocol.data_seed, test=protocol.test, domains=tuple(focus),
        focus=focus,
    )  # fmt: skip
    inputs = read_inputs(
        shipped("configs", "series", f"{protocol.series}.yaml"), data_root=folder / "data",
        weights=protocol.weights or None,
        changes={"epochs": epochs, "reference_steps": 0} if epochs else None,
    )  # fmt: skip
    plan = RunPlan(
        series=inputs.series, strategies=read_strategies(methods, family=inputs.family),
        schedule=inputs.schedule, weights=inputs.weights, architecture=inputs.architecture,
        family=inputs.family, seed=0, out=folder, jobs=jobs,
        command=shlex.join(commands(protocol, folder, methods, seeds)[-1]),
    )  # fmt: skip
    with stages() as show:
        plans = repeats(plan, seeds=seeds, orders=1)
        execute_repeats(folder, plans, show, date=date.today().isoformat())


def read_protocol(folder: Path, bootstrap: int) -> Comparison | None:
    """Compare the finished runs of a protocol; None if there is none."""
    from duet.comparison.ranking import compare
    from duet.comparison.runs import find_runs

    if not list(folder.glob("seed-*/results.json")):
        return None
    return compare(find_runs([folder]), bootstrap=bootstrap)


def commands(
    protocol: Protocol, folder: Path, methods: tuple[str, ...], seeds: int
) -> tuple[list[str], list[str]]:
    """Return the shell lines that do the same by hand."""
    data = str(folder / "data")
    draw = ["duet", "data", "emoji", data, "--protocol", protocol.emoji]
    draw += ["--seed", str(protocol.data_seed), "--test", str(protocol.test)]
    run = ["duet", "run", f"configs/series/{protocol.series}.yaml", "--data-root", data]
    run += ["--strategies", ",".join(methods)]
    run += ["--weights", protocol.weights] if protocol.weights else []
    if seeds > 1:
        return draw, [*run, "--seeds", str(seeds), "--out", str(folder)]
    return draw, [*run, "--out", str(folder / "seed-0")]


def render(found: dict[str, Comparison], out: Path, note: str) -> str:
    """Return the document."""
    from duet.comparison.page import as_markdown

    command = f"python tools/benchmarks.py --out {shlex.quote(str(out))}"
    blocks = [INTRODUCTION.format(today=date.today().isoformat()), f"    {command}\n"]
    blocks += [f"{note}\n"] if note else []
    for name, comparison in found.items():
        blocks += [
            f"## {name}\n",
            f"{PROTOCOLS[name].what}\n",
            f"    {command} --protocols {name}\n",
            "or, step by step:\n",
            by_hand(PROTOCOLS[name], out / name, comparison),
            f"{environment(comparison)}\n",
            as_markdown(comparison, heading="### Results"),
        ]
    return "\n".join(blocks)


def by_hand(protocol: Protocol, folder: Path, found: Comparison) -> str:
    """Return the commands of a finished protocol, with the methods and seeds that it has."""
    methods = dict.fromkeys(m.name for run in found.runs for m in run.results.strategies)
    seeds = len({run.results.protocol.seed for run in found.runs})
    lines = commands(protocol, folder, tuple(methods), seeds)
    return "".join(f"    {shlex.join(line)}\n" for line in lines)


def environment(found: Comparison) -> str:
    """Return where and when the runs were made, as they say themselves."""
    entries = [run.results.environment for run in found.runs]
    kinds: dict[str, Any] = {}
    for entry in entries:
        versions = ", ".join(f"{name} {number}" for name, number in entry.versions.items())
        text = f"{entry.cpu}, {entry.threads} threads a training, device {entry.device}; {versions}"
        kinds.setdefault(text, []).append(entry.date)
    return "\n".join(
        f"Hardware and versions: {text}. Dates: {', '.join(dict.fromkeys(dates))}."
        for text, dates in kinds.items()
    )


if __name__ == "__main__":
    main()
