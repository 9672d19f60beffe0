"""One view of every picture: what a detector sees is what labels, sizes and reports go by."""

from __future__ import annotations

import io
import json
import random
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from factories_pictures import (
    BLOCKS,
    SIZE,
    chunk,
    encoded,
    jpeg,
    pixels,
    png,
    turned_files,
    webp,
    write_png_header,
)
from factories_results import make_results
from factories_series import make_dataset, make_series, write_image
from PIL import Image, ImageOps, features

from duet import images
from duet.cli.main import cli
from duet.errors import DataError
from duet.images import MOST_PIXELS, decode_image, read_groups, read_image, seen_suffix
from duet.inference.sources import find_images
from duet.orientation import orientation
from duet.report.gallery import picture
from duet.series.decoding import strict_decoding
from duet.series.formats import coco, yolo
from duet.series.images import inspect_images, read_grey, thumbnails

TURNED = turned_files()


def by_opencv(content: bytes, flags: int = cv2.IMREAD_COLOR) -> Any:
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags)


# -- orientation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TURNED)
def test_pixels_and_sizes_are_those_that_detectors_see(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(TURNED[name])
    seen = read_image(path)
    assert np.array_equal(seen, by_opencv(TURNED[name]))
    with thumbnails() as small:
        facts = inspect_images([path], verify="full")[path]
    assert facts == inspect_images([path], verify="header")[path]
    assert (facts.height, facts.width, facts.problem) == (*seen.shape[:2], None)
    grey = cv2.resize(
        cv2.cvtColor(seen, cv2.COLOR_BGR2GRAY), (32, 32), interpolation=cv2.INTER_AREA
    )
    for square in (small[path], cv2.resize(read_grey(path, 64), (32, 32))):
        assert np.corrcoef(square.ravel(), grey.ravel())[0, 1] > 0.95


KINDS: dict[str, dict[str, Any]] = {
    "RGB.png": {}, "RGBA.png": {}, "LA.png": {}, "L.png": {}, "P.png": {}, "1.png": {},
    "RGB.jpg": {}, "L.jpg": {}, "CMYK.jpg": {}, "RGB.progressive.jpg": {"progressive": True},
    "RGB.bmp": {}, "P.bmp": {}, "1.bmp": {}, "RGB.webp": {"lossless": True}, "RGBA.webp": {},
    "RGB.tif": {}, "CMYK.tif": {}, "L.lzw.tif": {"compression": "tiff_lzw"},
    "RGB.pages.tif": {"save_all": True}, "RGB.moving.webp": {"save_all": True},
    "RGB.moving.png": {"save_all": True}, "RGB.moving.gif": {"save_all": True}, "RGB.ppm": {},
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_ordinary_files_are_read_as_ever(tmp_path: Path, name: str) -> None:
    picture = Image.fromarray(pixels()).convert(name.split(".")[0])
    options = KINDS[name]
    if "save_all" in options:
        options = options | {"append_images": [picture.rotate(90)]}
    picture.save(tmp_path / name, **options)
    seen = read_image(tmp_path / name)
    assert np.array_equal(seen, cv2.imread(str(tmp_path / name)))
    facts = inspect_images([tmp_path / name], verify="full")[tmp_path / name]
    assert (facts.width, facts.height, facts.problem, facts.remark) == (*SIZE, None, None)


def test_the_eight_turns_differ() -> None:
    seen = {decode_image(TURNED[f"short-{turn}.png"], where="").tobytes() for turn in range(1, 9)}
    assert len(seen) == 8


@pytest.mark.parametrize("turn", range(1, 9))
def test_tiff_files_are_turned_and_readable(tmp_path: Path, turn: int) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(encoded("TIFF", tiffinfo={0x0112: turn}))
    expected = decode_image(TURNED[f"short-{turn}.png"], where="")
    assert np.array_equal(read_image(path), expected)
    facts = inspect_images([path], verify="full")[path]
    assert (facts.height, facts.width, facts.problem) == (*expected.shape[:2], None)


def test_random_exif_blocks_are_read_as_opencv_reads_them() -> None:
    draw = random.Random(0)
    blocks = [block for block in BLOCKS.values() if block]
    for _ in range(60):
        block = bytearray(draw.choice(blocks) + bytes(draw.choice([0, 8, 40])))
        for _ in range(draw.randint(1, 4)):
            block[draw.randrange(len(block))] = draw.randrange(256)
        made = bytes(block[: draw.randint(1, len(block))])
        for content in (
            jpeg(b"Exif\0\0" + made), png(chunk(b"eXIf", made)), webp((b"EXIF", made)),
        ):  # fmt: skip
            assert np.array_equal(decode_image(content, where=""), by_opencv(content)), made.hex()


def test_any_bytes_have_an_orientation() -> None:
    draw = random.Random(1)
    for content in TURNED.values():
        for _ in range(3):
            changed = bytearray(content[: draw.randint(1, len(content))])
            for _ in range(5):
                changed[draw.randrange(len(changed))] = draw.randrange(256)
            assert orientation(bytes(changed)) in (None, *range(1, 9))


@pytest.mark.parametrize("name", ["xmp.jpg", "long-big-endian.png", "short-6.webp"])
def test_boxes_lie_where_they_were_drawn(tmp_path: Path, name: str) -> None:
    height, width = decode_image(TURNED[name], where="").shape[:2]
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "images" / split / name).write_bytes(TURNED[name])
        (tmp_path / "labels" / split).mkdir(parents=True)
        row = f"0 {20 / width} {15 / height} {20 / width} {10 / height}\n"
        (tmp_path / "labels" / split / Path(name).with_suffix(".txt")).write_text(row)
        annotations = {
            "images": [{"id": 1, "file_name": name, "width": width, "height": height}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 10]}
            ],
        }  # fmt: skip
        (tmp_path / f"{split}.json").write_text(json.dumps(annotations))
    source = tmp_path / "data.yaml"
    source.write_text("names: [cat]\ntrain: images/train\nval: images/val\n")
    described = tmp_path / "coco.yaml"
    parts = "".join(
        f"{split}: {{images: images/{split}, annotations: {split}.json}}\n"
        for split in ("train", "val")
    )
    described.write_text(f"format: coco\n{parts}")
    for reading in (yolo.read(source, domain="d"), coco.read(described, domain="d")):
        assert reading.problems == ()
        (found,) = reading.data.splits["val"].annotations
        assert (found.width, found.height) == (width, height)
        box = found.boxes[0] * np.array([width, height] * 2)
        assert np.allclose(box, [20, 15, 20, 10], atol=1e-6)


