"""What a run would refuse is refused before it trains, by the dry run and the run alike."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from places import REPO
from safetensors.torch import load_file, save_file

from duet.cli.main import _run
from duet.config import parse_config
from duet.devices import parse_device, require_device
from duet.errors import Collected, ConfigError, DataError, DuetError, ModelError
from duet.families.table import resolve_family
from duet.files import sha256_file
from duet.merging.table import METHODS
from duet.runs.inputs import read_inputs
from duet.runs.plan import RunPlan, plan_run
from duet.runs.walls import require_runnable
from duet.training.schedule import Schedule
from duet.weights.start import recognise

YOLO = REPO / "weights" / "yolo11n-emoji.safetensors"
DETR = REPO / "weights" / "rtdetr-tiny-emoji.safetensors"
SCHEDULE = {"epochs": 1, "batch": 4, "image_size": 64, "fisher_images": 4}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series of two increments that can be run, with everything it needs."""
    folder = tmp_path_factory.mktemp("walls")
    for domain, classes in (("day", ["cup", "plate"]), ("night", ["bottle"])):
        for split, count in (("train", 6), ("val", 2)):
            images, labels = folder / domain / "images" / split, folder / domain / "labels" / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng([len(classes), count, number]).integers(
                    0, 255, (48, 64, 3), np.uint8
                )
                Image.fromarray(noise).save(images / f"{number}.png")
                (labels / f"{number}.txt").write_text(f"{number % len(classes)} 0.5 0.5 0.4 0.4\n")
        about = {"names": classes, "train": "images/train", "val": "images/val"}
        (folder / domain / "data.yaml").write_text(yaml.safe_dump(about))
    write(folder / "schedule.yaml", SCHEDULE)
    write(folder / "series.yaml", series())
    return folder


def series(**changes: Any) -> dict[str, Any]:
    first = {"domain": "day", "data": "day/data.yaml", "classes": ["cup", "plate"]}
    second = {"domain": "night", "data": "night/data.yaml", "classes": ["bottle"]}
    return {"schema": 1, "name": "tiny", "increments": [first, second], **changes}


def write(path: Path, content: Any) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def weights_with(
    path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None], *, sidecar: bool = True
) -> Path:
    """Write YOLO's start weights with changed tensors and facts."""
    tensors, facts = load_file(YOLO), json.loads(YOLO.with_suffix(".json").read_text())
    facts.pop("sha256")
    change(tensors, facts)
    save_file(tensors, path)
    if sidecar:
        facts = {"sha256": sha256_file(path), **facts}
        path.with_suffix(".json").write_text(json.dumps(facts))
    return path


def spoil(tensors: dict[str, Any], _facts: dict[str, Any]) -> None:
    tensors["model.0.conv.weight"].view(-1)[3] = float("nan")


def double(_tensors: dict[str, Any], facts: dict[str, Any]) -> None:
    facts["classes"] = ["cat"] * len(facts["classes"])


def empty(tensors: dict[str, Any], facts: dict[str, Any]) -> None:
    tensors.clear()
    facts.clear()


def other_hash(_tensors: dict[str, Any], facts: dict[str, Any]) -> None:
    facts["sha256"] = "0" * 64


def nothing(_tensors: dict[str, Any], _facts: dict[str, Any]) -> None:
    """Change nothing."""


def cut(path: Path) -> Path:
    path.write_bytes(YOLO.read_bytes()[:200_000])
    return path


def tensors_alone(path: Path) -> Path:
    torch.save({"model.0.conv.weight": torch.zeros(2)}, path)
    return path


def method(path: Path, **settings: Any) -> Path:
    return write(path, {"name": path.stem, "head": "rows", **settings})


Broken = Callable[[Path, Path], list[object]]
"""From the sound folder and an empty one to the options that differ."""

