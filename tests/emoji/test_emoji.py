"""The Emoji series: equal bytes, exact boxes, fair splits, safe folders."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import itertools
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pretrain_emoji as pretraining
import pytest
import yaml
from places import REPO

from duet.cli.main import _run
from duet.emoji import packages, styles
from duet.emoji.build import STAMP, BuildReport, build
from duet.emoji.glyphs import Artwork, glyph, svg_path
from duet.emoji.plan import DOMAINS, Plan
from duet.emoji.raster import SOLID
from duet.emoji.scenes import CLUTTER as CLUTTER_INDEX
from duet.emoji.scenes import (
    MAX_HIDDEN,
    Scene,
    _drop_hidden,
    _layout,
    _Sprite,
    compose,
    scene_rng,
)
from duet.emoji.vocabulary import CLUTTER, FOCI, ICONS, MAIN, Vocabulary
from duet.emoji.writing import label_line, scenes_of
from duet.errors import ConfigError, DataError, DuetError, MissingExtraError
from duet.series.document import SeriesConfig

ALL_DOMAINS = (*DOMAINS, "mixed")
SMALL: dict[str, Any] = {"train": 24, "val": 6, "test": 8}


def _vocabulary(domain: str) -> Vocabulary:
    return pretraining.PRETRAINING if domain == "mixed" else DOMAINS[domain]


def _plan(domain: str, **changes: Any) -> Plan:
    splits = {"train": 60, "val": 60, "test": 60}
    if domain == "mixed":
        return dataclasses.replace(pretraining.mixed(splits), **changes)
    values: dict[str, Any] = {
        "kind": "series",
        "vocabulary": _vocabulary(domain),
        "domains": (domain,),
        "splits": splits,
        "seed": 0,
        "size": 160,
        "variants": "own",
        "focus": {},
    }
    return Plan(**{**values, **changes})


def _contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def _rows(labels: Path) -> list[list[float]]:
    return [[float(word) for word in line.split()] for line in labels.read_text().splitlines()]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here runs without a network, which also proves that none is needed."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the Emoji series must not open a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildReport]:
    folder = tmp_path_factory.mktemp("emoji") / "series"
    return folder, build(folder, domains=("flat", "comic"), **SMALL)


# --- light import ---------------------------------------------------------------------------


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, duet.emoji, duet.emoji.plan, duet.emoji.vocabulary, duet.emoji.build\n"
        "import duet.cli.data_emoji\n"
        "heavy = {'cv2', 'albumentations', 'skimage', 'resvg_py', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)


# --- vocabulary -----------------------------------------------------------------------------


def test_twenty_voc_classes_in_order() -> None:
    assert len(MAIN.names) == 20
    assert list(MAIN.names) == sorted(MAIN.names)


@pytest.mark.parametrize("protocol", ["2-phase", "4-phase", "8-chain", "12-chain"])
def test_each_class_is_learned_once(protocol: str) -> None:
    learned = [name for classes in FOCI[protocol].values() for name in classes]
    assert sorted(learned) == list(MAIN.names)


def test_no_emoji_means_two_things() -> None:
    pools = [
        e.seen + e.held
        for e in (*MAIN.emoji.values(), *pretraining.PRETRAINING.emoji.values(), CLUTTER)
    ]
    codes = [code for pool in pools for code in pool]
    assert len(codes) == len(set(codes))
    assert len(pretraining.PRETRAINING.names) == 60


def test_no_icon_means_two_things_and_no_class_is_known_from_elsewhere() -> None:
    codes = [c for e in (*ICONS.emoji.values(), ICONS.clutter) for c in e.seen + e.held]
    assert len(codes) == len(set(codes))
    assert list(ICONS.names) == sorted(ICONS.names)
    assert not set(ICONS.names) & {*MAIN.names, *pretraining.PRETRAINING.names}
    assert sorted(name for classes in FOCI["icons"].values() for name in classes) == [*ICONS.names]
    for code in codes:
        assert svg_path("fontawesome", code).is_file()


@pytest.mark.parametrize("source", ["twemoji", "openmoji"])
def test_every_emoji_is_in_the_artwork(source: Any) -> None:
    for emoji in (*MAIN.emoji.values(), *pretraining.PRETRAINING.emoji.values(), CLUTTER):
        for code in emoji.seen + emoji.held:
            assert svg_path(source, code).is_file()


def test_unknown_emoji_is_an_error() -> None:
    with pytest.raises(DataError, match="no emoji ffff"):
        svg_path("twemoji", "ffff")


# --- glyphs and scenes ----------------------------------------------------------------------


@pytest.mark.parametrize("style", ["plain", "inked", "painted", "pencilled", "swapped"])
def test_glyphs_are_tight_and_premultiplied(style: str) -> None:
    drawing = glyph("1f6b2", Artwork("twemoji", getattr(styles, style)), 128)
    for picture in drawing.levels:
        assert picture.dtype == np.uint8
        assert (picture[..., :3] <= picture[..., 3:]).all()
    solid = drawing.levels[0][..., 3] >= SOLID
    for edge in (solid[1], solid[-2], solid[:, 1], solid[:, -2]):
        assert edge.any()  # the drawing reaches the margin of one pixel on every side


@pytest.mark.parametrize("domain", ALL_DOMAINS)
@pytest.mark.slow
def test_scenes_are_sound(domain: str) -> None:
    for scene in scenes_of(_plan(domain), domain, "train"):
        assert scene.image.shape == (160, 160, 3)
        assert scene.image.dtype == np.uint8
        assert scene.image.std() > 2
        assert 1 <= len(scene.objects) <= 5
        assert len(scene.clutter) <= 2
        for item in scene.objects:
            x0, y0, x1, y1 = item.xyxy
            assert 0 <= x0 < x1 <= 160
            assert 0 <= y0 < y1 <= 160
            assert 0 <= item.class_index < len(_vocabulary(domain).names)
            assert item.visible[y0:y1, x0:x1].sum() == item.visible.sum()
            for edge in (item.visible[y0], item.visible[y1 - 1]):
                assert edge.any()
            for edge in (item.visible[:, x0], item.visible[:, x1 - 1]):
                assert edge.any()


def test_boxes_agree_with_the_painted_pixels() -> None:
    """Painted alone on black and on white, exactly the object's pixels differ little."""
    from dataclasses import replace

    from duet.emoji.looks import LOOKS

    def canvas(grey: int) -> Any:
        return lambda rng, size, pool: np.full((size, size, 3), grey, np.uint8)

    flat = LOOKS["flat"]
    for index in range(40):
        pictures = [
            compose(
                scene_rng(3, index),
                replace(flat, background=canvas(grey), finish=lambda r, i, p: i, shadow=0.0),
                Vocabulary(MAIN.emoji),
                size=160,
                pool="train",
                primary=index % 20,
            )
            for grey in (0, 255)
        ]
        black, white = (scene.image.astype(int) for scene in pictures)
        coverage = 255 - (white - black).mean(axis=2)  # = alpha where nothing else overlaps
        union = np.any([item.visible for item in pictures[0].objects], axis=0)
        solid = coverage >= SOLID + 2
        assert (solid & ~union).sum() <= 0.02 * union.sum() + 8  # two half-covering edges add up
        assert (union & (coverage < SOLID - 2)).sum() == 0


