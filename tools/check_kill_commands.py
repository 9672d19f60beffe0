"""Kill every command at random points and show that the same command finishes with equal bytes.

    python tools/check_kill_commands.py --kills 20 --json

Covers merge, export, convert, check --fix, compare, report and weights get; `duet run` is the
matter of check_kill.py, whose tiny series and finished run the others work on. Each command is run
once undisturbed, then again and again in a fresh place, with SIGKILL after a random share of its
time. After each kill nothing half-written may have the name of a result; the same command must then
name what was left, exit with 0 and leave the very bytes of the undisturbed one. Commands are forked
off a process that has imported everything, so that the kills fall into their work. Exit code 1 if
anything fails. About ten minutes for twenty kills on two free cores.
"""

from __future__ import annotations

import contextlib
import http.server
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import yaml
from check_kill import entry, make_series

from duet.files import sha256_file
from duet.leftovers import leftovers_below

PIECE, PAUSE = 1 << 18, 0.02
"""Bytes that the server sends at a time, and seconds in between."""


@dataclass(frozen=True)
class Case:
    """One command.

    Attributes:
        words: The command line for a place of its own.
        ready: Makes that place; the undisturbed result is compared with what lies there.
        growing: Names that may hold a part of the result, by design.
    """

    words: Callable[[Path], list[object]]
    ready: Callable[[Path], object] = lambda place: place.mkdir(parents=True)
    growing: str = ""


@dataclass
class Kill:
    """One kill and what was seen afterwards."""

    after_s: float
    left: int
    half: list[str]
    unnamed: list[str]
    code: int
    different: list[str]

    @property
    def good(self) -> bool:
        """Nothing was half-written, all leftovers were named, and the rerun ended as it should."""
        return not (self.half or self.unnamed or self.code or self.different)


@dataclass
class Record:
    """All kills of one command; ``late`` came after its end."""

    seconds: float
    files: int
    late: int = 0
    whole: int = 0
    kills: list[Kill] = field(default_factory=list)


