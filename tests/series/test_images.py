"""Looking at image files: what is missing is told without decoding twice."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from factories_series import write_image

from duet.errors import DataError
from duet.images import read_image
from duet.series.decoding import is_whole_jpeg, load_reduced, strict_decoding
from duet.series.images import inspect_images, read_sound


def jpeg(*, progressive: bool, restarts: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    options = [
        cv2.IMWRITE_JPEG_PROGRESSIVE,
        int(progressive),
        cv2.IMWRITE_JPEG_RST_INTERVAL,
        restarts,
    ]
    return bytes(cv2.imencode(".jpg", cv2.GaussianBlur(noise, (5, 5), 2), options)[1])


def decodes(content: bytes) -> bool:
    """Tell whether Pillow's decoder, which refuses what is cut off, takes an image."""
    try:
        with strict_decoding():
            load_reduced(io.BytesIO(content), 32)
    except Exception:  # half a dozen types
        return False
    return True


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("restarts", [0, 2])
def test_a_jpeg_is_whole_where_its_decoder_says_so(progressive: bool, restarts: int) -> None:
    whole = jpeg(progressive=progressive, restarts=restarts)
    thumbnail = whole[:2] + b"\xff\xe1" + (len(whole) + 2).to_bytes(2, "big") + whole + whole[2:]
    assert is_whole_jpeg(whole)
    assert is_whole_jpeg(whole + b"of another program")
    assert is_whole_jpeg(thumbnail)
    for content in (whole, thumbnail):
        for size in (*range(0, len(content), 97), *range(len(content) - 8, len(content) + 1)):
            assert is_whole_jpeg(content[:size]) == decodes(content[:size]), size


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
def test_a_sound_image_is_read_as_ever_and_a_cut_one_is_refused(
    suffix: str, tmp_path: Path
) -> None:
    path = write_image(tmp_path / f"x{suffix}", seed=0, size=(70, 50))
    assert (read_sound(path) == read_image(path)).all()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a readable image"):
        read_sound(path)


def test_kinds_are_told_by_the_first_bytes(tmp_path: Path) -> None:
    cut = write_image(tmp_path / "cut.jpg", seed=0, size=(70, 50))
    cut.write_bytes(cut.read_bytes()[:-100])
    text = tmp_path / "text.jpg"
    text.write_text("no pixels")
    facts = inspect_images((cut, text), verify="kind")
    assert facts[cut].problem is None
    assert (facts[cut].width, facts[cut].height) == (70, 50)
    assert facts[text].problem is not None
    assert inspect_images((cut,), verify="full")[cut].problem is not None
