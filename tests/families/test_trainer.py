"""Real trainings of a second: what moves, what must not, what survives a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from factories_series import listing
from factories_states import moved
from factories_trainer import InterruptionError, backward, ready, silent, stop_in_epoch
from factories_training import settled
from factories_yolo import (
    FORMS,
    class_groups,
    flat,
    make_job,
    make_slice,
    make_state,
    micro_schedule,
)
from places import REPO

from duet.config import parse_config
from duet.errors import ConfigError, DataError, DuetError, ModelError
from duet.families.ultralytics.arguments import restore_frozen
from duet.families.ultralytics.names import STATISTIC, head_prefix
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import trained_state, training_model
from duet.families.yolo.train import IncrementTrainer
from duet.increments.state import DetectorState
from duet.runs.worker import command, run_worker
from duet.series import Slice
from duet.training.config import Directional, Distillation
from duet.training.job import read_state
from duet.training.schedule import Augmentation, Schedule
from duet.vectors.task_vector import TaskVector
from duet.vectors.tensors import Tensors

pytestmark = pytest.mark.slow

SIZES = (2, 1)
OLD, NEW = class_groups(SIZES)
IMAGES = 8


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    with settled():
        yield


@pytest.fixture(scope="module")
def new_slice(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    """Return the training data of the second increment."""
    return make_slice(tmp_path_factory.mktemp("new"), NEW, images=IMAGES, seed=2)


@pytest.fixture(scope="module")
def old_slice(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    """Return the training data of the base."""
    return make_slice(tmp_path_factory.mktemp("old"), OLD, images=IMAGES, seed=1)


def train(folder: Path, progress: Callable[[dict[str, Any]], None] = silent) -> DetectorState:
    FAMILY.train(folder, progress)
    return read_state(folder / "trained.safetensors")


def random_direction(state: DetectorState, scale: float = 0.01) -> dict[str, torch.Tensor]:
    """Return a d of L_DC: what the previous stage might have moved."""
    generator = torch.Generator().manual_seed(11)
    return {k: scale * torch.randn(v.shape, generator=generator) for k, v in state.shared.items()}


# ---- what moves and what must not ---------------------------------------------------------------


def groups(state: DetectorState) -> dict[str, dict[str, torch.Tensor]]:
    """Sort all tensors of a state by what they do."""
    prefix = head_prefix(state.shared)
    stock = {**state.shared, **state.buffers}
    stock |= {prefix + name: tensor for name, tensor in state.parts[-1].tensors.items()}
    old = {k: v for k, v in flat(state).items() if k.startswith("part/")}
    last = f"part/{len(state.parts) - 1}/"
    sorted_: dict[str, dict[str, torch.Tensor]] = {
        "old": {k: v for k, v in old.items() if not k.startswith(last)}
    }
    for name, tensor in stock.items():
        layer = name.removeprefix(prefix).split(".")
        kind = "trunk"
        if name.startswith(prefix):
            rows = layer[0] == "cv3" and layer[2] == "2"
            kind = {"cv2": "box", "cv3": "rows" if rows else "tower", "dfl": "dfl"}[layer[0]]
        kind += " statistics" if STATISTIC.search(name) else ""
        sorted_.setdefault(kind, {})[name] = tensor
    return sorted_


def moved_groups(before: DetectorState, after: DetectorState) -> set[str]:
    was, now = groups(before), groups(after)
    return {kind for kind in was if moved(was[kind], now[kind])}


TRUNK = {"trunk", "trunk statistics"}
BOX = {"box", "box statistics"}
TOWER = {"tower", "tower statistics"}
ROWS, PAST = {"rows"}, {"old"}
FREE = {"old_part": "trained", "old_negatives": "train"}


@pytest.mark.parametrize(
    ("form", "settings", "expected"),
    [
        pytest.param("rows", {"phase": "base"}, TRUNK | BOX | TOWER | ROWS, id="base"),
        pytest.param("rows", {}, TRUNK | BOX | TOWER | ROWS, id="rows"),
        pytest.param("towers", {}, TRUNK | TOWER | ROWS, id="towers"),
        pytest.param("parallel", {}, TRUNK | BOX | TOWER | ROWS, id="parallel"),
        pytest.param("rows", {"trunk": "frozen"}, ROWS, id="rows, frozen"),
        pytest.param("towers", {"trunk": "frozen"}, TOWER | ROWS, id="towers, frozen"),
        pytest.param("parallel", {"trunk": "frozen"}, BOX | TOWER | ROWS, id="parallel, frozen"),
        pytest.param("rows", {"phase": "refit"}, ROWS, id="rows, re-fit"),
        pytest.param("towers", {"phase": "refit"}, TOWER | ROWS, id="towers, re-fit"),
        pytest.param("parallel", {"phase": "refit"}, BOX | TOWER | ROWS, id="parallel, re-fit"),
        pytest.param("rows", FREE, TRUNK | BOX | TOWER | ROWS | PAST, id="rows, plain fine-tuning"),
        pytest.param("towers", FREE, TRUNK | TOWER | ROWS | PAST, id="towers, old trained"),
        pytest.param("parallel", FREE, TRUNK | BOX | TOWER | ROWS | PAST, id="parallel, trained"),
    ],
)  # fmt: skip
def test_exactly_these_tensors_move(
    form: str, settings: dict[str, Any], expected: set[str],
    old_slice: Slice, new_slice: Slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    base = settings.get("phase") == "base"
    start = make_state(form, SIZES[:1] if base else SIZES)
    increment = not base and settings.get("phase") != "refit"
    folder = make_job(
        tmp_path / "job", start, old_slice if base else new_slice,
        distill=Distillation(weight=0.1) if increment else None, **settings,
    )  # fmt: skip
    trainer = ready(folder)
    monkeypatch.setattr(trainer, "_setup_train", lambda: None)
    trainer._do_train()
    assert moved_groups(start, trained_state(trainer.model, start)) == expected
    ema = trained_state(trainer.ema.ema, start)
    assert moved_groups(start, restore_frozen(ema, start, trainer.job, trainer.held)) == expected
    written = read_state(folder / "trained.safetensors")
    assert moved_groups(start, written) == expected


@pytest.mark.parametrize("form", FORMS)
def test_untrained_stage_has_no_task_vector(form: str) -> None:
    start = make_state(form)
    back = trained_state(training_model(start, mask_old=True, run_old=False), start)
    assert not moved(flat(start), flat(back))
    vector = TaskVector.between(start.shared, back.shared)
    assert not any(delta.any() for delta in vector.delta.values())
    assert not vector.correction


def test_weights_stay_float32(new_slice: Slice, tmp_path: Path) -> None:
    start = make_state("towers")
    folder = make_job(tmp_path / "job", start, new_slice)
    trainer = ready(folder)
    ema = trainer.ema.ema.state_dict().values()
    assert {tensor.dtype for tensor in ema} == {torch.float32, torch.int64}
    trained = flat(train(folder)).values()
    assert {tensor.dtype for tensor in trained} == {torch.float32, torch.int64}


# ---- the same again, and after a kill ------------------------------------------------------------


@pytest.mark.thorough
def test_same_seed_same_bytes(new_slice: Slice, tmp_path: Path) -> None:
    results = []
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        folder = make_job(
            tmp_path / name, make_state("towers"), new_slice, seed=seed,
            distill=Distillation(weight=0.1), schedule=micro_schedule(epochs=2),
        )  # fmt: skip
        train(folder)
        results.append((folder / "trained.safetensors").read_bytes())
    assert results[0] == results[1]
    assert results[0] != results[2]


MOSAIC = Augmentation(mosaic=0.5, mosaic_off_epochs=1, flip=0.5, scale=0.4, translate=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain", marks=pytest.mark.thorough),
        pytest.param(
            {"optimizer": "SGD", "decay": "one-cycle"},
            id="SGD, one-cycle",
            marks=pytest.mark.thorough,
        ),
        pytest.param({"warmup_epochs": 1.5}, id="inside the warm-up", marks=pytest.mark.thorough),
        pytest.param({"accumulate": 2}, id="accumulated", marks=pytest.mark.thorough),
        pytest.param({"accumulate": 2, "batch": 3}, id="accumulated, odd number of steps"),
        pytest.param({"augmentation": MOSAIC}, id="mosaic", marks=pytest.mark.thorough),
        pytest.param(
            {"augmentation": MOSAIC, "cache": False},
            id="mosaic from disk",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_resuming_gives_the_same_bytes(
    changes: dict[str, Any], new_slice: Slice, tmp_path: Path
) -> None:
    start = make_state("towers")
    folders = [
        make_job(
            tmp_path / name, start, new_slice, direction=random_direction(start),
            distill=Distillation(weight=0.1), directional=Directional(weight=1),
            schedule=micro_schedule(**{"epochs": 3, **changes}),
        )
        for name in ("whole", "cut")
    ]  # fmt: skip
    train(folders[0])
    for epoch in (2, 3):
        with pytest.raises(InterruptionError):
            train(folders[1], stop_in_epoch(epoch))
        assert not (folders[1] / "trained.safetensors").exists()
    seen: list[int] = []
    train(folders[1], lambda record: seen.append(record["epoch"]))
    assert set(seen) == {3}
    whole, cut = ((folder / "trained.safetensors").read_bytes() for folder in folders)
    assert whole == cut
    outcomes = [json.loads((folder / "outcome.json").read_text()) for folder in folders]
    for key in ("images_seen", "history"):
        assert outcomes[0][key] == outcomes[1][key]
    assert outcomes[0]["images_seen"] == 3 * IMAGES
    assert not (folders[1] / "checkpoint.pt").exists()


def other_job(folder: Path) -> None:
    document = json.loads((folder / "job.json").read_text())
    document["schedule"]["lr"] = 0.5
    (folder / "job.json").write_text(json.dumps(document))


def cut_short(folder: Path) -> None:
    path = folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "words"), [(other_job, "another job"), (cut_short, "cannot be read")]
)
def test_foreign_checkpoints_are_refused(
    damage: Callable[[Path], None], words: str, new_slice: Slice, tmp_path: Path
) -> None:
    folder = make_job(
        tmp_path / "job", make_state("towers"), new_slice, schedule=micro_schedule(epochs=2)
    )
    with pytest.raises(InterruptionError):
        train(folder, stop_in_epoch(2))
    damage(folder)
    with pytest.raises(ModelError, match=words) as caught:
        train(folder)
    assert caught.value.remedy
    assert not (folder / "trained.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "epochs", "words"),
    [
        pytest.param({"distill": Distillation(weight=1e38)}, 2, "the loss is", id="loss"),
        pytest.param({"directional": Directional(weight=1e37)}, 3, "the loss is", id="weights"),
        pytest.param(
            {"directional": Directional(weight=1e37)}, 1, "not finite", id="weights, last step"
        ),
    ],
)  # fmt: skip
def test_diverging_training_is_an_error(
    settings: dict[str, Any], epochs: int, words: str, new_slice: Slice, tmp_path: Path
) -> None:
    start = make_state("towers")
    folder = make_job(
        tmp_path / "job", start, new_slice, direction=random_direction(start, scale=100),
        schedule=micro_schedule(epochs=epochs), **settings,
    )  # fmt: skip
    with pytest.raises(ModelError, match=f"training diverged in epoch .*{words}") as caught:
        train(folder)
    assert "learning rate" in str(caught.value.remedy)
    assert not (folder / "outcome.json").exists()


@pytest.mark.parametrize(
    "setting", [{"lr": 1e6}, {"lr": 0}, {"lr_increment": 2}, {"weight_decay": 1.5}], ids=str
)
def test_settings_that_the_engine_refuses_are_refused_first(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        parse_config(Schedule, setting, where="train.yaml")


# ---- the losses in place ----------------------------------------------------------------------


def with_directional(
    folder: Path, data: Slice, weight: float, direction: Tensors, **changes: Any
) -> DetectorState:
    start = make_state("towers")
    job = make_job(
        folder, start, data, direction=direction, directional=Directional(weight=weight),
        schedule=micro_schedule(**changes),
    )  # fmt: skip
    return train(job)


def conflicts(start: DetectorState, after: DetectorState, direction: Tensors) -> float:
    """Return the share of moved scalars that moved against the previous stage."""
    steps = {name: after.shared[name] - start.shared[name] for name in direction}
    against = sum(int((step * direction[name] < 0).sum()) for name, step in steps.items())
    return against / sum(int((step != 0).sum()) for step in steps.values())


@pytest.mark.thorough
def test_directional_loss_needs_a_first_step(new_slice: Slice, tmp_path: Path) -> None:
    start = make_state("towers")
    direction = random_direction(start)
    one_step = {"batch": IMAGES, "epochs": 1}
    off = with_directional(tmp_path / "off", new_slice, 0, direction, **one_step)
    on = with_directional(tmp_path / "on", new_slice, 1000, direction, **one_step)
    assert not moved(flat(off), flat(on))  # p = q: no gradient


def test_directional_loss_reduces_conflicts(new_slice: Slice, tmp_path: Path) -> None:
    start = make_state("towers")
    direction = random_direction(start)
    off = with_directional(tmp_path / "off", new_slice, 0, direction, epochs=4)
    on = with_directional(tmp_path / "on", new_slice, 1000, direction, epochs=4)
    assert 0.4 < conflicts(start, off, direction) < 0.6  # a random direction
    assert conflicts(start, on, direction) < 0.7 * conflicts(start, off, direction)


def test_losses_have_the_engines_scale(new_slice: Slice, tmp_path: Path) -> None:
    """λ counts per image, as the engine's own loss does; L_DC's gradient is exact."""
    start = make_state("towers")
    direction = random_direction(start)
    common = {"direction": direction, "schedule": micro_schedule(batch=4)}
    trainers = [
        ready(make_job(tmp_path / f"job{weight}", start, new_slice,
                       distill=Distillation(weight=weight), directional=Directional(weight=0.5),
                       **common))
        for weight in (0, 2)
    ]  # fmt: skip
    plain, both = trainers
    assert plain.teacher is None
    batch = plain.preprocess_batch(next(iter(plain.train_loader)))
    with torch.no_grad():
        loss, items = plain.model(dict(batch))
        again, more = both.model(dict(batch))
    assert set(more) - set(items) == {"kd_cls", "kd_box"}
    # The teacher's BatchNorm is folded and in eval mode, the student's is not: they must differ.
    assert more["kd_cls"] > 0
    assert more["kd_box"] > 0
    extra = 2 * (more["kd_cls"] + more["kd_box"]) * 4
    assert again.sum().item() == pytest.approx((loss.sum() + extra).item(), rel=1e-5)

    model = plain.model
    gradients: dict[str, torch.Tensor] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
            parameter.grad = torch.zeros_like(parameter)

    def record() -> None:
        gradients.update(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
        )

    plain.scaler.unscale_ = lambda optimizer: record()
    plain.optimizer_step()
    for name in direction:
        if name in gradients:
            d = direction[name]
            against = (start.shared[name] + 0.1 - start.shared[name]) * d < 0
            assert torch.equal(gradients[name], torch.where(against, -d, 0) * (0.5 * 4)), name
    assert not any(gradients[name].any() for name in gradients.keys() - direction.keys())
    assert gradients.keys() & direction.keys()


@pytest.mark.parametrize("negatives", ["mask", "train"])
@pytest.mark.parametrize("form", FORMS)
def test_masked_old_classes_get_no_gradient(
    form: str, negatives: str, new_slice: Slice, tmp_path: Path
) -> None:
    folder = make_job(
        tmp_path / "job", make_state(form), new_slice, old_negatives=negatives, old_part="trained"
    )
    trainer = ready(folder)
    backward(trainer)
    head = trainer.model.model[-1]
    if form == "rows":
        gradients = [tower[-1].weight.grad[: SIZES[0]] for tower in head.cv3]
        fresh = [tower[-1].weight.grad[SIZES[0] :] for tower in head.cv3]
    else:
        olds = head.old_towers[0] if form == "towers" else head.old_heads[0].cv3
        gradients = [tower[-1].weight.grad for tower in olds]
        fresh = [tower[-1].weight.grad for tower in head.cv3]
    reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
    assert reached == [negatives == "train"] * 3
    assert all(gradient.any() for gradient in fresh)


# ---- manners ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_kept_to(
    threads: int, new_slice: Slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine resets the threads when it picks a device; two of them need a quiet machine."""
    schedule = micro_schedule(threads=threads)
    folder = make_job(tmp_path / "job", make_state("rows"), new_slice, schedule=schedule)
    seen: list[int] = []
    monkeypatch.setattr(
        IncrementTrainer, "_do_train", lambda self: seen.append(torch.get_num_threads())
    )
    FAMILY.train(folder, silent)
    assert seen == [threads]


