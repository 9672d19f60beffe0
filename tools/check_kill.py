"""Kill `duet run` at random moments and show that the same command still ends in the same bits.

    python tools/check_kill.py --kills 10 --json

Draws a tiny series, runs it once undisturbed, then again and again with SIGKILL to the parent (or,
with --interrupts, Ctrl-C) after a random time. After each blow no training process may live for
longer than two seconds (--grace), and nothing may be written after that. A run that reaches its
end is compared with the undisturbed one, file by file; the next blow starts a new one. Exit code 1
if anything differs. About five minutes for ten kills on two free cores.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import yaml

from duet.files import sha256_file
from duet.report.markdown import REPORT_FILE


@dataclass
class Blow:
    """One kill or interrupt and what was seen afterwards."""

    kind: str
    after_s: float
    workers: int
    exit_code: int
    ended_in_s: float
    alone_s: float
    orphans: int
    writes: int

    @property
    def good(self) -> bool:
        """Nobody lived on, nothing was written, and Ctrl-C ended in 130."""
        code = -signal.SIGKILL if self.kind == "kill" else 130
        return not (self.orphans or self.writes) and self.exit_code == code


@dataclass
class Report:
    """All blows, and the detectors of every run that was finished after some."""

    command: list[str]
    seconds: float
    detectors: int
    blows: list[Blow] = field(default_factory=list)
    finished: int = 0
    different: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Every blow was survived and every finished run has the same bits."""
        return self.finished > 0 and not self.different and all(b.good for b in self.blows)


