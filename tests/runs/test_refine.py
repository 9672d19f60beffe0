"""More pictures of known classes: their class rows alone, or the trunk under kept head parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from factories_detectors import make_detector
from factories_foreign import CLASSES, original, stored
from factories_onto import OFF, Desk, made_desk, refused, scores, state
from factories_run import duet_here
from factories_series import make_dataset
from factories_states import moved, same_bits

from duet.errors import ConfigError, ModelError
from duet.families.table import class_rows, resolve_roles
from duet.increments.manifest import IncrementManifest, read_manifest
from duet.increments.state import DetectorState, HeadPart
from duet.increments.store import load_detector, load_increment
from duet.recipes.apply import merge_plan
from duet.recipes.edits import kept_recipe, located
from duet.recipes.plan import make_plan
from duet.recipes.recipe import Recipe
from duet.recipes.refined import cut_to, refined, rows_of
from duet.runs.learnable import require_adaptable
from duet.series import Increment
from duet.training.config import Strategy

pytestmark = pytest.mark.slow

FROZEN = {"trunk": "frozen", **OFF, "merge": {"method": "newest"}, "batchnorm": {"rule": "oldest"}}
METHODS: dict[str, dict[str, Any]] = {
    "towers": {"head": "towers", **FROZEN, "refit": {"epochs": 1}},
    "rows": {"head": "rows", **FROZEN},
    "parallel": {"head": "parallel", **FROZEN},
    "half": {"head": "towers", "trunk": "frozen", **OFF, "merge": {"method": "average"}},
    "free": {"head": "towers", "distill": {"weight": 0.1}, "directional": {"weight": 0}},
}
SERIES: dict[str, tuple[str, ...]] = {
    "extra": (CLASSES[1],),
    "more": (CLASSES[2], CLASSES[0]),
    "kites": ("kite", "dog"),  # of the second and of the first part of `make_detector`
    "new": ("night cup",),
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with made_desk(tmp_path_factory.mktemp("desk")) as desk:
        for seed, (name, classes) in enumerate(SERIES.items()):
            make_dataset(desk / name, names=classes, counts={"train": 6, "val": 3}, seed=seed)
            step = {
                "name": name,
                "domain": "day",
                "data": f"{name}/data.yaml",
                "classes": [*classes],
            }
            series = {"schema": 1, "name": "mine", "increments": [step]}
            (desk / f"{name}.yaml").write_text(yaml.safe_dump(series))
        for name, settings in METHODS.items():
            (desk / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **settings}))
        yield desk


def learn(
    desk: Desk, capsys: pytest.CaptureFixture[str], name: str, method: str, out: str,
    *options: object,
) -> str:  # fmt: skip
    words = ["--strategy", desk / f"{method}.yaml", "--train", desk / "train.yaml"]
    done = duet_here(
        capsys, "increment", desk / f"{name}.yaml", name, *words, "--out", desk / out, *options
    )
    assert done.code == 0, done.err
    return done.out


def merged_again(folder: Path) -> str:
    file = load_detector(folder)
    again = merge_plan(make_plan(located(kept_recipe(file.manifest, folder), folder)))
    assert not again.remarks
    assert again.state.fingerprint() == file.manifest.fingerprint
    return file.manifest.fingerprint


def held(before: DetectorState, after: DetectorState, classes: Sequence[str]) -> None:
    """Expect that the rows of some classes moved, in all tensors, and nothing else, to the bit."""
    assert before.labels == after.labels
    for kind in ("shared", "buffers"):
        assert not moved(getattr(before, kind), getattr(after, kind))
    for old, new in zip(before.parts, after.parts, strict=True):
        rows = class_rows(resolve_roles(before.family), before.head, old.tensors)
        assert moved(old.tensors, new.tensors) <= rows
        for name in rows:
            for place, label in enumerate(old.classes):
                same = same_bits(old.tensors[name][place], new.tensors[name][place])
                assert same is (label not in classes), (name, label)


# ---- rows of some classes alone ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "architecture"),
    [
        ("towers", "yolo11n.yaml"),
        ("rows", "yolov8n.yaml"),
        ("parallel", "yolo26n.yaml"),
    ],
)
def test_all_else_stays_to_the_bit(
    desk: Desk, method: str, architecture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    best = stored(desk / f"{method}.pt", original(architecture))
    told = learn(desk, capsys, "extra", method, f"one-{method}", "--onto", best)
    models = desk / f"one-{method}" / "models" / method
    before, after = state(models / f"0-{method}"), state(models / "1-extra")
    held(before, after, SERIES["extra"])
    if method != "parallel":  # it answers end to end, with the best of all classes
        was, now = scores(before, 3), scores(after, 3)
        for channel in range(7):
            assert torch.equal(was[:, channel], now[:, channel]) is (channel != 5)
    assert "of 3 objects of its classes" in told
    assert "(before: " in told
    merged_again(models / "1-extra")


@pytest.fixture(scope="module")
def chain(desk: Desk) -> Path:
    """Refine one class of a detector, then two others, then learn a new one."""
    from duet.cli.main import _run

    first = [desk / "extra.yaml", "extra", "--onto", desk / "best.pt"]
    for words in (first, [desk / "more.yaml", "more"], [desk / "new.yaml", "new"]):
        options = ["--strategy", desk / "towers.yaml", "--train", desk / "train.yaml"]
        words = ["increment", *words, *options, "--out", desk / "run"]
        assert _run([str(word) for word in words]) == 0
    return desk / "run" / "models" / "towers"


def test_a_chain_of_refinements_merges_again(chain: Path) -> None:
    names = ("0-best", "1-extra", "2-more", "3-new")
    best, extra, more, new = (state(chain / name) for name in names)
    held(best, extra, SERIES["extra"])
    held(extra, more, SERIES["more"])
    assert not moved(more.parts[0].tensors, new.parts[0].tensors)
    assert not moved(more.shared, new.shared)
    assert [merged_again(chain / name) for name in names][1] == extra.fingerprint()


def test_the_increment_holds_its_rows_and_no_more(desk: Desk, chain: Path) -> None:
    kept = load_increment(desk / "run" / "increments" / "towers" / "more")
    manifest = kept.manifest
    assert (manifest.kind, manifest.classes) == ("refinement", ())
    assert manifest.adapts == SERIES["more"]
    assert kept.part is not None
    assert kept.refit is None  # its epochs are those of the schedule
    assert kept.part.classes == SERIES["more"]
    assert not moved(
        kept.part.tensors, rows_of(state(chain / "2-more"), SERIES["more"], "more").tensors
    )
    assert not any(bool(tensor.any()) for tensor in kept.vector.delta.values())


def test_its_history_is_told_and_undone(
    desk: Desk, chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = duet_here(capsys, "log", chain / "2-more").out
    assert "more (refinement, day, 6 images)" in told
    assert f"known before: 2 classes: {', '.join(SERIES['more'])}" in told
    out = desk / "without-more"
    done = duet_here(capsys, "revert", chain / "2-more", "more", "--out", out)
    assert done.code == 0, done.err
    assert state(out).fingerprint() == state(chain / "1-extra").fingerprint()
    done = duet_here(capsys, "revert", chain / "2-more", "extra", "--out", desk / "without-extra")
    assert done.code == 0, done.err
    held(state(chain / "0-best"), state(desk / "without-extra"), SERIES["more"])
    assert (
        duet_here(capsys, "scale", chain / "1-extra", "extra", 0, "--out", desk / "none").code == 0
    )
    assert state(desk / "none").fingerprint() == state(chain / "0-best").fingerprint()


def test_a_detector_of_several_parts(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_detector(desk / "several", head="towers", increments=3)
    learn(desk, capsys, "kites", "towers", "parts", "--onto", made)
    models = desk / "parts" / "models" / "towers"
    before, after = state(models / "0-several"), state(models / "1-kites")
    held(before, after, SERIES["kites"])
    assert len(after.parts) == 3
    merged_again(models / "1-kites")


def test_other_methods_join_old_rows_and_refined_ones(
    desk: Desk, chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn(desk, capsys, "extra", "half", "half", "--onto", desk / "best.pt")
    models = desk / "half" / "models" / "half"
    before, after = state(models / "0-best"), state(models / "1-extra")
    held(before, after, SERIES["extra"])
    trained = rows_of(state(chain / "1-extra"), SERIES["extra"], "x").tensors
    old, new = (rows_of(one, SERIES["extra"], "x").tensors for one in (before, after))
    for name, rows in new.items():
        torch.testing.assert_close(rows, (old[name] + trained[name]) / 2)
    merged_again(models / "1-extra")


# ---- recipes with refinements ------------------------------------------------------------------


def entries(desk: Desk, chain: Path, **first: Any) -> Recipe:
    folder = desk / "run" / "increments" / "towers"
    content = {
        "schema": 1, "method": "newest", "geometry": "sequential", "weights": str(desk / "best.pt"),
        "batchnorm": {"rule": "oldest"},
        "increments": [
            {"path": str(chain / "0-best"), "name": "best", **first},
            {"path": str(folder / "extra")}, {"path": str(folder / "more")},
        ],
    }  # fmt: skip
    return Recipe.model_validate(content)


def test_names_and_drops_of_the_detector_hold_for_its_refined_rows(desk: Desk, chain: Path) -> None:
    edited = entries(desk, chain, alias={CLASSES[1]: "lamp"}, drop=(CLASSES[0],))
    result = merge_plan(make_plan(edited)).state
    assert result.labels.names == ("lamp", CLASSES[2])
    wanted = rows_of(state(chain / "2-more"), CLASSES[1:], "x").tensors
    assert not moved(wanted, rows_of(result, ("lamp", CLASSES[2]), "x").tensors)


def test_rows_need_a_detector_before_them(desk: Desk, chain: Path) -> None:
    whole = entries(desk, chain)
    with pytest.raises(ModelError, match="more: rows of known classes") as caught:
        make_plan(whole.model_copy(update={"geometry": "independent"}))
    assert "--geometry sequential" in (caught.value.remedy or "")
    turned = (whole.increments[1], whole.increments[0])
    with pytest.raises(ModelError, match="extra: rows of known classes"):
        make_plan(whole.model_copy(update={"increments": turned}))


def test_dropping_a_refined_class_is_remembered(
    desk: Desk, chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = desk / "dropped"
    done = duet_here(capsys, "drop-class", chain / "2-more", CLASSES[1], "--out", out)
    assert done.code == 0, done.err
    merged_again(out)


# ---- what is refused ---------------------------------------------------------------------------


def test_towers_of_two_widths_are_refused(desk: Desk) -> None:
    one = state(make_detector(desk / "one", head="towers", increments=2))
    first, second = one.parts
    wide = {
        name: torch.cat([tensor, tensor], 1) if name.endswith(".2.weight") else tensor
        for name, tensor in second.tensors.items()
    }
    mixed = replace(one, parts=(first, replace(second, tensors=wide)))
    with pytest.raises(ModelError, match="towers of different widths") as caught:
        rows_of(mixed, ("dog", "bus"), "kites")
    assert "split it" in (caught.value.remedy or "")
    assert rows_of(mixed, ("dog",), "kites").classes == ("dog",)


def test_heads_in_parallel_are_refined_one_at_a_time(desk: Desk) -> None:
    method = Strategy.model_validate({"name": "parallel", **METHODS["parallel"]})
    parts = (("cat", "dog"), ("bus",))
    for classes, fits in ((("dog",), True), (("bus", "dog"), False)):
        increment = Increment("again", "day", classes, None)  # type: ignore[arg-type]
        if fits:
            require_adaptable(method, "yolo", increment, parts)
            continue
        with pytest.raises(ConfigError) as caught:
            require_adaptable(method, "yolo", increment, parts)
        assert "an increment for the classes of each head" in (caught.value.remedy or "")


@pytest.mark.parametrize("family", ["rtdetr", "dfine"])
def test_detrs_refine_some_of_their_classes(family: str) -> None:
    """Others are not left out of the loss but out of the detector that trains."""
    method = Strategy.model_validate({"name": "rows", **METHODS["rows"]})
    increment = Increment("again", "day", ("dog",), None)  # type: ignore[arg-type]
    require_adaptable(method, family, increment, (("cat", "dog"),))


# ---- rows, without a training ------------------------------------------------------------------


def part(name: str, classes: tuple[str, ...], first: float) -> HeadPart:
    rows = torch.arange(first, first + len(classes), dtype=torch.float32)
    return HeadPart(classes, {"w": rows[:, None].repeat(1, 2), "b": rows.clone()}, name)


def test_rows_find_their_places() -> None:
    parts = (part("a", ("cat", "dog"), 0), part("b", ("bus",), 2))
    rows = part("more", ("bus", "gone", "cat"), 10)
    now = refined(parts, rows, "newest", {}, images=(0, 6))
    assert [one.tensors["b"].tolist() for one in now] == [[12, 1], [10]]
    assert [one.tensors["w"].tolist() for one in now] == [[[12, 12], [1, 1]], [[10, 10]]]
    assert parts[0].tensors["b"].tolist() == [0, 1]  # not written into
    half = refined(parts, rows, "newest", {}, images=(0, 6), scale=0.5)
    assert [one.tensors["b"].tolist() for one in half] == [[6, 1], [6]]
    weighed = refined(parts, rows, "duet", {"alpha_base": 0.75}, images=(0, 6))
    assert [one.tensors["b"].tolist() for one in weighed] == [[3, 1], [4]]
    gone = part("none", ("gone",), 10)
    assert refined(parts, gone, "newest", {}, images=(0, 6)) == parts


def test_a_cut_detector_has_what_its_classes_read() -> None:
    from factories_detectors import make_state

    whole = make_state("towers", 3)
    cut = cut_to(whole, ("dog", "kite"))
    assert [one.classes for one in cut.parts] == [("dog",), ("kite",)]
    assert torch.equal(
        cut.parts[0].tensors["cv3.0.2.bias"], whole.parts[0].tensors["cv3.0.2.bias"][1:]
    )
    assert not moved(whole.shared, cut.shared)


# ---- the trunk, under head parts that stay -----------------------------------------------------


def test_a_trained_trunk_keeps_the_head(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    name = "more"  # of three classes two are labelled
    told = learn(desk, capsys, name, "free", f"free-{name}", "--onto", desk / "best.pt")
    folder = desk / f"free-{name}"
    before, after = (state(folder / "models" / "free" / n) for n in ("0-best", f"1-{name}"))
    assert not moved(before.parts[0].tensors, after.parts[0].tensors)
    assert moved(before.shared, after.shared)
    assert "detections" in told
    manifest = read_manifest(folder / "increments" / "free" / name, IncrementManifest)
    assert (manifest.kind, manifest.adapts) == ("increment", SERIES[name])
    merged_again(folder / "models" / "free" / f"1-{name}")


def test_new_and_known_classes_together_are_refused(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load((desk / "extra.yaml").read_text())
    content["increments"] = [{**content["increments"][0], "classes": [CLASSES[1], "night cup"]}]
    names = [CLASSES[1], "night cup"]
    make_dataset(desk / "extra", names=names, counts={"train": 6, "val": 3}, seed=0)
    (desk / "mixed.yaml").write_text(yaml.safe_dump(content))
    words = ["increment", desk / "mixed.yaml", "extra", "--strategy", desk / "towers.yaml"]
    words += ["--train", desk / "train.yaml", "--out", desk / "none", "--onto", desk / "best.pt"]
    refused(duet_here(capsys, *words), "split it in two")