@pytest.mark.parametrize("cache", [True, False], ids=["in memory", "from disk"])
def test_data_folders_stay_as_they_are(cache: bool, tmp_path: Path) -> None:
    data = make_slice(tmp_path / "data", NEW, images=IMAGES)
    before = listing(tmp_path / "data")
    schedule = micro_schedule(cache=cache, augmentation=MOSAIC)
    train(make_job(tmp_path / "job", make_state("rows"), data, schedule=schedule))
    assert listing(tmp_path / "data") == before


NO_NETWORK = """
import os, pathlib, socket
here = pathlib.Path(os.path.dirname(__file__))
(here / "active").touch()
def refuse(*args, **kwargs):
    with (here / "attempts").open("a") as log:
        log.write(repr(args) + "\\n")
    raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
"""


def test_training_opens_no_socket(
    new_slice: Slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "sitecustomize.py").write_text(NO_NETWORK)
    monkeypatch.setenv("PYTHONPATH", f"{trap}{os.pathsep}{REPO}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # the engine's very first run
    folder = make_job(tmp_path / "job", make_state("rows"), new_slice)
    records: list[dict[str, Any]] = []
    run_worker(folder, records.append, threading.Event())
    assert records[-1]["done"] == records[-1]["total"] == 2
    assert (trap / "active").exists()
    assert not (trap / "attempts").exists(), (trap / "attempts").read_text()
    assert (folder / "trained.safetensors").exists()


def test_trainer_can_be_launched_on_several_gpus(
    new_slice: Slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's own launch file, here run by one process on the CPU."""
    import ultralytics.engine.trainer as engine_trainer
    from ultralytics.utils.dist import generate_ddp_file

    def launch(trainer: Any) -> tuple[list[str], str]:
        file = generate_ddp_file(trainer)
        return [sys.executable, file], file

    start, always = make_state("towers"), property(lambda self: True, lambda self, value: None)
    folders = [make_job(tmp_path / name, start, new_slice) for name in ("here", "there")]
    train(folders[0])
    monkeypatch.setattr(engine_trainer, "generate_ddp_command", launch)
    monkeypatch.setattr(IncrementTrainer, "ddp", always, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    train(folders[1])
    here, there = ((folder / "trained.safetensors").read_bytes() for folder in folders)
    assert here == there


def test_trainer_survives_cloudpickle(new_slice: Slice, tmp_path: Path) -> None:
    import cloudpickle
    from ultralytics.utils import DEFAULT_CFG_DICT

    trainer = ready(make_job(tmp_path / "job", make_state("rows"), new_slice))
    copied, args = cloudpickle.loads(cloudpickle.dumps((type(trainer), vars(trainer.args))))
    assert copied is IncrementTrainer  # by reference: the worker imports it
    assert set(args) - set(DEFAULT_CFG_DICT) <= {"save_dir", "augmentations"}  # the engine's own
    again = copied(cfg={**DEFAULT_CFG_DICT, "save_dir": ""}, overrides=args, _callbacks=None)
    assert again.job == trainer.job


# ---- the worker process -------------------------------------------------------------------------


def broken_settings(folder: Path) -> None:
    document = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**document, "phase": "dance"}))