@pytest.mark.slow
def test_visible_masks_are_disjoint_and_nothing_mostly_hidden_stays() -> None:
    from duet.emoji.looks import LOOKS

    dropped = 0
    for index in range(400):
        sprites = _layout(scene_rng(5, index), LOOKS["comic"], MAIN, 160, "train", index % 20)
        kept, masks = _drop_hidden(sprites)
        dropped += len(sprites) - len(kept)
        assert np.sum(masks, axis=0).max() <= 1
        for sprite, mask in zip(kept, masks, strict=True):
            if sprite.class_index != CLUTTER_INDEX:
                assert mask.sum() >= (1 - MAX_HIDDEN) * sprite.area
    assert dropped > 0


def test_dropping_goes_one_at_a_time() -> None:
    """A covers B, B covers C: without B, C is visible again."""

    def block(left: int, right: int) -> _Sprite:
        mask = np.zeros((64, 64), np.bool_)
        mask[10:40, left:right] = True
        patch = np.zeros((1, 1, 4), np.uint8)
        return _Sprite(0, "x", patch, 0, 0, mask, int(mask.sum()))

    below, middle, top = block(0, 20), block(8, 28), block(10, 30)
    kept, masks = _drop_hidden([below, middle, top])
    assert kept == [below, top]
    assert [int(mask.sum()) for mask in masks] == [300, 600]


