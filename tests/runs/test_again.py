"""A command that was killed, given again: leftovers are named, whole results are recognised."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from factories_detectors import make_detector
from factories_run import Outcome, duet_here
from factories_series import listing, make_clean_series

from duet.errors import DuetError
from duet.files import atomic_folder, atomic_path, hidden_folder
from duet.leftovers import leftovers, leftovers_below
from duet.runs.lab import tidy

KILLED = """
import os, signal, sys
from pathlib import Path
from duet.files import atomic_folder, atomic_path, hidden_folder
out = Path(sys.argv[1])
with {block} as path:
    if path.is_dir():
        (path / "half").write_text("half")
        with hidden_folder(path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("block", "name"),
    [
        ("atomic_folder(out)", "out"),
        ("atomic_folder(out)", "out.v2"),
        ("atomic_path(out)", "model.onnx"),
        ("atomic_path(out)", ".hidden.json"),
        ("hidden_folder(out)", "out"),
    ],
)
def test_what_a_killed_process_leaves_is_found(tmp_path: Path, block: str, name: str) -> None:
    target = tmp_path / name
    code = KILLED.format(block=block)
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    left = sorted(tmp_path.iterdir())
    assert left
    assert not target.exists()
    assert leftovers(target) == left
    assert leftovers(tmp_path / "other") == []
    assert leftovers_below(tmp_path) == left
    heard: list[str] = []
    (tmp_path / "run").mkdir()
    for path in left:
        path.rename(tmp_path / "run" / path.name)
    (tmp_path / "run" / ".mine").touch()
    tidy(tmp_path / "run", heard.append)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".mine"]
    assert len(heard) == len(left)


def test_what_lives_or_is_not_ours_is_not_named(tmp_path: Path) -> None:
    (tmp_path / ".out-99-notours").touch()
    (tmp_path / ".out-20241129-d49fd7f0.tar").touch()  # a date and a commit
    (tmp_path / ".out-abcd1234").touch()
    with (
        atomic_folder(tmp_path / "out"), atomic_path(tmp_path / "out.json"),
        hidden_folder(tmp_path / "out"),
    ):  # fmt: skip
        assert len(list(tmp_path.iterdir())) == 6
        assert leftovers(tmp_path / "out") == leftovers_below(tmp_path) == []


def test_a_folder_is_written_again_only_if_it_stays_the_same(tmp_path: Path) -> None:
    def write(content: str, *, again: bool = True) -> None:
        with atomic_folder(tmp_path / "out", again=again) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "a").write_text(content)

    write("one")
    before = listing(tmp_path)
    write("one")
    assert listing(tmp_path) == before
    (tmp_path / "out" / "notes.txt").write_text("the user's own, beside it")
    write("one")
    for spoil in (
        lambda: write("two"),
        lambda: write("one", again=False),
        lambda: ((tmp_path / "out/sub/b").touch(), write("one")),
        lambda: ((tmp_path / "out/sub/b").unlink(), (tmp_path / "out/sub/a").unlink(), write("1")),
    ):
        with pytest.raises(DuetError, match="already exists"):
            spoil()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


# ---- commands ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("again")
    make_detector(folder / "a", increments=1)
    make_detector(folder / "b", increments=2)
    make_clean_series(folder / "data")
    return folder


def commands(place: Path, out: Path) -> dict[str, list[object]]:
    data = place / "data" / "day" / "data.yaml"
    series = place / "data" / "series.yaml"
    return {
        "merge": ["merge", f"one={place / 'a'}", "--out", out],
        "drop-class": ["drop-class", place / "b", "dog", "--out", out],
        "convert": ["data", "convert", data, out, "--to", "coco"],
        "convert links": ["data", "convert", data, out, "--to", "yolo", "--images", "link"],
        "convert series": ["data", "convert", series, out, "--to", "voc"],
        "fix": ["data", "check", series, "--fix", out],
        "export": ["export", place / "a", "--to", "pt", "--out", out / "model.pt"],
        "weights": ["weights", "get", place / "a" / "model.safetensors", "--to", out],
    }  # fmt: skip


NAMES = list(commands(Path(), Path()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_the_same_command_again_says_that_all_is_there(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words = [*commands(place, tmp_path / "out")[name], "--json"]

    def run(*more: object) -> Outcome:
        return duet_here(capsys, *words, *more)

    first = run()
    assert first.code == 0, first.err
    before = listing(tmp_path)
    left = tmp_path / ".out-4194303-0123abcd"  # of a process that is not there
    if name == "export":
        left = tmp_path / "out" / ".model-4194303-0123abcd.pt"
    if name == "weights":
        left = tmp_path / "out" / ".model-4194303-0123abcd.safetensors"
    left.mkdir()
    again = run()
    assert again.code == 0, again.err
    assert f"{left} was left by a command that was killed: remove it" in again.err
    left.rmdir()
    if name != "weights":  # it says that it is a copy, as before
        assert "held this very result already and stays as it is" in again.err
        assert again.json() == first.json()
    assert listing(tmp_path).keys() == before.keys()
    files = {path: facts for path, facts in listing(tmp_path).items() if Path(path).suffix}
    assert files == {path: facts for path, facts in before.items() if Path(path).suffix}


SPOILED: dict[str, Callable[[Path], Path]] = {
    "merge": lambda out: out / "model.safetensors",
    "drop-class": lambda out: out / "model.safetensors",
    "convert": lambda out: next(out.rglob("*.json")),
    "convert series": lambda out: next(out.rglob("*.png")),
    "fix": lambda out: next(out.rglob("*.txt")),
    "export": lambda out: out / "model.pt",
    "weights": lambda out: out / "model.safetensors",
}


@pytest.mark.parametrize("name", SPOILED)
@pytest.mark.slow
def test_a_result_that_changed_is_not_taken_for_whole(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words = commands(place, tmp_path / "out")[name]
    assert duet_here(capsys, *words).code == 0
    path = SPOILED[name](tmp_path / "out")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    changed = path.read_bytes()
    again = duet_here(capsys, *words)
    assert again.code != 0
    assert "exists" in again.err or "is there" in again.err
    assert "held this very result" not in again.err
    assert path.read_bytes() == changed
    assert [left.name for left in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_another_command_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for first, other in (
        ("drop-class", ["drop-class", place / "b", "cat", "--out", out]),
        ("merge", ["merge", f"two={place / 'a'}", "--out", out]),
        ("convert", ["data", "convert", place / "data/night/data.yaml", out, "--to", "coco"]),
        ("convert links", ["data", "convert", place / "data/day/data.yaml", out, "--to", "yolo"]),
    ):
        out = tmp_path / first
        words = [out if word == tmp_path / "out" else word for word in other]
        assert duet_here(capsys, *commands(place, out)[first]).code == 0
        before = listing(tmp_path)
        done = duet_here(capsys, *words)
        assert (done.code != 0, "already exists" in done.err) == (True, True), (first, done)
        assert listing(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "pt"])
def test_an_export_is_equal_to_the_byte(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    pytest.importorskip("onnx")
    for name in ("one", "two"):
        out = tmp_path / name / f"model.{form}"
        assert duet_here(capsys, "export", place / "a", "--to", form, "--out", out).code == 0
    for name in (f"model.{form}", "parity.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
