"""A Ray cluster: same weights to the bit as on this machine, whatever happens to its machines."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import factories_cluster as make
import psutil
import pytest
from click.testing import CliRunner
from factories_ranks import NEW, ranked_job, trained_by_two
from factories_run import ENTRY
from factories_yolo import make_slice
from places import REPO

import duet
from duet.cli.main import cli
from duet.errors import ConfigError, DataError
from duet.files import sha256_file
from duet.increments.store import load_detector
from duet.recipes.defaults import recipe_of
from duet.recipes.plan import make_plan
from duet.recipes.prepared import Prepared
from duet.recipes.recipe import Entry
from duet.runs.engines.engine import Wishes, opened
from duet.runs.engines.images import ROOT
from duet.runs.inputs import read_inputs
from duet.runs.plan import plan_run
from duet.runs.repeat import execute_repeats, repeats
from duet.runs.run import learn as learn_plan
from duet.runs.sweep import grid_of, sweep
from duet.series import read_series
from duet.training.job import TRAINED, read_job
from duet.training.outcome import read_outcome
from duet.training.schedule import Schedule

pytestmark = pytest.mark.slow

EPOCHS = 12
"""With the pauses of `factories_cluster` a training takes more than two seconds: it still runs when
its first checkpoint has reached the store."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def series(place: Path) -> Iterator[Path]:
    with make.squares(place / "here", EPOCHS) as found:
        shutil.copytree(place / "here", place / "there")  # the machines have their own copy
        yield found


@pytest.fixture(scope="module")
def local(place: Path, series: Path) -> Path:
    """The run on this machine."""
    return learn(series, place / "local")


@pytest.fixture(scope="module")
def cluster(place: Path, series: Path) -> Iterator[make.Machines]:
    (place / "scratch").mkdir()
    environment = {ROOT: str(place / "there"), **make.CREDENTIALS}
    with make.machines(environment, place / "scratch", count=2) as found:
        yield found


