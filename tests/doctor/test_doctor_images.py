"""Looking at images: what one reduced decoding still finds, and which pictures are the same."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from factories_doctor import background, healthy, image, label, put_copy, scene
from PIL import Image, ImageFile, ImageFilter, ImageOps

from duet.doctor import examine
from duet.doctor.duplicates import near_duplicates
from duet.doctor.fingerprint import similar_pairs
from duet.labels import LabelSpace
from duet.series import Annotation, DomainData, Increment, Series, Split
from duet.series.images import inspect_images, read_grey, thumbnails

# -- decoding --------------------------------------------------------------------------------------


def jpeg(size: tuple[int, int], **options: object) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(background(5, size).clip(0, 255).astype(np.uint8))
    picture.save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(500, 375), (120, 90), (640, 40)])
def test_reduced_decoding_finds_every_truncation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    progressive: bool,
    size: tuple[int, int],
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)  # other libraries allow it
    content = jpeg(size, progressive=progressive)
    cuts = [*np.linspace(1, len(content) - 3, 40).astype(int), len(content) - 20]
    paths = []
    for cut in cuts:
        paths.append(tmp_path / f"{cut}.jpg")
        paths[-1].write_bytes(content[:cut])
    whole = tmp_path / "whole.jpg"
    whole.write_bytes(content)
    facts = inspect_images([whole, *paths], verify="full")
    assert facts[whole].problem is None
    found = [facts[path].problem is not None for path in paths]
    full = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                picture.load()
            full.append(False)
        except (OSError, ModuleNotFoundError):  # the latter from Ultralytics' Image.open
            full.append(True)
    assert found == full
    assert sum(found) >= len(paths) - 1


def test_no_image_is_called_so_although_the_engine_is_loaded(tmp_path: Path) -> None:
    import ultralytics  # noqa: F401  # replaces PIL.Image.open

    path = tmp_path / "a.jpg"
    path.write_bytes(b"no image at all")
    problem = inspect_images([path], verify="full")[path].problem
    assert problem is not None
    assert problem.what == "not a readable image: its content is no image format"


def test_thumbnails_come_from_the_one_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy(tmp_path, train=3, val=2)
    loads: list[str] = []
    real = ImageFile.ImageFile.load

    def counted(self: ImageFile.ImageFile) -> object:
        loads.append("load") if self.tile else None
        return real(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    examine(tmp_path / "series.yaml")
    assert len(loads) == 10  # 2 data sets of 5 images; no pair looked alike


def test_nothing_is_collected_outside_the_block(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg((64, 48)))
    with thumbnails() as first:
        inspect_images([path], verify="full")
    with thumbnails() as second:
        inspect_images([path], verify="header")
    inspect_images([path], verify="full")
    assert list(first) == [path]
    assert first[path].shape == (32, 32)
    assert second == {}


@pytest.mark.parametrize(
    "mode", ["L", "RGB", "P", "RGBA", "CMYK", "1", "I;16", "F"], ids=lambda mode: mode
)
def test_thumbnails_of_all_kinds_of_pixels(tmp_path: Path, mode: str) -> None:
    grey = background(3, (64, 64))[..., 0].clip(0, 255)
    if mode == "I;16":
        picture = Image.fromarray((grey * 257).astype(np.uint16))
    elif mode == "F":
        picture = Image.fromarray(grey)
    else:
        picture = Image.fromarray(grey.astype(np.uint8)).convert("RGB").convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "F") else "a.png")
    picture.save(path)
    expected = np.asarray(
        Image.fromarray(grey.astype(np.uint8)).resize((32, 32), Image.Resampling.BOX)
    )
    with thumbnails() as found:
        inspect_images([path], verify="full")
    correlation = np.corrcoef(found[path].ravel(), expected.ravel())[0, 1]
    assert correlation > (0.7 if mode == "1" else 0.98)


def test_turned_images_are_seen_upright(tmp_path: Path) -> None:
    picture = Image.fromarray(background(4, (80, 60)).clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    picture.save(tmp_path / "plain.jpg", quality=95)
    turned, plain = (read_grey(tmp_path / f"{name}.jpg", 32) for name in ("turned", "plain"))
    assert abs(turned.astype(int) - plain.astype(int)).mean() < 3


# -- near-duplicates -------------------------------------------------------------------------------


def series_of(train: list[Path], val: list[Path]) -> Series:
    none = Annotation(np.zeros(0, np.int64), np.zeros((0, 4)), 8, 8)
    splits = {
        name: Split(name, tuple(paths), (none,) * len(paths))
        for name, paths in (("train", train), ("val", val))
    }
    data = DomainData("day", LabelSpace(("cat",)), splits, Path("data.yaml"))
    return Series("s", "", (Increment("day", "day", ("cat",), data),))


def found(train: list[Path], val: list[Path]) -> set[tuple[str, str]]:
    with thumbnails() as small:
        inspect_images([*train, *val], verify="full")
    copies = near_duplicates(series_of(train, val), small)
    return {(copy.first.image.name, copy.second.image.name) for copy in copies}


Change = Callable[[Image.Image], Image.Image]


def cropped(left: float, top: float, right: float, bottom: float) -> Change:
    def change(picture: Image.Image) -> Image.Image:
        w, h = picture.size
        return picture.crop(
            (int(left * w), int(top * h), int((1 - right) * w), int((1 - bottom) * h))
        )

    return change


CHANGES: dict[str, tuple[Change, int]] = {
    "quality 90": (lambda p: p, 90),
    "quality 20": (lambda p: p, 20),
    "half the size": (lambda p: p.resize((p.width // 2, p.height // 2)), 90),
    "larger": (lambda p: p.resize((int(p.width * 1.6), int(p.height * 1.6))), 90),
    "brighter": (lambda p: p.point(lambda value: value * 1.1), 90),
    "darker": (lambda p: p.point(lambda value: value * 0.85), 90),
    "grey": (lambda p: p.convert("L"), 90),
    "soft": (lambda p: p.filter(ImageFilter.GaussianBlur(1)), 90),
    "mirrored": (ImageOps.mirror, 60),
    "mirrored, cropped": (lambda p: cropped(0.03, 0.03, 0.03, 0.03)(ImageOps.mirror(p)), 90),
    "crop": (cropped(0.03, 0.03, 0.03, 0.03), 90),
    "crop of a side": (cropped(0.06, 0.0, 0.0, 0.0), 90),
    "crop of a corner": (cropped(0.05, 0.05, 0.0, 0.0), 90),
    "crop, resized, darker": (
        lambda p: cropped(0.02, 0.02, 0.02, 0.02)(p).resize(p.size).point(lambda v: v * 0.9), 75,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "quality"), CHANGES.values(), ids=CHANGES)
def test_altered_copies_are_found(tmp_path: Path, change: Change, quality: int) -> None:
    train, val = [], []
    for number in range(12):
        picture, _ = scene(number, number)
        train.append(tmp_path / f"train{number}.jpg")
        picture.save(train[-1], quality=92)
        val.append(tmp_path / f"val{number}.jpg")
        altered = change(picture) if number < 6 else scene(number + 50, number + 50)[0]
        altered.save(val[-1], quality=quality)
    assert found(train, val) == {(f"train{number}.jpg", f"val{number}.jpg") for number in range(6)}


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.3, 1.6])
def test_resized_copies_of_small_pictures_are_found(tmp_path: Path, factor: float) -> None:
    """Their second look is about as large as they are, where a coarse filter would alias."""
    train, val = [], []
    for number in range(8):
        small = scene(number, number)[0].resize((160, 160), Image.Resampling.LANCZOS)
        train.append(tmp_path / f"{number}.png")
        small.save(train[-1])
        val.append(tmp_path / f"{number}.jpg")
        side = round(160 * factor)
        small.resize((side, side), Image.Resampling.BICUBIC).save(val[-1], quality=92)
    wanted = {(a.name, b.name) for a, b in zip(train, val, strict=True)}
    assert found(train, val) == wanted


def test_other_scenes_on_one_background_are_not_copies(tmp_path: Path) -> None:
    paths = []
    for number in range(40):
        paths.append(tmp_path / f"{number}.jpg")
        scene(number % 2, number)[0].save(paths[-1], quality=92)
    assert found(paths[:30], paths[30:]) == set()


def test_one_object_that_moved_is_another_scene(tmp_path: Path) -> None:
    paths = []
    for number, x in enumerate((10, 60, 110)):
        picture = background(1)
        picture[40:62, x : x + 22] = background(2, (22, 22)) + 60
        paths.append(tmp_path / f"{number}.jpg")
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=92)
    assert found(paths[:1], paths[1:]) == set()


def sky(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return rng.uniform(120, 180) + y * rng.uniform(20, 80) + rng.normal(0, 2, x.shape)


def sea(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    level = rng.uniform(0.35, 0.65)
    return np.where(y < level, 200 - 20 * y, 90 + 30 * y) + rng.normal(0, 3, x.shape)


def gradient(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    turn = rng.uniform(0, 6.3)
    return 128 + (np.cos(turn) * (x - 0.5) + np.sin(turn) * (y - 0.5)) * rng.uniform(40, 200)


def glow(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    cx, cy = rng.uniform(0.3, 0.7, 2)
    return 255 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / rng.uniform(0.05, 0.4))


def stripes(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return 128 + 100 * np.sin(2 * np.pi * (rng.uniform(3, 8) * x + rng.uniform(0, 1)))


def headlights(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    shift, down = rng.uniform(-0.15, 0.15, 2)
    lamps = [(x - 0.5 - side - shift) ** 2 + (y - 0.6 - down) ** 2 for side in (-0.1, 0.1)]
    return 10 + rng.normal(0, 3, x.shape) + sum(220 * np.exp(-lamp / 0.002) for lamp in lamps)


def board(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    count = rng.integers(5, 15)
    return 20 + 200.0 * (((x * count).astype(int) + (y * count).astype(int)) % 2)


@pytest.mark.parametrize("draw", [sky, sea, gradient, glow, stripes, headlights, board])
@pytest.mark.slow
def test_pictures_that_only_look_alike_are_not_copies(
    tmp_path: Path, draw: Callable[..., np.ndarray]
) -> None:
    rng = np.random.default_rng(4)
    y, x = np.mgrid[0:1:120j, 0:1:160j]
    paths = []
    for number in range(16):
        paths.append(tmp_path / f"{number}.jpg")
        Image.fromarray(draw(rng, y, x).clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    assert found(paths[:8], paths[8:]) == set()


def test_mirrored_leaks_are_told(tmp_path: Path) -> None:
    healthy(tmp_path, train=4, val=3)
    target = image(tmp_path, 50, split="val")
    put_copy(image(tmp_path, 0), target, label(tmp_path, 0))
    with Image.open(image(tmp_path, 0)) as picture:
        ImageOps.mirror(picture).save(target, quality=80)
    near = [p for p in examine(tmp_path / "series.yaml").problems if ".near-" in p.code]
    assert [p.code for p in near] == ["image.near-leak"]
    assert "the same picture, mirrored" in near[0].what


def test_a_suffix_of_another_format_is_noted(tmp_path: Path) -> None:
    healthy(tmp_path, train=3, val=2)
    with Image.open(image(tmp_path, 0)) as picture:
        picture.load()
    picture.save(image(tmp_path, 0), "PNG")
    found = [p for p in examine(tmp_path / "series.yaml").problems if p.code == "image.suffix"]
    assert [(p.severity, p.where.path.name) for p in found] == [("note", "train000.jpg")]
    assert "the content is PNG" in found[0].what


def test_blank_images_resemble_nothing(tmp_path: Path) -> None:
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (64, 48), (number, 0, 0)).save(paths[-1])
    assert found(paths[:2], paths[2:]) == set()


def test_many_frames_of_one_camera_do_not_explode() -> None:
    rng = np.random.default_rng(0)
    still = background(9, (32, 32))[..., 0].clip(0, 255)
    frames = [
        (still + rng.normal(0, 4, (32, 32))).clip(0, 255).astype(np.uint8) for _ in range(600)
    ]
    pairs = similar_pairs(frames)
    assert 0 < len(pairs.first) < 600 * 25  # of 179 700


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images(count: int) -> None:
    pictures = [background(n, (32, 32))[..., 0].clip(0, 255).astype(np.uint8) for n in range(count)]
    assert len(similar_pairs(pictures).first) == 0


def test_leaks_warn_and_copies_within_training_are_noted(tmp_path: Path) -> None:
    healthy(tmp_path, train=8, val=4)
    for target in (image(tmp_path, 50, split="val"), image(tmp_path, 51, "night")):
        put_copy(image(tmp_path, 0), target, label(tmp_path, 0))
        with Image.open(image(tmp_path, 0)) as picture:
            picture.save(target, quality=70 if "val" in target.name else 60)
    problems = examine(tmp_path / "series.yaml").problems
    near = {(p.severity, p.code, p.where.path.name) for p in problems if ".near-" in p.code}
    assert ("warning", "image.near-leak", "val050.jpg") in near
    assert ("note", "image.near-duplicate", "train051.jpg") in near


def test_copies_of_equal_copies_are_found_once(tmp_path: Path) -> None:
    picture, _ = scene(1, 1)
    for name in ("a", "b", "c"):
        picture.save(tmp_path / f"{name}.jpg", quality=90)
    picture.save(tmp_path / "v.jpg", quality=50)
    train = [tmp_path / f"{name}.jpg" for name in "abc"]
    assert found(train, [tmp_path / "v.jpg"]) == {("a.jpg", "v.jpg")}
