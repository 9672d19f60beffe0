"""Concrete merges: the mask's algebra, its learning, and the entropy that they follow."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from factories_states import images, same_bits
from factories_yolo import FORMS, YOLO11N, YOLOV8N, make_state, shaken

from duet.config import parse_config
from duet.errors import ConfigError, DataError, ModelError
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import inference_model
from duet.families.yolo.heads import raw_parts
from duet.merging.descent import POINTS, thinned
from duet.merging.entropy import binary_entropy, class_entropy, detection_entropy
from duet.merging.inputs import Inputs, Objective
from duet.merging.mask import Mask
from duet.merging.operand import Operand
from duet.merging.shared import merge_shared
from duet.recipes.objective import images_of, objective_from
from duet.recipes.recipe import Adapt
from duet.vectors.tensors import Tensors

SHAPES = {"conv.weight": (3, 4, 2, 2), "bn.weight": (3,), "one": (1,)}
METHODS = ("concrete", "concrete-adamerging")
both = pytest.mark.parametrize("method", METHODS)


def noise(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def inputs(objective: Objective | None = None, stages: int = 2, **settings: Any) -> Inputs:
    vectors = [Operand(f"t{k}", vector=noise(k + 1)) for k in range(stages)]
    return Inputs(tuple(vectors), start=noise(0), objective=objective, threads=1, **settings)


def towards(target: Tensors) -> Objective:
    """Return the squared distance to ``target``."""
    return lambda theta, _: sum(((theta[name] - target[name]) ** 2).sum() for name in target)  # type: ignore[return-value]


def merge(method: str, given: Inputs, **params: Any) -> Any:
    return merge_shared(method, params, given, buffers=[{} for _ in given.stages])


def literal(
    mask: dict[str, torch.Tensor], given: Inputs, weights: Sequence[float]
) -> dict[str, torch.Tensor]:
    """Return the paper's formula, for autograd."""
    assert given.start is not None
    return {
        name: given.start[name]
        + sum(
            weight * stage.tensors[name] * mask[name] / mask[name].mean()
            for weight, stage in zip(weights, given.stages, strict=True)
        )
        for name in given.start
    }


# ---- mask ---------------------------------------------------------------------------------------


@both
def test_without_steps_it_is_task_arithmetic_to_the_bit(method: str) -> None:
    given = inputs(towards(noise(9)), stages=3)
    lengths = {"steps": 0} if method == "concrete" else {"steps": 0, "final_steps": 0}
    plain = merge("task-arithmetic", given, weight=0.3)
    masked = merge(method, given, **lengths)
    for name in SHAPES:
        assert same_bits(plain.tensors[name], masked.tensors[name])


def closed_form(x: float) -> float:
    """Return the mean of sigmoid(2 (logit u + x)), integrated by hand over u."""
    s = 1 / (1 + math.exp(-2 * x))
    return s + s * (1 - s) * (2 * x - math.pi * math.sinh(x))


@pytest.mark.parametrize("x", [-6.0, -1.5, -0.01, 0.0, 0.3, 2.0, 8.0])
def test_the_mean_mask_against_the_integral(x: float) -> None:
    mask = Mask(inputs(), temperature=0.5, seed=0, lr=1)
    for logits in mask._logits.values():
        logits.fill_(x)
    mask.expect()
    for values in mask._mask.values():
        assert values.flatten().tolist() == pytest.approx(
            [closed_form(x)] * values.numel(), abs=2e-7
        )


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_the_mean_mask_is_the_mean_of_draws(temperature: float) -> None:
    mask = Mask(inputs(), temperature=temperature, seed=3, lr=1)
    for seed, logits in enumerate(mask._logits.values()):
        logits.normal_(generator=torch.Generator().manual_seed(seed))
    total = torch.zeros(SHAPES["conv.weight"])
    for step in range(4000):
        mask.draw(step)
        total += mask._mask["conv.weight"]
    mask.expect()
    # 4000 draws of a variable with a deviation below 1/2: 4.5 deviations of the mean.
    assert (total / 4000 - mask._mask["conv.weight"]).abs().max() < 4.5 * 0.5 / math.sqrt(4000)