def test_label_line() -> None:
    scene = next(scenes_of(_plan("flat"), "flat", "train"))
    item = scene.objects[0]
    x0, y0, x1, y1 = item.xyxy
    index, cx, cy, w, h = (float(word) for word in label_line(item, 160).split())
    assert index == item.class_index
    corners = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * 160
    assert np.allclose(corners, [x0, y0, x1, y1], atol=1e-3)


@pytest.mark.slow
def test_domains_differ() -> None:
    """Mean colour and sharpness tell the domains apart, and no two share an image."""
    firsts = {name: list(scenes_of(_plan(name), name, "test"))[:20] for name in DOMAINS}

    def describe(scenes: list[Scene]) -> tuple[float, float, float]:
        images = np.stack([scene.image for scene in scenes]).astype(float)
        saturation = (images.max(axis=3) - images.min(axis=3)).mean()
        return images.mean(), saturation, np.abs(np.diff(images, axis=2)).mean()

    names = list(DOMAINS)
    looks = np.array([describe(scenes) for scenes in firsts.values()])
    distances = np.abs(looks[:, None] - looks[None]).max(axis=2)
    assert distances[~np.eye(len(looks), dtype=bool)].min() > 3
    assert looks[names.index("night"), 0] < looks[names.index("flat"), 0] - 20


# --- splits ---------------------------------------------------------------------------------


def _codes(domain: str, split: str, variants: str) -> set[str]:
    plan = _plan(domain, variants=variants)
    return {
        code
        for scene in scenes_of(plan, domain, split)
        for code in (*(item.code for item in scene.objects), *scene.clutter)
    }


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["flat", "comic", "sticker"])
def test_held_out_emoji_never_train(domain: str) -> None:
    words = _vocabulary(domain)
    held = {code for emoji in (*words.emoji.values(), words.clutter) for code in emoji.held}
    assert not held & _codes(domain, "train", "own")
    for split in ("val", "test"):
        assert held & _codes(domain, split, "own")
        assert not held & _codes(domain, split, "shared")


def test_backgrounds_are_cut_apart() -> None:
    from duet.emoji.backgrounds import _PALETTES, PHOTOS

    for entry in PHOTOS:
        a, b = entry.train, entry.eval
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], entry.file
    assert not set(_PALETTES["train"]) & set(_PALETTES["eval"])


@pytest.mark.parametrize("domain", ["flat", "comic"])
@pytest.mark.slow
def test_focus_is_honoured_and_all_classes_occur(domain: str) -> None:
    focus = tuple(FOCI["2-phase"][domain])
    plan = _plan(domain, splits={"train": 120, "val": 1, "test": 1}, focus={domain: focus})
    wanted = {MAIN.names.index(name) for name in focus}
    seen: set[int] = set()
    for scene in scenes_of(plan, domain, "train"):
        classes = {item.class_index for item in scene.objects}
        assert classes & wanted
        seen |= classes
    assert seen == set(range(20))


