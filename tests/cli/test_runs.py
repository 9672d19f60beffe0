"""`duet runs`: run folders are told from others, and only what duet made in them is removed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factories_results import make_results
from factories_run import Outcome, duet_here

from duet.files import LOCK, run_lock
from duet.results.files import save_results
from duet.runs.folders import describe, is_run, size_of

Say = Callable[..., Outcome]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    return lambda *words: duet_here(capsys, "runs", *words)


def make_job(run: Path, name: str, *, ended: bool = True, **told: Any) -> Path:
    """Write a job folder as the lab leaves it: 1 kB of weights."""
    job = run / "lab" / name
    job.mkdir(parents=True)
    (job / "job.json").write_text(json.dumps({"phase": "base", "parts": [], "schedule": {}}))
    (job / "start.safetensors").write_bytes(b"s" * 100)
    if ended:
        (job / "trained.safetensors").write_bytes(b"t" * 1000)
        (job / "outcome.json").write_text(json.dumps({"seconds": 12.5, **told}))
    return job


def make_run(folder: Path) -> Path:
    """Write a finished run: results, two trainings of which one is kept elsewhere, a detector."""
    save_results(folder, make_results())
    make_job(folder, "base-1")
    make_job(folder, "increment-2", state="0" * 64, kept="models/duet-plus/2-night")
    for place in ("models/duet-plus/1-day", "increments/duet-plus/day", "evaluations", "plots"):
        (folder / place).mkdir(parents=True)
        (folder / place / "manifest.json").write_text('{"format": "x", "family": "yolo"}')
    (folder / LOCK).touch()
    return folder


def test_ls_tells_what_there_is(tmp_path: Path, say: Say) -> None:
    run = make_run(tmp_path / "runs" / "shop")
    half = tmp_path / "runs" / "deep" / "half"
    make_job(half, "base-1", ended=False)
    (tmp_path / "runs" / "photos").mkdir()
    found = say("ls", tmp_path / "runs", "--json").json()
    assert found["schema"] == 1
    first, second = found["runs"]
    assert (Path(first["path"]), first["state"], first["jobs"]) == (half, "half", 1)
    assert (Path(second["path"]), second["state"]) == (run, "finished")
    results = make_results()
    assert second["series"] == results.series.name
    assert second["strategies"][0] == results.main_strategy
    assert second["seed"] == results.protocol.seed
    assert second["indices"]["ri"] == results.main.indices.numbers()["ri"]
    assert second["bytes"] == sum(one.stat().st_size for one in run.rglob("*") if one.is_file())
    assert found["bytes"] == first["bytes"] + second["bytes"]
    told = say("ls", tmp_path / "runs").out
    assert f"{half}  half (0 of 1 trained)" in told
    assert f"{run}  finished" in told
    assert "RI " in told
    assert "2 runs" in told


def test_ls_of_nothing(tmp_path: Path, say: Say) -> None:
    assert "no runs in" in say("ls", tmp_path).out
    assert say("ls", tmp_path / "missing").code == 2
    (tmp_path / "results.json").write_text('{"results": [1, 2]}')  # of another program
    assert say("ls", tmp_path, "--json").json()["runs"] == []


def test_states(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert describe(run).state == "finished"
    make_job(run, "refit-3", ended=False)
    assert describe(run).state == "half"
    with run_lock(run):
        assert describe(run).state == "running"
    (run / "results.json").write_text('{"series": 1, "strategies": 2}')
    assert describe(run).state == "damaged"


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 500)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to("/etc")
    assert size_of([tmp_path]) == size_of([tmp_path, tmp_path / "a"]) == 500


def test_rm_removes_a_run(tmp_path: Path, say: Say) -> None:
    run = make_run(tmp_path / "run")
    dry = say("rm", run, "--dry-run", "--json").json()
    assert dry["dry_run"]
    assert run.is_dir()
    assert "lab" in dry["removed"][0]["paths"]
    assert "nothing was removed" in say("rm", run, "--dry-run").out
    done = say("rm", run, "--yes", "--json")
    assert done.code == 0
    assert done.json()["removed"] == dry["removed"]
    assert not run.exists()
    assert tmp_path.is_dir()


def test_rm_asks(tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    asked: list[str] = []
    monkeypatch.setattr("click.confirm", lambda text, err: asked.append(text))
    assert say("rm", run).code == 130
    assert asked == ["Remove this?"]
    assert run.is_dir()
    monkeypatch.setattr("click.confirm", lambda text, err: True)
    assert say("rm", run).code == 0
    assert not run.exists()


def test_rm_leaves_what_is_not_duets(tmp_path: Path, say: Say) -> None:
    """Somebody's --out was their project."""
    run = make_run(tmp_path / "project")
    mine = [run / "notes.txt", run / "data" / "day" / "1.png", run / "modelsx"]
    for one in mine:
        one.parent.mkdir(parents=True, exist_ok=True)
        one.write_text("mine")
    done = say("rm", run, "--yes")
    assert "stays, it is not of duet's making: data, modelsx, notes.txt" in done.out
    assert all(one.read_text() == "mine" for one in mine)
    assert {one.name for one in run.iterdir()} == {"notes.txt", "data", "modelsx", LOCK}


