"""`--runtime`: exported once, checked, measured, kept; nothing of a stranger's is used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from factories_detectors import make_detector
from factories_series import write_image

import duet
from duet.cli.main import cli
from duet.errors import ConfigError, MissingExtraError, ModelError
from duet.export.export import ExportReport, export_detector
from duet.export.formats import FORMATS
from duet.export.parity import Parity
from duet.fastest import kept, make
from duet.fastest.kept import Kept, fastest, here
from duet.fastest.load import load
from duet.increments.store import DetectorFile
from duet.inference.load import load as load_plain

pytestmark = pytest.mark.slow  # each exports

TIMES = {"torch": 30.0, "onnx": 10.0, "openvino": 9.8}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make_detector(tmp_path / "detector", head="towers")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for what one test exported, which the others then copy: it takes seconds."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Have measurements come out as this says, of what was really exported."""
    times = dict(TIMES)
    monkeypatch.setattr(
        make, "_measured", lambda _, files: {name: times[name] for name in ("torch", *files)}
    )
    return times


@pytest.fixture(scope="module")
def made_now() -> dict[Path, ExportReport]:
    return {}


@pytest.fixture(autouse=True)
def exports(
    monkeypatch: pytest.MonkeyPatch, made: Path, made_now: dict[Path, ExportReport]
) -> list[str]:
    """Return a list that grows by each format that is exported."""
    done: list[str] = []
    real = make.export_detector

    def counted(file: DetectorFile, target: Path, form: str, **options: Any) -> ExportReport:
        done.append(form)
        if Parity.ok is False or FORMATS[form].missing:
            return real(file, target, form, **options)
        whole = made / f"{file.state.fingerprint()}{FORMATS[form].suffix}"
        if not whole.exists():
            made_now[whole] = real(file, whole, form, **options)
        if target.is_dir():
            shutil.rmtree(target)
        copy = shutil.copytree if whole.is_dir() else shutil.copyfile
        copy(whole, target)
        return made_now[whole]

    monkeypatch.setattr(make, "export_detector", counted)
    return done


def picture() -> Any:
    return np.random.default_rng(0).integers(0, 255, (50, 90, 3), np.uint8)


def test_it_is_exported_once_and_finds_the_same(folder: Path, exports: list[str]) -> None:
    told: list[str] = []
    chosen = load(folder, runtime="auto", notify=told.append)
    assert exports == ["onnx", "openvino"]
    assert chosen.runtime in TIMES
    assert told[0].startswith("runtime: exporting for onnx and openvino, once; kept in ")
    assert told[1].startswith(f"runtime: {chosen.runtime}, ")
    record = Kept.of(folder).read()
    assert record is not None
    assert record.measured.keys() == {here()}
    assert record.measured[here()].keys() == TIMES.keys()
    assert all(ms > 0 for ms in record.measured[here()].values())
    plain = load_plain(folder)
    for runtime in ("onnx", "openvino", "auto"):
        other = load(folder, runtime=runtime)  # type: ignore[arg-type]
        assert other.facts == plain.facts
        one, two = (look(picture(), confidence=0.3) for look in (plain, other))
        assert one.names == two.names
        assert len(one) > 5
        assert np.abs(one.xyxy - two.xyxy).max() < 1e-2
    assert exports == ["onnx", "openvino"]


def test_the_fastest_runs(folder: Path, timed: dict[str, float]) -> None:
    assert load(folder, runtime="auto").runtime == "onnx"  # OpenVINO is not clearly faster
    assert fastest(TIMES | {"openvino": 9.0}) == "openvino"
    assert fastest(TIMES | {"torch": 8.0}) == "torch"
    timed["torch"] = 8.0
    told: list[str] = []
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:  # other threads are another measurement
        patch.setattr(kept, "threads", lambda: 7)
        assert load(folder, runtime="auto", notify=told.append).runtime == "torch"
    assert (
        told[-1] == "runtime: torch, 8.0 ms an image here against 10.0 in onnx and 9.8 in openvino"
    )


