"""Files of ours: whole or absent, never written through a link, with the rights of the umask."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from factories_compare import write_run

from duet.errors import DataError, DuetError
from duet.export.placing import new_export
from duet.files import (
    LOCK,
    OWN,
    atomic_folder,
    atomic_path,
    refuse_links,
    run_lock,
    vacated,
    write_text,
)
from duet.inference.outputs import make_out
from duet.inference.savers.jsonl import JsonLines
from duet.ownfolder import own_folder
from duet.report.markdown import write_report
from duet.report.plots import styled
from duet.runs import worker
from duet.weights import partial

posix = pytest.mark.skipif(os.name == "nt", reason="rights and links of POSIX")


@pytest.fixture(params=[0o022, 0o077, 0o027, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    try:
        yield request.param
    finally:
        os.umask(before)


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
def test_rights_are_those_that_the_umask_leaves(umask: int, tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "text")
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "inside").write_text("text")
    assert rights(tmp_path / "file.txt") == rights(tmp_path / "folder" / "inside") == 0o666 & ~umask
    assert rights(tmp_path / "folder") == 0o777 & ~umask


@posix
def test_a_replaced_file_gets_the_rights_of_a_new_one(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    target.chmod(0o400)
    write_text(target, "new")
    assert rights(target) == rights(write(tmp_path / "other.txt"))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "free some disk space"),
        (errno.ENAMETOOLONG, "a shorter name"),
        (errno.EACCES, "that you may write to"),
        (errno.EROFS, "that you may write to"),
    ],
)
def test_the_remedy_fits_the_refusal(number: int, words: str, tmp_path: Path) -> None:
    refusal = RuntimeError("PytorchStreamWriter failed")  # as libraries dress it
    refusal.__cause__ = OSError(number, os.strerror(number))
    with pytest.raises(DuetError) as caught, atomic_path(tmp_path / "x"):
        raise refusal
    assert words in str(caught.value.remedy)


def write(path: Path) -> Path:
    path.write_text("text")
    return path


def symbolic(link: Path, target: Path) -> None:
    link.symlink_to(target)


def hard(link: Path, target: Path) -> None:
    link.hardlink_to(target)


LOOKS: Any = SimpleNamespace(increments=())
"""A detector as far as a file of detections asks for it."""


@pytest.fixture(params=[symbolic, hard], ids=["symbolic", "hard"])
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that leaves a link to the user's file under a name, and the file."""
    precious = tmp_path / "precious.txt"
    precious.write_text("written for years\n")
    shared = tmp_path / "shared"
    shared.mkdir()

    def plant(name: str) -> Path:
        (shared / name).parent.mkdir(exist_ok=True)
        request.param(shared / name, precious)
        return shared / name

    return plant


@posix
@pytest.mark.parametrize(
    ("name", "do"),
    [
        ("results.json", lambda path: write_text(path, "ours")),
        ("stderr.log", lambda path: vacated(path).open("x").close()),
        ("detections.jsonl", lambda path: JsonLines(path.parent, LOOKS).close()),
    ],
)
def test_what_a_link_leads_to_is_not_written(
    name: str, do: Callable[[Path], None], planted: Callable[[str], Path], tmp_path: Path
) -> None:
    link = planted(name)
    do(link)
    assert (tmp_path / "precious.txt").read_text() == "written for years\n"
    assert not link.is_symlink()
    assert link.stat().st_nlink == 1


@posix
def test_a_lock_that_is_a_link_is_refused(planted: Callable[[str], Path], tmp_path: Path) -> None:
    link = planted(LOCK)
    with pytest.raises(DuetError, match=r"through no link.*\.lock"), run_lock(link.parent):
        pass
    assert (tmp_path / "precious.txt").read_text() == "written for years\n"


