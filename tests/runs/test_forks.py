"""What a forked training finds is what it would find in a process of its own, and it ends alike."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from factories_yolo import class_groups, make_slice, make_state
from factories_yolo import make_job as yolo_job
from places import REPO

from duet.errors import DuetError
from duet.runs.forks import forking
from duet.runs.lab import RunJob
from duet.runs.worker import run_worker
from duet.training.config import Distillation
from duet.training.job import Job, JobPart, write_job
from duet.training.schedule import Schedule

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked"),
]

SPY = """
import json, os, random, resource, signal, sys, threading, time
from duet.families.row import FamilyRow
ROW = FamilyRow(
    module="spy", roles="spy", summary="Looks around", licence="MIT", architectures="spy",
    heads={"rows": "rows"}, trains_with=("spy_more",),
)
loaded_by, trained = os.getpid(), []


class Spy:
    def train(self, folder, progress):
        import numpy, torch
        trained.append(folder)
        task = (folder / "task").read_text() if (folder / "task").exists() else ""
        if task == "raise":
            raise ValueError("no such dance")
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        progress({"done": 1, "total": 2})
        while task == "sleep":
            progress({"done": 2, "total": 2})
            time.sleep(0.1)
        print("a print of the engine's")
        print("a warning", file=sys.stderr)
        world = {
            "trained": len(trained), "folder": os.getcwd(), "argv": sys.argv, "path": sys.path,
            "environment": dict(os.environ), "threads": torch.get_num_threads(),
            "tasks": len(os.listdir("/proc/self/task")), "interrupt": int(signal.getsignal(2)),
            "term": str(signal.getsignal(15)), "mask": sorted(signal.pthread_sigmask(0, [])),
            "files": [os.path.realpath(f"/proc/self/fd/{n}") for n in (0, 2)],
            "open": len(os.listdir("/proc/self/fd")), "limits": resource.getrlimit(7),
            "encoding": sys.stdout.encoding,
            "main": sys.modules["__main__"].__dict__.get("__file__"),
            "buffered": [sys.__stdout__.line_buffering, sys.__stderr__.line_buffering],
        }
        drawn = [random.random(), float(numpy.random.rand()), float(torch.rand(1))]
        found = {"world": world, "drawn": drawn, "forked": loaded_by != os.getpid()}
        (folder / "found.json").write_text(json.dumps(found))


FAMILY = Spy()
"""


def spy(folder: Path, more: str = "") -> None:
    """Install a family whose trainings look around; ``more`` runs when they are first imported."""
    (folder / "spy-1.0.dist-info").mkdir(parents=True)
    (folder / "spy.py").write_text(SPY)
    (folder / "spy_more.py").write_text(f"import numpy, torch\n{more}\n")
    (folder / "spy-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: spy\nVersion: 1.0\n"
    )
    (folder / "spy-1.0.dist-info" / "entry_points.txt").write_text(
        "[duet.families]\nspy = spy:ROW\n"
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    spy(folder)
    return folder


@pytest.fixture(autouse=True)
def _spied(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{package}{os.pathsep}{REPO}")


def make_job(folder: Path, task: str = "") -> Path:
    folder.mkdir(parents=True)
    job = Job(
        family="spy", architecture="spy", head="rows", phase="base", schedule=Schedule(),
        parts=(JobPart(increment="a", classes=("b",)),),
    )  # fmt: skip
    write_job(folder, job)
    (folder / "task").write_text(task)
    return folder


def train(run: RunJob, folder: Path, hear: Callable[[dict[str, Any]], None] = print) -> Any:
    run(folder, hear, threading.Event())
    return json.loads((folder / "found.json").read_text())


@pytest.fixture
def run() -> Iterator[RunJob]:
    with forking(run_worker) as given:
        assert given is not run_worker
        yield given


def servers(folder: Path) -> list[int]:
    """Return the processes that were begun for jobs below a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(word.startswith(f"{folder}/") for word in words) and "-c" in words:
            found.append(int(place.name))
    return found