BROKEN: dict[str, tuple[int, str, Broken]] = {
    # devices: nobody has a thousand GPUs
    "gpu": (2, "device cpu takes about", lambda a, b: ["--device", "999"]),
    "gpu-name": (2, "got device 'cuda:998'", lambda a, b: ["--device", "cuda:998"]),
    "gpus": (2, "got device 'cuda:0,cuda:999'", lambda a, b: ["--device", "0,999"]),
    "device-word": (2, "'gpu' is no device", lambda a, b: ["--device", "gpu"]),
    "device-twice": (2, "'0, 0,1' is no device", lambda a, b: ["--device", "0, 0,1"]),
    "device-in-schedule": (
        2, "'tpu' is no device",
        lambda a, b: ["--train", write(b / "s.yaml", SCHEDULE | {"device": "tpu"})],
    ),
    # schedules
    "batch": (2, "range 1<=x", lambda a, b: ["--batch", "0"]),
    "epochs": (2, "epochs", lambda a, b: ["--train", write(b / "s.yaml", {"epochs": 0})]),
    "size": (2, "multiple of", lambda a, b: ["--train", write(b / "s.yaml", {"image_size": 70})]),
    "rate": (2, "lr: ", lambda a, b: ["--train", write(b / "s.yaml", {"lr": float("nan")})]),
    "workers": (2, "workers", lambda a, b: ["--train", write(b / "s.yaml", {"workers": -1})]),
    "momentum": (2, "below 1", lambda a, b: ["--train", write(b / "s.yaml", {"momentum": 1.0})]),
    "seed": (2, "range", lambda a, b: ["--seed", str(2**32)]),
    "no-schedule": (2, "cannot read", lambda a, b: ["--train", b / "none.yaml"]),
    # weights and architectures
    "other-size": (
        4, "is a yolo11n, but the architecture says yolo11s.yaml",
        lambda a, b: ["--architecture", "yolo11s.yaml"],
    ),
    "other-family": (
        4, "is a yolo11n, but the architecture says rtdetr-l.yaml",
        lambda a, b: ["--architecture", "rtdetr-l.yaml"],
    ),
    "no-architecture": (
        4, "no detector family has an architecture", lambda a, b: ["--architecture", "resnet50"],
    ),
    "nan": (4, "model.0.conv.weight", lambda a, b: [
        "--weights", weights_with(b / "nan.safetensors", spoil),
    ]),
    "doubled-classes": (4, "cat", lambda a, b: [
        "--weights", weights_with(b / "twice.safetensors", double),
    ]),
    "no-tensors": (4, "", lambda a, b: [
        "--weights", weights_with(b / "empty.safetensors", empty),
        "--architecture", "yolo11n.yaml",
    ]),
    "other-hash": (4, "SHA-256", lambda a, b: [
        "--weights", weights_with(b / "hash.safetensors", other_hash),
    ]),
    "cut": (4, "", lambda a, b: [
        "--weights", cut(b / "cut.safetensors"), "--architecture", "yolo11n.yaml",
    ]),
    "state-dict": (4, "", lambda a, b: [
        "--weights", tensors_alone(b / "x.pt"), "--architecture", "yolo11n.yaml",
    ]),
    "text": (2, "no file of weights", lambda a, b: ["--weights", REPO / "README.md"]),
    "folder": (2, "a folder", lambda a, b: ["--weights", b]),
    "no-weights": (2, "no such file", lambda a, b: ["--weights", b / "x.safetensors"]),
    # methods
    "method": (2, "unknown strategy", lambda a, b: ["--strategies", "duet-plsu"]),
    "methods-twice": (2, "twice", lambda a, b: ["--strategies", "seq-ft,seq-ft"]),
    "images": (2, "unlabelled images", lambda a, b: [
        "--strategy", method(b / "m.yaml", merge={"method": "concrete"}),
    ]),
    "fisher": (2, "fisher_images: 0", lambda a, b: [
        "--strategy", "ewc", "--train", write(b / "s.yaml", SCHEDULE | {"fisher_images": 0}),
    ]),
    "filter": (4, "no filter fits", lambda a, b: [
        "--strategy", method(b / "m.yaml", merge={
            "method": "ties", "params": {"density": [{"filter": "none.*", "value": 0.5}]},
        }),
    ]),
    "parallel-decoders": (4, "parallel decoders", lambda a, b: [
        "--weights", DETR,
        "--strategy", method(b / "m.yaml", head="parallel", old_negatives="train"),
    ]),
    # data and folders
    "split": (3, "no split 'dev'", lambda a, b: ["--split", "dev"]),
    "out-file": (1, "expected a folder", lambda a, b: ["--out", a / "series.yaml"]),
    "out-below-file": (1, "expected a folder", lambda a, b: ["--out", a / "series.yaml" / "x"]),
    "out-among-images": (1, "would count as data", lambda a, b: [
        "--out", a / "day" / "images" / "train" / "run",
    ]),
    "space": (1, "GB are free", lambda a, b: []),
}  # fmt: skip