def test_a_draw_depends_on_seed_step_and_place_only() -> None:
    def drawn(seed: int, step: int, **settings: Any) -> torch.Tensor:
        mask = Mask(inputs(**settings), temperature=0.5, seed=seed, lr=1)
        mask.draw(step)
        return torch.cat([values.flatten() for values in mask._mask.values()])

    assert same_bits(drawn(1, 2), drawn(1, 2, stages=1))
    assert len({tuple(drawn(seed, step).tolist()) for seed in (1, 2) for step in (1, 2)}) == 4
    wide = drawn(1, 2)
    assert 0 < float(wide.min()) < 0.2 < 0.8 < float(wide.max()) < 1


@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0])
def test_slopes_equal_autograd_through_the_formula(temperature: float) -> None:
    given, weights, rate = inputs(), [0.3, -0.8], 1e-2
    loss = towards(noise(9))
    mask = Mask(given, temperature=temperature, seed=5, lr=rate)
    for seed, tensor in enumerate(mask._logits.values()):
        tensor.normal_(generator=torch.Generator().manual_seed(seed))
    mask.draw(0)
    before = {name: tensor.clone() for name, tensor in mask._logits.items()}
    drawn = {name: tensor.clone() for name, tensor in mask._mask.items()}
    noises = {
        name: torch.logit(drawn[name].double()) * temperature - before[name] for name in drawn
    }

    logits = {name: tensor.double().requires_grad_() for name, tensor in before.items()}
    factors = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    concrete = {n: torch.sigmoid((noises[n] + logits[n]) / temperature) for n in logits}
    loss(literal(concrete, given, factors), 0).backward()  # type: ignore[arg-type]

    by_tensor = dict.fromkeys(SHAPES, weights)
    theta = {n: t.clone().requires_grad_() for n, t in mask.add_up(by_tensor).items()}
    expected = literal(drawn, given, weights)
    for name in SHAPES:
        torch.testing.assert_close(theta[name].detach(), expected[name])
    loss(theta, 0).backward()
    gradient = {name: tensor.grad for name, tensor in theta.items() if tensor.grad is not None}
    slopes = torch.tensor(list(mask.weight_slopes(gradient).values())).sum(0)
    torch.testing.assert_close(slopes.double(), factors.grad, rtol=1e-5, atol=1e-5)
    mask.learn(gradient, by_tensor)
    for name in SHAPES:
        torch.testing.assert_close(
            mask._mask[name].double(), logits[name].grad, rtol=2e-4, atol=2e-5
        )  # learning leaves its gradient there
    # Adam's first step moves every scalar by its rate, against the sign of the gradient.
    slope = logits["conv.weight"].grad
    assert slope is not None
    moved = (mask._logits["conv.weight"] - before["conv.weight"])[slope.abs() > 1e-3]
    torch.testing.assert_close(
        moved, -rate * slope[slope.abs() > 1e-3].sign().float(), rtol=1e-3, atol=0
    )


# ---- learning -----------------------------------------------------------------------------------


def short(method: str, **changes: Any) -> dict[str, Any]:
    """Return settings of a quick study."""
    params: dict[str, Any] = {"steps": 5, "lr": 0.05}
    if method == "concrete-adamerging":
        params |= {"inner_lr": 0.05, "final_steps": 4, "final_lr": 0.01}
    return params | changes


def masked_goal() -> dict[str, torch.Tensor]:
    """Return what a mask can reach: about half of the scalars dropped."""
    keep = {name: (tensor > 0) + 1e-3 for name, tensor in noise(8).items()}
    return literal(keep, inputs(), [0.3, 0.3])


@both
def test_it_falls(method: str) -> None:
    objective = towards(masked_goal())
    merged = merge(method, inputs(objective), **short(method, steps=150))
    facts = merged.trace.facts
    assert facts["entropy_after"] < 0.5 * facts["entropy_before"]
    assert float(objective(merged.tensors, 0)) == pytest.approx(facts["entropy_after"], rel=1e-5)
    assert len(facts["entropy_curve"]) == (150 if method == "concrete" else 154)
    assert 0.2 < facts["mask_above_half"] < 0.8
    assert facts["seconds"] > 0


