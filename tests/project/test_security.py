"""The promises of SECURITY.md, each tried with files that were written to break it."""

from __future__ import annotations

import functools
import gc
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories_pickles import FOUR, GOOD, archive, group, legacy, number, row, storage, table, text
from factories_pickles import call as called
from hostile_pickles import hostile
from places import REPO

import duet
from duet.errors import ModelError
from duet.increments.door.values import told
from duet.increments.guard import load_pt

CHILD = """
import contextlib, io, json, os, resource, sys, time, traceback
from pathlib import Path
job = json.loads(sys.stdin.read())
home, seen = os.getcwd(), []
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile",
            "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind",
            "urllib.Request", "ftplib.connect", "webbrowser.open", "os.remove", "os.rename",
            "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.truncate",
            "shutil.rmtree", "pickle.find_class")

def look(event, arguments):
    if not seen_on:
        return
    told = event in PROGRAMS
    if event == "open":
        told = bool((arguments[2] or 0) & WRITING) or any(c in str(arguments[1]) for c in "wax+")
    elif event == "import":
        told = str(arguments[0]).startswith("stranger")
    elif event in ("exec", "compile"):
        told = "stranger" in repr(arguments[0])
    elif event == "ctypes.dlopen":
        told = home in str(arguments[0])
    # torch lists the system's libraries when it is imported.
    if told and "/sbin/ldconfig" not in repr(arguments) and "__pycache__" not in repr(arguments):
        seen.append([event, repr(arguments)[:200]])

seen_on = False
sys.addaudithook(look)
if job["first"]:
    exec(job["first"])
from duet.cli.main import _run
from duet.errors import ModelError
from duet.increments.guard import load_pt
from duet.families.opened import ForeignModel
from duet.families.yolo.adapter import FAMILY
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_pt(Path(job["good"]))
before, told, seen_on = peak(), {}, True
for path in job["paths"]:
    out, err, start = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if job["cli"]:
            code = _run([*job["cli"], path])
        else:
            code = 0
            try:
                FAMILY.foreign(ForeignModel(Path(path)), name="theirs")
            except ModelError as error:
                print(error, file=sys.stderr)
                code = 4
    told[path] = [code, out.getvalue(), err.getvalue(), time.process_time() - start]
seen_on = False
print(json.dumps([seen, told, peak() - before]))
"""
SECOND = called("os.system", text("touch stranger-was-here"))
BOMBS_OF_ALL_DAYS = ("dicts", "marks and pops", "sets of one list", "deep tuple as a key", "digits")


@functools.cache
def files() -> dict[str, bytes]:
    return hostile()


def names(*, bombs: bool) -> list[str]:
    quick = tuple(f"bomb {name}" for name in BOMBS_OF_ALL_DAYS)
    return [name for name in files() if not name.startswith("bomb ") or name in quick or bombs]