def test_rm_removes_data_that_duet_drew(tmp_path: Path, say: Say) -> None:
    run = make_run(tmp_path / "demo")
    (run / "data").mkdir()
    (run / "data" / "emoji.json").write_text("{}")
    assert say("rm", run, "--yes").code == 0
    assert not run.exists()


def test_rm_of_repeats_takes_the_runs_with_it(tmp_path: Path, say: Say) -> None:
    folder = tmp_path / "repeats"
    make_job(folder, "base-1")
    (folder / "summary.json").write_text("{}")
    for name in ("seed-0", "seed-1"):
        make_run(folder / name)
    (folder / "seed-2").mkdir()  # somebody's
    (folder / "seed-1" / "notes.txt").write_text("mine")
    done = say("rm", folder, "--yes", "--json").json()
    assert done["removed"][0]["kept"] == ["seed-1/notes.txt", "seed-2"]
    assert not (folder / "seed-0").exists()
    assert (folder / "seed-1" / "notes.txt").read_text() == "mine"
    assert not (folder / "seed-1" / "lab").exists()


@pytest.mark.parametrize("command", ["rm", "clean"])
def test_a_run_at_work_is_refused(tmp_path: Path, say: Say, command: str) -> None:
    idle, busy = make_run(tmp_path / "idle"), make_run(tmp_path / "busy")
    with run_lock(busy):
        done = say(command, idle, busy, "--yes")
    assert done.code != 0
    assert "a duet process is writing here" in done.err
    assert (idle / "lab" / "base-1").is_dir(), "all or none"
    assert (busy / "lab" / "base-1").is_dir()


@pytest.mark.parametrize("command", ["rm", "clean"])
@pytest.mark.parametrize("what", ["missing", "empty", "data", "link", "file"])
def test_what_is_no_run_is_refused(tmp_path: Path, say: Say, command: str, what: str) -> None:
    place = tmp_path / "place"
    run = make_run(tmp_path / "run")
    if what == "link":
        place.symlink_to(run)
    elif what == "file":
        place.write_text("x")
    elif what != "missing":
        place.mkdir()
    if what == "data":
        (place / "lab").mkdir()
        (place / "lab" / "notes.txt").write_text("of a chemist")
    done = say(command, run, place, "--yes", "--json")
    assert done.error()["where"] == str(place)
    assert (run / "lab" / "base-1" / "trained.safetensors").is_file()
    assert what != "data" or (place / "lab" / "notes.txt").is_file()


def test_links_are_removed_and_not_followed(tmp_path: Path, say: Say) -> None:
    run, elsewhere = make_run(tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "photo.png").write_bytes(b"mine")
    shutil.rmtree(run / "plots")
    (run / "plots").symlink_to(elsewhere)
    (run / "models" / "link").symlink_to(elsewhere)
    (run / "lab" / "job-3").symlink_to(elsewhere)
    assert say("clean", run, "--yes").code == 0
    assert say("rm", run, "--yes").code == 0
    assert not run.exists()
    assert (elsewhere / "photo.png").read_bytes() == b"mine"


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path, say: Say) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "mine").write_text("mine")
    (run / LOCK).unlink()
    (run / LOCK).symlink_to(tmp_path / "mine")
    assert "its lock is a link" in say("rm", run, "--yes").err
    assert (tmp_path / "mine").read_text() == "mine"


def test_clean_frees_what_can_be_computed_again(tmp_path: Path, say: Say) -> None:
    run = make_run(tmp_path / "run")
    begun = make_job(run, "refit-3", ended=False)
    before = describe(run).bytes
    dry = say("clean", run, "--dry-run", "--json").json()["removed"][0]
    assert dry["paths"] == ["lab/base-1", "lab/increment-2/start.safetensors"]
    assert dry["seconds"] == 12.5
    told = say("clean", run, "--dry-run").out
    assert "about 12 s of training to have it back" in told
    assert describe(run).bytes == before
    assert say("clean", run, "--yes").code == 0
    assert before - describe(run).bytes == dry["bytes"] > 1100
    assert not (run / "lab" / "base-1").exists()
    assert (run / "lab" / "increment-2" / "outcome.json").is_file()
    assert (begun / "start.safetensors").is_file(), "a training that has not ended goes on"
    for place in ("models/duet-plus/1-day", "increments/duet-plus/day", "evaluations"):
        assert (run / place / "manifest.json").is_file()
    assert "nothing that can be computed again" in say("clean", run, "--dry-run").out


@pytest.mark.parametrize("content", ["[]", "{", "null", '{"series": {}}', "[" * 9999])
def test_files_of_others_make_no_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    (tmp_path / "lab" / "a").mkdir(parents=True)
    (tmp_path / "lab" / "a" / "job.json").write_text(content)
    assert not is_run(tmp_path)
