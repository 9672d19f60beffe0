"""The guarded door for .pt files: weights pass, programs do not run."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from factories_pickles import Payload
from factories_series import make_clean_series, make_dataset, make_series
from places import TESTS

import duet.families.ultralytics  # noqa: F401  # tames the engine
from duet.errors import ModelError
from duet.files import sha256_file
from duet.increments.guard import load_pt
from duet.weights import find


class EvalPayload(Payload):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


def test_state_dict_passes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state": {"w": torch.arange(3.0)}, "names": ["cat"], "epoch": 3}, path)
    loaded = load_pt(path)
    assert loaded["state"]["w"].tolist() == [0.0, 1.0, 2.0]
    assert loaded["names"] == ["cat"]


@pytest.mark.parametrize("payload", [Payload, EvalPayload])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", [True, False], ids=["inside a dict", "bare"])
def test_payload_does_not_run_and_is_named(
    tmp_path: Path, payload: type[Payload], zipped: bool, nested: bool
) -> None:
    marker, path = tmp_path / "executed", tmp_path / "model.pt"
    evil: Any = payload(marker)
    content = {"model": {"w": torch.ones(2), "x": evil}} if nested else evil
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError) as caught:
        load_pt(path)
    assert not marker.exists()
    called = "posix.system" if payload is Payload else "builtins.eval"
    assert f"wants to call {called}," in str(caught.value)
    assert "Nothing of it was run" in str(caught.value)
    # The same file does run when trusted: so the refusal above is what held it back.
    load_pt(path, trust=True)
    assert marker.exists()


def test_plain_pickle_payload_does_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(ModelError):
        load_pt(path)
    assert not marker.exists()


def save_good(path: Path) -> None:
    torch.save({"w": torch.randn(500)}, path)


def truncate(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        save_good(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return damage


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")


@pytest.mark.parametrize(
    ("write", "match"),
    [
        pytest.param(lambda p: None, "no such file", id="missing"),
        pytest.param(lambda p: p.mkdir(), "no such file", id="folder"),
        pytest.param(lambda p: p.write_bytes(b""), "not a readable checkpoint", id="empty"),
        pytest.param(lambda p: p.write_bytes(b"\x89PNG\r\n" * 9), "not a torch file", id="png"),
        pytest.param(lambda p: p.write_text("import os"), "not a torch file", id="text"),
        pytest.param(other_zip, "not a readable checkpoint", id="another zip"),
        pytest.param(truncate(0.1), "not a", id="truncated at 10 %"),
        pytest.param(truncate(0.5), "not a", id="truncated at 50 %"),
        pytest.param(truncate(0.99), "not a", id="truncated at 99 %"),
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_unreadable_files_are_refused(
    tmp_path: Path, write: Callable[[Path], object], match: str, trust: bool
) -> None:
    path = tmp_path / "model.pt"
    write(path)
    if trust and "torch file" in match:
        match = "not a"
    with pytest.raises(ModelError, match=match) as caught:
        load_pt(path, trust=trust)
    assert caught.value.remedy


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match=r"expected a \.pt"):
        load_pt(path)


def test_unknown_class_is_named_without_importing_an_engine(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"share": Fraction(1, 3)}, path)
    with pytest.raises(ModelError, match=r"fractions\.Fraction"):
        load_pt(path)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="needs ultralytics")
def test_ultralytics_checkpoints_pass_and_payloads_in_them_do_not(tmp_path: Path) -> None:
    """In a process of its own: Ultralytics changes process-wide state when it is imported."""
    script = f"""
import sys, torch
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from duet.increments.guard import load_pt
from duet.weights import find
from duet.errors import ModelError
import duet.families.ultralytics
from ultralytics.nn.tasks import DetectionModel
from factories_pickles import Payload
folder = Path({str(tmp_path)!r})
layers = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]]
head = [[[0, 1], 1, "Detect", ["nc"]]]
model = DetectionModel(dict(nc=2, ch=3, backbone=layers, head=head), verbose=False)
torch.save(dict(model=model.half(), epoch=1), folder / "good.pt")
torch.save(dict(model=model, x=Payload(folder / "executed")), folder / "evil.pt")
model.odd = torch.utils.data.SequentialSampler([1])  # a torch class, but no model class
torch.save(dict(model=model), folder / "odd.pt")
loaded = load_pt(folder / "good.pt")
assert loaded["model"].path == "ultralytics.nn.tasks.DetectionModel", loaded
for name, wanted in (("evil", "posix.system"), ("odd", "SequentialSampler")):
    try:
        load_pt(folder / (name + ".pt"))
    except ModelError as error:
        assert wanted in str(error), error
    else:
        raise AssertionError(name)