@both
@pytest.mark.parametrize("final", ["mean", "draw"])
def test_equal_seeds_give_equal_bits_in_any_order_of_stages(method: str, final: str) -> None:
    def run(*, backwards: bool = False, **changes: Any) -> torch.Tensor:
        given = inputs(towards(masked_goal()))
        if backwards:
            given = Inputs(given.stages[::-1], given.start, objective=given.objective, threads=1)
        merged = merge(method, given, **short(method, mask=final, **changes))
        return torch.cat([tensor.flatten() for tensor in merged.tensors.values()])

    assert same_bits(run(), run())
    assert same_bits(run(), run(backwards=True))
    assert not same_bits(run(), run(seed=1))


def adamerging(objective: Objective, **params: Any) -> tuple[list[float], Any]:
    """Merge θ_0 = 1 and τ = 2; return the θ of every look at the objective but the probes.

    A mask of one scalar divided by its mean is 1, so that θ = 1 + 2 λ.
    """
    seen: list[float] = []

    def watch(theta: Tensors, step: int) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(theta["w"].item())
        return objective(theta, step)

    stage = Operand("t0", vector={"w": torch.tensor([2.0])})
    given = Inputs((stage,), start={"w": torch.tensor([1.0])}, objective=watch, threads=1)
    return seen, merge("concrete-adamerging", given, **params)


def test_adamerging_by_hand() -> None:
    # L = (θ - 1.1)^2 has a slope > 0 at λ = 0.3 (θ = 1.6): Adam's first step is λ = 0.3 - 1, so
    # θ = -0.4. The second step of the mask starts at 0.3 again; equal slopes give equal steps. In
    # the end, 0.3 -> 0.29 -> 0.28 (θ = 1.58, 1.56) as the slope hardly changes.
    seen, merged = adamerging(
        lambda theta, _: (theta["w"] - 1.1).square().sum(), steps=2, final_steps=2, final_lr=0.01
    )
    assert seen == pytest.approx([1.6, -0.4, 1.6, -0.4, 1.6, 1.58], abs=1e-4)
    assert merged.tensors["w"].item() == pytest.approx(1.56, abs=1e-4)
    assert merged.trace.tensors["w"].values["weight t0"] == pytest.approx(0.28, abs=1e-4)
    assert merged.trace.facts["weights"] == {"t0": pytest.approx(0.28, abs=1e-4)}


def test_the_moments_of_lambda_outlive_its_reset() -> None:
    # L = ± θ, so dL/dλ = 2, then -2. m = 0.9 * 0.2 - 0.1 * 2 = -0.02, corrected by 1 - 0.81:
    # -0.105263; v = 4 after correction; λ = 0.3 + 0.105263 / 2 = 0.352632, θ = 1.705263.
    seen, _ = adamerging(
        lambda theta, step: theta["w"].sum() * (1 if step == 0 else -1), steps=2, final_steps=0
    )
    assert seen == pytest.approx([1.6, -0.4, 1.6, 1.705263], abs=1e-5)


@pytest.mark.parametrize("granularity", ["task", "layer"])
def test_granularity(granularity: str) -> None:
    base = {"a": torch.zeros(1), "b": torch.zeros(1)}
    stages = (
        Operand("t0", vector={"a": torch.tensor([3.0]), "b": torch.tensor([1.0])}),
        Operand("t1", vector={"a": torch.tensor([-1.0]), "b": torch.tensor([2.0])}),
    )
    # L = a - b: slopes of λ are 3, -1 in a and -1, -2 in b; together 2 and -3.
    given = Inputs(stages, base, objective=lambda theta, _: (theta["a"] - theta["b"]).sum())
    settings: dict[str, Any] = {"steps": 0, "final_steps": 1, "final_lr": 0.1}
    trace = merge("concrete-adamerging", given, granularity=granularity, **settings).trace
    found = [list(trace.tensors[name].values.values()) for name in base]
    signs = [[-1, 1], [1, 1]] if granularity == "layer" else [[-1, 1], [-1, 1]]
    for row, expected in zip(found, signs, strict=True):
        assert row == pytest.approx([0.3 + 0.1 * sign for sign in expected], abs=1e-6)


