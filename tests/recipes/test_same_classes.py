"""Models of the same classes: head parts are merged, and their rows are paired by class name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from factories_detectors import pretrained
from factories_states import moved
from factories_yolo import YOLO11N, shaken, write_increment

from duet.cli.main import cli
from duet.errors import ModelError
from duet.families.table import class_rows, resolve_family, resolve_roles
from duet.families.yolo.adapter import FAMILY
from duet.increments.base import StartWeights, load_start, save_base
from duet.increments.manifest import DetectorManifest, Lineage
from duet.increments.state import DetectorState, HeadForm, HeadPart
from duet.increments.store import load_detector, load_traces, save_detector
from duet.merging.batchnorm import BatchNormFusion, fuse_buffers, is_statistic
from duet.merging.table import METHODS
from duet.recipes.apply import Remerged, merge_plan
from duet.recipes.drop import drop_classes
from duet.recipes.edits import located, revert
from duet.recipes.log import read_history
from duet.recipes.plan import make_plan
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.write import write_detector

CATS = ("cat", "dog", "bus")
KINDS = [
    ("yolo", YOLO11N, "towers"), ("yolo", YOLO11N, "rows"), ("yolo", YOLO11N, "parallel"),
    ("yolo", "yolov8n.yaml", "towers"), ("yolo", "yolo26n.yaml", "towers"),
    ("yolo", "yolo26n.yaml", "parallel"), ("rtdetr", "rtdetr-tiny.yaml", "rows"),
    ("rtdetr", "rtdetr-tiny.yaml", "parallel"), ("dfine", "dfine-tiny", "rows"),
]  # fmt: skip
WHOLE = [n for n, row in METHODS.items() if not {"fisher", "images"} & {*row.needs}]
MEANS = ("average", "mtda", "duet", "newest")
"""Methods that give equal models back to the bit."""


def detector(
    folder: Path,
    seed: int = 1,
    classes: Sequence[str] = CATS,
    kind: tuple[str, str, str] = ("yolo", YOLO11N, "towers"),
) -> Path:
    """Write a detector of one start, moved by ``seed``; rows depend on the name of their class."""
    name, architecture, head = kind
    family: Any = resolve_family(name)
    start = family.fresh(architecture, CATS, seed=0)
    form: HeadForm = head  # type: ignore[assignment]
    state = family.start_state(
        start, architecture=architecture, head=form, classes=classes, increment=folder.name, seed=0
    )
    part = replace(state.parts[0], tensors=shaken(state.parts[0].tensors, seed))
    buffers = {n: t for n, t in shaken(state.buffers, seed).items() if is_statistic(n)}
    state = replace(
        state, shared=shaken(state.shared, seed), buffers=state.buffers | buffers, parts=(part,)
    )
    return keep(folder, state)


def keep(folder: Path, state: DetectorState) -> Path:
    lineage = tuple(
        Lineage(increment=part.increment, manifest=f"{k}" * 64)
        for k, part in enumerate(state.parts)
    )
    manifest = DetectorManifest.for_state(
        state, lineage=lineage, image_size=64, licence="AGPL-3.0-or-later"
    )
    save_detector(folder, state, manifest)
    return folder


def merged(*folders: Path, **options: Any) -> Remerged:
    entries = [Entry(path=str(path), name=f"m{k}") for k, path in enumerate(folders)]
    return merge_plan(make_plan(Recipe(increments=tuple(entries), **options)))


def only(state: DetectorState) -> HeadPart:
    (part,) = state.parts
    return part


def rows_of(state: DetectorState) -> frozenset[str]:
    return class_rows(resolve_roles(state.family), state.head, state.parts[0].tensors)


def floats(tensors: Any) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "base.safetensors"
    save_base(path, FAMILY.fresh(YOLO11N, CATS, seed=0).tensors)
    return path


# ---- exactness ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=["-".join(kind) for kind in KINDS])
def test_equal_models_give_the_model_in_any_order_of_classes(
    tmp_path: Path, kind: tuple[str, str, str]
) -> None:
    one = load_detector(detector(tmp_path / "a", kind=kind)).state
    turn = [2, 0, 1]
    names = tuple(CATS[k] for k in turn)
    rows = rows_of(one)
    tensors = {n: t[turn].clone() if n in rows else t for n, t in only(one).tensors.items()}
    other = replace(one, parts=(replace(only(one), classes=names, tensors=tensors),))
    keep(tmp_path / "b", other)
    state = merged(tmp_path / "a", tmp_path / "b", tmp_path / "a", method="average").state
    assert not moved(one.shared, state.shared)
    assert not moved(floats(one.buffers), floats(state.buffers))
    assert only(state).classes == CATS
    assert not moved(floats(only(one).tensors), floats(only(state).tensors))
    for name, tensor in only(state).tensors.items():
        if name.endswith("num_batches_tracked"):
            assert int(tensor) == 3 * int(only(one).tensors[name])


@pytest.mark.slow
@pytest.mark.parametrize("method", MEANS)
@pytest.mark.parametrize("known", [True, False], ids=["rows of θ_0", "fresh rows"])
def test_methods_that_give_equal_models_back_do_so_for_heads(
    tmp_path: Path, method: str, known: bool
) -> None:
    theta = FAMILY.fresh(YOLO11N, CATS, seed=0).tensors
    info = {"classes": list(CATS)} if known else {}
    save_base(tmp_path / "w.safetensors", theta, info=info)
    one = load_detector(detector(tmp_path / "a")).state
    result = merged(
        tmp_path / "a", tmp_path / "a", method=method, weights=str(tmp_path / "w.safetensors")
    )
    assert not moved(floats(only(one).tensors), floats(only(result.state).tensors))
    assert not moved(one.shared, result.state.shared)


@pytest.mark.slow
def test_a_mean_pairs_rows_by_name_and_fuses_the_statistics_of_towers(tmp_path: Path) -> None:
    turned = ("bus", "cat", "dog")
    folders = [
        detector(tmp_path / "a", 1), detector(tmp_path / "b", 2, turned),
        detector(tmp_path / "c", 3),
    ]  # fmt: skip
    parts = [only(load_detector(folder).state) for folder in folders]
    state = merged(*folders, method="mtda", params={"weights": [1, 2, 3]}).state
    part = only(state)
    assert part.classes == CATS
    for name in floats(part.tensors):
        if is_statistic(name):
            continue
        given = [p.tensors[name].double() for p in parts]
        if name in rows_of(state):
            given[1] = given[1][[turned.index(label) for label in CATS]]
        expected = (given[0] + 2 * given[1] + 3 * given[2]) / 6
        torch.testing.assert_close(part.tensors[name].double(), expected, rtol=1e-6, atol=1e-7)
    statistics = [{n: t for n, t in p.tensors.items() if is_statistic(n)} for p in parts]
    fused = fuse_buffers(statistics, BatchNormFusion())
    assert not moved(fused, {n: part.tensors[n] for n in fused})


@pytest.mark.slow
@pytest.mark.parametrize("head", ["rows", "towers"])
def test_lists_that_overlap_in_part_make_one_head(tmp_path: Path, head: str) -> None:
    kind = ("yolo", YOLO11N, head)
    folders = [
        detector(tmp_path / "a", 1, ("cat", "dog"), kind),
        detector(tmp_path / "b", 2, ("bus", "dog"), kind),
    ]
    a, b = (only(load_detector(folder).state) for folder in folders)
    result = merged(*folders, method="average")
    part = only(result.state)
    assert part.classes == ("cat", "dog", "bus")
    for name in rows_of(result.state):
        assert torch.equal(part.tensors[name][0], a.tensors[name][0])
        assert torch.equal(part.tensors[name][2], b.tensors[name][0])
        mean = (a.tensors[name][1] + b.tensors[name][1]) / 2
        torch.testing.assert_close(part.tensors[name][1], mean)
    tower = "cv3.0.0.0.conv.weight"
    if head == "towers":
        torch.testing.assert_close(part.tensors[tower], (a.tensors[tower] + b.tensors[tower]) / 2)
    told = [remark for remark in result.remarks if "class towers merged" in remark]
    assert len(told) == (head == "towers")


@pytest.mark.slow
def test_a_shared_class_joins_three_models(tmp_path: Path) -> None:
    folders = [
        detector(tmp_path / "a", 1, ("cat", "dog")), detector(tmp_path / "b", 2, ("bus",)),
        detector(tmp_path / "c", 3, ("bus", "cat")), detector(tmp_path / "d", 4, ("kite",)),
    ]  # fmt: skip
    state = merged(*folders, method="average").state
    assert [part.classes for part in state.parts] == [("cat", "dog", "bus"), ("kite",)]
    assert [part.increment for part in state.parts] == ["m0", "m3"]
    alone = only(load_detector(folders[3]).state)
    assert not moved(alone.tensors, state.parts[1].tensors)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["rows", "towers", "parallel"])
def test_disjoint_lists_keep_their_parts_to_the_bit(tmp_path: Path, head: str) -> None:
    kind = ("yolo", YOLO11N, head)
    folders = [
        detector(tmp_path / "a", 1, ("cat",), kind),
        detector(tmp_path / "b", 2, ("bus",), kind),
    ]
    result = merged(*folders, method="average")
    assert len(result.traces) == 1
    for part, folder in zip(result.state.parts, folders, strict=True):
        assert not moved(part.tensors, only(load_detector(folder).state).tensors)


# ---- methods and θ_0 ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", WHOLE)
@pytest.mark.parametrize("known", [True, False], ids=["rows of θ_0", "fresh rows"])
def test_every_method_merges_heads(tmp_path: Path, method: str, known: bool) -> None:
    theta = FAMILY.fresh(YOLO11N, CATS, seed=0).tensors
    save_base(tmp_path / "w.safetensors", theta, info={"classes": list(CATS)} if known else {})
    folders = [detector(tmp_path / name, seed) for seed, name in enumerate("ab", 1)]
    weights = str(tmp_path / "w.safetensors")
    result = merged(*folders, method=method, weights=weights)
    heads = [trace for trace in result.traces if trace.part == "m0"]
    own = METHODS[method].needs == () or known
    assert {trace.method for trace in heads} == ({method} if own else {method, "average"})
    rows = [t for t in heads if "cv3.0.2.weight" in t.tensors]
    assert [trace.method for trace in rows] == [method if own else "average"]
    assert all(bool(t.isfinite().all()) for t in floats(only(result.state).tensors).values())
    if not METHODS[method].ordered:
        entries = [Entry(path=str(folder), name=f"m{k}") for k, folder in enumerate(folders)]
        recipe = Recipe(increments=(entries[1], entries[0]), method=method, weights=weights)
        turned = only(merge_plan(make_plan(recipe)).state)
        assert not moved(floats(only(result.state).tensors), floats(turned.tensors))


@pytest.mark.slow
def test_task_vectors_of_heads_count_from_the_rows_that_theta_0_knows(tmp_path: Path) -> None:
    theta = FAMILY.fresh(YOLO11N, CATS, seed=0).tensors
    weights = tmp_path / "w.safetensors"
    save_base(weights, theta, info={"classes": ["dog", "zebra", "Cat"]})
    base = FAMILY.rules.split_roles(load_start(weights).tensors, "towers").own
    folders = [detector(tmp_path / name, seed) for seed, name in enumerate("ab", 1)]
    a, b = (only(load_detector(folder).state).tensors for folder in folders)
    options: dict[str, Any] = {"method": "task-arithmetic", "params": {"weight": 0.8}}
    part = only(merged(*folders, weights=str(weights), **options).state)
    for name in ("cv3.0.2.weight", "cv3.1.2.bias"):
        for row, place in ((0, 2), (1, 0)):  # cat is Cat, dog is dog
            zero = base[name][place]
            expected = zero + 0.8 * (a[name][row] + b[name][row] - 2 * zero)
            torch.testing.assert_close(part.tensors[name][row], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(part.tensors[name][2], (a[name][2] + b[name][2]) / 2)
    tower = "cv3.0.0.0.conv.weight"
    expected = base[tower] + 0.8 * (a[tower] + b[tower] - 2 * base[tower])
    torch.testing.assert_close(part.tensors[tower], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_duet_weighs_unknown_rows_as_it_weighs_models(start: Path, tmp_path: Path) -> None:
    folders = [detector(tmp_path / name, seed) for seed, name in enumerate("abc", 1)]
    a, b, c = (only(load_detector(folder).state).tensors["cv3.0.2.weight"] for folder in folders)
    params = {"alpha_base": 0.7}
    part = only(merged(*folders, method="duet", params=params, weights=str(start)).state)
    expected = 0.7 * (0.7 * a + 0.3 * b) + 0.3 * c
    torch.testing.assert_close(part.tensors["cv3.0.2.weight"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_weights_by_position_follow_their_models(tmp_path: Path) -> None:
    folders = [
        detector(tmp_path / "a", 1, ("kite",)), detector(tmp_path / "b", 2),
        detector(tmp_path / "c", 3),
    ]  # fmt: skip
    options: dict[str, Any] = {
        "method": "average", "params": {"weights": [5, 0, 1]},
        "batchnorm": {"weights": [5, 0, 1]},
    }  # fmt: skip
    state = merged(*folders, **options).state
    chosen = only(load_detector(folders[2]).state).tensors
    assert not moved(floats(chosen), floats(state.parts[1].tensors))
    with pytest.raises(ModelError, match="got 2 weights for 3 stages"):
        merged(*folders, method="average", params={"weights": [5, 1]})


# ---- what cannot become one ---------------------------------------------------------------------


@pytest.mark.slow
def test_towers_of_other_widths_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    wide = load_detector(detector(tmp_path / "a", classes=("cat",))).state
    part = only(wide)
    narrow = {n: t[:, :48].clone() if n == "cv3.0.2.weight" else t for n, t in part.tensors.items()}
    keep(tmp_path / "b", replace(wide, parts=(replace(part, tensors=narrow),)))
    words = ["merge", f"x={tmp_path / 'a'}", f"y={tmp_path / 'b'}", "--method", "average"]
    for more in (["--dry-run"], ["--out", tmp_path / "out"]):
        result = run(*words, *more)
        assert isinstance(result.exception, ModelError)
        assert "'cv3.0.2.weight' is (1, 64, 1, 1) and (1, 48, 1, 1)" in str(result.exception)
        assert "y:cat" in str(result.exception)
    assert not (tmp_path / "out").exists()
    assert run(*words, "--alias", "y:cat=tom", "--out", tmp_path / "out").exit_code == 0


@pytest.mark.slow
def test_towers_of_one_model_do_not_become_one(tmp_path: Path) -> None:
    one = load_detector(detector(tmp_path / "x", 1, ("cat",))).state
    two = load_detector(detector(tmp_path / "y", 2, ("dog",))).state
    keep(tmp_path / "a", replace(one, parts=(*one.parts, *two.parts)))
    detector(tmp_path / "b", 3, ("dog", "cat"))
    with pytest.raises(ModelError, match=r"m0 has them in several head parts"):
        merged(tmp_path / "a", tmp_path / "b", method="average")
    detector(tmp_path / "c", 3, ("dog",))
    state = merged(tmp_path / "a", tmp_path / "c", method="average").state
    assert [(p.increment, p.classes) for p in state.parts] == [("x", ("cat",)), ("y", ("dog",))]


@pytest.mark.slow
def test_rows_of_one_model_join_whatever_part_holds_them(tmp_path: Path) -> None:
    kind = ("yolo", YOLO11N, "rows")
    one = load_detector(detector(tmp_path / "x", 1, ("cat",), kind)).state
    two = load_detector(detector(tmp_path / "y", 1, ("dog",), kind)).state
    keep(tmp_path / "a", replace(one, parts=(*one.parts, *two.parts)))
    detector(tmp_path / "b", 3, ("dog", "cat"), kind)
    part = only(merged(tmp_path / "a", tmp_path / "b", method="newest").state)
    other = only(load_detector(tmp_path / "b").state)
    assert part.classes == ("cat", "dog")
    for name, tensor in part.tensors.items():
        assert torch.equal(tensor, other.tensors[name][[1, 0]])


@pytest.mark.slow
def test_a_chain_repeats_no_class(start: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("day", "night")):
        write_increment(tmp_path / name, start, name, CATS, seed)
    words = [tmp_path / "day", tmp_path / "night", "--weights", start, "--method", "average"]
    refused = run("merge", *words, "--geometry", "sequential", "--out", tmp_path / "o")
    assert "'cat' is in day and night: each increment of a chain" in str(refused.exception)
    doubled = run("merge", *words, "--alias", "night:cat=dog", "--out", tmp_path / "o")
    assert "'dog' is twice in night" in str(doubled.exception)


# ---- kept increments, and what can be done with the result --------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mtda", "average", "ties", "duet"])
def test_increments_of_two_domains_merge_log_revert_and_drop(
    start: Path, tmp_path: Path, method: str
) -> None:
    """The experiment of MTDA merging (ECCV 2024): the same classes, trained apart."""
    write_increment(tmp_path / "day", start, "day", CATS, 1, kind="base")
    write_increment(tmp_path / "night", start, "night", ("dog", "bus", "cat"), 2)
    words = [tmp_path / "day", tmp_path / "night", "--weights", start, "--method", method]
    result = run("merge", *words, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.exception
    told = json.loads(result.stdout)
    assert told["classes"] == list(CATS)
    assert [merge["part"] for merge in told["merges"]][:2] == [None, "day"]
    file = load_detector(tmp_path / "out")
    assert [(p.increment, p.classes) for p in file.state.parts] == [("day", CATS)]
    plan = make_plan(located(file.manifest.recipe or {}, tmp_path / "out"))
    again = write_detector(plan, tmp_path / "again")
    assert again.manifest.fingerprint == file.manifest.fingerprint
    steps = {step["name"]: step for step in read_history(tmp_path / "out")["increments"]}
    assert steps["day"]["classes"] == steps["night"]["classes"] == CATS
    told_again = run("log", tmp_path / "out").stdout
    counts = {"ties": "36 tensors by ties, 6 tensors by average",
              "duet": "36 tensors by duet, 6 tensors by average"}  # fmt: skip
    counted = counts.get(method, f"42 tensors by {method}")
    assert f"day + night: head part 'day', {counted}\n" in f"{told_again}\n"
    assert run("diff", tmp_path / "out", tmp_path / "again").exit_code == 0

    left = merge_plan(revert(tmp_path / "out", "day").plan).state
    alone = write_detector(
        make_plan(Recipe(increments=(Entry(path=str(tmp_path / "night")),), weights=str(start),
                         method=method)), tmp_path / "alone",
    )  # fmt: skip
    assert not moved(floats(left.parts[0].tensors), floats(alone.result.state.parts[0].tensors))

    dropped = drop_classes(tmp_path / "out", ["dog"], tmp_path / "dropped")
    assert not dropped.remarks
    kept = merge_plan(make_plan(located(dropped.manifest.recipe or {}, tmp_path / "dropped"))).state
    state = load_detector(tmp_path / "dropped").state
    assert kept.labels.names == state.labels.names == ("cat", "bus")
    assert kept.fingerprint() == state.fingerprint()
    steps = read_history(tmp_path / "dropped")["increments"]
    assert [step["classes"] for step in steps] == [("cat", "bus")] * 2


@pytest.mark.slow
def test_dropping_what_joined_two_models_leaves_no_recipe(tmp_path: Path) -> None:
    folders = [
        detector(tmp_path / "a", 1, ("cat", "dog")),
        detector(tmp_path / "b", 2, ("dog", "bus")),
    ]
    recipe = Recipe(increments=tuple(Entry(path=str(f)) for f in folders), method="average")
    write_detector(make_plan(recipe), tmp_path / "out")
    assert load_traces(tmp_path / "out")[1].classes == {"a": ("cat", "dog"), "b": ("dog", "bus")}
    dropped = drop_classes(tmp_path / "out", ["dog"], tmp_path / "dropped")
    assert dropped.manifest.recipe is None
    assert any("keeps no recipe" in remark for remark in dropped.remarks)
    assert drop_classes(tmp_path / "out", ["cat"], tmp_path / "other").manifest.recipe is not None


@pytest.mark.slow
def test_a_scale_counts_where_theta_0_knows_the_head(start: Path, tmp_path: Path) -> None:
    folders = [detector(tmp_path / name, seed) for seed, name in enumerate("ab", 1)]
    entries = (Entry(path=str(folders[0]), scale=0), Entry(path=str(folders[1]), scale=0))
    plan = make_plan(Recipe(increments=entries, weights=str(start), method="average"))
    part = only(merge_plan(plan).state)
    base = FAMILY.rules.split_roles(load_start(start).tensors, "towers").own
    tower = "cv3.0.0.0.conv.weight"
    torch.testing.assert_close(part.tensors[tower], base[tower])
    a, b = (only(load_detector(folder).state).tensors["cv3.0.2.weight"] for folder in folders)
    torch.testing.assert_close(part.tensors["cv3.0.2.weight"], (a + b) / 2)


# ---- what it is good for ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_mean_of_two_near_detectors_answers_like_them(tmp_path: Path) -> None:
    start = StartWeights(pretrained())
    state = FAMILY.start_state(
        start, architecture=YOLO11N, head="towers", classes=CATS, increment="a", seed=0
    )
    generator = torch.Generator().manual_seed(3)
    lively = {
        n: torch.randn(t.shape, generator=generator) - 1.0 if n.endswith(".2.bias") else t
        for n, t in state.parts[0].tensors.items()
    }
    state = replace(state, parts=(replace(state.parts[0], tensors=lively),))
    turn = [1, 2, 0]
    for seed, name in enumerate("ab", 1):
        near = shaken(state.parts[0].tensors, seed, 0.01)
        rows = rows_of(state)
        order = turn if name == "b" else [0, 1, 2]
        near = {n: t[order] if n in rows else t for n, t in near.items()}
        part = HeadPart(tuple(CATS[k] for k in order), near, name)
        keep(
            tmp_path / name, replace(state, shared=shaken(state.shared, seed, 0.01), parts=(part,))
        )
    mean = merged(tmp_path / "a", tmp_path / "b", method="average").state
    one = load_detector(tmp_path / "a").state
    images = torch.rand((2, 3, 64, 64), generator=generator)
    with torch.no_grad():
        outputs = [FAMILY.network(s)(images) for s in (mean, one)]
    scores = [(y[0] if isinstance(y, tuple) else y)[:, 4:] for y in outputs]
    assert float(scores[1].std()) > 0.05
    assert float((scores[0] - scores[1]).abs().mean()) < 0.1 * float(scores[1].std())


@pytest.mark.slow
def test_without_theta_0_no_sign_conflict_is_told(start: Path, tmp_path: Path) -> None:
    folders = [detector(tmp_path / name, seed) for seed, name in enumerate("ab", 1)]
    words = ["merge", *folders, "--method", "average"]
    text = run(*words, "--out", tmp_path / "o").stdout
    assert "214 tensors, alpha 0.500" in text
    assert "sign conflict" not in text + run("log", tmp_path / "o").stdout
    summary = read_history(tmp_path / "o")["merges"][0]["summary"]
    assert summary["sign_conflict"] is None
    trace = load_traces(tmp_path / "o")[0].tensors["model.0.conv.weight"]
    assert (trace.norm_old, trace.cosine, trace.sign_conflict) == (0, None, None)
    assert trace.norm_new > 0
    known = run(*words, "--weights", start, "--out", tmp_path / "p").stdout
    assert "sign conflicts" in known.splitlines()[1]
