"""The D-FINE family: roles, rows, loss, files, and two increments from pictures to detector."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories_dfine import (
    NAMES,
    SIZE,
    TINY,
    make_domain,
    make_job,
    make_slice,
    make_state,
    micro_schedule,
    theta_0,
)
from factories_states import images, job_of, moved
from factories_training import trained_here

from duet.errors import ModelError
from duet.export.export import export_detector
from duet.families.dfine import roles
from duet.families.dfine.adapter import FAMILY
from duet.families.dfine.architectures import known_architectures
from duet.families.dfine.build import model_of, state_of, stock_model
from duet.families.dfine.train import DFineLearner
from duet.families.opened import ForeignModel
from duet.families.rows import drop_classes, rename_classes
from duet.images import read_image
from duet.increments.base import StartWeights
from duet.increments.state import DetectorState
from duet.increments.store import load_detector
from duet.merging.inputs import Inputs
from duet.merging.operand import Operand
from duet.merging.shared import merge_shared
from duet.runs.keep import keep_chain
from duet.runs.lab import Lab
from duet.runs.learn import run_chain
from duet.runs.setting import Setting
from duet.series import Increment, Series, Slice, train_slice
from duet.training.config import (
    Directional,
    Distillation,
    MergeChoice,
    PseudoLabels,
    Refit,
    Strategy,
)
from duet.training.job import read_state
from duet.training.pseudo import Target

CPU = torch.device("cpu")
CLASS_LAYERS = ("model.enc_score_head", "model.decoder.class_embed")


# ---- roles ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_tensor_lands_exactly_once() -> None:
    tensors = theta_0().tensors
    split = roles.split_roles(tensors, "rows")
    own = {roles.PREFIX + name for name in split.own}
    assert not split.shared.keys() & split.buffers.keys()
    assert not (split.shared.keys() | split.buffers.keys()) & own
    found = split.shared.keys() | split.buffers.keys() | own
    assert found - {roles.PADDING} == roles.without_aliases(tensors).keys()
    module = stock_model(TINY, 3)
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert split.shared.keys() | own == trained
    assert (
        found - trained - {roles.PADDING}
        == {name for name, _ in [*module.named_buffers(), *module.named_parameters()]} - trained
    )


@pytest.mark.slow
def test_rows_are_what_changes_shape_with_the_classes() -> None:
    three, four = (stock_model(TINY, count).state_dict() for count in (3, 4))
    changed = {name for name in three if three[name].shape != four[name].shape}
    own = {roles.PREFIX + name for name in roles.split_roles(theta_0().tensors, "rows").own}
    assert changed == roles.stock_names(dict.fromkeys(own, torch.zeros(0))).keys()


def test_padding_is_apart() -> None:
    tensors = theta_0().tensors
    split = roles.split_roles(tensors, "towers")
    assert torch.equal(split.buffers[roles.PADDING], tensors[roles.EMBEDDING][-1])
    assert torch.equal(split.own["denoising_class_embed.weight"], tensors[roles.EMBEDDING][:-1])
    again = roles.split_roles(
        {**split.shared, **split.buffers, **{roles.PREFIX + k: v for k, v in split.own.items()}},
        "rows",
    )
    assert not moved(split.buffers, again.buffers)
    assert not moved(split.own, again.own)


BAD_TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "unknown": (lambda t: t.update({"model.extra.weight": torch.zeros(2)}), "has no role"),
    "doubles": (lambda t: t.update({"class_embed.0.bias": torch.ones(3)}), "one tensor"),
    "rows": (lambda t: t.update({roles.EMBEDDING: torch.ones(3, 64)}), "3 rows, expected 4"),
    "no head": (lambda t: t.pop("model.enc_score_head.weight"), "enc_score_head"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_are_refused(case: str) -> None:
    tensors = dict(theta_0().tensors)
    change, words = BAD_TENSORS[case]
    change(tensors)
    with pytest.raises(ModelError, match=words):
        roles.split_roles(tensors, "rows")


def test_whole_decoders_side_by_side_are_refused() -> None:
    with pytest.raises(ModelError, match="no head form 'parallel'"):
        FAMILY.recast(make_state((2,)), "parallel")
    assert FAMILY.recast(make_state((2,)), "towers").head == "rows"


@pytest.mark.slow
def test_roles_load_no_engine() -> None:
    code = (
        "import sys, duet.families.dfine.roles as r; r.layers([], 'dfine-m');"
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_layers_tell_role_and_depth() -> None:
    shared = make_state().shared
    found = roles.layers(shared, TINY)
    assert found.keys() == shared.keys()
    depth = {
        name: layer.depth
        for name, layer in found.items()
        if name.endswith((
            "stem1.convolution.weight", "stages.3.blocks.0.aggregation.1.convolution.weight",
            "encoder_input_proj.2.0.weight", "encoder.fpn_blocks.0.conv4.conv.weight",
            "enc_output.0.weight", "decoder.layers.0.gateway.gate.weight",
            "decoder.layers.2.gateway.gate.weight", "decoder.bbox_embed.2.layers.2.weight",
        ))
    }  # fmt: skip
    assert len(depth) == 8
    assert sorted(depth.values()) == list(depth.values()) or max(depth.values()) == 1
    assert min(depth.values()) == 0
    assert {layer.role for layer in found.values()} == {"backbone", "neck", "head"}
    with pytest.raises(ModelError, match="outside"):
        roles.layers(["model.backbone.model.encoder.stages.9.x.weight"], TINY)
    with pytest.raises(ModelError, match="did you mean 'dfine-tiny'"):
        roles.layers([], "dfine-tinny")


@pytest.mark.parametrize(
    ("name", "millions"), [("tiny", 0.54), ("n", 3.78), ("s", 10.32), ("m", 19.59)]
)
def test_sizes_are_the_published_ones(name: str, millions: float) -> None:
    assert f"dfine-{name}" in known_architectures()
    split = roles.split_roles(stock_model(f"dfine-{name}", 80).state_dict(), "rows")
    count = sum(tensor.numel() for tensor in [*split.shared.values(), *split.own.values()])
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


# ---- rows -------------------------------------------------------------------------------------


def encoder_logits(state: DetectorState) -> torch.Tensor:
    """Return the dense ``(B, A, C)`` class scores, before any choice of queries."""
    with torch.no_grad():
        logits: torch.Tensor = model_of(state).eval().model(images()).enc_outputs_class
    return logits


def test_states_survive_the_module() -> None:
    state = make_state((2, 1, 2))
    again = state_of(model_of(state).state_dict(), state)
    assert again.fingerprint() == state.fingerprint()


def test_old_classes_answer_the_same_after_growing() -> None:
    before = make_state((2, 1))
    after = FAMILY.grow(before, classes=("pink",), increment="t2", seed=9, source=None)
    assert not moved(before.parts[1].tensors, after.parts[1].tensors)
    torch.testing.assert_close(encoder_logits(after)[..., :3], encoder_logits(before))


def test_order_of_the_parts_is_the_order_of_the_classes() -> None:
    state = make_state((2, 1))
    turned = replace(state, parts=state.parts[::-1])
    assert turned.labels.names == (NAMES[2], *NAMES[:2])
    torch.testing.assert_close(encoder_logits(turned), encoder_logits(state)[..., [2, 0, 1]])


def test_dropped_classes_take_only_their_rows() -> None:
    state = make_state((2, 1))
    part = drop_classes(roles, state.parts[0], [NAMES[0]])
    assert part is not None
    less = replace(state, parts=(part, state.parts[1]))
    torch.testing.assert_close(encoder_logits(less), encoder_logits(state)[..., 1:])
    assert drop_classes(roles, state.parts[1], [NAMES[2]]) is None
    with pytest.raises(ModelError, match="no class 'gren', did you mean 'green'"):
        drop_classes(roles, state.parts[0], ["gren"])
    assert rename_classes(state.parts[1], {NAMES[2]: "sky"}).classes == ("sky",)


def test_known_classes_start_from_their_rows() -> None:
    tensors = theta_0().tensors

    start = StartWeights(tensors, ("Blue", "pink", "green"))
    state = FAMILY.start_state(
        start, architecture=TINY, head="rows", classes=("green", "red", "blue"),
        increment="t0", seed=3,
    )  # fmt: skip
    for name, rows in state.parts[0].tensors.items():
        theirs = tensors[roles.PREFIX + name]
        assert torch.equal(rows[0], theirs[2])
        assert torch.equal(rows[2], theirs[0])
        assert rows.ndim == 1 or not torch.equal(rows[1], theirs[1])
    grown = FAMILY.grow(state, classes=("pink",), increment="t1", seed=3, source=start)
    row = grown.parts[1].tensors["enc_score_head.weight"]
    assert torch.equal(row[0], tensors["model.enc_score_head.weight"][1])


def test_fresh_rows_are_quiet_and_depend_on_the_seed() -> None:
    arguments: dict[str, Any] = {
        "architecture": TINY, "head": "rows", "classes": ("x", "y"), "increment": "t",
    }  # fmt: skip
    one, same, other = (
        FAMILY.start_state(theta_0(), seed=seed, **arguments).parts[0].tensors for seed in (1, 1, 2)
    )
    assert not moved(one, same)
    assert moved(one, other) == {name for name in one if name.endswith("weight")}
    scores = one["decoder.class_embed.1.bias"].sigmoid()
    torch.testing.assert_close(scores, torch.full((2,), 0.01))


# ---- merging ----------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_merging_with_one_weight_gives_that_stage_back(alpha: float) -> None:
    old = make_state((2,))
    generator = torch.Generator().manual_seed(0)
    new = {k: v + 0.1 * torch.rand(v.shape, generator=generator) for k, v in old.shared.items()}
    inputs = Inputs(
        (Operand("a", weights=old.shared), Operand("b", weights=new)),
        start=roles.split_roles(theta_0().tensors, "rows").shared, layers=roles.layers(new, TINY),
    )  # fmt: skip
    merged = merge_shared(
        "average", {"weights": (alpha, 1 - alpha)}, inputs, buffers=(old.buffers, old.buffers)
    )
    assert not moved(merged.tensors, old.shared if alpha else new)
    still = {name for name in old.buffers if not name.endswith("num_batches_tracked")}
    assert not moved(*({k: b[k] for k in still} for b in (merged.buffers, old.buffers)))


# ---- the loss ---------------------------------------------------------------------------------


def learner_of(state: DetectorState, **settings: Any) -> DFineLearner:
    return DFineLearner(job_of(state, **{"schedule": micro_schedule(), **settings}), state, CPU)


def targets(*labels: int) -> list[Target]:
    """Return one target of an image per label; -1 stands for an image without objects."""
    box = torch.tensor([[0.4, 0.5, 0.3, 0.4]])
    return [
        Target(box, torch.tensor([label])) if label >= 0
        else Target(box[:0], torch.zeros(0, dtype=torch.int64))
        for label in labels
    ]  # fmt: skip


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


def gradients(learner: DFineLearner, labels: tuple[int, ...] = (0, 0)) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    learner.module.train()
    torch.autograd.backward(total(learner.losses(images(len(labels)), targets(*labels))))
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in learner.module.named_parameters()
    }


def test_masked_old_rows_get_no_gradient() -> None:
    found = gradients(learner_of(make_state((2, 1)), old_negatives="mask"))
    layers = [name for name in found if name.startswith(CLASS_LAYERS)]
    assert len(layers) == 8
    for name in layers:
        assert not bool(found[name][:2].any())
        assert bool(found[name][2:].any())


def test_old_rows_get_a_gradient_where_old_classes_are_negatives() -> None:
    found = gradients(learner_of(make_state((2, 1)), old_negatives="train"))
    assert all(bool(found[n][:2].any()) for n in found if n.startswith(CLASS_LAYERS))


@pytest.mark.parametrize("labels", [(0, -1), (-1, -1)], ids=["one empty", "all empty"])
def test_images_without_objects_train(labels: tuple[int, ...]) -> None:
    found = gradients(learner_of(make_state((2, 1)), old_negatives="train"), labels)
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())


def test_kept_rows_are_the_old_ones_and_the_padding() -> None:
    kept = learner_of(make_state((2, 1))).kept_rows
    assert {name.removeprefix("model.") for name in kept} == make_state().parts[0].tensors.keys()
    for name, rows in kept.items():
        assert rows.tolist() == [True, True, False] + [True] * (name == roles.EMBEDDING)
    trained = learner_of(make_state((2, 1)), old_part="trained").kept_rows
    assert {name: rows.tolist() for name, rows in trained.items()} == {
        roles.EMBEDDING: [False, False, False, True]
    }


def test_distillation_reaches_the_student_alone() -> None:
    state = make_state((2, 1))
    learner = learner_of(state, distill=Distillation(weight=1.0))
    torch.manual_seed(0)
    learner.module.train()
    losses = learner.losses(images(), targets(0, 0))
    assert (
        float(losses["kd_cls"].detach()) > 0
    )  # the student normalises by its batch, the teacher does not
    assert float(losses["kd_box"].detach()) > 0
    torch.autograd.backward(losses["kd_cls"] + losses["kd_box"])
    reached = {
        n for n, p in learner.module.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert {"model.enc_score_head.weight", "model.enc_bbox_head.layers.2.weight"} <= reached
    assert any(name.startswith("model.backbone.") for name in reached)
    assert not any(name.startswith("model.decoder.layers") for name in reached)
    assert all(parameter.grad is None for parameter in learner._teacher.parameters())
    # A student that is its own teacher has nothing to learn from it.
    learner = learner_of(state, distill=Distillation(weight=1.0))
    learner.module.eval()
    same = learner.losses(images(), targets(0, 0))
    torch.testing.assert_close(same["kd_cls"], torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(same["kd_box"], torch.tensor(0.0), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "settings", [{}, {"old_negatives": "pseudo", "pseudo": PseudoLabels()}], ids=["mask", "pseudo"]
)
def test_the_first_images_alone_are_distilled(settings: dict[str, Any]) -> None:
    found, looked_at = [], []
    for share, count in ((0.5, 4), (1.0, 2)):
        learner = learner_of(
            make_state((2, 1)), distill=Distillation(weight=1.0, images=share), **settings
        )
        learner.module.eval()  # on stored statistics no image depends on another
        with torch.no_grad():
            learner.module.get_parameter("model.enc_output.0.bias").add_(0.5)
        learner._teacher.model.register_forward_hook(
            lambda _, args, __: looked_at.append(len(args[0]))
        )
        four = torch.cat([images(), images().flip(-1)])
        losses = learner.losses(four[:count], targets(*[0] * count))
        found.append(torch.stack([losses["kd_cls"], losses["kd_box"]]).detach())
    assert bool((found[0] > 0).all())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    assert looked_at == [4 if settings else 2, 2]


@pytest.mark.slow
def test_pseudo_labels_are_what_the_teacher_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state((2, 1))
    confident = PseudoLabels(confidence=0.01, iou=0.5)
    seen: list[list[dict[str, Any]]] = []
    learner = learner_of(state, old_negatives="pseudo", pseudo=confident)
    inner = learner._detection
    monkeypatch.setattr(
        learner, "_detection", lambda o, labels: seen.append(labels) or inner(o, labels)
    )
    learner.module.train()
    losses = learner.losses(images(), targets(0, -1))
    assert all(bool(value.isfinite()) for value in losses.values())
    previous = FAMILY.detector(replace(state, parts=state.parts[:1]), image_size=SIZE)
    pictures = [(image.permute(1, 2, 0).numpy()[..., ::-1] * 255) for image in images()]
    found = previous([picture.astype(np.uint8) for picture in pictures], confidence=0.01)
    for labels, one, own in zip(seen[0], found, (1, 0), strict=True):
        assert labels["class_labels"][:own].tolist() == [2] * own  # the new class comes last
        assert set(labels["class_labels"][own:].tolist()) <= {0, 1}
        assert 0 < len(labels["boxes"]) - own <= len(one.scores)
        assert bool(((labels["boxes"] >= 0) & (labels["boxes"] <= 1)).all())
    least = learner_of(state, old_negatives="pseudo", pseudo=PseudoLabels(confidence=1.0))
    assert least.losses(images(), targets(0, -1)).keys() == losses.keys()


def test_small_images_are_refused() -> None:
    with pytest.raises(ModelError, match="at least 64"):
        learner_of(make_state((2,)), schedule=micro_schedule(image_size=32))
    with pytest.raises(ModelError, match="at least 64"):
        FAMILY.detector(make_state((2,)), image_size=32)


# ---- looking at images ------------------------------------------------------------------------


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 80, 3), dtype=np.uint8) for _ in range(3)]


def test_detections_are_the_best_pairs_in_pixels() -> None:
    state = make_state((2, 1))
    found = FAMILY.detector(state, image_size=SIZE)(pictures(), confidence=0.0, limit=20)
    raw = FAMILY.network(state)(FAMILY.prepare(pictures(), image_size=SIZE))
    for one, row in zip(found, raw, strict=True):
        best = row[:, 4:].flatten().sort(descending=True)
        np.testing.assert_allclose(one.scores, best.values[:20], rtol=1e-4)  # packed for inference
        queries, ids = best.indices[:20] // 3, best.indices[:20] % 3
        assert one.class_ids.tolist() == ids.tolist()
        cx, cy, w, h = row[queries, :4].T
        xyxy = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), 1)
        xyxy = (xyxy * torch.tensor([80, 48, 80, 48])).numpy()
        np.testing.assert_allclose(one.xyxy, xyxy.clip(0, [80, 48, 80, 48]), atol=1e-3)


def test_class_logits_are_the_encoder_s() -> None:
    state = make_state((2, 1))
    logits = FAMILY.class_logits(state)
    shared = {name: tensor.clone().requires_grad_() for name, tensor in state.shared.items()}
    scores_BCA = logits(shared, images())
    assert scores_BCA.shape == (2, 3, 64 + 16 + 4)
    torch.testing.assert_close(scores_BCA.transpose(1, 2), encoder_logits(state))
    scores_BCA.sum().backward()
    reached = {name for name, tensor in shared.items() if tensor.grad is not None}
    unreached = shared.keys() - reached
    assert any(name.startswith("model.backbone.") for name in reached)
    assert "model.enc_output.0.weight" in reached
    assert all(name.startswith(("model.enc_bbox", "model.decoder.")) for name in unreached)
    with pytest.raises(ModelError, match="not shared tensors"):
        logits({"model.nowhere": torch.zeros(1)}, images())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_network_can_be_traced(tmp_path: Path, form: str) -> None:
    module = FAMILY.network(make_state((2, 1)))
    example, other = images(1, seed=1), images(1, seed=2)
    expected = module(other)
    if form == "torchscript":
        torch.jit.save(torch.jit.trace(module, example), tmp_path / "m.pt")
        got = torch.jit.load(tmp_path / "m.pt")(other)
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        torch.onnx.export(
            module, (example,), tmp_path / "m.onnx", dynamo=False, opset_version=17,
            input_names=["images"], output_names=["queries"],
        )  # fmt: skip
        session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
        got = torch.from_numpy(session.run(None, {"images": other.numpy()})[0])
    torch.testing.assert_close(got[..., :4] * SIZE, expected[..., :4] * SIZE, atol=1e-3, rtol=0)
    torch.testing.assert_close(got[..., 4:], expected[..., 4:], atol=1e-5, rtol=0)


# ---- foreign folders --------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Save a detector as transformers' users do."""
    model = stock_model(TINY, 3)
    model.load_state_dict(theta_0().tensors)
    model.config.id2label = {0: "cat", 1: "dog", 2: "bus"}
    model.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


