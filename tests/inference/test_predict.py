"""Prediction: every bad image is named first, boxes fit the original, originals stay untouched."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from factories_detectors import make_detector
from factories_series import listing, write_image
from PIL import Image

from duet.cli.main import cli
from duet.detections import Detections
from duet.errors import ConfigError, DataError, DuetError, ModelError
from duet.images import read_image
from duet.images import write_image as save
from duet.inference.annotate import PALETTE, annotate
from duet.inference.detector import LoadedDetector
from duet.inference.load import load
from duet.inference.predict import predict_source
from duet.inference.sources import find_images
from duet.labels import LabelSpace

LABELS = LabelSpace(("cat", "dog", "bus"))
OWNERS = ("flat", "flat", "comic")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_detector(tmp_path_factory.mktemp("predict") / "detector", head="towers")


@pytest.fixture(scope="module")
def detector(folder: Path) -> LoadedDetector:
    return load(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index, (name, size) in enumerate((("b.png", (90, 50)), ("a.jpg", (40, 70)))):
        write_image(tmp_path / "photos" / name, seed=index, size=size)
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"")
    write_image(tmp_path / "photos" / "deeper" / "c.png", seed=9)
    return tmp_path / "photos"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["predict", *map(str, arguments)], standalone_mode=False)


def failure(result: Result) -> DuetError:
    assert isinstance(result.exception, DuetError), result.exception
    return result.exception


def truncated(path: Path, size: tuple[int, int] = (64, 64)) -> Path:
    write_image(path, seed=0, size=size)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("", ["a.jpg", "b.png"]),
        ("b.png", ["b.png"]),
        ("*.png", ["b.png"]),
        ("[ab].*", ["a.jpg", "b.png"]),
        ("*/*.png", ["deeper/c.png"]),
    ],
    ids=["folder", "file", "glob", "glob-set", "glob-subfolder"],
)
def test_sources(source: str, names: list[str], photos: Path) -> None:
    found = find_images(f"{photos}/{source}" if source else photos)
    assert [found.name_of(path).as_posix() for path in found.paths] == names


def test_a_name_with_brackets_is_a_file_not_a_pattern(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a[1].png", seed=0)
    assert find_images(path).paths == (path,)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda at: at / "missing.png", "no such image or folder"),
        (lambda at: at / "*.png", "no file matches"),
        (lambda at: (at / "empty").mkdir() or at / "empty", "no images in this folder"),
        (lambda at: (at / "a.txt").write_text("x") and at / "a.txt", "not an image"),
        (lambda at: truncated(at / "cut.jpg"), "not a readable image"),
        (lambda at: (at / "z.png").touch() or at / "z.png", "the file is empty"),
        (lambda at: os.mkfifo(at / "f.png") or at / "f.png", "this is a folder or a device"),
        (lambda at: (at / "h.png").write_text("<html>") and at / "h.png", "no image format"),
    ],
    ids=["missing", "glob", "empty-folder", "text", "truncated", "zero-bytes", "fifo", "html"],
)
def test_unusable_sources(make: Callable[[Path], Path], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words) as caught:
        find_images(make(tmp_path))
    assert caught.value.exit_code == 3


def test_a_name_that_is_not_utf8_is_a_name(detector: LoadedDetector, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    write_image(tmp_path / "a.png", seed=0).rename(odd)
    assert find_images(tmp_path).paths == (odd,)
    assert len(predict_source(detector, tmp_path, confidence=0.1).results) == 1


def test_files_that_are_no_images_are_named_before_anything_is_detected(
    detector: LoadedDetector, photos: Path, tmp_path: Path
) -> None:
    (photos / "empty.jpg").touch()
    (photos / "text.png").write_text("no pixels")
    with pytest.raises(DataError, match="2 problems") as caught:
        predict_source(detector, photos, out=tmp_path / "out")
    assert "empty.jpg" in str(caught.value)
    assert "text.png" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["", "*.png", "*"])
def test_a_link_whose_image_is_gone_is_named(source: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", seed=0)
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "c.png").mkdir()
    with pytest.raises(DataError, match=r"b\.png: a link that leads nowhere") as caught:
        find_images(f"{tmp_path}/{source}" if source else tmp_path, verify="kind")
    assert "c.png" not in str(caught.value)


@pytest.mark.slow
def test_damaged_images_are_left_out_and_named_at_the_end(
    folder: Path, photos: Path, tmp_path: Path
) -> None:
    """One bad file must not cost a night, and must not pass in silence either."""
    whole = invoke(folder, photos, "--out", tmp_path / "whole", "--save", "txt", "--json")
    for name in ("x.jpg", "y.png", "z.tif"):
        truncated(photos / name)
    out = tmp_path / "out"
    done = invoke(folder, photos, "--out", out, "--save", "txt", "--json")
    error = failure(done)
    assert error.exit_code == 3
    assert "(3 problems)" in str(error)
    assert "the other 2 are done" in str(error)
    document = json.loads(done.stdout)
    assert [Path(one["image"]).name for one in document["damaged"]] == [
        "x.jpg", "y.png", "z.tif"
    ]  # fmt: skip
    assert document["images"] == json.loads(whole.stdout)["images"]
    kept = json.loads((out / "predictions.json").read_text())
    assert document == {"schema": 1, **kept}
    assert not (out / ".duet-unfinished").exists()
    names = {path.name for path in out.rglob("*") if path.is_file()}
    assert names == {path.name for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    planned = invoke(folder, photos, "--dry-run")  # it decodes all, to be sure
    assert "(3 problems)" in str(failure(planned))


def test_a_damaged_image_is_no_image_in_python_either(
    detector: LoadedDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_image(tmp_path / "whole.jpg", seed=0)
    found, same = detector(path, confidence=0.05), detector(read_image(path), confidence=0.05)
    assert found.as_records() == same.as_records() != []
    # OpenCV before 5 fills with grey what is missing.
    monkeypatch.setattr("cv2.imdecode", lambda *_: np.full((64, 64, 3), 127, np.uint8))
    with pytest.raises(DataError, match="it is cut off") as caught:
        detector(truncated(tmp_path / "cut.jpg"))
    assert caught.value.where == str(tmp_path / "cut.jpg")


def test_nothing_is_left_where_every_image_is_damaged(
    detector: LoadedDetector, tmp_path: Path
) -> None:
    truncated(tmp_path / "in" / "a.jpg")
    truncated(tmp_path / "in" / "b.png")
    with pytest.raises(DataError, match="2 problems") as caught:
        predict_source(detector, tmp_path / "in", out=tmp_path / "out")
    assert "nothing is done" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_each_image_is_read_and_decoded_once(
    detector: LoadedDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2
    from PIL import ImageFile

    for number in range(8):
        write_image(tmp_path / f"{number}.{'jpg' if number % 2 else 'png'}", seed=number)
    calls: Counter[str] = Counter()

    def counted(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            calls[name] += 1
            return plain(*args, **options)

        monkeypatch.setattr(owner, name, call)

    counted(Path, "read_bytes")
    counted(cv2, "imdecode")
    counted(cv2, "imread")
    counted(ImageFile.ImageFile, "load")
    assert len(predict_source(detector, tmp_path).results) == 8
    assert calls == {"read_bytes": 8, "imdecode": 8}


def test_results_and_files(detector: LoadedDetector, photos: Path, tmp_path: Path) -> None:
    before, steps = listing(photos), []
    results = predict_source(
        detector,
        photos,
        confidence=0.05,
        out=tmp_path / "out",
        progress=lambda done, total: steps.append((done, total)),
    ).results
    assert [(r.name.name, r.width, r.height) for r in results] == [
        ("a.jpg", 40, 70),
        ("b.png", 90, 50),
    ]
    assert steps == [(2, 2)]
    assert listing(photos) == before
    assert sum(len(result.detections) for result in results) > 0
    for result in results:
        xyxy = result.detections.xyxy
        assert ((xyxy >= 0) & (xyxy <= [result.width, result.height] * 2)).all()
        drawn = read_image(tmp_path / "out" / result.name)
        assert drawn.shape == (result.height, result.width, 3)
    document = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert document["schema_version"] == 1
    assert document["model"] == detector.facts.fingerprint
    assert document["classes"][2] == {"name": "bus", "increment": "comic"}
    first = document["images"][0]
    assert first["image"] == str(photos / "a.jpg")
    assert [d["xyxy"] for d in first["detections"]] == [
        [round(float(v), 3) for v in box] for box in results[0].detections.xyxy
    ]
    owner = dict(zip(LABELS, OWNERS, strict=True))
    assert all(d["increment"] == owner[d["name"]] for d in first["detections"])
    predict_source(detector, photos, out=tmp_path / "out")  # its own results may be replaced


def test_boxes_are_in_pixels_of_the_upright_image(detector: LoadedDetector, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    noise = np.random.default_rng(0).integers(0, 255, (30, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "turned.jpg", exif=exif)
    (result,) = predict_source(detector, tmp_path / "turned.jpg").results
    assert (result.width, result.height) == (30, 80)


@pytest.mark.parametrize("out", ["photos", "photos/../photos", "link"])
def test_originals_are_never_overwritten(
    out: str, detector: LoadedDetector, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(photos)
    before = listing(photos)
    for source in (photos, photos / "a.jpg", f"{photos}/*.png", f"{tmp_path}/*/*.png"):
        with pytest.raises(ConfigError):
            predict_source(detector, source, out=tmp_path / out)
    assert listing(photos) == before


def test_globbed_subfolders_are_never_overwritten(detector: LoadedDetector, photos: Path) -> None:
    before = listing(photos)
    with pytest.raises(ConfigError, match="originals"):  # copies would be photos/deeper/c.png
        predict_source(detector, f"{photos}/*/*.png", out=photos)
    assert listing(photos) == before


def test_a_folder_of_other_files_is_refused(
    detector: LoadedDetector, photos: Path, tmp_path: Path
) -> None:
    write_image(tmp_path / "mine" / "a.jpg", seed=5)
    before = listing(tmp_path / "mine")
    with pytest.raises(DuetError, match="does not hold predictions"):
        predict_source(detector, photos, out=tmp_path / "mine")
    assert listing(tmp_path / "mine") == before


def test_a_command_that_was_stopped_goes_on(detector: LoadedDetector, tmp_path: Path) -> None:
    for number in range(10):  # more than one group
        write_image(tmp_path / "in" / f"{number}.png", seed=number)

    def stop(done: int, total: int) -> None:
        assert done < total
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        predict_source(detector, tmp_path / "in", out=out, progress=stop)
    assert not (out / "predictions.json").exists()
    predict_source(detector, tmp_path / "in", out=out)
    predict_source(detector, tmp_path / "in", out=tmp_path / "at once")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in (tmp_path / "at once").iterdir()
    )
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "at once" / path.name).read_bytes()


def test_a_copy_that_cannot_be_written_ends_the_work_and_is_told(
    detector: LoadedDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies are written beside the network: what fails there must not pass in silence."""
    for number in range(20):
        write_image(tmp_path / "in" / f"{number:02d}.jpg", seed=number)

    def full(target: Path, image: np.ndarray) -> None:
        if target.name == "03.jpg":
            raise DuetError("no space left on device", where=str(target))
        save(target, image)

    monkeypatch.setattr("duet.inference.predict.write_image", full)
    with pytest.raises(DuetError, match="no space left"):
        predict_source(detector, tmp_path / "in", out=tmp_path / "out")
    assert (tmp_path / "out" / ".duet-unfinished").exists()
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_unwritable_out(detector: LoadedDetector, photos: Path) -> None:
    with pytest.raises(DuetError, match="cannot write") as caught:
        predict_source(detector, photos, out=photos / "notes.txt" / "out")
    assert caught.value.exit_code == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_out(detector: LoadedDetector, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(DuetError, match="cannot write"):
        predict_source(detector, photos, out=tmp_path / "out")


@pytest.mark.parametrize("wrong", [{"confidence": 1.5}, {"iou": -0.1}])
def test_thresholds(wrong: dict[str, float], detector: LoadedDetector, photos: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        predict_source(detector, photos, **wrong)  # type: ignore[arg-type]


def test_device(folder: Path) -> None:
    for device in ("toaster", "cuda:99", "0,1"):
        words = "'toaster' is no device|no GPU|no cuda:99|one device"
        with pytest.raises(ConfigError, match=words) as caught:
            load(folder, device)
        assert caught.value.exit_code == 2


def test_model_may_be_a_file_of_the_folder(folder: Path, detector: LoadedDetector) -> None:
    again = load(folder / "manifest.json")
    assert again.facts == detector.facts
    assert detector.increments == OWNERS


def test_damaged_detector(tmp_path: Path, photos: Path) -> None:
    folder = make_detector(tmp_path / "detector", increments=1)
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)
    assert failure(invoke(folder, photos)).exit_code == 4
    with pytest.raises(ModelError):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".bmp", ".tif", ".webp"])