# -- large -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aerial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a picture of 16 000 x 12 000 pixels, above Pillow's limit."""
    path = tmp_path_factory.mktemp("aerial") / "aerial.png"
    Image.new("1", (16000, 12000), 1).save(path, compress_level=1)
    return path


@pytest.mark.slow
def test_images_above_the_limit_of_pillow(aerial: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    assert inspect_images([aerial], verify="header")[aerial].width == 16000
    with thumbnails() as small:
        facts = inspect_images([aerial], verify="full")[aerial]
    assert (facts.width, facts.height, facts.problem) == (16000, 12000, None)
    assert small[aerial].min() == 255
    assert find_images(aerial.parent).paths == (aerial,)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.slow
def test_large_images_are_looked_at_without_a_warning(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "a.jpg"]
    for path in paths:
        Image.new("1", (10000, 9500)).convert("L" if path.suffix == ".jpg" else "1").save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for verify in ("header", "full"):
            facts = inspect_images(paths, verify=verify)  # type: ignore[arg-type]
            assert [fact.problem for fact in facts.values()] == [None, None]


@pytest.mark.parametrize("form", ["TIFF", "WEBP", "PNG"])
def test_readers_that_ask_for_the_limit_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    path = tmp_path / f"a.{form.lower()}"
    path.write_bytes(encoded(form, **({"compression": "tiff_lzw"} if form == "TIFF" else {})))
    with thumbnails() as expected:
        inspect_images([path], verify="full")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for verify in ("header", "full"):
        with thumbnails() as small:
            facts = inspect_images([path], verify=verify)[path]  # type: ignore[arg-type]
        assert (facts.width, facts.height, facts.problem) == (*SIZE, None)
    assert np.corrcoef(small[path].ravel(), expected[path].ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (40_000, 40_000, f"at most {MOST_PIXELS} in all"),
        (1_000_001, 2, "1000000 a side"),
        (2**31 - 1, 2**31 - 1, f"at most {MOST_PIXELS} in all"),
    ],
)
def test_images_that_no_detector_can_load(
    tmp_path: Path, width: int, height: int, reason: str
) -> None:
    path = write_png_header(tmp_path / "a.png", width, height)
    problem = inspect_images([path], verify="full")[path].problem
    assert problem is not None
    assert problem.code == "image.unreadable"
    assert reason in problem.what
    assert "bomb" not in problem.what
    with pytest.raises(DataError):
        read_image(path)