def lost_image(folder: Path) -> None:
    import numpy as np

    path = folder / "slice.npz"
    arrays = dict(np.load(path))
    arrays["images"] = np.array([str(folder / "gone.png")] * len(arrays["images"]))
    np.savez(path, **arrays)


def no_job(folder: Path) -> None:
    (folder / "job.json").unlink()


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        pytest.param(broken_settings, ConfigError, "phase", id="config"),
        pytest.param(lost_image, DataError, r"8 training images are gone.*gone\.png", id="data"),
        pytest.param(no_job, DuetError, "file system.*No such file", id="file system"),
    ],
)
def test_errors_of_the_worker_come_back(
    damage: Callable[[Path], None], error: type[DuetError], words: str,
    new_slice: Slice, tmp_path: Path,
) -> None:  # fmt: skip
    folder = make_job(tmp_path / "job", make_state("rows"), new_slice)
    damage(folder)
    with pytest.raises(DuetError, match=f"(?s){words}") as caught:
        run_worker(folder, silent, threading.Event())
    assert type(caught.value) is error


def test_stopped_worker_is_not_started(new_slice: Slice, tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", make_state("rows"), new_slice)
    stop = threading.Event()
    stop.set()
    with pytest.raises(DuetError, match="stopped"):
        run_worker(folder, silent, stop)
    assert not (folder / "stderr.log").exists()


PARENT = """
import pathlib, subprocess, sys, time
from duet.runs.worker import command
subprocess.Popen(command(pathlib.Path(sys.argv[1])))
time.sleep(600)
"""


def test_worker_ends_with_its_parent(new_slice: Slice, tmp_path: Path) -> None:
    schedule = micro_schedule(epochs=100)
    folder = make_job(tmp_path / "job", make_state("rows"), new_slice, schedule=schedule)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, cwd=REPO, text=True
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    parent.kill()
    parent.wait()
    began = time.monotonic()
    rest = parent.stdout.read()  # ends when the worker, which holds the pipe too, has ended
    assert time.monotonic() - began < 5  # looks every half second; the rest is for a busy machine
    assert '"done": 200' not in rest
    assert not (folder / "outcome.json").exists()


def test_killed_worker_is_resumed_to_the_same_bytes(new_slice: Slice, tmp_path: Path) -> None:
    """kill -9 in epoch 2, then the rest in another process than the first epoch."""
    schedule = micro_schedule(epochs=4, batch=2)
    cut, whole = (
        make_job(tmp_path / name, make_state("towers"), new_slice, schedule=schedule)
        for name in ("cut", "whole")
    )
    worker = subprocess.Popen(
        command(cut), stdout=subprocess.PIPE, cwd=REPO, text=True
    )  # fmt: skip
    assert worker.stdout is not None
    for line in worker.stdout:
        if json.loads(line)["epoch"] == 2:
            break
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert not (cut / "outcome.json").exists()
    seen: list[int] = []
    train(cut, lambda record: seen.append(record["epoch"]))
    assert 1 not in seen
    train(whole)
    one, other = ((folder / "trained.safetensors").read_bytes() for folder in (cut, whole))
    assert one == other