def test_write_image(suffix: str, tmp_path: Path) -> None:
    image = np.full((20, 30, 3), (200, 100, 50), np.uint8)
    save(tmp_path / f"x{suffix}", image)
    assert np.abs(read_image(tmp_path / f"x{suffix}").astype(int) - image).max() < 12
    assert len(list(tmp_path.iterdir())) == 1


def test_read_image_refuses(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable image"):
        read_image(tmp_path / "no.png")


@pytest.mark.parametrize("names", [("cat", "dog", "bus"), ("Katze", "Löwe", "автобус")])
def test_annotate_colours_by_increment(names: tuple[str, ...]) -> None:
    image = np.full((200, 300, 3), 127, np.uint8)
    boxes = np.array([[20, 100, 80, 180], [110, 100, 170, 180], [200, 100, 260, 180]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7]), np.array([0, 1, 2]), LabelSpace(names))
    drawn = annotate(image, found, OWNERS)
    assert (image == 127).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    rows = [tuple(int(v) for v in drawn[140, int(x)]) for x in boxes[:, 0]]
    blue_first = [tuple(bytes.fromhex(colour[1:])[::-1]) for colour, _ in PALETTE[:2]]
    assert rows == [blue_first[0], blue_first[0], blue_first[1]]


def test_annotate_nothing_found() -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    drawn = annotate(image, Detections.empty(LABELS), OWNERS)
    assert drawn is not image
    assert (drawn == image).all()