def test_scenes_depend_only_on_their_key() -> None:
    long = list(scenes_of(_plan("flat"), "flat", "test"))
    short = list(scenes_of(_plan("flat", splits={"train": 1, "test": 5}), "flat", "test"))
    for a, b in zip(short, long, strict=False):
        assert np.array_equal(a.image, b.image)
    other = next(scenes_of(_plan("flat", seed=1), "flat", "test"))
    assert not np.array_equal(other.image, long[0].image)
    val = next(scenes_of(_plan("flat"), "flat", "val"))
    assert not np.array_equal(val.image, long[0].image)


# --- on disk --------------------------------------------------------------------------------


def test_layout_on_disk(built: tuple[Path, BuildReport]) -> None:
    folder, report = built
    assert not report.reused
    assert report.counts == {"flat": SMALL, "comic": SMALL}
    for domain in ("flat", "comic"):
        data = yaml.safe_load((folder / domain / "data.yaml").read_text())
        assert list(data["names"].values()) == list(MAIN.names)
        assert "download" not in data
        for split, count in SMALL.items():
            assert data[split] == f"images/{split}"
            images = sorted((folder / domain / "images" / split).iterdir())
            labels = sorted((folder / domain / "labels" / split).iterdir())
            assert [path.stem for path in images] == [f"{i:06d}" for i in range(count)]
            assert [path.stem for path in labels] == [path.stem for path in images]
            rows = [row for path in labels for row in _rows(path)]
            assert len(rows) == sum(report.objects[domain][split].values())
            for index, cx, cy, w, h in rows:
                assert index in range(20)
                assert 0 < w <= 1
                assert 0 < h <= 1
                assert cx - w / 2 >= -1e-6
                assert cx + w / 2 <= 1 + 1e-6
                assert cy - h / 2 >= -1e-6
                assert cy + h / 2 <= 1 + 1e-6


def test_attribution_names_every_source(built: tuple[Path, BuildReport]) -> None:
    from duet.emoji.backgrounds import PHOTOS

    text = (built[0] / "ATTRIBUTION.md").read_text()
    for word in (
        "Twitter",
        "Fonticons",
        "CC BY 4.0",
        "OpenMoji",
        "CC BY-SA 4.0",
        *(p.file for p in PHOTOS),
    ):
        assert word in text


def test_images_hold_no_metadata(built: tuple[Path, BuildReport]) -> None:
    content = (built[0] / "flat/images/train/000000.jpg").read_bytes()
    assert b"Exif" not in content
    assert len(content) < 20_000


@pytest.mark.slow
def test_equal_bytes_again_alone_and_in_another_order(
    built: tuple[Path, BuildReport], tmp_path: Path
) -> None:
    folder, report = built
    turned = build(tmp_path / "turned", domains=("comic", "flat"), **SMALL)
    assert _contents(tmp_path / "turned") == _contents(folder)
    assert turned.sha256 == report.sha256
    alone = build(tmp_path / "alone", domains=("comic",), **SMALL)
    assert _contents(tmp_path / "alone/comic") == _contents(folder / "comic")
    assert alone.domain_sha256["comic"] == report.domain_sha256["comic"]


@pytest.mark.slow
def test_equal_bytes_in_another_process(built: tuple[Path, BuildReport], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from duet.emoji.build import build\n"
        f"build(Path(sys.argv[1]), domains=('flat',), **{SMALL!r})"
    )
    target = tmp_path / "other"
    subprocess.run(
        [sys.executable, "-c", code, str(target)],
        check=True,
        cwd=REPO,
        env={"PYTHONHASHSEED": "7", "PATH": "/usr/bin:/bin"},
    )
    assert _contents(target / "flat") == _contents(built[0] / "flat")


def test_weather_domains_repeat(tmp_path: Path) -> None:
    counts: dict[str, Any] = {"train": 4, "val": 0, "test": 0}
    first, second = (
        build(tmp_path / name, domains=("night", "fog"), **counts) for name in ("a", "b")
    )
    assert first.domain_sha256 == second.domain_sha256