@pytest.mark.slow
def test_foreign_folders_keep_their_answers(folder: Path) -> None:
    state, facts = FAMILY.foreign(ForeignModel(folder), name="theirs")
    assert state.labels.names == ("cat", "dog", "bus")
    assert (state.architecture, facts["licence"]) == (TINY, "Apache-2.0")
    json.dumps(facts)
    theirs = stock_model(TINY, 3)
    theirs.load_state_dict(theta_0().tensors)
    output = theirs.eval().requires_grad_(False)(
        images()
    )  # attention rounds by who needs gradients
    raw = FAMILY.network(state)(images())
    assert torch.equal(raw[..., :4], output.pred_boxes)
    assert torch.equal(raw[..., 4:], output.logits.sigmoid())
    weights = FAMILY.weights(folder)
    assert weights.classes == ("cat", "dog", "bus")
    assert not moved(
        roles.split_roles(weights.tensors, "rows").shared,
        roles.split_roles(theta_0().tensors, "rows").shared,
    )


def test_folders_of_older_transformers_are_read(folder: Path) -> None:
    edit(folder, backbone=None, use_timm_backbone=False, use_pretrained_backbone=False,
         backbone_kwargs=None, torch_dtype="float32", transformers_version="4.52.0")  # fmt: skip
    state, facts = FAMILY.foreign(ForeignModel(folder), name="theirs")
    assert not moved(state.shared, roles.split_roles(theta_0().tensors, "rows").shared)
    assert facts["transformers"] == "4.52.0"