def opened(
    folder: Path, chosen: list[str], *, cli: list[str] | None = None, first: str = ""
) -> dict[str, list[Any]]:
    """Open files in one process of its own, and refuse that anything but reading happens there."""
    (folder / "kept").mkdir()
    (folder / "kept" / "kept.txt").write_text("kept")
    (folder / "stranger.py").write_text("open('stranger-was-here', 'w').close()")
    (folder / "files").mkdir()
    paths = {name: folder / "files" / f"{number}.pt" for number, name in enumerate(chosen)}
    for name, path in paths.items():
        path.write_bytes(files()[name])
    # What the files name is there to be found: a second file, in the working folder.
    (folder / "stage2.pt").write_bytes(archive(SECOND))
    (folder / "good.pt").write_bytes(archive(GOOD))
    before = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    job = {"cli": cli, "first": first, "paths": list(map(str, paths.values())),
           "good": str(folder / "good.pt")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(job), cwd=folder, capture_output=True,
        text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "YOLO_CONFIG_DIR": str(folder.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seen, told, grown = json.loads(done.stdout.splitlines()[-1])
    assert seen == []
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == before
    assert (folder / "kept" / "kept.txt").read_text() == "kept"
    # KiB: twice the largest file, and what the door allows beyond it.
    allowed = 2 * max(map(len, (files()[name] for name in chosen))) // 1024 + (128 << 10)
    assert grown < allowed, (grown, allowed)
    return {name: told[str(path)] for name, path in paths.items()}


def require_refused(told: dict[str, list[Any]]) -> None:
    for name, (code, out, err, seconds) in told.items():
        assert code == 4, (name, code, out, err)
        assert out == "", (name, out)
        assert "Traceback" not in err, (name, err)
        assert 20 < len(err) < 1500, (name, err)
        assert err.isprintable() or err.replace("\n", "").isprintable(), (name, err)
        assert seconds < 30, (name, seconds)


@pytest.mark.slow
def test_the_command_line_refuses_every_hostile_file(tmp_path: Path) -> None:
    chosen = names(bombs=False)
    assert len(chosen) > 180
    (tmp_path / "here").mkdir()
    told = opened(tmp_path / "here", chosen, cli=["weights", "get"])
    require_refused(told)
    for name in chosen:
        if name.startswith("call "):
            path = name.removeprefix("call ").replace("__builtin__", "builtins")
            assert path in told[name][2], told[name]
            assert "Nothing of it was run" in told[name][2]


@pytest.mark.slow
def test_so_does_a_notebook_that_imported_ultralytics_first(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    chosen = [name for name in names(bombs=False) if not name.startswith("bomb ")]
    require_refused(opened(tmp_path / "here", chosen, first="from ultralytics import YOLO"))


@pytest.mark.thorough
def test_every_bomb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    chosen = [name for name in names(bombs=True) if name.startswith("bomb ")]
    require_refused(opened(tmp_path / "here", chosen, cli=["weights", "get"]))


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    """One byte is changed, lost or doubled, in the pickle and in the archive around it."""
    content = {
        "names": row(text("cat"), text("dog")), "w": GOOD, "epoch": number(3),
        "args": table({"lr": b"G" + struct.pack(">d", 0.01), "cos": b"\x89"}),
    }  # fmt: skip
    path, generator, refused = tmp_path / "x.pt", random.Random(11), list[str]()
    for whole in (archive(table(content)), legacy(
        table(content), keys=row(text("0")), after=struct.pack("<Q", 4) + FOUR
    )):  # fmt: skip
        for _ in range(150):
            place = generator.randrange(len(whole))
            piece = generator.choice((b"", bytes([generator.randrange(256)]), whole[place:][:2]))
            path.write_bytes(whole[:place] + piece + whole[place + 1 :])
            try:
                load_pt(path)
            except ModelError as error:
                refused.append(str(error))
    assert len(refused) > 100
    assert max(map(len, refused)) < 1000


def test_the_page_names_tests_that_exist() -> None:
    page = (REPO / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"tests/[\w/]+\.py", page))
    assert len(named) > 6
    assert [name for name in named if not (REPO / name).is_file()] == []


# ---- what passes --------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_data_passes_unchanged(zipped: bool, tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
             torch.int16, torch.int8, torch.uint8, torch.complex64)  # fmt: skip
    grid = torch.arange(24.0).reshape(2, 3, 4)
    content = {
        **{str(kind): torch.arange(5).to(kind) for kind in kinds},
        "bool": torch.tensor([True, False]), "scalar": torch.tensor(1.5), "empty": torch.ones(0, 3),
        "turned": grid.permute(2, 0, 1), "part": grid[1, :, ::2],
        "parameter": torch.nn.Parameter(grid),
        "shape": grid.shape, "device": "cpu", "text": "Ärger \U0001f600", "bytes": b"\x00\xff",
        "numbers": [1, -(1 << 40), 1.5, None, True], "set": {"a", "b"}, "pair": (1, (2, 3)),
        "state": torch.nn.BatchNorm2d(2).state_dict(), "path": Path("/data/x.pt"),
    }  # fmt: skip
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    loaded = load_pt(tmp_path / "x.pt")
    assert loaded.keys() == content.keys()
    assert loaded.pop("path") == "/data/x.pt"
    for name, value in loaded.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == content[name].dtype  # type: ignore[attr-defined]
            assert torch.equal(value, content[name]), name  # type: ignore[arg-type]
        elif name != "state":
            assert value == content[name], name
    expected = content["state"]
    assert isinstance(expected, dict)
    assert loaded["state"].keys() == expected.keys()
    assert all(torch.equal(loaded["state"][key], expected[key]) for key in expected)


def test_big_numbers_and_deep_values_are_short_in_messages() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, {"a": deep}, 1 << 100_000, "x" * 10_000, b"x" * 10_000, "a\x1b[2Jb\u202e"):
        assert len(told(value)) < 120
        assert told(value).isprintable()