assert not (folder / "executed").exists()
"""
    environment = os.environ | {"YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(tmp_path / "settings")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr


# ---- every command that opens a user's file -----------------------------------------------------

NEEDS_ENGINE = pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None, reason="needs ultralytics"
)
WATCHED = """
import contextlib, io, json, sys
seen = []
events = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork",
          "socket.connect", "socket.getaddrinfo", "socket.gethostbyname")
def look(event, arguments):
    # torch lists the system's libraries when it is imported.
    if event in events and "/sbin/ldconfig" not in repr(arguments):
        seen.append([event, repr(arguments)])
sys.addaudithook(look)
from duet.cli.main import _run
told = []
for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _run(line)
    told.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([seen, told, sorted(sys.modules)]))
"""


@dataclass(frozen=True)
class Told:
    """What one command said."""

    code: int
    out: str
    err: str


def watched(lines: Sequence[Sequence[object]], folder: Path) -> list[Told]:
    """Run commands in one process of their own, in which nothing may start or connect.

    An audit hook sees every program and every connection, whichever library asks for it.
    """
    words = [[str(word) for word in line] for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(words)], cwd=folder, capture_output=True,
        text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen, told, modules = json.loads(done.stdout.splitlines()[-1])
    assert seen == []
    assert not [name for name in modules if name == "pip" or name.startswith("pip.")]
    return [Told(*one) for one in told]


def entries(path: Path, series: Path, out: Path) -> list[list[object]]:
    """Return every command line that takes weights of a user."""
    other = path.with_name("other.pt")
    shutil.copyfile(path, other)
    architecture = ("--architecture", "yolo11n.yaml")
    return [
        ["import", path, "--as", "theirs", "--out", out / "import"],
        ["merge", path, other, "--out", out / "merge"],
        ["weights", "get", path, "--to", out / "get"],
        ["base", series, "--weights", path, *architecture, "--out", out / "base"],
        ["run", series, "--weights", path, *architecture, "--out", out / "run"],
    ]


def save_with(path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a checkpoint that holds an object of a class of a module that does not exist."""
    with monkeypatch.context() as patch:
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name not in sys.modules or end == len(parts):
                patch.setitem(sys.modules, name, ModuleType(name))
        thing = type("Thing", (), {"__module__": module})
        patch.setattr(sys.modules[module], "Thing", thing, raising=False)
        torch.save({"model": {"w": torch.ones(2), "layer": thing()}}, path)


@pytest.mark.slow
@NEEDS_ENGINE
def test_no_command_runs_a_malicious_file(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "model.pt"
    torch.save({"model": {"w": torch.ones(2), "x": Payload(marker)}}, path)
    lines = entries(path, make_clean_series(tmp_path / "data"), tmp_path / "out")
    for line, told in zip(lines, watched(lines, tmp_path), strict=True):
        assert told.code == 4, (line, told)
        assert "posix.system" in told.err, (line, told)
        assert "Nothing of it was run" in told.err
    assert not marker.exists()


@pytest.mark.slow
@NEEDS_ENGINE
@pytest.mark.parametrize(
    "module",
    [
        "no_such_package.layers",  # Ultralytics by itself would install a package of that name
        "ultralytics.nn.modules.no_such_module",
        "torch.nn.modules.no_such_module",
    ],
)
def test_no_command_installs_what_a_file_names(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    save_with(path, module, monkeypatch)
    lines = entries(path, make_clean_series(tmp_path / "data"), tmp_path / "out")
    for line, told in zip(lines, watched(lines, tmp_path), strict=True):
        assert told.code == 4, (line, told)
        assert f"{module}.Thing" in told.err, (line, told)


@pytest.mark.slow
@NEEDS_ENGINE
@pytest.mark.parametrize("name", ["it's/yolo11n.pt", "plain/yolov5n.pt", "plain/best.pth"])
def test_a_file_opens_with_any_name(tmp_path: Path, name: str) -> None:
    """Ultralytics drops quotes and corrects names, finds no file, and asks GitHub for one."""
    from ultralytics.nn.tasks import DetectionModel

    layers = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]]
    head = [[[0, 1], 1, "Detect", ["nc"]]]
    model = DetectionModel({"nc": 2, "ch": 3, "backbone": layers, "head": head}, verbose=False)
    path = tmp_path / name
    path.parent.mkdir()
    torch.save({"model": model}, path)
    (told,) = watched([["weights", "get", path]], tmp_path)
    assert told.code == 0, told
    assert "Ultralytics checkpoint" in told.out


