"""Detector folders whose manifest is sealed, but says what no duet wrote: one clear error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factories_detectors import make_detector

from duet.cli.main import _run
from duet.errors import ModelError
from duet.increments.manifest import (
    LARGEST_SIDE,
    DetectorManifest,
    IncrementManifest,
    read_manifest,
)
from duet.increments.store import load_traces
from duet.recipes.edits import kept_recipe
from duet.sealed import sealed
from duet.training.schedule import Schedule

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_detector(tmp_path / "detector")


def changed(folder: Path, change: Change, trace: Any = None) -> Path:
    """Change a manifest as somebody does who knows how it is sealed."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest.pop("sha256")
    if trace is not None:
        text = json.dumps(trace)
        (folder / "trace.json").write_text(text)
        manifest["files"]["trace.json"] = hashlib.sha256(text.encode()).hexdigest()
    change(manifest)
    path.write_text(json.dumps(sealed(manifest)))
    return folder


def merged_by(**config: Any) -> Change:
    line = {"increment": "x", "manifest": "a" * 64, "merge": config}
    return lambda manifest: manifest.update(lineage=[line])


def recipe(**changes: Any) -> Change:
    kept = {"schema": 1, "method": "average", "increments": [{"path": "../x"}]}
    return lambda manifest: manifest.update(recipe=kept | changes)


@pytest.mark.parametrize("size", [16, LARGEST_SIDE + 32, 50_000, 2**31, 10**9, True, "640"])
def test_image_sizes_at_which_nothing_runs(size: Any, folder: Path) -> None:
    changed(folder, lambda manifest: manifest.update(image_size=size))
    with pytest.raises(ModelError, match="image_size"):
        read_manifest(folder, DetectorManifest)


def test_what_can_be_trained_can_be_kept() -> None:
    assert Schedule(image_size=LARGEST_SIDE)
    with pytest.raises(ValueError, match=f"less than or equal to {LARGEST_SIDE}"):
        Schedule(image_size=LARGEST_SIDE + 32)


@pytest.mark.parametrize("size", [16, 10**9, True, "640"])
def test_image_sizes_of_increments(size: Any) -> None:
    with pytest.raises(ValueError, match=r"schedule\.image_size must be a whole number"):
        IncrementManifest.model_validate({"config": {"schedule": {"image_size": size}}})