@pytest.fixture(autouse=True)
def root(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT, str(place / "here"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def learn(series: Path, out: Path, progress: Any = False, **options: Any) -> Path:
    """Learn the series, and return the run."""
    strategy = str(series.parent / "strategy.yaml")
    duet.learn(series, strategy, out=out, progress=progress, references=False, **options)
    return out


def test_a_cluster_gives_the_same_bits(
    place: Path, series: Path, local: Path, cluster: make.Machines
) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    run = learn(
        series, place / "plain", lambda title, record: heard.append((title, record)),
        engine="ray", address=cluster.address,
    )  # fmt: skip
    assert len(make.weights(local)) == 6  # two increments, each with a Fisher, and two detectors
    assert make.weights(run) == make.weights(local)
    assert make.results(run) == make.results(local)
    assert [machine.work() for machine in cluster.there] == [[]] * len(cluster.there)
    notes = [record["note"] for _, record in heard if "note" in record]
    assert "2 machines of the cluster can be used" in notes
    states = [record["state"] for _, record in heard if "state" in record]
    assert states.count("started") == states.count("finished") == 3
    assert any("done" in record for _, record in heard)  # bars move


def test_a_sweep_is_measured_on_the_cluster(
    place: Path, series: Path, local: Path, cluster: make.Machines
) -> None:
    """Also where a machine is lost that measures; the points are those of this machine."""
    models = sorted((local / "increments").glob("*/*"))
    recipe = recipe_of(
        [Entry(path=str(path)) for path in models], method="ties",
        weights=place / "here" / "base.safetensors",
    )  # fmt: skip
    merge, data = Prepared(make_plan(recipe)), read_series(series)
    densities = [step / 10 for step in range(1, 9)]
    grid = grid_of({"density": densities})
    best, here = sweep(merge, grid, data, split="val")
    lost: list[make.Machine] = []

    def strike() -> None:
        wait_for(lambda: any(machine.work() for machine in cluster.there), 300)
        lost.append(next(machine for machine in cluster.there if machine.work()))
        cluster.lose(lost[0])

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    words = [
        "merge", *models, "--method", "ties", "--weights", recipe.weights, "--series", series,
        "--sweep", f"density={densities}", "--split", "val", "--out", place / "best", "--json",
        "--engine", "ray", "--address", cluster.address,
    ]  # fmt: skip
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    thread.join()
    cluster.add()
    assert lost
    assert json.loads(result.stdout)["sweep"] == [dataclasses.asdict(trial) for trial in here]
    kept = load_detector(place / "best").manifest.recipe
    assert kept is not None
    assert kept["params"] == best.plan.recipe.params
    assert len({trial.score for trial in here}) > 1


def test_ranks_of_one_training_on_two_machines(place: Path, cluster: make.Machines) -> None:
    """They train as two processes of one machine do, also where one of theirs is lost."""
    data = make_slice(place / "ranks", NEW, images=8, seed=2)
    job, twin = (ranked_job(place / name, data, weight=50.0, epochs=10) for name in ("a", "b"))
    store, notes = place / "ranked", list[str]()

    def progress(record: dict[str, Any]) -> None:
        notes.extend([record["note"]] if "note" in record else [])

    with (
        opened("ray", Wishes(cluster.address, str(store)), place / "run") as engine,
        ThreadPoolExecutor() as pool,
    ):
        engine.prepare(data.images, read_job(job).schedule, lambda line: None)
        done = pool.submit(engine.run, job, progress, threading.Event())
        wait_for(lambda: [*store.glob("run-*-checkpoint-*")] or done.done(), 300)
        busy = [machine for machine in cluster.there if machine.work()]
        assert len(busy) == 2
        cluster.lose(busy[1])
        cluster.add()
        done.result(300)
    assert any(note.startswith("its machine was lost") for note in notes)
    assert any(note.startswith("goes on from its last epoch") for note in notes)
    trained_by_two(twin)
    assert sha256_file(job / TRAINED) == sha256_file(twin / TRAINED)
    one, other = (read_outcome(folder, "") for folder in (job, twin))
    assert one.images_seen == other.images_seen == 10 * len(data)
    assert one.history == other.history


def test_ranks_that_have_no_room_are_refused(place: Path, cluster: make.Machines) -> None:
    with opened("ray", Wishes(cluster.address), place / "run") as engine:
        schedule = Schedule(ranks=4, threads=1)
        with pytest.raises(ConfigError, match="1 CPUs and 0 GPUs of one machine, 4 times"):
            engine.prepare((), schedule, lambda line: None)


def test_a_lost_machine_costs_an_epoch(
    place: Path, series: Path, local: Path, cluster: make.Machines
) -> None:
    store, notes, lost = place / "store", list[str](), list[make.Machine]()

    def strike() -> None:
        wait_for(lambda: list(store.glob("run-*-checkpoint-*")), 300)  # an epoch is there
        (busy,) = (machine for machine in cluster.there if machine.work())
        cluster.lose(busy)
        lost.append(busy)

    def progress(title: str, record: dict[str, Any]) -> None:
        notes.extend([record["note"]] if "note" in record else [])

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    run = learn(
        series, place / "lost", progress, engine="ray", address=cluster.address, store=store
    )  # fmt: skip
    thread.join()
    assert lost
    assert any(note.startswith("its machine was lost") for note in notes)
    assert any(note.startswith("goes on from its last epoch") for note in notes)
    assert make.weights(run) == make.weights(local)
    assert make.results(run) == make.results(local)
    assert [path.name for path in store.iterdir()] == ["README.txt"]  # the run ended well


def test_images_and_files_travel_through_a_bucket(
    place: Path, series: Path, local: Path, cluster: make.Machines
) -> None:
    hidden = place / "there"
    hidden.rename(place / "away")  # the machines have no images of their own
    try:
        with make.bucket(place / "s3") as address:
            run = learn(
                series, place / "bucket", engine="ray", address=cluster.address, store=address,
                stage_data=True,
            )  # fmt: skip
    finally:
        (place / "away").rename(hidden)
    assert make.weights(run) == make.weights(local)
    assert make.results(run) == make.results(local)
    images = [*(place / "here").rglob("*.png")]
    staged = [path for path in (place / "s3" / "bucket").iterdir() if path.name[:6] == "image-"]
    assert 0 < len(staged) == len({path.read_bytes() for path in images})
    kept = set.union(*(machine.staged() for machine in cluster.there))
    assert kept == {path.name[6:] for path in staged}
    assert not list((place / "s3" / "bucket").glob("run-*"))


def test_other_images_on_a_machine_are_refused(
    place: Path, series: Path, cluster: make.Machines
) -> None:
    image = place / "there" / "day" / "images" / "train" / "3.png"
    content = image.read_bytes()
    image.write_bytes(content[:-1] + b"\0")
    try:
        with pytest.raises(DataError, match="1 of 26 images are not there") as caught:
            learn(series, place / "wrong", engine="ray", address=cluster.address)
    finally:
        image.write_bytes(content)
    told = str(caught.value)
    assert told.count(f": {image}: 1 of 26 images") == len(cluster.there)
    for machine in cluster.there:
        assert f"({machine.node.node_id[:8]}): {image}" in told
    assert not (place / "wrong" / "lab").exists()  # nothing was trained


def at_work(place: Path) -> list[psutil.Process]:
    """Return the processes that train, and those that they are forked from."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "duet.runs" in " ".join(words := process.info["cmdline"] or [])
        and str(place / "scratch") in " ".join(words)
    ]


def trained_since(place: Path, began: float) -> bool:
    """Tell whether an epoch ended: the machine that was lost left a checkpoint, too."""
    kept = place.glob("scratch/*/*/.work-*/checkpoint.pt")
    return any(path.stat().st_mtime > began for path in kept)


def test_ctrl_c_ends_all_tasks(place: Path, series: Path, cluster: make.Machines) -> None:
    words = [
        "run", series, "--strategy", series.parent / "strategy.yaml", "--epochs", 100_000,
        "--out", place / "struck", "--engine", "ray", "--address", cluster.address, "--json",
    ]  # fmt: skip
    path, began = os.pathsep.join([os.environ["PYTHONPATH"], str(REPO)]), time.time()
    command = subprocess.Popen(
        [*ENTRY, *map(str, words)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    try:
        wait_for(lambda: trained_since(place, began), 300)
        assert at_work(place)
        command.send_signal(signal.SIGINT)
        _, told = command.communicate(timeout=300)
    finally:
        command.kill()
    assert json.loads(told.strip().splitlines()[-1])["error"] == "interrupted"
    assert command.returncode == 130
    wait_for(lambda: not at_work(place), 60)
    wait_for(lambda: not any(machine.work() for machine in cluster.there), 60)


def wait_for(done: Any, seconds: float) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_seeds_go_side_by_side(place: Path, series: Path, cluster: make.Machines) -> None:
    inputs = read_inputs(series, changes={"epochs": 2, "refit.epochs": 1})
    strategy = str(series.parent / "strategy.yaml")
    plan = plan_run(inputs, (strategy,), out=place / "seeds", references=False)
    plans, states = repeats(plan, seeds=2, orders=1), list[tuple[str, str]]()

    def listen(title: str, record: dict[str, Any]) -> None:
        if "state" in record:
            states.append((title.split(" ")[0], record["state"]))

    with opened("ray", Wishes(cluster.address), plan.out) as engine:
        found = execute_repeats(plan.out, plans, listen, engine=engine)
    assert [run.folder.name for run in found.runs] == ["seed-0", "seed-1"]
    first = states.index(("seed-1", "started"))
    assert first < states.index(("seed-0", "evaluated"))  # nobody waits for the other's end
    alone = plan_run(inputs, (strategy,), seed=1, out=place / "alone", references=False)
    learn_plan(alone)
    one, other = (
        sorted(sha256_file(path) for path in run.glob("models/*/*/model.safetensors"))
        for run in (plan.out / "seed-1", alone.out)
    )
    assert one == other