# ---- data.yaml and architecture files are read, never run ---------------------------------------

SCRIPT = "import pathlib\npathlib.Path('executed').touch()\n"
DOWNLOADS = {
    "python": (SCRIPT, "a program, 2 lines"),
    "bash": ("bash touch executed", "a shell command"),
    "url": ("https://example.org/data.zip", "the address https://example.org/data.zip"),
}


@pytest.mark.slow
@NEEDS_ENGINE
@pytest.mark.parametrize("kind", DOWNLOADS)
def test_the_download_key_is_never_run(tmp_path: Path, kind: str) -> None:
    code, named = DOWNLOADS[kind]
    make_dataset(tmp_path / "day", seed=1, extra={"download": code})
    make_dataset(tmp_path / "night", seed=2, extra={"download": code})
    series = make_series(tmp_path)
    (complete,) = watched([["data", "check", series]], tmp_path)
    assert complete.code == 0, complete
    shutil.rmtree(tmp_path / "day" / "images" / "val")
    weights = ("--weights", find("yolo11n-emoji"), "--out", "out")
    lines: list[list[object]] = [
        ["data", "check", series], ["base", series, *weights], ["run", series, *weights],
        ["run", series, *weights, "--dry-run"],
    ]  # fmt: skip
    for line, told in zip(lines, watched(lines, tmp_path), strict=True):
        assert told.code == 3, (line, told)
        assert "never runs the file's 'download' key" in told.err, (line, told)
        assert named in told.err, (line, told)
    assert not (tmp_path / "executed").exists()


EVAL = "__import__('pathlib').Path('executed').touch() or torch.nn.ReLU()"


@pytest.mark.slow
@NEEDS_ENGINE
def test_an_architecture_file_of_a_user_is_never_opened(tmp_path: Path) -> None:
    """Ultralytics evaluates `activation:` of an architecture file as Python."""
    spec = importlib.util.find_spec("ultralytics")
    assert spec is not None
    assert spec.origin is not None
    stock = Path(spec.origin).parent / "cfg/models/11/yolo11.yaml"
    evil = yaml.safe_dump(yaml.safe_load(stock.read_text()) | {"activation": EVAL})
    for name in ("evil.yaml", "yolo11.yaml", "yolo11n.yaml"):
        (tmp_path / name).write_text(evil)
    series = make_clean_series(tmp_path)
    weights = tmp_path / "base.safetensors"
    shutil.copyfile(find("yolo11n-emoji"), weights)
    common = ("base", series, "--weights", weights, "--out", "out")
    lines: list[list[object]] = [
        [*common, "--architecture", "evil.yaml"],
        [*common, "--architecture", tmp_path / "yolo11n.yaml"],
        [*common, "--architecture", "../yolo11n.yaml"],
    ]
    weights.with_suffix(".json").write_text(
        json.dumps({"sha256": sha256_file(weights), "architecture": str(tmp_path / "evil.yaml")})
    )
    lines.append([*common])
    for line, told in zip(lines, watched(lines, tmp_path), strict=True):
        assert told.code in (2, 4), (line, told)
        assert "architecture" in told.err, (line, told)
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
@NEEDS_ENGINE
def test_the_architecture_inside_a_checkpoint_is_not_evaluated(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolo11n.yaml", nc=2, verbose=False)
    model.yaml = {**model.yaml, "activation": EVAL}
    model.names, model.task = {0: "cat", 1: "dog"}, "detect"
    torch.save({"model": model.half(), "train_args": {"activation": EVAL}}, tmp_path / "best.pt")
    lines: list[list[object]] = [
        ["weights", "get", tmp_path / "best.pt"],
        ["import", tmp_path / "best.pt", "--as", "theirs", "--out", tmp_path / "out"],
    ]
    for line, told in zip(lines, watched(lines, tmp_path), strict=True):
        assert told.code == 0, (line, told)
    # Ultralytics looks for a stock architecture in the working folder first.
    evil = yaml.safe_dump({**model.yaml, "activation": EVAL})
    for name in ("yolo11.yaml", "yolo11n.yaml"):
        (tmp_path / name).write_text(evil)
    program = "from duet.families.yolo.build import stock_model\nstock_model('yolo11n.yaml', 2, 64)"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True)
    assert not (tmp_path / "executed").exists()