@click.command()
@click.option("--kills", default=10, show_default=True, help="SIGKILL to the parent alone.")
@click.option("--interrupts", default=0, help="Ctrl-C, in turn to the group and the parent alone.")
@click.option("--grace", default=2.0, show_default=True, help="Seconds for workers to end in.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--series", type=click.Path(path_type=Path), help="Use this one; with --reference.")
@click.option("--strategy", "methods", multiple=True, help="With --series.")
@click.option("--reference", type=click.Path(path_type=Path), help="Its undisturbed run folder.")
@click.option("--work", type=click.Path(path_type=Path), help="Keep everything here.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def main(
    kills: int, interrupts: int, grace: float, seed: int, series: Path | None,
    methods: tuple[str, ...], reference: Path | None, work: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Strike, resume, compare."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if series is None:
            series, methods = make_series(folder)
        words = ["run", str(series.resolve()), "--no-references", "--jobs", "2"]
        for method in methods:
            words += ["--strategy", method]
        report = check(folder, words, reference, plan_blows(kills, interrupts, seed), grace)
    if as_json:
        click.echo(json.dumps({**asdict(report), "ok": report.ok}, indent=2))
    else:
        click.echo("\n".join(map(str, report.blows)))
        click.echo(f"{report.finished} finished, different: {', '.join(report.different) or '-'}")
    sys.exit(0 if report.ok else 1)


def make_series(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Write 24 scenes per domain, random θ_0, a schedule of three epochs and a method."""
    import torch

    from duet.emoji.build import build
    from duet.emoji.vocabulary import FOCI
    from duet.families.yolo.build import stock_model
    from duet.increments.base import save_base

    build(folder / "data", train=24, val=8, test=16, size=64)
    torch.manual_seed(0)
    state = stock_model("yolo11n.yaml", 60, 64).state_dict()
    save_base(folder / "base.safetensors", state, info={"architecture": "yolo11n.yaml"})
    schedule = {"epochs": 3, "batch": 8, "image_size": 64, "lr": 0.001, "warmup_epochs": 0.5}
    increments = [
        {"domain": domain, "data": f"{domain}/data.yaml", "classes": list(FOCI["2-phase"][domain])}
        for domain in ("flat", "comic")
    ]
    series = {
        "name": "tiny", "root": "data", "increments": increments,
        "defaults": {"train": "schedule.yaml", "weights": "base.safetensors"},
    }  # fmt: skip
    method = {"name": "duet-plus", "refit": {"epochs": 1}}
    for name, content in (("schedule", schedule), ("series", series), ("duet-plus", method)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder / "series.yaml", (str(folder / "duet-plus.yaml"), "seq-ft")


def plan_blows(kills: int, interrupts: int, seed: int) -> list[tuple[str, float]]:
    """Return (kind, moment as a share of the undisturbed time), interrupts first."""
    moments = random.Random(seed)
    kinds = [("interrupt group", "interrupt parent")[i % 2] for i in range(interrupts)]
    return [(kind, moments.uniform(0.0, 0.9)) for kind in [*kinds, *["kill"] * kills]]


def check(
    folder: Path,
    words: list[str],
    reference: Path | None,
    blows: list[tuple[str, float]],
    grace: float,
) -> Report:
    """Strike as planned and compare each run that reaches its end."""
    if reference is None:
        reference = folder / "undisturbed"
        subprocess.run(entry(words, reference), check=True, stdout=sys.stderr)
    seconds = duration(reference)
    expected = detectors(reference)
    report = Report(words, round(seconds, 1), len(expected))
    struck, waiting = folder / "struck-0", list(blows)
    while waiting or struck.exists():
        kind, share = waiting[0] if waiting else ("", 0.0)
        blow = strike(entry(words, struck), struck, kind, share * seconds, grace)
        if blow is not None:
            report.blows.append(blow)
            waiting.pop(0)
            click.echo(str(blow), err=True)
            continue
        report.finished += 1
        if report.finished > 3 * len(blows) + 3:
            raise click.ClickException("no blow hits: the runs end before, or ignore them")
        found = detectors(struck)
        names = expected.keys() | found.keys()
        report.different += [
            f"{struck.name}: {name}" for name in names if found.get(name) != expected.get(name)
        ]
        if not waiting:
            break
        struck = folder / f"struck-{report.finished}"
    return report


def duration(run: Path) -> float:
    """Return the seconds from the first training of a run to the end of the last."""
    began = min(path.stat().st_mtime for path in run.glob("lab/*/job.json"))
    return max(path.stat().st_mtime for path in run.glob("lab/*/outcome.json")) - began


def entry(words: list[str], out: Path) -> list[str]:
    """Return the command that runs the command line with this Python."""
    return [str(Path(sys.executable).with_name("duet")), *words, "--out", str(out)]


def strike(command: list[str], out: Path, kind: str, after: float, grace: float) -> Blow | None:
    """Start the command and strike once; None if it ended first (or ``kind`` is empty)."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=_hear_interrupts,
    )  # fmt: skip
    while kind.startswith("interrupt") and process.poll() is None and not workers_of(out):
        time.sleep(0.05)  # before that, Python itself may not be ready to hear Ctrl-C
    try:
        _, message = process.communicate(timeout=after if kind else None)
        if process.returncode:
            raise click.ClickException(f"the run failed: {message}")
        return None
    except subprocess.TimeoutExpired:
        pass
    workers = workers_of(out)
    hit, number = time.monotonic(), signal.SIGKILL if kind == "kill" else signal.SIGINT
    if kind == "interrupt group":
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.communicate()
    if (out / REPORT_FILE).is_file():  # written last
        return None  # it had done all its work: what came too late is no blow
    ended = time.monotonic()
    while workers_of(out) and time.monotonic() < ended + grace:
        time.sleep(0.05)
    alone = time.monotonic() - ended
    orphans, before = len(workers_of(out)), files(out)
    time.sleep(0.5)
    writes = len(set(files(out).items()) ^ set(before.items()))
    return Blow(
        kind, round(after, 2), len(workers), process.returncode, round(ended - hit, 2),
        round(alone, 2), orphans, writes,
    )  # fmt: skip


def _hear_interrupts() -> None:
    """What a shell starts in the background inherits that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def workers_of(out: Path) -> list[int]:
    """Return the training processes that work on a run folder, and what forks them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # it has ended
            if any("from duet.runs." in word for word in words) and any(
                word.startswith(f"{out}/") for word in words
            ):
                found.append(int(entry.name))
    return found


def files(folder: Path) -> dict[str, Any]:
    """Return size and modification time of every file."""
    found = {}
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


def detectors(run: Path) -> dict[str, str]:
    """Return the SHA-256 of every detector of a run."""
    found = sorted((run / "models").glob("*/*/model.safetensors"))
    return {str(path.parent.relative_to(run)): sha256_file(path) for path in found}


if __name__ == "__main__":
    main()