def test_what_changed_is_made_again(
    folder: Path, timed: dict[str, float], exports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder, runtime="onnx")
    file = folder / "runtime" / "model.onnx"
    whole = file.read_bytes()
    content = bytearray(whole)
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert load(folder, runtime="onnx").runtime == "onnx"
    assert file.read_bytes() == whole
    monkeypatch.setattr(kept, "versions", lambda: {"torch": "9"})
    monkeypatch.setattr(make, "versions", lambda: {"torch": "9"})
    load(folder, runtime="onnx")
    assert exports == ["onnx"] * 3
    other = make_detector(folder.parent / "other", head="rows")
    shutil.copytree(folder / "runtime", other / "runtime")  # of another detector
    assert load(other, runtime="onnx").facts == load_plain(other).facts
    assert exports == ["onnx"] * 4


def test_a_strangers_files_are_not_used(
    folder: Path, timed: dict[str, float], exports: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whoever sends a detector may send files along, with a record that says they are its own."""
    load(folder, runtime="auto")
    sent = tmp_path / "sent"
    shutil.copytree(folder, sent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another user's"))
    load(sent, runtime="auto")
    assert exports == ["onnx", "openvino"] * 2
    record = sent / "runtime" / "runtime.json"
    record.write_text(record.read_text().replace("10.0", "10.5"))
    assert Kept.of(sent).read() is None
    elsewhere = tmp_path / "elsewhere"
    shutil.rmtree(sent / "runtime")
    (sent / "runtime").symlink_to(elsewhere)  # what it leads to is not written
    assert load(sent, runtime="onnx").runtime == "onnx"
    assert not elsewhere.exists()
    assert len(list((tmp_path / "another user's" / "duet" / "runtimes").iterdir())) == 1


def test_the_cache_takes_what_has_no_place_beside_it(
    folder: Path, timed: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kept, "is_mine", lambda _: False)  # root can write anywhere
    cache = tmp_path / "cache" / "duet" / "runtimes"
    for number in range(kept.MOST + 2):
        (cache / f"{number:064}").mkdir(parents=True)
        os.utime(cache / f"{number:064}", (number, number))
    assert load(folder, runtime="onnx").runtime == "onnx"
    assert not (folder / "runtime").exists()
    left = {path.name for path in cache.iterdir()}
    assert len(left) == kept.MOST
    assert Kept.of(folder).model in left
    assert f"{0:064}" not in left


def test_auto_falls_back_with_a_line(
    folder: Path, timed: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def line(**changes: Any) -> str:
        told: list[str] = []
        assert load(folder, runtime="auto", notify=told.append, **changes).runtime == "torch"
        (said,) = (one for one in told if "exporting" not in one)
        return said

    with monkeypatch.context() as patch:
        patch.setattr("duet.fastest.load.can_remember", lambda: False)
        assert "cache folder cannot be written" in line()
        with pytest.raises(duet.DuetError, match="cache folder cannot be written"):
            load(folder, runtime="onnx")
    with monkeypatch.context() as patch:
        patch.setattr(type(FORMATS["onnx"]), "missing", ("onnx",))
        assert line() == (
            "runtime: torch, since no other is installed: pip install "
            '"duet-detect[onnx]" or "duet-detect[openvino]"'
        )
        with pytest.raises(MissingExtraError):
            load(folder, runtime="onnx")
    with monkeypatch.context() as patch:
        patch.setattr(Parity, "ok", False)
        with pytest.raises(ModelError, match="not the same detector"):
            load(folder, runtime="onnx")
        said = line()
        assert said.startswith("runtime: torch, 30.0 ms an image here; without onnx: the exported")
        assert "; without openvino: the exported file is not the same detector" in said
    assert "without onnx" in line()  # it is not tried each time
    assert not (folder / "runtime" / "model.onnx").exists()


def test_words_that_fit_nothing(folder: Path, timed: dict[str, float]) -> None:
    load(folder, runtime="onnx")
    file = folder / "runtime" / "model.onnx"
    for runtime in (None, "auto", "onnx"):
        assert load(file, runtime=runtime).runtime == "onnx"  # type: ignore[arg-type]
    for runtime in ("torch", "openvino"):
        with pytest.raises(ConfigError, match="runs in its own program, not in"):
            load(file, runtime=runtime)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no runtime 'tensorrt'"):
        load(folder, runtime="tensorrt")  # type: ignore[arg-type]
    for runtime in ("auto", "onnx"):
        with pytest.raises(ModelError, match="manifest"):
            load(folder.parent / "nothing", runtime=runtime)  # type: ignore[arg-type]


def test_the_library(folder: Path, timed: dict[str, float]) -> None:
    plain, quick = duet.load(folder), duet.load(folder, runtime="onnx")
    assert quick.runtime == "onnx"
    assert quick(picture(), confidence=0.3).names == plain(picture(), confidence=0.3).names
    assert quick.drop("bus").runtime == "torch"  # an edit is another detector


ALONE = """
import json, sys
from duet.cli.main import _run
assert _run(sys.argv[1:]) == 0
heavy = {"torch", "torchvision", "ultralytics", "pandas", "matplotlib", "scipy", "supervision"}
print(json.dumps(sorted(heavy & set(sys.modules))), file=sys.stderr)
"""


def started(*arguments: object, cwd: Path) -> tuple[dict[str, Any], list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, arguments)], capture_output=True, text=True,
        cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr.splitlines()


def test_the_command_opens_neither_torch_nor_the_engine(
    folder: Path, timed: dict[str, float], tmp_path: Path
) -> None:
    """What is exported runs without them: a file, and what `--runtime` kept."""
    load(folder, runtime="auto")
    photo = write_image(tmp_path / "photo.png", seed=3, size=(90, 50))
    for model, runtime in ((folder, "auto"), (folder, "onnx"), (folder, "openvino")):
        found, said = started(
            "predict", model, photo, "--runtime", runtime, "--conf", "0.3", "--json", cwd=tmp_path,
        )  # fmt: skip
        assert json.loads(said[-1]) == []
        assert found["runtime"] == ("openvino" if runtime == "openvino" else "onnx")
        assert len(found["images"][0]["detections"]) > 0
        assert any(line.startswith("runtime: onnx, 10.0 ms") for line in said) == (
            runtime == "auto"
        )
    for file in ("model.onnx", "model_openvino_model"):
        found, said = started("predict", folder / "runtime" / file, photo, "--json", cwd=tmp_path)
        assert json.loads(said[-1]) == []
    script = (
        f"import duet, sys; duet.load({str(folder / 'runtime' / 'model.onnx')!r})({str(photo)!r})"
    )
    code = f"{script}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


def test_two_processes_at_once_export_once(folder: Path, tmp_path: Path) -> None:
    photo = write_image(tmp_path / "photo.png", seed=3, size=(90, 50))
    command = [
        sys.executable,
        "-m",
        "duet",
        "predict",
        folder,
        photo,
        "--runtime",
        "onnx",
        "--json",
    ]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    one, other = (json.loads(out) for out, _ in results)
    assert one == other
    assert one["runtime"] == "onnx"
    left = sorted(path.name for path in (folder / "runtime").iterdir())
    assert left == ["model.onnx", "parity.json", "runtime.json"]


def test_a_dry_run_exports_nothing(folder: Path, tmp_path: Path) -> None:
    photo = write_image(tmp_path / "photo.png", seed=3)
    arguments = ["predict", str(folder), str(photo), "--runtime", "auto", "--dry-run"]
    done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert done.exception is None
    assert not (folder / "runtime").exists()


def test_what_looks_otherwise_is_not_taken(
    folder: Path, timed: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of squares finds other things than a detector that looks at rectangles."""
    row = FORMATS["onnx"]
    monkeypatch.setattr(make, "export_detector", export_detector)
    monkeypatch.setitem(FORMATS._rows, "onnx", replace(row, open_sides=False))
    with pytest.raises(ModelError, match="take images as 'letterbox', not 'rectangle'"):
        load(folder, runtime="onnx")
