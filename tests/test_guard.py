"""The guarded door for .pt files: weights pass, programs do not run."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from duet.errors import ModelError
from duet.increments import guard, load_pt


class Payload:
    """Creates a file when it is unpickled: the harmless stand-in for any program."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


class EvalPayload(Payload):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trusted loading prepares the engine first, which takes seconds and is not the matter here."""
    monkeypatch.setattr(guard, "_prepare_engine", lambda: None)


def test_state_dict_passes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state": {"w": torch.arange(3.0)}, "names": ["cat"], "epoch": 3}, path)
    loaded = load_pt(path)
    assert loaded["state"]["w"].tolist() == [0.0, 1.0, 2.0]
    assert loaded["names"] == ["cat"]


@pytest.mark.usefixtures("no_engine")
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
    # Legacy files name builtins without their module.
    assert f"wants to call {'posix.system' if payload is Payload else ''}" in str(caught.value)
    assert ("system" if payload is Payload else "eval") in str(caught.value)
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
@pytest.mark.usefixtures("no_engine")
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


def test_unknown_class_is_named_without_importing_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    torch.save({"share": Fraction(1, 3)}, path)
    monkeypatch.setattr(guard, "_prepare_engine", lambda: pytest.fail("prepared an engine"))
    with pytest.raises(ModelError, match=r"fractions\.Fraction"):
        load_pt(path)


@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="needs ultralytics")
def test_ultralytics_checkpoints_pass_and_payloads_in_them_do_not(tmp_path: Path) -> None:
    """In a process of its own: Ultralytics changes process-wide state when it is imported."""
    script = f"""
import sys, torch
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from duet.increments import guard, load_pt
from duet.errors import ModelError
guard._prepare_engine()
from ultralytics.nn.tasks import DetectionModel
from test_guard import Payload
folder = Path({str(tmp_path)!r})
layers = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]]
head = [[[0, 1], 1, "Detect", ["nc"]]]
model = DetectionModel(dict(nc=2, ch=3, backbone=layers, head=head), verbose=False)
torch.save(dict(model=model.half(), epoch=1), folder / "good.pt")
torch.save(dict(model=model, x=Payload(folder / "executed")), folder / "evil.pt")
model.odd = torch.utils.data.SequentialSampler([1])  # a torch class, but no model class
torch.save(dict(model=model), folder / "odd.pt")
loaded = load_pt(folder / "good.pt")
assert type(loaded["model"]).__name__ == "DetectionModel", loaded
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


def test_engine_side_doors_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ULTRALYTICS_SAFE_LOAD", "YOLO_AUTOINSTALL", "YOLO_OFFLINE"):
        monkeypatch.setenv(name, "unset")  # so that monkeypatch restores it
    called: list[bool] = []
    engine = SimpleNamespace(prepare=lambda: called.append(True))
    monkeypatch.setitem(sys.modules, "duet.families.yolo.engine", engine)
    guard._prepare_engine()
    assert called == [True]
    assert os.environ["ULTRALYTICS_SAFE_LOAD"] == "1"
    assert os.environ["YOLO_AUTOINSTALL"] == "0"