def many(count: int) -> dict[str, str]:
    return {str(index): str(index) for index in range(count)}


def restored(folder: Path, change: Callable[[dict[str, torch.Tensor], str], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors, next(name for name in tensors if tensors[name].ndim == 4))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def retype(folder: Path, dtype: torch.dtype) -> None:
    restored(folder, lambda tensors, name: tensors.update({name: tensors[name].to(dtype)}))


def rename(folder: Path, other: str) -> None:
    restored(folder, lambda tensors, name: tensors.update({other: tensors.pop(name)}))


@pytest.mark.slow
def test_what_the_config_claims_takes_no_memory(folder: Path) -> None:
    """Each of these took seconds to minutes, or ten gigabytes, inside the engine."""
    settings = json.loads((folder / "config.json").read_text())
    backbone = settings["backbone_config"]
    backbone |= {"num_labels": 10**9, "depths": [1] * 1_000_000, "id2label": many(300_000)}
    edit(folder, num_labels=10**9, backbone_config=backbone, attribute_map={"a": "b"}, dtype="hub")
    start = time.process_time()
    FAMILY.foreign(ForeignModel(folder), name="theirs")
    assert time.process_time() - start < 15


@pytest.mark.slow
def test_no_file_beside_the_two_is_read(folder: Path) -> None:
    for name in ("adapter_config.json", "generation_config.json", "model.safetensors.index.json"):
        (folder / name).write_text("[")
        assert FAMILY.foreign(ForeignModel(folder), name="theirs")


def edit(folder: Path, **changes: Any) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | changes))


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (
        lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"),
        "no model.safetensors",
    ),
    "another model": (lambda p: edit(p, model_type="detr"), "expected model_type 'd_fine'"),
    "another network": (lambda p: edit(p, num_queries=60), "num_queries: got 60, expected 50"),
    "another count": (lambda p: edit(p, id2label={"0": "cat", "1": "dog"}), "has 3 rows"),
    "no classes": (lambda p: edit(p, id2label={}), "names no classes"),
    "odd classes": (lambda p: edit(p, id2label={"0": "a", "5": "b"}), "names no classes"),
    "a million classes": (lambda p: edit(p, id2label=many(260_000)), "more than 250000"),
    "classes twice": (lambda p: edit(p, id2label={"0": "a", "1": "a", "2": "b"}), "occur twice"),
    "classes without names": (lambda p: edit(p, id2label={"0": [], "1": "a", "2": "b"}), "non-em"),
    "complex weights": (lambda p: retype(p, torch.complex64), "complex64"),
    "float8 weights": (lambda p: retype(p, torch.float8_e4m3fn), "float8_e4m3fn"),
    "whole weights": (lambda p: retype(p, torch.int64), r"got torch\.int64, expected floats"),
    "name of several lines": (lambda p: rename(p, "x\n  said by duet"), r"'x\\n  said by duet'"),
    "another backbone": (lambda p: edit(p, backbone_config="microsoft/resnet-50"), "got None"),
    "many layers": (lambda p: edit(p, decoder_layers=10**9), "got 1000000000, expected 3"),
    "no json": (lambda p: (p / "config.json").write_text("{"), "not valid JSON"),
    "damaged": (lambda p: (p / "model.safetensors").write_bytes(b"x" * 50), "not a complete"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_foreign_folders_that_are_refused(folder: Path, case: str) -> None:
    change, words = BAD_FOLDERS[case]
    change(folder)
    with pytest.raises(ModelError, match=words):
        FAMILY.foreign(ForeignModel(folder), name="theirs")


def test_missing_tensors_are_named(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.enc_score_head.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing: model\.enc_score_head\.bias"):
        FAMILY.weights(folder)


# ---- training ---------------------------------------------------------------------------------


def stop_after(steps: int) -> Callable[[dict[str, Any]], None]:
    def progress(record: dict[str, Any]) -> None:
        if record["done"] == steps:
            raise KeyboardInterrupt

    return progress


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Slice:
    return make_slice(tmp_path_factory.mktemp("data"), NAMES[2:3], count=8)


@pytest.mark.slow
def test_a_killed_increment_ends_in_the_same_bits(tmp_path: Path, data: Slice) -> None:
    start = make_state((2, 1))
    direction = {name: torch.ones_like(tensor) for name, tensor in start.shared.items()}
    settings: dict[str, Any] = {
        "schedule": micro_schedule(epochs=2, fisher_images=2), "distill": Distillation(weight=0.1),
        "directional": Directional(weight=0.1), "direction": direction,
        "old_negatives": "pseudo", "pseudo": PseudoLabels(confidence=0.3, iou=0.5),
    }  # fmt: skip
    straight, struck = (
        make_job(tmp_path / name, start, data, **settings) for name in ("straight", "struck")
    )
    FAMILY.train(straight, lambda record: None)
    with pytest.raises(KeyboardInterrupt):
        FAMILY.train(struck, stop_after(3))
    FAMILY.train(struck, lambda record: None)
    one, other = (read_state(job / "trained.safetensors") for job in (straight, struck))
    assert one.fingerprint() == other.fingerprint()
    for name in ("fisher.safetensors",):
        assert (straight / name).read_bytes() == (struck / name).read_bytes()
    assert not moved(start.parts[0].tensors, one.parts[0].tensors)
    assert moved(start.parts[1].tensors, one.parts[1].tensors) == one.parts[1].tensors.keys()
    constants = {name for name in start.buffers if roles.CONSTANT.search(name)}
    assert len(constants) == 6
    assert not constants & moved(start.buffers, one.buffers)
    outcome = json.loads((straight / "outcome.json").read_text())
    assert set(outcome["history"][0]) == {
        "cls", "box", "giou", "fgl", "ddf", "kd_cls", "kd_box",
    }  # fmt: skip


STRATEGY = Strategy(
    name="duet", head="rows", merge=MergeChoice(method="average"), refit=Refit(epochs=2, lr=2e-3),
    distill=Distillation(weight=0.5), directional=Directional(weight=0.01),
)  # fmt: skip
EPOCHS = 36


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Learn two colours, then a third in other pictures; trainings stay in this process."""
    folder = tmp_path_factory.mktemp("chain")

    steps = tuple(
        Increment(name, name, classes, make_domain(folder, name, classes, 24, seed))
        for seed, (name, classes) in enumerate({"day": NAMES[:2], "night": NAMES[2:3]}.items())
    )
    with trained_here() as here:
        setting = Setting(
            series=Series("toy", "", steps), family="dfine", architecture=TINY, theta_0=theta_0(),
            schedule=micro_schedule(epochs=EPOCHS, batch=8, lr=2e-3, warmup_epochs=1), seed=3,
            lab=Lab(folder / "lab", run=here),
        )  # fmt: skip
        results = run_chain(setting, STRATEGY)
        keep_chain(folder / "run", setting, STRATEGY, results)
        yield folder, setting, results
    shutil.rmtree(folder / "lab")


def recall(state: DetectorState, increment: Increment) -> float:
    """Return the share of an increment's training objects that are found at IoU 0.5."""
    found = hits = 0
    data = train_slice(increment.data, increment.classes)
    detect = FAMILY.detector(state, image_size=SIZE)
    for image, boxes, ids in zip(data.images, data.boxes, data.class_ids, strict=True):
        [one] = detect([read_image(Path(image))], confidence=0.2)
        for (cx, cy, w, h), label in zip(boxes * SIZE, ids, strict=True):
            found += 1
            hits += any(
                name == increment.classes[label]
                and overlap((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), xyxy) >= 0.5
                for name, xyxy in zip(one.names, one.xyxy, strict=True)
            )
    return hits / found


def overlap(one: Any, other: Any) -> float:
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.thorough
def test_two_increments_are_learned(chain: Any) -> None:
    _, setting, results = chain
    day, night = setting.series.increments
    assert recall(results[0].merged, day) > 0.5
    assert recall(results[1].trained.state, night) > 0.5
    assert results[1].merged.labels.names == NAMES[:3]


@pytest.mark.thorough
def test_old_parts_stay_and_the_trunk_is_the_mean(chain: Any) -> None:
    _, _, (base, stage) = chain
    assert not moved(base.merged.parts[0].tensors, stage.merged.parts[0].tensors)
    assert moved(stage.trained.state.parts[1].tensors, stage.merged.parts[1].tensors)
    for name, tensor in stage.merged.shared.items():
        mean = (base.merged.shared[name].double() + stage.trained.state.shared[name].double()) / 2
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-5, atol=1e-7)


@pytest.mark.thorough
def test_kept_detectors_answer_the_same(chain: Any) -> None:
    folder, _, results = chain
    for number, result in enumerate(results, start=1):
        loaded = load_detector(folder / "run/models/duet" / f"{number}-{result.increment.name}")
        assert loaded.state.fingerprint() == result.merged.fingerprint()
        one, other = (
            FAMILY.detector(state, image_size=SIZE)(pictures(), confidence=0.0)
            for state in (loaded.state, result.merged)
        )
        assert all(np.array_equal(a.xyxy, b.xyxy) for a, b in zip(one, other, strict=True))
        assert all(np.array_equal(a.scores, b.scores) for a, b in zip(one, other, strict=True))


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_exported_files_answer_the_same(chain: Any, tmp_path: Path, form: str) -> None:
    folder, *_ = chain
    target = tmp_path / f"model.{form}"
    report = export_detector(folder / "run/models/duet/2-night", target, form)
    assert report.parity is not None
    assert report.parity.ok
    assert report.classes == NAMES[:3]
