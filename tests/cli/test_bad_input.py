"""Whatever a user gets wrong: the right exit code, what, where, a remedy, and nothing written."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories_run as make
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def run(base: Path) -> Path:
    return make.finished_run(base)[0]


class Place:
    """A series, and copies of what a run made of it, for one test to damage."""

    def __init__(self, folder: Path, series: make.Tiny, run: Path) -> None:
        self.series = make.copy_tiny(series, folder / "tiny")
        self.out = folder / "out"
        self.flat, self.comic = folder / "flat", folder / "comic"
        self.model = folder / "model"
        shutil.copytree(run / "increments/duet-plus/flat", self.flat)
        shutil.copytree(run / "increments/duet-plus/comic", self.comic)
        shutil.copytree(run / "models/duet-plus/2-comic", self.model)
        self.image = next((self.series.folder / "data/flat/images/train").iterdir())
        self.label = self.series.folder / "data/flat/labels/train" / f"{self.image.stem}.txt"
        self.evil = folder / "evil.pt"

    def run(self, *more: object) -> list[object]:
        return [
            "run",
            self.series.series,
            "--strategy",
            self.series.method,
            "--out",
            self.out,
            *more,
        ]

    def merge(self, *more: object) -> list[object]:
        return [
            "merge", self.flat, self.comic, "--weights", self.series.weights, "--out", self.out,
            *more,
        ]  # fmt: skip

    def eval(self) -> list[object]:
        return ["eval", self.model, self.series.series]

    def edit_series(self, change: Callable[[Any], object]) -> None:
        document = yaml.safe_load(self.series.series.read_text())
        change(document)
        self.series.series.write_text(yaml.safe_dump(document))


@pytest.fixture
def place(tmp_path: Path, base: Path, run: Path) -> Place:
    return Place(tmp_path, make.tiny(base), run)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def poison(path: Path) -> None:
    """Put a NaN into base weights and drop the sidecar that would notice the change."""
    tensors = load_file(path)
    next(t for t in tensors.values() if t.is_floating_point() and t.ndim == 1)[0] = float("nan")
    save_file(tensors, path)
    path.with_suffix(".json").write_text('{"architecture": "yolo11n.yaml"}')
    path.with_suffix(".json").unlink()


def other_base(path: Path) -> None:
    """Replace θ_0 by another one of the same shape."""
    tensors = {
        name: tensor + 0.5 if tensor.is_floating_point() else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path)
    path.with_suffix(".json").unlink()


class Evil:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def plant_evil(place: Place) -> Path:
    """Write `evil.pt`; loading it would create the file that is returned."""
    proof = place.evil.with_name("proof")
    torch.save({"model": Evil(proof)}, place.evil)
    return proof


def damage_weights(place: Place) -> list[object]:
    truncate(place.series.weights)
    place.series.weights.with_suffix(".json").unlink()
    return place.run("--architecture", "yolo11n.yaml")


def change_weights(place: Place) -> list[object]:
    truncate(place.series.weights)
    return place.run()


def nan_weights(place: Place) -> list[object]:
    poison(place.series.weights)
    return place.run("--architecture", "yolo11n.yaml")


def text_weights(place: Place) -> list[object]:
    (place.out.parent / "w.safetensors").write_text("hello")
    return place.run(
        "--weights", place.out.parent / "w.safetensors", "--architecture", "yolo11n.yaml"
    )


def missing_weights(place: Place) -> list[object]:
    return place.run("--weights", place.out.parent / "nowhere.safetensors")


def evil_weights(place: Place) -> list[object]:
    plant_evil(place)
    return place.run("--weights", place.evil, "--architecture", "yolo11n.yaml")


def evil_base(place: Place) -> list[object]:
    plant_evil(place)
    more = ["--out", place.out, "--weights", place.evil, "--architecture", "yolo11n.yaml"]
    return ["base", place.series.series, *more]


def evil_renamed(place: Place) -> list[object]:
    plant_evil(place)
    renamed = place.evil.with_suffix(".safetensors")
    place.evil.rename(renamed)
    return place.run("--weights", renamed, "--architecture", "yolo11n.yaml")


def evil_merge(place: Place) -> list[object]:
    plant_evil(place)
    return place.merge("--weights", place.evil)


def evil_model(command: str) -> Callable[[Place], list[object]]:
    def damage(place: Place) -> list[object]:
        plant_evil(place)
        more = {
            "predict": [place.image],
            "eval": [place.series.series],
            "export": ["--to", "pt", "--out", place.out],
        }
        return [command, place.evil, *more[command]]

    damage.__name__ = f"evil_{command}"
    return damage


def truncated_increment(place: Place) -> list[object]:
    truncate(place.comic / "increment.safetensors")
    return place.merge()


def renamed_increment(place: Place) -> list[object]:
    for folder, other in ((place.flat, "x"), (place.comic, "y")):
        (folder / "increment.safetensors").rename(folder.parent / other)
    (place.flat.parent / "x").rename(place.comic / "increment.safetensors")
    (place.flat.parent / "y").rename(place.flat / "increment.safetensors")
    return place.merge()


def data_as_increment(place: Place) -> list[object]:
    folder = place.series.folder / "data"
    return ["merge", folder, "--weights", place.series.weights, "--out", place.out]


def increments_out_of_order(place: Place) -> list[object]:
    return [
        "merge", place.comic, place.flat, "--weights", place.series.weights, "--out", place.out,
    ]  # fmt: skip


def foreign_base(place: Place) -> list[object]:
    other_base(place.series.weights)
    return place.merge()


def edited_manifest(place: Place) -> list[object]:
    path = place.comic / "manifest.json"
    path.write_text(path.read_text().replace('"dog"', '"wolf"'))
    return place.merge()


def truncated_detector(place: Place) -> list[object]:
    truncate(place.model / "model.safetensors")
    return place.eval()


def renamed_detector(place: Place) -> list[object]:
    (place.model / "model.safetensors").rename(place.model / "best.safetensors")
    return place.eval()


def missing_detector(place: Place) -> list[object]:
    shutil.rmtree(place.model)
    return place.eval()


def class_twice(place: Place) -> list[object]:
    place.edit_series(lambda s: s["increments"][1]["classes"].append("cat"))
    return place.run()


def unknown_class(place: Place) -> list[object]:
    place.edit_series(lambda s: s["increments"][1]["classes"].append("unicorn"))
    return place.run()


def corrupt_image(place: Place) -> list[object]:
    place.image.write_bytes(b"not an image")
    return place.run()


def truncated_image(place: Place) -> list[object]:
    truncate(place.image)
    return place.run()


def broken_label(place: Place) -> list[object]:
    place.label.write_text("0 0.5 0.5 zero 0.1\n")
    return place.run()


def class_out_of_range(place: Place) -> list[object]:
    place.label.write_text("99 0.5 0.5 0.1 0.1\n")
    return place.run()


def box_out_of_range(place: Place) -> list[object]:
    place.label.write_text("0 1.5 0.5 0.1 0.1\n")
    return place.run()


def missing_data(place: Place) -> list[object]:
    (place.series.folder / "data/comic/data.yaml").unlink()
    return place.run()


def missing_root(place: Place) -> list[object]:
    return place.run("--data-root", place.out.parent / "nowhere")


def downloading_data(place: Place) -> list[object]:
    path = place.series.folder / "data/flat/data.yaml"
    proof = place.out.parent / "proof"
    path.write_text(path.read_text() + f"download: |\n  open({str(proof)!r}, 'w')\n")
    shutil.rmtree(path.parent / "images")
    return place.run()


def missing_series(place: Place) -> list[object]:
    place.series.series.unlink()
    return place.run()


def not_yaml(place: Place) -> list[object]:
    place.series.series.write_text("increments: [")
    return place.run()


def unsafe_yaml(place: Place) -> list[object]:
    proof = place.out.parent / "proof"
    place.series.series.write_text(f"!!python/object/apply:os.system ['touch {proof}']")
    return place.run()


def doubled_key(place: Place) -> list[object]:
    data = place.series.folder / "data/flat/data.yaml"
    data.write_text(data.read_text() + "\ntrain: images/val\n")
    return place.run()


def unknown_strategy(place: Place) -> list[object]:
    return ["run", place.series.series, "--strategy", "duet-pluss", "--out", place.out]


def unknown_merge(place: Place) -> list[object]:
    return place.merge("--method", "averag")


def unknown_parameter(place: Place) -> list[object]:
    return place.merge("--set", "alpha_bas=0.5")


def bad_parameter(place: Place) -> list[object]:
    return place.merge("--set", "alpha_base=[1")


def unknown_architecture(place: Place) -> list[object]:
    return place.run("--architecture", "yolo99z.yaml")


def unknown_increment(place: Place) -> list[object]:
    return ["increment", place.series.series, "comik", "--out", place.out]


def no_base(place: Place) -> list[object]:
    return ["increment", place.series.series, "comic", "--out", place.out]


def bad_schedule(place: Place) -> list[object]:
    path = place.series.folder / "schedule.yaml"
    path.write_text("epoch: 3\nbatch: none\nimage_size: 100\n")
    return place.run()


def no_report(place: Place) -> list[object]:
    return ["report", place.out]


def folder_in_the_way(place: Place) -> list[object]:
    return ["merge", place.flat, "--weights", place.series.weights, "--out", place.series.folder]


def overwrite_foreign(place: Place) -> list[object]:
    return [
        "merge", place.flat, "--weights", place.series.weights, "--overwrite",
        "--out", place.series.folder,
    ]  # fmt: skip


def out_is_a_file(place: Place) -> list[object]:
    place.out.write_text("a file")
    return place.run()


def bad_split(place: Place) -> list[object]:
    return [*place.eval(), "--split", "tset"]


CASES: list[tuple[Callable[[Place], list[object]], int, str]] = [
    # weights
    (damage_weights, 4, "not a complete safetensors file"),
    (change_weights, 4, "content changed"),
    (nan_weights, 4, "NaN or infinite"),
    (text_weights, 4, "not a complete safetensors file"),
    (missing_weights, 2, "no such file of start weights"),
    (evil_weights, 4, "posix.system"),
    (evil_base, 4, "posix.system"),
    (evil_merge, 4, "posix.system"),
    (evil_renamed, 4, "not a complete safetensors file"),
    (evil_model("predict"), 4, "evil.pt"),
    (evil_model("eval"), 4, "evil.pt"),
    (evil_model("export"), 4, "evil.pt"),
    # increments and detectors
    (truncated_increment, 4, "content changed"),
    (renamed_increment, 4, "content changed"),
    (data_as_increment, 4, "holds manifest.json"),
    (increments_out_of_order, 4, "in order"),
    (foreign_base, 4, "base"),
    (edited_manifest, 4, "edited"),
    (truncated_detector, 4, "content changed"),
    (renamed_detector, 4, "missing"),
    (missing_detector, 4, "no such file or folder"),
    # data
    (class_twice, 3, "'cat'"),
    (unknown_class, 3, "unicorn"),
    (corrupt_image, 3, "image"),
    (truncated_image, 3, "image"),
    (broken_label, 3, "zero"),
    (class_out_of_range, 3, "99"),
    (box_out_of_range, 3, "1.5"),
    (missing_data, 3, "data.yaml"),
    (missing_root, 3, "nowhere"),
    (downloading_data, 3, "data.yaml"),
    (bad_split, 3, "did you mean 'test'"),
    # configuration
    (missing_series, 2, "cannot read"),
    (not_yaml, 2, "not valid YAML"),
    (unsafe_yaml, 2, "not valid YAML"),
    (doubled_key, 3, "'train' first here"),
    (unknown_strategy, 2, "did you mean 'duet-plus'"),
    (unknown_merge, 2, "did you mean 'average'"),
    (unknown_parameter, 2, "did you mean 'alpha_base'"),
    (bad_parameter, 2, "not a YAML value"),
    (unknown_architecture, 4, "yolo99z.yaml"),
    (unknown_increment, 2, "did you mean 'comic'"),
    (no_base, 4, "run `duet base"),
    (no_report, 3, "results.json"),
    # places
    (folder_in_the_way, 1, "not empty"),
    (overwrite_foreign, 1, "not a folder that duet wrote"),
    (out_is_a_file, 1, "cannot write"),
]


def name_of(value: object) -> str | None:
    """Call a case by its function alone."""
    if callable(value):
        return value.__name__
    return "exit" if isinstance(value, int) else "says"


@pytest.mark.parametrize(("damage", "code", "said"), CASES, ids=name_of)
def test_bad_input_is_one_paragraph_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
    place: Place,
    tmp_path: Path,
    damage: Callable[[Place], list[object]],
    code: int,
    said: str,
) -> None:
    line = damage(place)
    before = make.listing(tmp_path)
    done = make.duet_here(capsys, *line)
    assert (done.code, done.out) == (code, ""), done.err
    assert said in done.err
    message = done.err[done.err.index("Error [") :]
    assert "Traceback" not in done.err
    assert "\n\n" not in message.strip()
    assert "\n  " in message, "no remedy"
    assert make.listing(tmp_path) == before
    assert not (tmp_path / "proof").exists()
    record = make.duet_here(capsys, *line, "--json").error()
    assert said in json.dumps(record, ensure_ascii=False)
    assert record["where"]
    assert record["suggestion"]


def test_a_schedule_shows_all_its_mistakes_at_once(
    capsys: pytest.CaptureFixture[str], place: Place
) -> None:
    done = make.duet_here(capsys, *bad_schedule(place))
    assert done.code == 2
    assert "3 problems" in done.err
    for said in ("did you mean 'epochs'", "batch", "image_size"):
        assert said in done.err


def test_single_increments_do_not_train_jointly(
    capsys: pytest.CaptureFixture[str], place: Place, run: Path
) -> None:
    shutil.copytree(run / "models", place.out / "models")
    before = make.listing(place.out)
    words = ["--strategy", "joint-full", "--out", place.out]
    done = make.duet_here(capsys, "increment", place.series.series, "comic", *words)
    assert done.code == 2, done.err
    assert "use `duet run`" in done.err
    assert make.listing(place.out) == before


# ---- places that cannot be written ------------------------------------------------------------


def test_a_locked_folder_is_left_alone(capsys: pytest.CaptureFixture[str], place: Place) -> None:
    place.out.mkdir()
    with (place.out / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        done = make.duet_here(capsys, *place.run(), "--json")
    assert done.code == 1
    assert "another duet process" in done.error()["message"]
    assert make.listing(place.out) == {}


def test_a_read_only_folder(capsys: pytest.CaptureFixture[str], place: Place) -> None:
    with make.mounted(place.out, "ro,size=1m"):
        for line in (place.run(), [*place.merge(), "--out", place.out / "model"]):
            done = make.duet_here(capsys, *line, "--json")
            assert done.code == 1, done.err
            assert re.search("Read-only|cannot write", done.error()["message"])


def test_a_full_disk_leaves_nothing_half_written(
    capsys: pytest.CaptureFixture[str], place: Place
) -> None:
    with make.mounted(place.out, "size=2m"):
        merged = make.duet_here(capsys, *place.merge("--out", place.out / "model", "--json"))
        assert (merged.code, merged.out) == (1, "")
        assert "No space left" in merged.error()["message"]
        assert make.listing(place.out) == {}
        done = make.duet_here(capsys, *place.run("--no-references", "--json"))
        assert (done.code, done.out) == (1, "")
        assert "GB are free" in done.error()["message"]
        assert not list(place.out.rglob("*.safetensors"))


def test_a_disk_that_fills_up_during_training(
    capsys: pytest.CaptureFixture[str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another program takes the space after the run looked for it.
    room = shutil.disk_usage(place.out.parent)._replace(free=2**40)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    with make.mounted(place.out, "size=18m"):  # the start fits, the checkpoint does not
        done = make.duet_here(capsys, *place.run("--no-references", "--json"))
        assert (done.code, done.out) == (1, "")
        message = done.error()["message"]
        assert "cannot write" in message or "file system refuses" in message
        assert not list(place.out.glob("lab/*/checkpoint.pt"))


@pytest.mark.parametrize("form", ["onnx", "torchscript", "openvino", "pt"])
def test_a_disk_that_is_full_at_an_export(
    capsys: pytest.CaptureFixture[str], place: Place, form: str
) -> None:
    out = place.out
    with make.mounted(out, "size=3m"):
        target = out / "model_openvino_model" if form == "openvino" else out / f"model.{form}"
        line = ("export", place.model, "--to", form, "--out", target, "--json")
        done = make.duet_here(capsys, *line)
        assert (done.code, done.out) == (1, ""), done.err
        assert "cannot write" in done.error()["message"], done.err
        assert make.listing(out) == {}


@pytest.mark.parametrize("command", ["run", "merge"])
def test_a_file_size_limit_is_told_like_a_full_disk(
    capsys: pytest.CaptureFixture[str], place: Place, command: str
) -> None:
    line = place.run("--no-references") if command == "run" else place.merge()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, before[1]))
    try:
        done = make.duet_here(capsys, *line, "--json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (done.code, done.out) == (1, ""), done.err
    assert "File too large" in done.error()["message"]
    assert not list(place.out.rglob("*.safetensors"))


def test_a_pickle_that_would_run_code_does_run_code_elsewhere(place: Place) -> None:
    """The proof of the cases above is worth something: plain unpickling falls for the file."""
    proof = plant_evil(place)
    pickle.loads(pickle.dumps(Evil(proof)))
    assert proof.exists()