@pytest.mark.parametrize(
    "config",
    [
        {"merge": 5}, {"merge": None}, {"merge": {"method": 5}},
        {"merge": {"method": "x", "params": 5}}, {"merge": {"method": "x"}, "batchnorm": []},
        {"batchnorm": {"rule": ["a"]}},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_merges_that_cannot_be_told(
    config: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(folder, merged_by(**config))
    assert _run(["log", str(folder)]) == 4
    assert f"{folder}/manifest.json: the manifest is not valid" in capsys.readouterr().err


def test_merges_of_other_versions_are_told(folder: Path) -> None:
    config = {"merge": {"method": "x", "params": {"k": [1]}, "more": 1}, "batchnorm": {}, "new": 5}
    changed(folder, merged_by(**config))
    assert _run(["log", str(folder)]) == 0


@pytest.mark.parametrize("path", ["a\0b", "a" * 300, "a/" * 5000], ids=["NUL", "name", "path"])
@pytest.mark.parametrize("key", ["increments", "weights", "adapt"])
def test_paths_that_no_file_can_have(
    key: str, path: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value: Any = {"increments": [{"path": path}], "weights": path, "adapt": {"images": path}}[key]
    changed(folder, recipe(**{key: value}))
    with pytest.raises(ModelError, match="no file can have this name"):
        kept_recipe(read_manifest(folder, DetectorManifest), folder)
    assert _run(["log", str(folder)]) == 0
    assert "damaged: the recipe is not valid" in capsys.readouterr().out
    name = read_manifest(folder, DetectorManifest).parts[0].classes[0]
    assert _run(["drop-class", str(folder), name, "--out", str(tmp_path / "out")]) == 4
    assert "no file can have this name" in capsys.readouterr().err


GOOD: dict[str, Any] = {
    "method": "average", "stages": ["a", "b"], "params": {}, "batchnorm": {}, "facts": {},
    "part": None, "classes": {},
    "tensors": {"w": {"scalars": 4, "alpha": None, "p": None, "norm_old": 1.0, "norm_new": 1.0,
                      "cosine": 0.5, "sign_conflict": 0.5, "values": {}}},
}  # fmt: skip


def tensor(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "tensors": {"w": {**GOOD["tensors"]["w"], **changes}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [
        5, None, [], {}, {**GOOD, "method": None}, {**GOOD, "params": [1]},
        {**GOOD, "batchnorm": 3}, {**GOOD, "stages": [1]}, {**GOOD, "stages": "ab"},
        {**GOOD, "facts": None}, {**GOOD, "tensors": []}, {**GOOD, "tensors": {"w": 5}},
        {**GOOD, "more": 1}, tensor(more=1), tensor(scalars="x"), tensor(scalars=10**400),
        tensor(alpha="x"), tensor(alpha=float("nan")), tensor(norm_new=float("inf")),
        tensor(sign_conflict=2), tensor(values={"k": []}), tensor(cosine="x"),
        {**GOOD, "part": 3}, {**GOOD, "classes": {"a": 1}},
        {**GOOD, "batchnorm": {"k": float("nan")}},
    ],
    ids=lambda row: json.dumps(row)[-40:],
)  # fmt: skip
def test_traces_that_no_merge_wrote(
    row: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(folder, lambda manifest: None, trace=[row])
    with pytest.raises(ModelError, match=r"not a merge trace|impossible numbers") as caught:
        load_traces(folder)
    assert caught.value.where == str(folder / "trace.json")
    assert len(str(caught.value)) < 1000
    for line in (["log", str(folder)], ["log", str(folder), "--json"]):
        assert _run(line) == 0
        assert "merge trace" in capsys.readouterr().out


def test_traces_of_merges_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(folder, lambda manifest: None, trace=[GOOD])
    (trace,) = load_traces(folder)
    assert {key: value for key, value in trace.as_dict().items() if key != "summary"} == GOOD
    assert _run(["log", str(folder)]) == 0
    assert "a + b: 1 tensors" in capsys.readouterr().out
    older = {key: value for key, value in GOOD.items() if key not in ("part", "classes")}
    changed(folder, lambda manifest: None, trace=[older])
    assert load_traces(folder) == (trace,)


@pytest.mark.parametrize("name", ["x\n  checked by duet", "x\x1b[2J", "a\u202eb"])
def test_tensor_names_stay_on_their_line(name: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from duet.increments.tensorfile import read_tensors

    save_file({name: torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="no tensors of a detector") as caught:
        read_tensors(tmp_path / "x.safetensors")
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    assert "checked by duet\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["complex64", "float8_e4m3fn", "uint16"])
def test_numbers_that_no_detector_has(dtype: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from duet.increments.tensorfile import layout_of, mapped_output, read_tensors

    tensors = {"w": torch.ones(2).to(getattr(torch, dtype))}
    save_file(tensors, tmp_path / "x.safetensors")
    for call in (
        lambda: read_tensors(tmp_path / "x.safetensors"),
        mapped_output(tmp_path / "y.safetensors", layout_of(tensors)).__enter__,
    ):
        with pytest.raises(ModelError, match=f"'w': {dtype}"):
            call()
    assert not (tmp_path / "y.safetensors").exists()


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_start_weights_of_other_numbers_are_named(dtype: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from duet.increments.base import load_start

    save_file({"w": torch.ones(2).to(getattr(torch, dtype))}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=f"got torch.{dtype} in 'w'") as caught:
        load_start(tmp_path / "x.safetensors")
    assert caught.value.where == str(tmp_path / "x.safetensors")


def test_keys_stay_on_their_line(folder: Path) -> None:
    changed(folder, lambda manifest: manifest.update({"x\n  checked by duet": 1}))
    with pytest.raises(ModelError, match=r"x\\n  checked by duet: unknown key"):
        read_manifest(folder, DetectorManifest)
