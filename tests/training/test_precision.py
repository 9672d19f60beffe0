"""Numbers and memory formats of a training: fast inside, float32 in the default order outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from factories_states import moved
from factories_trainer import InterruptionError, ready, silent, stop_in_epoch
from factories_training import settled
from factories_yolo import class_groups, flat, make_job, make_slice, make_state, micro_schedule

from duet.config import parse_config
from duet.errors import ConfigError
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import inference_model
from duet.series import Slice
from duet.training.config import Distillation
from duet.training.job import Job, identity, read_state
from duet.training.memory import channels_last, fast_module, in_default_order, lay_out_state
from duet.training.optimizer import in_one_pass
from duet.training.precision import Precision, as_float32, resolve_precision
from duet.training.schedule import Schedule

CPU = torch.device("cpu")
OLD, NEW = class_groups((2, 1))


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    with settled():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    return make_slice(tmp_path_factory.mktemp("new"), NEW, images=8, seed=2)


# ---- what is chosen --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, "fp32"),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
    ],
)
def test_auto_is_what_the_hardware_has(
    told: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert resolve_precision("auto", CPU).name == expected
    assert resolve_precision("fp32", CPU).name == "fp32"
    assert resolve_precision("bf16", CPU).name == "bf16"


@pytest.mark.parametrize(("major", "expected"), [(7, "fp32"), (8, "bf16"), (9, "bf16")])
def test_auto_on_cuda_goes_by_its_generation(
    major: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    assert resolve_precision("auto", torch.device("cuda", 0)).name == expected


def test_float16_without_cuda_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a CUDA device") as caught:
        resolve_precision("fp16", CPU)
    assert "bf16" in str(caught.value.remedy)
    with pytest.raises(ConfigError, match="needs a CUDA device, but got cpu"):
        parse_config(Schedule, {"precision": "fp16"}, where="train.yaml")
    assert parse_config(Schedule, {"precision": "fp16", "device": 0}, where="t").device == "0"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "fp32"),
        ({"amp": False}, "fp32"),
        ({"amp": True, "device": "0"}, "fp16"),
        ({"precision": "auto"}, "auto"),
    ],
)
def test_schedules_of_before_mean_what_they_meant(given: dict[str, Any], expected: str) -> None:
    assert parse_config(Schedule, given, where="train.yaml").precision == expected


def test_both_names_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="amp is called precision now"):
        parse_config(Schedule, {"amp": False, "precision": "bf16"}, where="train.yaml")


def test_identity_of_float32_and_float16_is_that_of_before() -> None:
    def known(**schedule: Any) -> dict[str, Any]:
        job = Job(
            family="yolo", architecture="yolo11n.yaml", head="rows", parts=(), phase="base",
            schedule=Schedule(**schedule),
        )  # fmt: skip
        found: dict[str, Any] = identity(job)["schedule"]
        return found

    assert known()["amp"] is False
    assert "precision" not in known()
    assert known(precision="fp16", device="0")["amp"] is True
    different = [known(precision=one) for one in ("fp32", "bf16", "auto")]
    assert all(one != other for one in different for other in different if one is not other)


# ---- what is computed ------------------------------------------------------------------------


def test_numbers_come_back_as_float32() -> None:
    precision = Precision("bf16", CPU)
    layer = torch.nn.Linear(4, 4)
    seen: list[torch.dtype] = []

    def work(x: torch.Tensor) -> dict[str, Any]:
        y = layer(x)
        seen.append(y.dtype)
        return {"raw": [y], "ids": torch.arange(2)}

    out = precision.within(work)(torch.rand(2, 4))
    assert seen == [torch.bfloat16]
    assert out["raw"][0].dtype == torch.float32
    assert out["ids"].dtype == torch.int64
    assert Precision("fp32", CPU).within(work) is work
    assert as_float32((torch.zeros(1, dtype=torch.float16), "x"))[0].dtype == torch.float32


@pytest.mark.slow
def test_bfloat16_learns_the_same_but_for_rounding(data: Slice, tmp_path: Path) -> None:
    start = make_state("towers")
    states, histories = {}, {}
    for name in ("fp32", "bf16"):
        folder = make_job(
            tmp_path / name, start, data, distill=Distillation(weight=0.1),
            schedule=micro_schedule(epochs=2, precision=name),
        )  # fmt: skip
        FAMILY.train(folder, silent)
        states[name] = read_state(folder / "trained.safetensors")
        outcome = json.loads((folder / "outcome.json").read_text())
        assert outcome["precision"] == name
        histories[name] = outcome["history"]
    assert {tensor.dtype for tensor in flat(states["bf16"]).values()} <= {
        torch.float32, torch.int64,
    }  # fmt: skip
    assert moved(flat(states["fp32"]), flat(states["bf16"]))
    for name, first in histories["fp32"][0].items():
        if name.startswith("kd_"):
            continue  # almost nothing at first: the two detectors are still the same
        assert histories["bf16"][0][name] == pytest.approx(first, rel=0.1), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_teacher_says_raw_what_the_detector_says(name: str, data: Slice, tmp_path: Path) -> None:
    start = make_state("towers")
    folder = make_job(
        tmp_path / "job", start, data, distill=Distillation(weight=1),
        schedule=micro_schedule(precision=name),
    )  # fmt: skip
    trainer = ready(folder)
    x = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    objects, raw = trainer.teacher(x)
    assert objects is None  # nobody reads decoded boxes
    assert trainer.teacher(x)[1] is raw  # asked again, it does not look again
    assert trainer.teacher(x.clone())[1] is not raw
    previous = trainer.session.previous()
    with torch.no_grad():
        _, expected = inference_model(previous)(x)
    limit = 1e-3 if name == "fp32" else 0.3
    for kind in ("boxes", "scores"):
        found = raw["parts"][0]["one2many"][kind]
        assert found.dtype == torch.float32
        assert torch.allclose(found, expected[kind], atol=limit)
    kinds = {m.weight.dtype for m in trainer.teacher.modules() if isinstance(m, torch.nn.Conv2d)}
    assert kinds == {torch.float32 if name == "fp32" else torch.bfloat16}
    assert not any(p.requires_grad for p in trainer.teacher.parameters())


# ---- how it lies in memory -------------------------------------------------------------------


def convolution() -> torch.nn.Conv2d:
    return fast_module(torch.nn.Conv2d(3, 4, 3), CPU)


@pytest.mark.slow
def test_training_is_channels_last_and_its_files_are_not(data: Slice, tmp_path: Path) -> None:
    if not channels_last(CPU):
        pytest.skip("this processor keeps the default order")
    folder = make_job(
        tmp_path / "job", make_state("towers"), data, distill=Distillation(weight=1),
        schedule=micro_schedule(epochs=2),
    )  # fmt: skip
    trainer = ready(folder)
    order = torch.channels_last
    convs = [m.weight for m in trainer.model.modules() if isinstance(m, torch.nn.Conv2d)]
    convs += [m.weight for m in trainer.teacher.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=order) for weight in convs)
    batch = trainer.preprocess_batch(next(iter(trainer.train_loader)))
    assert batch["img"].is_contiguous(memory_format=order)
    with pytest.raises(InterruptionError):
        FAMILY.train(folder, stop_in_epoch(2))
    stored = torch.load(folder / "checkpoint.pt", weights_only=True)
    found = [*stored["model"].values(), *stored["ema"].values()]
    found += [one for row in stored["optimizer"]["state"].values() for one in row.values()]
    assert all(one.is_contiguous() for one in found)
    assert {one.dtype for one in found} <= {torch.float32, torch.int64}


def test_optimizers_find_their_memory_in_the_order_of_their_parameters() -> None:
    layer, again = convolution(), convolution()
    again.load_state_dict(layer.state_dict())
    one, other = (in_one_pass(torch.optim.AdamW(m.parameters(), 0.1)) for m in (layer, again))
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        gradient = torch.randn(layer.weight.shape, generator=generator)
        for module in (layer, again):
            module.weight.grad = torch.empty_like(module.weight).copy_(gradient)
            module.bias.grad = gradient[:, 0, 0, 0].clone()
        one.step()
        other.step()
        if step == 1:  # as a resumed training does
            stored = in_default_order(other.state_dict())
            other = in_one_pass(torch.optim.AdamW(again.parameters(), 0.1))
            other.load_state_dict(stored)
            lay_out_state(other)
    assert torch.equal(layer.weight, again.weight)
    assert torch.equal(layer.bias, again.bias)