@both
def test_tensors_that_the_objective_ignores_keep_their_mask(method: str) -> None:
    def only_one(theta: Tensors, _: int) -> torch.Tensor:
        return theta["conv.weight"].sum()  # its gradient is a number repeated by strides

    params = short(method)
    merged = merge(method, inputs(only_one), **params).tensors
    plain = merge("task-arithmetic", inputs()).tensors
    assert same_bits(merged["bn.weight"], plain["bn.weight"])
    assert not same_bits(merged["conv.weight"], plain["conv.weight"])


@both
def test_progress(method: str) -> None:
    heard: list[tuple[int, int]] = []
    given = inputs(towards(noise(9)), listen=lambda done, total: heard.append((done, total)))
    merge(method, given, **short(method))
    total = 5 if method == "concrete" else 9
    assert [call for call in heard if call[1] == total] == [(n + 1, total) for n in range(total)]


@both
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_objective_that_is_not_finite(method: str, value: float) -> None:
    def breaks(theta: Tensors, step: int) -> torch.Tensor:
        loss = theta["one"].sum()
        return loss * value if torch.is_grad_enabled() and step >= 2 else loss

    with pytest.raises(ModelError, match=r"the entropy became (nan|inf|-inf) in step [23] of"):
        merge(method, inputs(breaks), **short(method))
    with pytest.raises(ModelError) as caught:
        merge(method, inputs(breaks), **short(method))
    assert caught.value.remedy


@both
def test_without_images_it_is_refused(method: str) -> None:
    with pytest.raises(ModelError, match="learns from unlabelled images") as caught:
        merge(method, inputs())
    assert "--images" in str(caught.value.remedy)


def test_curves_are_thinned() -> None:
    assert thinned([1.0, 2.0]) == [1.0, 2.0]
    assert thinned([]) == []
    long = thinned([float(n) for n in range(2 * POINTS + 1)])
    assert len(long) <= POINTS
    assert (long[0], long[-1]) == (1.0, 399.5)


