"""What a command reads, it reads once: manifests and tensors here, images in tests of their own."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import factories_run as make
import pytest

from duet.errors import ModelError
from duet.increments import manifest
from duet.increments.manifest import MANIFEST, DetectorManifest, read_manifest
from duet.vectors import tensors
from duet.weights import start

pytestmark = pytest.mark.slow


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each manifest is parsed."""
    counts = Counter[str]()
    read = manifest.read_json

    def counted(path: Path, **options: Any) -> Any:
        counts[str(path)] += 1
        return read(path, **options)

    manifest._parsed.cache_clear()
    monkeypatch.setattr(manifest, "read_json", counted)
    return counts


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each set of tensors is hashed, by its hash."""
    counts = Counter[str]()

    class Counted:
        def __init__(self) -> None:
            self.digest = hashlib.sha256()
            self.update = self.digest.update

        def hexdigest(self) -> str:
            found = self.digest.hexdigest()
            counts[found] += 1
            return found

    monkeypatch.setattr(tensors, "hashlib", SimpleNamespace(sha256=Counted))
    start._FINGERPRINTS.clear()
    return counts


@pytest.mark.parametrize(
    "command",
    ["merge", "log", "diff", "revert", "scale", "drop-class", "eval", "export", "predict"],
)
def test_manifests_are_parsed_and_tensors_hashed_once_a_command(
    command: str, base: Path, tmp_path: Path, parsed: Counter[str], hashed: Counter[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run, series = make.finished_run(base)[0], make.tiny(base).series
    first, last = (run / "models" / "duet-plus" / name for name in ("1-flat", "2-comic"))
    increments = [run / "increments" / "duet-plus" / name for name in ("flat", "comic")]
    image = next((make.tiny(base).folder / "data" / "comic" / "images" / "val").iterdir())
    words: dict[str, tuple[object, ...]] = {
        "merge": (*increments, "--method", "ties", "--out", tmp_path / "out"),
        "log": (last,),
        "diff": (first, last),
        "revert": (last, "comic", "--out", tmp_path / "out"),
        "scale": (last, "comic", 0.5, "--out", tmp_path / "out"),
        "drop-class": (last, "aeroplane", "--out", tmp_path / "out"),
        "eval": (last, series, "--split", "val"),
        "export": (last, "--to", "onnx", "--out", tmp_path / "out.onnx"),
        "predict": (last, image, "--out", tmp_path / "out"),
    }
    done = make.duet_here(capsys, command, *words[command])
    assert done.code == 0, done.err
    for counts in (parsed, hashed):
        assert counts
        assert {what: count for what, count in counts.items() if count > 1} == {}


def test_a_manifest_that_changed_is_parsed_again(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(make.finished_run(base)[0] / "models" / "duet-plus" / "1-flat", folder)
    assert read_manifest(folder, DetectorManifest).parts
    path = folder / MANIFEST
    path.write_text(path.read_text().replace("flat", "flot"))  # as long as before
    with pytest.raises(ModelError, match="edited or damaged"):
        read_manifest(folder, DetectorManifest)