def test_finished_build_is_reused(built: tuple[Path, BuildReport]) -> None:
    folder, report = built
    calls: list[tuple[int, int]] = []
    again = build(folder, **SMALL, progress=lambda *step: calls.append(step))
    assert again.reused
    assert not calls
    assert again.sha256 == report.sha256
    assert again.objects == report.objects
    assert build(folder, domains=("comic",), **SMALL).reused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed: there 0, asked for 1"),
        ({"train": 25}, "splits"),
        ({"variants": "shared"}, "variants"),
        ({"domains": ("flat", "fog")}, "domain fog: not there"),
        ({"focus": {}}, "focus of flat"),
    ],
)
def test_other_build_is_refused(
    built: tuple[Path, BuildReport], changes: dict[str, Any], message: str
) -> None:
    before = _contents(built[0])
    with pytest.raises(DataError, match=message):
        build(built[0], **{**SMALL, **changes})
    assert _contents(built[0]) == before


def test_damaged_build_is_refused(built: tuple[Path, BuildReport], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built[0], copy)
    (copy / "flat/labels/train.cache").write_text("a trainer's cache does not matter")
    assert build(copy, **SMALL).reused
    (copy / "flat/labels/train/000003.txt").write_text("")
    with pytest.raises(DataError, match="changed, added or lost"):
        build(copy, **SMALL)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"domains": 3}', "not json"])
def test_foreign_folder_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / (STAMP if content else "holiday.txt")).write_text(content)
    with pytest.raises(DuetError):
        build(tmp_path, **SMALL)
    assert [path.read_text() for path in tmp_path.iterdir()] == [content]