@click.command()
@click.option("--kills", default=20, show_default=True, help="Of each command.")
@click.option("--command", "chosen", multiple=True, help="Only these; repeatable.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--run", type=click.Path(path_type=Path), help="A finished run, with --series.")
@click.option("--series", type=click.Path(path_type=Path), help="The series of that run.")
@click.option("--work", type=click.Path(path_type=Path), help="Keep everything here.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def main(
    kills: int, chosen: tuple[str, ...], seed: int, run: Path | None, series: Path | None,
    work: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Kill, repeat, compare."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = (work or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if run is None or series is None:
            series, methods = made_apart(folder)
            run = folder / "run"
            options = [word for method in methods for word in ("--strategy", method)]
            words = ["run", str(series), "--no-references", "--jobs", "2", *options]
            subprocess.run(entry(words, run), check=True, stdout=sys.stderr)
        cases = make_cases(folder, run.resolve(), series.resolve(), stack)
        for module in MODULES:
            importlib.import_module(module)
        records = {
            name: check(case, folder / name, kills, random.Random(f"{seed} {name}"))
            for name, case in cases.items()
            if not chosen or name in chosen
        }
    ok = all(kill.good for record in records.values() for kill in record.kills)
    if as_json:
        report = {name: asdict(record) for name, record in records.items()}
        click.echo(json.dumps({"seed": seed, "ok": ok, "commands": report}, indent=2))
    for name, record in records.items():
        bad = [kill for kill in record.kills if not kill.good]
        left = sum(kill.left > 0 for kill in record.kills)
        click.echo(
            f"{name}: {len(record.kills)} kills in {record.seconds:.2f} s, {left} left something, "
            f"{record.whole} were whole, {record.late} too late; bad: {bad or '-'}",
            err=as_json,
        )
    sys.exit(0 if ok else 1)


def made_apart(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Make the series in a process of its own: a fork of one that has computed could hang."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(make_series, folder).result()


# ---- what is killed ------------------------------------------------------------------------------


def make_cases(
    folder: Path, run: Path, series: Path, stack: contextlib.ExitStack
) -> dict[str, Case]:
    """Return the commands, with inputs that lie in ``folder``."""
    weights = series.parent / "base.safetensors"
    kept = run / "increments" / "duet-plus"
    increments = [kept / "flat", kept / "comic"]  # oldest first
    model = sorted((run / "models" / "duet-plus").iterdir())[-1]
    data = series.parent / "data" / "flat" / "data.yaml"
    damaged = damage(series, folder / "damaged")
    address = stack.enter_context(serving(weights))
    table = folder / "table.json"
    row = {
        "name": "tiny", "family": "yolo", "architecture": "yolo11n.yaml", "classes": "any",
        "licence": "AGPL-3.0", "file": "tiny.safetensors", "url": address,
        "sha256": sha256_file(weights), "size": weights.stat().st_size,
    }  # fmt: skip
    lists = {"any": [f"c{number}" for number in range(60)]}
    table.write_text(json.dumps({"schema": 1, "class_lists": lists, "weights": [row]}))
    return {
        "merge": Case(
            lambda place: ["merge", *increments, "--weights", weights, "--out", place / "out"]
        ),
        "export": Case(
            lambda place: ["export", model, "--to", "onnx", "--out", place / "model.onnx"]
        ),
        "convert": Case(lambda place: ["data", "convert", data, place / "out", "--to", "coco"]),
        "fix": Case(lambda place: ["data", "check", damaged, "--fix", place / "out"]),
        "compare": Case(
            lambda place: ["compare", run, "--bootstrap", 100, "--out", place / "page.md"]
        ),
        "report": Case(lambda place: ["report", place], lambda place: _copy_results(run, place)),
        "weights": Case(
            lambda place: ["weights", "get", "tiny", "--manifest", table, "--to", place],
            growing=".part",
        ),
    }


def _copy_results(run: Path, place: Path) -> None:
    place.mkdir(parents=True)
    shutil.copyfile(run / "results.json", place / "results.json")
    shutil.copytree(run / "gallery", place / "gallery")


def damage(series: Path, folder: Path) -> Path:
    """Return a series whose data need a repair that needs no person."""
    shutil.copytree(series.parent / "data", folder / "data", dirs_exist_ok=True)
    document = yaml.safe_load(series.read_text())
    document.pop("defaults", None)
    (folder / "series.yaml").write_text(yaml.safe_dump(document))
    images = sorted((folder / "data" / "flat" / "images" / "train").iterdir())
    os.truncate(images[0], images[0].stat().st_size // 2)
    labels = sorted((folder / "data" / "flat" / "labels" / "train").iterdir())
    labels[1].write_text(labels[1].read_text() + "0 0.5 0.5 0 0\n")
    return folder / "series.yaml"


@contextlib.contextmanager
def serving(file: Path) -> Iterator[str]:
    """Serve a file slowly on this machine, in pieces and from any byte on; yield its address."""
    content = file.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "bytes=0-")
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", '"one"')
            if start:
                part = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", part)
            self.end_headers()
            with contextlib.suppress(OSError):  # the other side was killed
                for place in range(start, len(content), PIECE):
                    self.wfile.write(content[place : place + PIECE])
                    time.sleep(PAUSE)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/tiny.safetensors"
    finally:
        server.shutdown()
        thread.join()


# ---- killing -------------------------------------------------------------------------------------


MODULES = (
    "matplotlib.pyplot", "onnx", "onnxruntime", "duet.cli.main", "duet.comparison.ranking",
    "duet.doctor.repair", "duet.export.export", "duet.families.yolo.adapter", "duet.recipes.write",
    "duet.report.markdown", "duet.series.convert", "duet.weights.fetch",
)  # fmt: skip
"""What the commands import: a forked one begins to work at once."""


def launch(words: list[object], heard: Path) -> int:
    """Fork a process that runs a command with stderr in ``heard``; return its number."""
    number = os.fork()
    if number:
        return number
    code = 99
    try:
        from duet.cli.main import _run

        os.setsid()
        os.dup2(os.open(heard, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = _run([str(word) for word in words])
        sys.stderr.flush()
    finally:
        os._exit(code)


def wait(number: int, seconds: float | None = None) -> int | None:
    """Return the exit code of a process; None if it still runs after ``seconds``."""
    end = time.monotonic() + seconds if seconds is not None else None
    while end is None or time.monotonic() < end:
        done, status = os.waitpid(number, 0 if end is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def check(case: Case, folder: Path, kills: int, moments: random.Random) -> Record:
    """Run a command once in peace, then kill it at random moments; each time repeat and compare."""
    folder.mkdir(parents=True, exist_ok=True)
    calm, heard = folder / "calm", folder / "heard.txt"
    case.ready(calm)
    began = time.monotonic()
    code = wait(launch(case.words(calm), heard))
    record = Record(round(time.monotonic() - began, 3), 0)
    expected = hashes(calm)
    record.files = len(expected)
    if code:
        raise click.ClickException(f"the command fails undisturbed: {heard.read_text()}")
    while len(record.kills) < kills and record.late < 10 * kills:
        place = folder / f"kill-{len(record.kills)}-{record.late}"
        case.ready(place)
        before = hashes(place)
        moment = moments.uniform(0, record.seconds)
        number = launch(case.words(place), heard)
        if wait(number, moment) is not None:
            record.late += 1
            shutil.rmtree(place)
            continue
        os.killpg(number, signal.SIGKILL) if os.getpgid(number) == number else os.kill(number, 9)
        wait(number)
        seen = hashes(place)
        record.whole += seen == expected
        half = [
            name
            for name, digest in seen.items()
            if digest not in (expected.get(name), before.get(name))
            and not (case.growing and case.growing in name)
        ]
        left = leftovers_below(place)
        code = wait(launch(case.words(place), heard)) or 0
        told, found = heard.read_text(), hashes(place)
        unnamed = [str(path) for path in left if str(path) not in told]
        names = sorted(found.keys() | expected.keys())
        different = [name for name in names if found.get(name) != expected.get(name)]
        kill = Kill(round(moment, 3), len(left), half, unnamed, code, different)
        record.kills.append(kill)
        if kill.good:
            shutil.rmtree(place)
        else:
            click.echo(f"{place}: {kill}\n{told}", err=True)
    return record


def hashes(place: Path) -> dict[str, str]:
    """Return the SHA-256 of every visible file, locks and leftovers aside."""
    hidden = {path.relative_to(place).parts for path in leftovers_below(place)}
    files = (path for path in sorted(place.rglob("*")) if path.is_file() and path.name != ".lock")
    return {
        str(name): sha256_file(place / name)
        for name in (path.relative_to(place) for path in files)
        if not any(name.parts[: len(parts)] == parts for parts in hidden)
    }


if __name__ == "__main__":
    main()