def test_annotate_inverted_box_at_the_border() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    box = np.array([[19, 19, 0, 0], [-5, -5, 40, 40], [3, 3, 3, 3]], np.float32)
    found = Detections(box, np.array([0.5] * 3), np.array([0, 1, 2]), LABELS)
    assert annotate(image, found, OWNERS).shape == image.shape


@pytest.mark.slow
def test_command(folder: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = invoke(folder, photos, "--out", out, "--dry-run", "--json")
    assert len(json.loads(planned.stdout)["images"]) == 2
    assert not out.exists()

    done = invoke(folder, photos, "--conf", 0.05, "--out", out, "--json")
    assert done.exception is None, done.exception
    result = json.loads(done.stdout)
    kept = json.loads((out / "predictions.json").read_text())
    assert {k: v for k, v in result.items() if k != "schema"} == kept
    assert "next: duet export" in done.stderr

    plain = invoke(folder, photos / "a.jpg", "--conf", 0.05)
    assert "in 1 image" in plain.stdout
    assert "--out DIR" in plain.stderr


FORMATS = {"a.avif": "AVIF", "b.jp2": "JPEG2000", "c.mpo": "MPO", "d.bmp": "BMP", "e.TIF": "TIFF"}


def test_a_folder_of_all_formats(folder: Path, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    for name, form in FORMATS.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        picture.save(tmp_path / "in" / name, form)
    for name in ("x.gif", "y.jfif", "notes.md"):
        (tmp_path / "in" / name).write_bytes(b"?")
    out = tmp_path / "out"
    done = invoke(folder, tmp_path / "in", "--save", "txt", "--out", out, "--json")
    assert done.exception is None, done.exception
    assert [Path(one["image"]).name for one in json.loads(done.stdout)["images"]] == list(FORMATS)
    (line,) = (line for line in done.stderr.splitlines() if "left out" in line)
    assert line.startswith("2 files were left out: x.gif, y.jfif: expected .avif, ")
    copies = {"a.avif.png", "b.jp2.png", "c.mpo.png", "d.bmp", "e.TIF", "predictions.json"}
    assert {path.name for path in out.iterdir() if path.is_file()} == copies
    for name in copies - {"predictions.json"}:
        assert read_image(out / name).shape == (40, 60, 3)
    alone = invoke(folder, tmp_path / "in" / "a.avif")
    assert alone.exception is None, alone.exception


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["x.gif", "y.cr2"], "2 files such as x.gif are of a kind that is not read"),
        (["y.jfif"], "rename to .jpg"),
    ],
)
def test_a_folder_of_pictures_that_are_not_read(
    names: list[str], words: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"?")
    with pytest.raises(DataError) as caught:
        find_images(tmp_path)
    assert words in str(caught.value)
    with pytest.raises(DataError, match="not an image"):
        find_images(tmp_path / names[0])