def test_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "series", **SMALL, progress=interrupt)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"train": 0}, ["train: expected at least one"]),
        ({"seed": -1, "size": 8, "val": -2}, ["seed", "size", "val"]),
        ({"domains": ("flet",)}, ["did you mean 'flat'"]),
        ({"domains": ()}, ["domains"]),
        ({"domains": ("flat", "flat")}, ["different names"]),
        ({"domains": ("mixed",)}, ["unknown 'mixed'"]),
        ({"domains": ("flat", "chalk"), "focus": {}}, ["chalk show other classes than flat"]),
        ({"domains": ("sticker",), "focus": {"sticker": ["car"]}}, ["unknown class 'car'"]),
        ({"focus": {"flat": ["aeroplan"]}}, ["did you mean 'aeroplane'"]),
        ({"variants": "mine"}, ["'own' or 'shared'"]),
    ],
)
def test_wrong_parameters(tmp_path: Path, changes: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(tmp_path / "series", **changes)
    for message in messages:
        assert message in str(caught.value)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Modules that cannot be found, as where the extra `demo` is not installed."""
    find, missing = importlib.util.find_spec, set[str]()
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else find(name)
    )
    return missing


@pytest.mark.parametrize("module", packages.EXTRA)
def test_missing_package_is_named(tmp_path: Path, without: set[str], module: str) -> None:
    without.add(module)
    with pytest.raises(MissingExtraError, match=f"needs {packages.EXTRA[module]}\n"):
        build(tmp_path / "series", **SMALL)
    assert not (tmp_path / "series").exists()


@pytest.mark.parametrize("words", [["demo", "--out"], ["data", "emoji"]], ids=" ".join)
def test_commands_without_the_extra_say_how_to_get_it(
    tmp_path: Path, without: set[str], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    without.update(packages.EXTRA)
    assert _run([*words, str(tmp_path / "out")]) == 5
    told = capsys.readouterr().err
    assert "pip install 'duet-detect[demo]'" in told
    assert ", ".join(packages.EXTRA.values()) in told
    assert not list(tmp_path.rglob("*.jpg"))


def test_the_extra_holds_what_is_required() -> None:
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")  # tomllib comes with 3.11
    block = re.search(r"^demo = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert block is not None
    assert re.findall('"([a-z-]+)>=', block[1]) == sorted(packages.EXTRA.values())


@pytest.mark.slow
def test_pretraining(tmp_path: Path) -> None:
    steps: list[int] = []
    report = pretraining.build(
        tmp_path / "pre", train=70, test=5, progress=lambda done, _: steps.append(done)
    )
    assert steps == list(range(1, 76))
    assert report.counts == {"mixed": {"train": 70, "test": 5}}
    assert min(report.objects["mixed"]["train"].values()) >= 1
    data = yaml.safe_load((tmp_path / "pre/mixed/data.yaml").read_text())
    assert len(data["names"]) == 60
    assert data["val"] == data["test"] == "images/test"
    assert pretraining.build(tmp_path / "pre", train=70, test=5).reused
    with pytest.raises(DataError, match="kind"):
        build(tmp_path / "pre", train=70)


# --- configs and command --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        ("2-phase", "emoji-2phase"), ("4-phase", "emoji-4phase"), ("8-chain", "emoji-8chain"),
        ("12-chain", "emoji-12chain"), ("icons", "icons-2phase"),
    ],
)  # fmt: skip
def test_series_config_matches_the_protocol(protocol: str, name: str) -> None:
    text = (REPO / f"configs/series/{name}.yaml").read_text()
    series = yaml.safe_load(text)
    taught: dict[str, list[str]] = {}
    for row in series["increments"]:
        taught[row["domain"]] = taught.get(row["domain"], []) + row["classes"]
    assert taught == {domain: list(classes) for domain, classes in FOCI[protocol].items()}
    if protocol != "2-phase":  # the default
        assert f"--protocol {protocol}" in series["prepare"]


@pytest.mark.parametrize(("protocol", "length"), [("8-chain", 8), ("12-chain", 12)])
def test_a_chain_brings_new_classes_in_every_increment(protocol: str, length: int) -> None:
    path = REPO / f"configs/series/emoji-{protocol.replace('-', '')}.yaml"
    series = SeriesConfig.model_validate(yaml.safe_load(path.read_text()))
    assert len(set(series.increment_names())) == len(series.increments) == length
    classes = [name for item in series.increments for name in item.classes]
    assert sorted(classes) == list(MAIN.names)
    domains = [item.domain for item in series.increments]
    assert all(one != other for one, other in itertools.pairwise(domains))  # each a domain shift


def test_icons_are_drawn_and_can_be_learned(tmp_path: Path) -> None:
    from duet.runs.inputs import read_inputs
    from duet.runs.plan import plan_run, planned_stages

    report = build(tmp_path / "a", domains=tuple(FOCI["icons"]), focus=FOCI["icons"], **SMALL)
    again = build(tmp_path / "b", domains=("chalk", "sticker"), focus=FOCI["icons"], **SMALL)
    assert report.domain_sha256 == again.domain_sha256
    names = yaml.safe_load((tmp_path / "a/chalk/data.yaml").read_text())["names"]
    assert list(names.values()) == list(ICONS.names)
    inputs = read_inputs(REPO / "configs/series/icons-2phase.yaml", data_root=tmp_path / "a")
    stages = planned_stages(plan_run(inputs, ["duet-plus"], out=tmp_path / "run"))
    assert [one.images for one in stages[:3]] == [24, 24, 24]
    again_fit, references = stages[2], stages[3:]
    assert again_fit.steps >= 300
    assert len(references) == 3
    assert all(one.steps >= 750 for one in references)


def test_command(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from duet.cli.main import cli

    arguments = ["data", "emoji", str(tmp_path / "s"), "--train", "4", "--val", "2", "--test", "2"]
    first = CliRunner().invoke(cli, [*arguments, "--json"])
    assert first.exit_code == 0, first.output
    report = json.loads(first.stdout)
    assert report["counts"]["flat"] == {"train": 4, "val": 2, "test": 2}
    second = CliRunner().invoke(cli, arguments)
    assert second.exit_code == 0, second.output
    assert "already there" in second.stdout