def test_a_lock_empties_no_file(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("mine")
    refused = pytest.raises(DuetError, match="another duet process")
    with run_lock(tmp_path), refused, run_lock(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == "mine"


@posix
@pytest.mark.parametrize("inside", [*OWN, "models/duet", "lab/base-1/engine"])
def test_folders_that_lead_out_of_the_run_are_refused(inside: str, tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run / inside).parent.mkdir(parents=True)
    (run / inside).symlink_to(elsewhere)
    with pytest.raises(DuetError, match=inside), run_lock(run):
        pass


@posix
def test_the_run_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    disk, run = tmp_path / "disk", tmp_path / "run"
    (disk / "lab" / "base-1").mkdir(parents=True)
    (disk / "notes").mkdir()
    (disk / "images").symlink_to(tmp_path)  # of the user's: duet does not write there
    run.symlink_to(disk)
    with run_lock(run):
        write_text(run / "results.json", "{}")
    assert (disk / "results.json").read_text() == "{}"
    refuse_links(run)


@posix
def test_a_link_is_no_half_finished_download(planted: Callable[[str], Path]) -> None:
    link = planted("weights.part.pt")
    assert link.stat().st_size > 0
    assert partial.length(link) == 0
    assert partial.length(write(link.with_name("own.part.pt"))) == 4


def test_a_refusal_of_the_disk_is_told_for_files_and_folders(tmp_path: Path) -> None:
    for make in (atomic_path, atomic_folder):
        with pytest.raises(DuetError, match="cannot write") as caught, make(tmp_path / "new"):
            raise RuntimeError("PytorchStreamWriter failed writing") from OSError(errno.ENOSPC, "")
        assert caught.value.exit_code == 1
        assert list(tmp_path.iterdir()) == []


@posix
def test_a_settings_folder_that_others_may_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine believes its settings, and runs its launch files from there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = own_folder("engine")
    assert own.is_relative_to(tmp_path)
    own.chmod(0o777)
    fresh = own_folder("engine")
    assert not fresh.is_relative_to(tmp_path / "cache")
    assert rights(fresh) == 0o700
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert own_folder("engine") not in (own, fresh)


@posix
def test_reports_and_predictions_follow_no_link_out_of_their_folder(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = write_run(tmp_path / "run")
    (run / "plots").symlink_to(elsewhere)
    with pytest.raises(DuetError, match="plots is one"):
        write_report(run)
    (run / "seen").mkdir()
    (run / "seen" / "photos").symlink_to(elsewhere)
    with pytest.raises(DuetError, match="photos is one"):
        make_out(run / "seen")
    assert list(elsewhere.iterdir()) == []


def test_drawing_goes_by_no_settings_of_the_working_folder() -> None:
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True, "font.size": 30}):
        with styled():
            assert not matplotlib.rcParams["text.usetex"]
            assert matplotlib.rcParams["font.size"] < 30
        assert matplotlib.rcParams["text.usetex"]


def test_an_image_that_vanishes_in_training_is_a_matter_of_the_data(tmp_path: Path) -> None:
    gone = tmp_path / "images" / "gone.jpg"
    for error in (
        worker._explained(FileNotFoundError(errno.ENOENT, "no", str(gone)), tmp_path / "job"),
        worker._without_traceback(DataError(LOADER)),
    ):
        assert error.exit_code == 3
        assert "Traceback" not in str(error)
        assert "gone.jpg" in str(error)
    full = worker._explained(OSError(errno.ENOSPC, "No space left on device"), tmp_path / "job")
    assert full.exit_code == 1


LOADER = """Caught DataError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "fetch.py", line 54, in fetch
    data = [self.dataset[idx] for idx in possibly_batched_index]
duet.errors.DataError: images/gone.jpg: not a readable image; replace or remove the file
"""


@pytest.mark.parametrize("folder", [False, True])
def test_a_disk_too_full_for_an_export_is_told_before_it_is_written(
    folder: bool, tmp_path: Path
) -> None:
    """Torch would end the process where it cannot write."""
    refused = pytest.raises(DuetError, match="No space left")
    with refused, new_export(tmp_path / "model", folder=folder, room=1 << 60):
        pytest.fail("nothing may be written")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a" * 255, "夜" * 83 + ".json", "." * 200, "caf\udce9.txt"])
def test_the_longest_names_can_be_written(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_a_worker_whose_parent_is_gone_does_not_begin(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", ""])
    parent.wait()
    words = [*worker.command(tmp_path)[:-1], str(parent.pid)]
    done = subprocess.run(words, capture_output=True, env=worker.environment(), timeout=60)
    assert (done.returncode, done.stdout) == (130, b"")