@pytest.mark.parametrize(
    ("names", "save", "words"),
    [
        (["x.png", "x.jpg"], ["--save", "txt"], "'x.png' and 'x.jpg' would share the file 'x.txt'"),
        (["classes.png"], ["--save", "txt"], "'classes.png' and the list of classes would share"),
        (["x.jp2", "x.jp2.png"], [], "would share the file 'x.jp2.png'"),
    ],
)
def test_results_that_would_share_a_file_are_refused_before_the_work(
    names: list[str], save: list[str], words: str, tmp_path: Path
) -> None:
    for number, name in enumerate(names):
        write_image(tmp_path / "in" / name, seed=number)
    # The model is not even looked for.
    result = invoke(tmp_path / "no", tmp_path / "in", "--out", tmp_path / "out", *save)
    assert words in str(failure(result))
    assert not (tmp_path / "out").exists()


def test_command_errors(folder: Path, photos: Path, tmp_path: Path) -> None:
    assert failure(invoke(folder, tmp_path / "*.gif")).exit_code == 3
    assert failure(invoke(folder, photos, "--out", photos)).exit_code == 2
    assert failure(invoke(tmp_path / "no", photos)).exit_code == 4
    assert failure(invoke(folder, photos, "--device", "toaster")).exit_code == 2