def attempt(
    words: list[object], capsys: pytest.CaptureFixture[str], *, dry: bool
) -> tuple[int, dict[str, Any]]:
    code = _run([*map(str, words), "--json", *(["--dry-run"] if dry else [])])
    record: dict[str, Any] = json.loads(capsys.readouterr().err.strip().splitlines()[-1])
    return code, record


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_the_dry_run_refuses_what_the_run_refuses_before_it_trains(
    name: str, there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    code, words, options = BROKEN[name]
    if name == "space":
        full = shutil.disk_usage(there)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    defaults: dict[str, object] = {
        "--train": there / "schedule.yaml", "--weights": YOLO, "--out": tmp_path / "out",
        "--strategies": "seq-ft",
    }  # fmt: skip
    given = options(there, tmp_path)
    if "--strategy" in given:
        defaults.pop("--strategies")
    base = [word for key, value in defaults.items() if key not in given for word in (key, value)]
    command = ["run", there / "series.yaml", *base, *given]
    dry = attempt(command, capsys, dry=True)
    assert dry == attempt(command, capsys, dry=False)
    assert dry[0] == dry[1]["exit_code"] == code
    assert words in f"{dry[1]['message']} {dry[1]['suggestion']}"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_all_reasons_are_told_at_once(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, record = attempt(
        ["run", there / "series.yaml", "--train", there / "schedule.yaml", "--weights", YOLO,
         "--out", there / "series.yaml", "--device", "999",
         "--architecture", "yolo11s.yaml"], capsys, dry=True,
    )  # fmt: skip
    assert code == 2
    for words in ("a folder", "device 'cuda:999'", "is a yolo11n", "(3 problems)"):
        assert words in record["message"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [["base"], ["increment", "night"]])
def test_single_stages_refuse_the_same(
    command: list[str], there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = command
    code, record = attempt(
        [name, there / "series.yaml", *rest, "--train", there / "schedule.yaml",
         "--weights", YOLO, "--out", tmp_path / "out", "--device", "999"], capsys, dry=False,
    )  # fmt: skip
    assert code == 2
    assert "--device cpu takes about" in record["suggestion"]
    assert not (tmp_path / "out").exists()


def test_the_demo_draws_nothing_for_weights_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert attempt(["demo", "--out", out, "--weights", "nope"], capsys, dry=False)[0] == 2
    assert not out.exists()


def planned(
    there: Path, tmp_path: Path, methods: tuple[str, ...] = ("duet-plus",), **changes: Any
) -> RunPlan:
    """Plan a run of the tiny series, as `duet run` does."""
    out = changes.pop("out", tmp_path / "out")
    given = {"train": there / "schedule.yaml", "weights": YOLO, **changes}
    return plan_run(read_inputs(there / "series.yaml", **given), methods, out=out, jobs=1)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [YOLO, DETR], ids=["yolo", "rtdetr"])
def test_every_shipped_method_passes(weights: Path, there: Path, tmp_path: Path) -> None:
    methods = tuple(sorted(path.stem for path in (REPO / "configs" / "strategy").glob("*.yaml")))
    theta_0 = require_runnable(planned(there, tmp_path, methods, weights=weights))
    assert theta_0.tensors
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_every_merge_passes_that_needs_no_images(there: Path, tmp_path: Path) -> None:
    names = [name for name, row in METHODS.items() if "images" not in row.needs]
    files = [str(method(tmp_path / f"{name}.yaml", merge={"method": name})) for name in names]
    plan = planned(there, tmp_path, tuple(files))
    before = torch.random.get_rng_state()
    require_runnable(plan)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.slow
def test_data_that_a_program_makes_name_the_program(there: Path, tmp_path: Path) -> None:
    made = series(prepare="duet data emoji {root} --protocol 4-phase", root="my data")
    path = write(tmp_path / "made.yaml", made)
    with pytest.raises(DataError, match=r"duet data emoji '.*my data' --protocol 4-phase"):
        read_inputs(path, weights=YOLO)
    for command in ("rm -rf {root}", "duet data emoji; rm x", "duet data emoji $(x)"):
        bad = write(tmp_path / "bad.yaml", series(prepare=command))
        with pytest.raises(ConfigError, match="prepare"):
            read_inputs(bad, weights=YOLO)
    for shipped in sorted((REPO / "configs" / "series").glob("*.yaml")):
        away = tmp_path / "away"
        with pytest.raises(
            DataError, match=r"duet data emoji|tools/prepare_(pascal|photos|weather)\.py"
        ):
            read_inputs(shipped, weights=YOLO, data_root=away)


@pytest.mark.slow
def test_the_architecture_is_told_by_the_file_itself(there: Path, tmp_path: Path) -> None:
    bare = weights_with(tmp_path / "bare.safetensors", nothing, sidecar=False)
    assert read_inputs(there / "series.yaml", weights=bare).architecture == "yolo11n.yaml"
    assert recognise(DETR) == "rtdetr-tiny.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["yolov8n.yaml", "yolo26n-p2.yaml"])
def test_architectures_are_known_by_their_tensors(architecture: str) -> None:
    family = resolve_family("yolo")
    start = family.fresh(architecture, ["a", "b"], seed=0)
    assert family.architecture_of(start.tensors) == architecture
    changed = start.tensors["model.0.conv.weight"][:3]
    assert family.architecture_of({**start.tensors, "model.0.conv.weight": changed}) is None
    assert family.architecture_of({"x": changed}) is None


@pytest.mark.slow
def test_a_network_refuses_sizes_off_its_stride(there: Path, tmp_path: Path) -> None:
    from duet.increments.base import save_base

    start = resolve_family("yolo").fresh("yolov8n-p6.yaml", ["a"], seed=0)
    save_base(tmp_path / "p6.safetensors", start.tensors, info={"architecture": "yolov8n-p6.yaml"})
    train = write(tmp_path / "s.yaml", SCHEDULE | {"image_size": 96})
    weights = str(tmp_path / "p6.safetensors")
    plan = planned(there, tmp_path, train=train, weights=weights)
    with pytest.raises(ModelError, match="96 px") as caught:
        require_runnable(plan)
    assert "multiple of 64" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("text", "name", "torch_name"),
    [
        ("cpu", "cpu", "cpu"), ("CPU", "cpu", "cpu"), ("mps", "mps", "mps"),
        ("cuda", "0", "cuda:0"), ("0", "0", "cuda:0"), ("cuda:1", "1", "cuda:1"),
        ("0,1", "0,1", "cuda:0"), (" 0, 1", "0,1", "cuda:0"), ("cuda:0,1", "0,1", "cuda:0"),
        ("cuda:0,cuda:3", "0,3", "cuda:0"),
    ],
)  # fmt: skip
def test_both_languages_of_devices_are_one(text: str, name: str, torch_name: str) -> None:
    device = parse_device(text)
    assert (str(device), device.torch_name) == (name, torch_name)
    assert parse_device(str(device)) == device
    assert Schedule(device=text).device == name


@pytest.mark.parametrize("text", ["", "gpu", "0,0", "cuda:", "cuda:x", "cpu,0", "-1", "0,", "1.0"])
def test_what_is_no_device(text: str) -> None:
    with pytest.raises(ConfigError, match="is no device"):
        parse_device(text)
    with pytest.raises(ConfigError, match="is no device"):
        parse_config(Schedule, {"device": text}, where="x")


def test_a_device_that_is_not_there_says_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert require_device(parse_device("cpu")).kind == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert require_device(parse_device("0,1")).numbers == (0, 1)
    with pytest.raises(ConfigError, match="no cuda:2: this machine has 2"):
        require_device(parse_device("1,2"))
    with pytest.raises(ConfigError, match="one device"):
        parse_device("0,1").single("a detector runs")


def test_collected_errors_keep_their_kind() -> None:
    found = Collected()
    found.raise_all("nothing")
    with found.noted():
        raise DataError("first", where="a", remedy="b")
    with pytest.raises(DataError, match=r"^a: first\n  b$"):
        found.raise_all("x")
    for _ in range(2):
        with found.noted():
            raise ModelError("second")
    with pytest.raises(DuetError, match=r"x \(2 problems\)") as caught:
        found.raise_all("x")
    assert type(caught.value) is DataError


@pytest.mark.slow
def test_a_plan_says_what_has_no_effect(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    train = write(tmp_path / "s.yaml", SCHEDULE | {"precision": "bf16"})
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    words = ["run", there / "series.yaml", "--train", train, "--weights", YOLO, "--dry-run"]
    assert _run([*map(str, words), "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [
        "cpu has no bfloat16 of its own: precision bf16 is slower than fp32 here"
    ]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything is writable")
def test_a_folder_that_may_not_be_written_is_refused(there: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    plan = planned(there, tmp_path, out=tmp_path / "locked" / "out")
    with pytest.raises(DuetError, match="cannot write"):
        require_runnable(plan)


@pytest.mark.slow
def test_a_run_counts_its_images(there: Path, tmp_path: Path) -> None:
    merge = {"method": "mtda", "params": {"weights": "images"}}
    code = _run([*map(str, (
        "run", there / "series.yaml", "--dry-run", "--json", "--weights", YOLO,
        "--train", there / "schedule.yaml", "--out", tmp_path / "out",
        "--strategy", method(tmp_path / "m.yaml", merge=merge),
    ))])  # fmt: skip
    assert code == 0