def test_images_that_the_memory_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_png_header(tmp_path / "a.png", 20_000, 20_000)
    monkeypatch.setattr("duet.series.images._memory", lambda: 10**9)
    problem = inspect_images([path], verify="full")[path].problem
    assert problem is not None
    assert "need 3.2 GB" in problem.what
    assert "has 1.0 GB" in problem.what


def test_groups_hold_fewer_images_where_these_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_image(tmp_path / f"{n}.png", seed=n) for n in range(5)]
    assert [len(names) for names, _ in read_groups(paths, 2)] == [2, 2, 1]
    monkeypatch.setattr("duet.images._GROUP_BYTES", 1)
    groups = list(read_groups(paths, 2))
    assert [path for names, _ in groups for path in names] == paths
    assert [len(images) for _, images in groups] == [1] * 5


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_images(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for verify in ("header", "full"):
        problem = inspect_images([path], verify=verify)[path].problem  # type: ignore[arg-type]
        assert problem is not None
        assert problem.code == "image.unreadable"
    for missing in (path, tmp_path / "gone.png", tmp_path / "nul\0.png"):
        with pytest.raises(DataError):
            read_image(missing)


def test_damaged_files_are_problems_or_the_same_for_all(tmp_path: Path) -> None:
    draw = random.Random(2)
    sources = [*(TURNED[f"short-6{s}"] for s in (".jpg", ".png", ".webp")), encoded("TIFF")]
    sources += [encoded("BMP"), encoded("TIFF", compression="tiff_lzw")]
    paths = []
    for number in range(120):
        content = bytearray(sources[number % len(sources)])
        for _ in range(draw.randint(1, 6)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path = tmp_path / f"{number}.png"
        path.write_bytes(content[: draw.choice([len(content), draw.randint(1, len(content))])])
        paths.append(path)
    for path, facts in inspect_images(paths, verify="full").items():
        if facts.problem is None:
            assert read_image(path).shape[:2] == (facts.height, facts.width), path


def test_formats_that_are_programs_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"  # Pillow has Ghostscript run what an EPS says
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n%%EOF\n")
    Image.init()
    opened: list[object] = []
    accept = Image.OPEN["EPS"][1]
    monkeypatch.setitem(Image.OPEN, "EPS", (lambda *source: opened.append(source), accept))
    for verify in ("header", "full"):
        problem = inspect_images([path], verify=verify)[path].problem  # type: ignore[arg-type]
        assert problem is not None
        assert "OpenCV" in problem.what
    assert opened == []


def turned_avif(turn: int) -> bytes:
    """Return an AVIF whose container says how it is turned, as Pillow writes EXIF's number."""
    exif = Image.Exif()
    exif[0x0112] = turn
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (24, 40, 3), np.uint8)
    Image.fromarray(noise).save(stream, "AVIF", exif=exif)
    return stream.getvalue()


@pytest.mark.skipif(not features.check("avif"), reason="Pillow cannot write AVIF")
@pytest.mark.parametrize("verify", ["header", "full"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_images_that_opencv_would_show_otherwise(tmp_path: Path, turn: int, verify: Any) -> None:
    path = tmp_path / "a.avif"
    path.write_bytes(turned_avif(turn))
    problem = inspect_images([path], verify=verify)[path].problem
    assert (problem is None) == (turn == 1)
    if problem is not None:
        assert "does not turn this AVIF upright" in problem.what


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc"])
def test_photographs_of_phones_are_called_by_their_name(tmp_path: Path, brand: bytes) -> None:
    path = tmp_path / "IMG_1.jpg"
    path.write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(200))
    for verify in ("header", "full"):
        problem = inspect_images([path], verify=verify)[path].problem  # type: ignore[arg-type]
        assert problem is not None
        assert "cannot read HEIC" in problem.what
        assert problem.remedy == "save it as JPEG or PNG"


# -- more than 8 bits ------------------------------------------------------------------------------


def deep(top: int, channels: int = 1) -> bytes:
    grey = np.linspace(0, top, SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0]).astype(np.uint16)
    picture = grey if channels == 1 else np.dstack([grey] * channels)
    return bytes(cv2.imencode(".png", picture)[1])


@pytest.mark.parametrize(
    ("top", "channels", "seen", "severity"),
    [(65535, 1, 255, "note"), (4095, 1, 15, "warning"), (4095, 3, 15, "warning"),
     (1023, 4, 3, "warning"), (65535, 3, 255, "note"), (0, 1, 0, "warning")],
)  # fmt: skip
def test_what_is_seen_of_deep_images_is_told(
    tmp_path: Path, top: int, channels: int, seen: int, severity: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(deep(top, channels))
    facts = inspect_images([path], verify="full")[path]
    assert facts.problem is None
    assert facts.remark is not None
    assert (facts.remark.code, facts.remark.severity) == ("image.depth", severity)
    assert f"16 bits, brightest value {top}: a detector sees {seen} of 255" in facts.remark.what
    assert int(read_image(path).max()) == seen


def test_the_check_tells_of_deep_images(tmp_path: Path) -> None:
    make_dataset(tmp_path / "day", names=["cat"])
    for number in range(3):
        (tmp_path / "day" / "images" / "val" / f"val{number}.png").write_bytes(
            deep(4095 - number, 3)
        )
    increments = [{"domain": "day", "data": "day/data.yaml", "classes": ["cat"]}]
    series = make_series(tmp_path, increments)
    outcome = CliRunner().invoke(cli, ["data", "check", str(series), "--json"])
    assert outcome.exit_code == 0, outcome.output
    (finding,) = [row for row in json.loads(outcome.stdout)["findings"] if "depth" in row["code"]]
    assert finding["count"] == 3
    assert "15 of 255" in finding["what"]


@pytest.mark.parametrize("name", ["deep", "xmp.jpg", "short-6.jpg"])
def test_the_report_shows_what_the_detector_sees(tmp_path: Path, name: str) -> None:
    content = deep(4095) if name == "deep" else TURNED[name]
    results = make_results(gallery=1)
    item = results.gallery[0]
    (tmp_path / "gallery").mkdir()
    (tmp_path / item.file).write_bytes(content)
    seen = decode_image(content, where="")[:, :, ::-1]
    plain = item.model_copy(update={"truths": (), "width": seen.shape[1], "height": seen.shape[0]})
    shown = picture(tmp_path / plain.file)
    assert shown.shape[0] * seen.shape[1] == pytest.approx(shown.shape[1] * seen.shape[0], rel=0.01)
    copy = tmp_path / f"copy{seen_suffix(tmp_path / name)}"
    (tmp_path / name).write_bytes(content)
    images.write_image(copy, read_image(tmp_path / name))
    with Image.open(copy) as opened:  # any other program's view
        displayed = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert displayed.shape == seen.shape
    assert np.abs(displayed.astype(int) - seen).mean() < 3
    small = np.asarray(Image.fromarray(shown).resize(seen.shape[1::-1], Image.Resampling.BOX))
    assert np.abs(small.astype(int) - seen).mean() < 3


def test_who_decodes_strictly_last_switches_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads overlap: the first that ends must not let the others take damaged files."""
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    one, other = strict_decoding(), strict_decoding()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    other.__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