def test_torch_is_loaded_by_the_merge_only() -> None:
    code = (
        "import sys; from duet.merging.table import METHODS\n"
        "for name in ('concrete', 'concrete-adamerging'): METHODS[name].parameters()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


MEMORY = """
import torch
from pathlib import Path
from duet.merging.inputs import Inputs
from duet.merging.operand import Operand
from duet.merging.table import resolve

def megabytes(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024

def growth(count):
    base, one, two, slope = (torch.full((count,), value) for value in (1.0, 0.1, -0.2, 1e-9))
    stages = (Operand("t0", vector={"w": one}), Operand("t1", vector={"w": two}))
    # Linear, so that the objective needs no memory but its gradient.
    given = Inputs(stages, {"w": base}, objective=lambda theta, _: torch.dot(theta["w"], slope))
    out = {"w": torch.empty(count)}
    start = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    row.merge(given, params, out)
    return (megabytes("VmHWM") - start) / (count * 4 / 1024 / 1024)

torch.set_num_threads(1)
row = resolve("METHOD")
params = row.params(steps=2, **EXTRA)
growth(1)  # what is imported on first use does not count
print(growth(16 << 20))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts the memory")
@pytest.mark.parametrize(("method", "extra"), [(METHODS[0], {}), (METHODS[1], {"final_steps": 1})])
def test_memory(method: str, extra: dict[str, Any]) -> None:
    code = MEMORY.replace("METHOD", method).replace("EXTRA", repr(extra))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Six times N beside θ_0 and two vectors, and pieces; (6 + 2 K) N would allow seven.
    assert float(done.stdout) < 6.6


# ---- entropy ------------------------------------------------------------------------------------


def test_binary_entropy_by_hand() -> None:
    # p = 1/2: ln 2. p = 1/4 (z = -ln 3): (1/4) ln 4 + (3/4) ln (4/3) = 0.5623351.
    found = binary_entropy(torch.tensor([0.0, -math.log(3), math.log(3)]))
    assert found.tolist() == pytest.approx([math.log(2), 0.5623351446, 0.5623351446], rel=1e-6)


@pytest.mark.parametrize("z", [-80.0, -20.0, 15.0, 60.0, 1e4])
def test_binary_entropy_keeps_its_digits(z: float) -> None:
    # For large |z|: H = (|z| + 1) e^-|z|, and its slope is -z e^-|z|.
    logits = torch.tensor([z], requires_grad=True)
    value = binary_entropy(logits)
    value.sum().backward()
    assert value.item() == pytest.approx((abs(z) + 1) * math.exp(-abs(z)), rel=1e-5)
    assert logits.grad is not None
    assert logits.grad.item() == pytest.approx(-z * math.exp(-abs(z)), rel=1e-4)


def test_the_most_confident_anchors_count() -> None:
    logits = torch.full((2, 3, 4000), -50.0)
    logits[0, 1, :40] = 0.0  # 1 % of the first image's anchors, one of three classes at ln 2
    logits[1, 2, 7:17] = 0.0  # a quarter as many in the second one
    expected = math.log(2) / 3 * (1 + 0.25) / 2
    assert detection_entropy(logits).item() == pytest.approx(expected, rel=1e-6)
    few = logits[:, :, :100]
    # Of 100 anchors, 1 % would be one, but ten count.
    assert detection_entropy(few).item() == pytest.approx(math.log(2) / 3, rel=1e-6)
    assert detection_entropy(few, least=20).item() == pytest.approx(math.log(2) / 4, rel=1e-6)
    assert detection_entropy(few[:, :, :2]).item() == pytest.approx(math.log(2) / 6, rel=1e-6)


def test_entropy_has_gradient_at_the_chosen_anchors_only() -> None:
    logits = torch.zeros(1, 2, 50)
    logits[0, 0] = torch.arange(50) / 10
    logits.requires_grad_()
    detection_entropy(logits, share=0.2).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].nonzero().flatten().tolist() == list(range(40, 50))
    assert not logits.grad[0, 1].any()  # chosen, at the top of the entropy


def test_class_entropy_by_hand() -> None:
    # p = (0.2, 0.6): shares 1/4 and 3/4. Equal scores: ln 2, however low they are.
    logits = torch.logit(torch.tensor([[[0.2, 0.9, 1e-6], [0.6, 0.9, 1e-6]]]))
    expected = [0.5623351446, math.log(2), math.log(2)]
    assert class_entropy(logits).flatten().tolist() == pytest.approx(expected, rel=1e-5)
    found = detection_entropy(logits, kind="classes", least=1)
    assert found.item() == pytest.approx(math.log(2), rel=1e-5)
    low = class_entropy(torch.tensor([[[-90.0], [-200.0]]], requires_grad=True))
    assert low.item() == pytest.approx(0, abs=1e-30)
    low.sum().backward()


def test_detecting_nothing_has_no_entropy_of_scores_but_of_classes() -> None:
    logits = torch.randn((1, 4, 30), generator=torch.Generator().manual_seed(0))
    quiet = logits - 20
    assert detection_entropy(quiet) < 1e-5
    classes = [detection_entropy(z, kind="classes", share=1) for z in (logits, quiet)]
    assert classes[1] > 0.7 * classes[0]


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, math.nan])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="share"):
        parse_config(Adapt, {"share": share}, where="adapt")


def test_no_anchors_are_refused() -> None:
    with pytest.raises(ConfigError, match="least"):
        parse_config(Adapt, {"least": 0}, where="adapt")


# ---- a detector ---------------------------------------------------------------------------------

forms = pytest.mark.parametrize("form", FORMS)
architectures = pytest.mark.parametrize("architecture", [YOLO11N, YOLOV8N])


@pytest.mark.slow
@architectures
@forms
def test_scores_are_those_of_inference(form: str, architecture: str) -> None:
    state = make_state(form, (2, 1, 3), architecture=architecture)
    x = images(2, 96)
    scores = FAMILY.class_logits(state)
    with torch.no_grad():
        raw = raw_parts(inference_model(state)(x)[1])
        expected = torch.cat([part for _, part in raw], 1)
        torch.testing.assert_close(scores({}, x), expected)
        torch.testing.assert_close(scores(state.shared, x), expected)
        moved = shaken(state.shared, seed=4)
        raw = raw_parts(inference_model(replace(state, shared=moved))(x)[1])
        torch.testing.assert_close(scores(moved, x), torch.cat([part for _, part in raw], 1))
        torch.testing.assert_close(scores({}, x), expected)  # nothing was left behind


@forms
def test_gradients_of_scores_against_differences(form: str) -> None:
    state = make_state(form)
    x, scores = images(2, 64), FAMILY.class_logits(state)
    names = [n for n in state.shared if ".dfl." not in n and not n.startswith("model.23.cv2")]
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in state.shared.items()}
    detection_entropy(scores(leaves, x), share=0.5).backward()
    for name in (names[0], names[1], names[len(names) // 2], names[-1]):
        gradient = leaves[name].grad
        assert gradient is not None
        place = int(gradient.abs().argmax())
        step, values = 2e-3, []
        for sign in (1, -1):
            moved = state.shared[name].clone()
            moved.view(-1)[place] += sign * step
            with torch.no_grad():
                values.append(detection_entropy(scores({name: moved}, x), share=0.5).double())
        difference = float(values[0] - values[1]) / (2 * step)
        assert difference == pytest.approx(float(gradient.view(-1)[place]), rel=0.05, abs=2e-5)


def test_scores_leave_the_state_as_it_is() -> None:
    state = make_state("towers")
    before = {name: tensor.clone() for name, tensor in state.to_tensors().items()}
    scores, x = FAMILY.class_logits(state), images(2, 64)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in state.shared.items()}
    first = scores(leaves, x)
    first.sum().backward()
    torch.testing.assert_close(scores(leaves, x), first)
    assert all(same_bits(before[n], t) for n, t in state.to_tensors().items())
    with pytest.raises(ModelError, match=r"not shared tensors of this detector: nothing\.weight"):
        scores({"nothing.weight": torch.zeros(1)}, x)


# ---- images -------------------------------------------------------------------------------------


def photographs(folder: Path, count: int = 5) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        cv2.imwrite(str(path), generator.integers(0, 256, (48, 80, 3), dtype=np.uint8))
    return paths


def test_every_image_is_seen_once_per_turn() -> None:
    steps = [images_of(step, 10, 4, seed=1) for step in range(5)]
    together = [index for step in steps for index in step]
    assert sorted(together[:10]) == sorted(together[10:]) == list(range(10))
    assert together[:10] != together[10:]
    assert images_of(3, 10, 4, seed=1) == steps[3]
    assert images_of(3, 10, 4, seed=2) != steps[3]
    assert sorted(images_of(7, 3, 16, seed=0)) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.slow
@forms
def test_a_detector_is_merged(form: str, tmp_path: Path) -> None:
    state = make_state(form)
    objective = objective_from(
        state, photographs(tmp_path), image_size=64, adapt=Adapt(batch=3, share=0.1)
    )
    stages = tuple(Operand(f"t{k}", weights=shaken(state.shared, seed=k)) for k in (1, 2))
    given = Inputs(stages, start=state.shared, objective=objective)
    merged = merge("concrete", given, steps=6, lr=0.5)
    facts = merged.trace.facts
    assert facts["entropy_after"] < facts["entropy_before"]
    scores = FAMILY.class_logits(replace(state, shared=merged.tensors))
    squares = FAMILY.prepare([cv2.imread(str(tmp_path / "0.png"))], image_size=64)
    assert squares.shape == (1, 3, 64, 64)
    assert squares.dtype == torch.float32
    assert 0 <= float(squares.min()) < float(squares.max()) <= 1
    assert scores({}, squares).shape == (1, 3, 84)


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="0 unlabelled images"):
        objective_from(make_state("rows"), [], image_size=64, adapt=Adapt())


def test_unreadable_images_are_all_named(tmp_path: Path) -> None:
    paths = photographs(tmp_path)
    paths[1].write_bytes(paths[1].read_bytes()[:-200])
    paths[3].write_text("no image")
    with pytest.raises(DataError, match="2 problems") as caught:
        objective_from(make_state("rows"), paths, image_size=64, adapt=Adapt())
    assert all(str(paths[index]) in str(caught.value) for index in (1, 3))
    assert caught.value.remedy