def gone(folder: Path, seconds: float = 10) -> bool:
    ends = time.monotonic() + seconds
    while servers(folder) and time.monotonic() < ends:
        time.sleep(0.02)
    return not servers(folder)


# ---- what a job finds ----------------------------------------------------------------------------


def test_a_forked_job_finds_what_a_fresh_process_finds(
    run: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(run, make_job(tmp_path / "first"))
    monkeypatch.setenv("SAID_LATER", "yes")  # after the server began
    forked, again = (train(run, make_job(tmp_path / name)) for name in ("forked", "again"))
    fresh = train(run_worker, make_job(tmp_path / "fresh"))
    assert [f["forked"] for f in (first, forked, again, fresh)] == [True, True, True, False]
    assert forked["world"]["trained"] == fresh["world"]["trained"] == 1
    for name, found in (("forked", forked), ("fresh", fresh)):
        text = json.dumps(found["world"]).replace(str(tmp_path / name), "JOB")
        found["world"] = json.loads(text)
        parent = found["world"]["argv"].pop()
        assert int(parent) == os.getpid() or name == "forked"
    assert forked["world"] == fresh["world"]
    assert forked["world"]["environment"]["SAID_LATER"] == "yes"
    numbers = [number for found in (first, forked, again, fresh) for number in found["drawn"]]
    assert len(set(numbers)) == len(numbers)  # nobody shares a state of chance


def test_output_of_the_engine_goes_to_the_log(run: RunJob, tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    for name in ("one", "two"):
        train(run, make_job(tmp_path / name), heard.append)
        log = (tmp_path / name / "stderr.log").read_text()
        assert log == "a print of the engine's\na warning\n"
    assert heard == [{"done": 1, "total": 2}] * 2


@pytest.mark.parametrize(
    "more",
    [
        "import _thread, time\n_thread.start_new_thread(time.sleep, (600,))",
        "raise ImportError('half')",
        "import torch\ntorch._C._cuda_isInBadFork = lambda: True",
    ],
    ids=["threads", "half a package", "a device"],
)
def test_what_cannot_be_forked_begins_afresh(
    more: str, run: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy(tmp_path / "odd", more)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'odd'}{os.pathsep}{REPO}")
    found = train(run, make_job(tmp_path / "job"))
    assert not found["forked"]
    assert found["world"]["folder"] == str(tmp_path / "job" / "engine")


def test_another_number_of_threads_begins_afresh(
    run: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(run, make_job(tmp_path / "one"))["forked"]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    found = train(run, make_job(tmp_path / "two"))
    assert (found["forked"], found["world"]["threads"]) == (False, 2)


def test_a_server_that_cannot_begin_is_done_without(run: RunJob, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    code = (
        "import sys\nif any('forkserver' in word for word in sys.orig_argv): raise SystemExit(3)\n"
    )
    (tmp_path / "site" / "usercustomize.py").write_text("")
    (tmp_path / "site" / "sitecustomize.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ['PYTHONPATH']}")
        for name in ("one", "two"):
            assert not train(run, make_job(tmp_path / name))["forked"]


def test_weights_are_equal_with_and_without_a_server(run: RunJob, tmp_path: Path) -> None:
    _, new = class_groups((2, 1))
    data = make_slice(tmp_path / "new", new, images=8, seed=2)
    for name in ("first", "second", "fresh"):
        folder = yolo_job(
            tmp_path / name, make_state("towers"), data, distill=Distillation(weight=0.01)
        )
        used = run_worker if name == "fresh" else run
        used(folder, lambda record: None, threading.Event())
    results = ("trained.safetensors", "fisher.safetensors")
    first, second, fresh = (
        [(tmp_path / name / file).read_bytes() for file in results]
        for name in ("first", "second", "fresh")
    )
    assert first == second == fresh


# ---- how it ends ---------------------------------------------------------------------------------


def test_errors_and_deaths_come_back(run: RunJob, tmp_path: Path) -> None:
    with pytest.raises(DuetError, match=r"ended with code 1.*no such dance"):
        train(run, make_job(tmp_path / "one", "raise"))
    with pytest.raises(DuetError, match="killed by signal 9"):
        train(run, make_job(tmp_path / "two", "die"))
    (make_job(tmp_path / "three") / "job.json").unlink()
    with pytest.raises(DuetError, match="file system refuses"):
        train(run, tmp_path / "three")
    assert train(run, make_job(tmp_path / "four"))["forked"]


def test_a_job_alone_is_stopped(run: RunJob, tmp_path: Path) -> None:
    """Two side by side: one is stopped, the other goes on until the server is ended."""
    stop, begun = threading.Event(), [threading.Event(), threading.Event()]
    told: list[DuetError] = []

    def work(number: int, folder: Path, stop: threading.Event) -> None:
        try:
            run(folder, lambda record: begun[number].set(), stop)
        except DuetError as error:
            told.append(error)

    jobs = [make_job(tmp_path / name, "sleep") for name in ("one", "two")]
    other = threading.Event()
    threads = [
        threading.Thread(target=work, args=each)
        for each in zip((0, 1), jobs, (stop, other), strict=True)
    ]
    for thread in threads:
        thread.start()
    assert all(event.wait(60) for event in begun)
    stop.set()
    threads[0].join(5)
    assert not threads[0].is_alive()
    assert [error.what for error in told] == ["stopped"]
    begun[1].clear()
    assert begun[1].wait(10)
    run.close()  # type: ignore[attr-defined]
    threads[1].join(5)
    assert not threads[1].is_alive()
    assert "killed by signal 9" in told[1].what
    assert gone(tmp_path)
    with pytest.raises(DuetError, match="stopped"):
        train(run, make_job(tmp_path / "late"))


def test_a_run_that_is_stopped_while_the_server_begins_ends_at_once(
    run: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy(tmp_path / "slow", "import time\ntime.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'slow'}{os.pathsep}{REPO}")
    stop = threading.Event()
    threading.Timer(2, stop.set).start()
    began = time.monotonic()
    with pytest.raises(DuetError, match="stopped"):
        run(make_job(tmp_path / "job"), print, stop)
    assert time.monotonic() - began < 30
    assert gone(tmp_path)


def test_a_server_that_was_killed_is_replaced(run: RunJob, tmp_path: Path) -> None:
    assert train(run, make_job(tmp_path / "one"))["forked"]
    (server,) = servers(tmp_path)

    def strike(record: dict[str, Any]) -> None:
        with contextlib.suppress(ProcessLookupError):  # struck before
            os.kill(server, signal.SIGKILL)

    with pytest.raises(DuetError, match="killed by signal 9"):
        train(run, make_job(tmp_path / "two", "sleep"), strike)
    assert gone(tmp_path)  # the job ends with its server
    assert train(run, make_job(tmp_path / "three"))["forked"]


def test_the_server_ends_with_the_block(tmp_path: Path) -> None:
    with forking(run_worker) as run:
        train(run, make_job(tmp_path / "job"))
        assert len(servers(tmp_path)) == 1
    assert not servers(tmp_path)


PARENT = """
import sys, threading
from pathlib import Path
from duet.runs.forks import forking
from duet.runs.worker import run_worker
with forking(run_worker) as run:
    run(Path(sys.argv[1]), lambda record: print(record, flush=True), threading.Event())
"""


def test_nobody_outlives_a_run_that_was_killed(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "jobs" / "job", "sleep")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, cwd=REPO, text=True
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    assert len(servers(tmp_path / "jobs" / "job")) == 0  # of this very name: arguments
    assert len(servers(tmp_path / "jobs")) == 3  # the run, the server, the job
    parent.kill()
    parent.wait()
    assert gone(tmp_path / "jobs", 2)


def test_another_place_for_trainings_is_left_as_it_is() -> None:
    def elsewhere(*_: Any) -> None:
        """Train somewhere."""

    with forking(elsewhere) as run:
        assert run is elsewhere


def test_nothing_is_forked_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with forking(run_worker) as run:
        assert run is run_worker