# ---- TorchScript is a program -------------------------------------------------------------------


class Writer(torch.nn.Module):
    """Makes a file when it is run: the harmless stand-in for any program."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + torch.from_file(self.path, True, 4).sum()


@pytest.fixture
def program(tmp_path: Path) -> tuple[Path, Path]:
    marker, path = tmp_path / "executed", tmp_path / "x.torchscript"
    torch.jit.script(Writer(str(marker))).save(str(path))  # type: ignore[no-untyped-call]
    return path, marker


def test_torchscript_is_not_run_unasked(
    program: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from duet.cli.main import _run
    from duet.files import sha256_file

    path, marker = program
    # What lies beside the file cannot vouch for it: a stranger sends both.
    entry = {"file": path.name, "form": "torchscript", "sha256": sha256_file(path)}
    forged = {"format": "duet-parity", "schema_version": 1, "exports": [entry]}
    (path.parent / "parity.json").write_text(json.dumps(forged))
    with pytest.raises(ModelError, match="is a program") as caught:
        duet.load(path)
    assert "--trust" in str(caught.value)
    assert _run(["predict", str(path), str(path.parent)]) == 3  # no image: nothing else is opened
    picture = path.parent / "photo.png"
    import cv2

    cv2.imwrite(str(picture), np.zeros((32, 32, 3), np.uint8))
    assert _run(["predict", str(path), str(picture)]) == 4
    assert "is a program" in capsys.readouterr().err
    assert not marker.exists()


def test_a_trusted_torchscript_is_run_and_said_so(
    program: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """So the refusal above is what held it back."""
    from duet.families.runtimes import open_file

    path, marker = program
    open_file(path, "torchscript", trust=True).run(np.zeros((1, 3, 32, 32), np.float32))
    assert marker.exists()
    from duet.cli.main import _run

    assert _run(["predict", str(path), str(path), "--trust"]) != 0
    assert "DANGER" in capsys.readouterr().err


def test_records_of_exports_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from duet.families.vouching import is_ours, remember

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not is_ours("a" * 64)
    remember("a" * 64)
    assert is_ours("a" * 64)
    assert not is_ours("b" * 64)
    (folder,) = tmp_path.rglob("exports")
    folder.chmod(0o777)  # anybody could have put the record there
    assert not is_ours("a" * 64)


# ---- exported files that are data ---------------------------------------------------------------


def test_onnx_brings_no_operators_and_reads_no_other_files(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "in").mkdir()
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=1)
    outside.external_data.add(key="location", value="../secret")
    graphs = {
        "operator": helper.make_graph(
            [helper.make_node("Touch", ["x"], ["y"], domain="stranger")], "g", [value], [result]
        ),
        "outside": helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])], "g", [value], [result], [outside]
        ),
    }
    for name, graph in graphs.items():
        domains = [helper.make_opsetid("", 17), helper.make_opsetid("stranger", 1)]
        model = helper.make_model(graph, opset_imports=domains, ir_version=8)
        path = tmp_path / "in" / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match="does not load"):
            duet.load(path)
    del onnx


def exported(path: Path, size: int, *, endless: bool = False) -> Path:
    """Write a graph for images of 64 px whose metadata says ``size``, with an output of zeros."""
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    kinds = {"i": TensorProto.INT64, "c": TensorProto.BOOL, "v": TensorProto.FLOAT}
    values = {name: helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()}
    for name in ("i", "c"):
        values[name].type.tensor_type.shape.SetInParent()
    copies = [helper.make_node("Identity", [name], [f"{name}2"]) for name in "cv"]
    outputs = [helper.make_tensor_value_info(f"{name}2", kinds[name], None) for name in "cv"]
    body = helper.make_graph(copies, "body", list(values.values()), outputs)
    nodes = [
        helper.make_node("Loop", ["most", "go", "images"], ["same"], body=body),
        helper.make_node("ReduceMean", ["same"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zeros"], ["y"]),
    ]
    known = {"most": np.array(2**62 if endless else 1), "go": np.array(True),
             "zeros": np.zeros((1, 7, 84), np.float32)}  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in known.items()],
    )  # fmt: skip
    facts = {
        "format": "duet-export", "schema_version": 2, "fingerprint": "a" * 64, "family": "yolo",
        "architecture": "yolo11n.yaml", "head": "towers", "image_size": size, "fit": "letterbox",
        "layout": "anchors", "licence": "x",
        "increments": [{"increment": "x", "classes": ["a", "b", "c"]}],
    }  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"duet": json.dumps(facts)})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("size", "match"),
    [(8192, r"its input is \(1, 3, 64, 64\)"), (32, "its input is"),
     (2**30, "less than or equal to 8192"), (10**30, "less than or equal to 8192")],
)  # fmt: skip
def test_metadata_alone_takes_no_memory(
    size: int, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported(tmp_path / "x.onnx", size)
    monkeypatch.setattr(torch, "zeros", lambda *sides: pytest.fail(f"takes {sides}"))
    with pytest.raises(ModelError, match=match):
        duet.load(path)


@pytest.mark.slow
def test_a_graph_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert duet.load(exported(tmp_path / "x.onnx", 64)).classes == ("a", "b", "c")
    monkeypatch.setattr("duet.inference.exported.TRIAL", 1.0)
    with pytest.raises(ModelError, match=r"does not look at an image within 1 s") as caught:
        duet.load(exported(tmp_path / "y.onnx", 64, endless=True))
    assert caught.value.where == str(tmp_path / "y.onnx")
    del caught  # whose frames hold the thread
    gc.collect()
    time.sleep(0.5)
    assert "duet-apart" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no signal to one process")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_graph_without_end_can_be_stopped(name: str, tmp_path: Path) -> None:
    import cv2

    path, picture = exported(tmp_path / "x.onnx", 64, endless=True), tmp_path / "photo.png"
    cv2.imwrite(str(picture), np.zeros((32, 32, 3), np.uint8))
    told = "import duet.inference.exported as e, duet.cli.main as m, signal, sys\n"
    told += "signal.signal(signal.SIGINT, signal.default_int_handler); before = e._try\n"
    told += "e._try = lambda *a: (print('begins', flush=True), before(*a))[1]\n"
    line = ["predict", str(path), str(picture)]
    started = subprocess.Popen(
        [sys.executable, "-c", f"{told}sys.exit(m._run({line}))"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "begins\n"
    time.sleep(0.5)
    started.send_signal(getattr(signal, name))
    _, err = started.communicate(timeout=30)
    assert started.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted" in err


def test_a_storage_is_read_once_however_often_it_is_named(tmp_path: Path) -> None:
    views = [storage("0", 4)] * 100
    content = row(*(b"%s0" % view for view in views), GOOD, GOOD)
    (tmp_path / "x.pt").write_bytes(archive(content))
    one, other = load_pt(tmp_path / "x.pt")
    assert one.data_ptr() == other.data_ptr()
    assert one.tolist() == [1, 2, 3, 4]
    assert group(number(1))
