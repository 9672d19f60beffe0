"""Colours of a set of images: what they are, and images that are given those of another set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from duet.calibration.colours import STRONGEST, as_if, colours_of
from duet.images import read_image, write_image
from duet.increments.colours import Colours


def pictures(folder: Path, *, low: int, high: int, count: int = 4) -> list[Path]:
    """Write pictures whose red is in the range, whose green is lower and whose blue is 7."""
    random = np.random.default_rng(low)
    for number in range(count):
        red = random.integers(low, high, (40 + 10 * number, 60), dtype=np.uint8)
        image = np.stack([np.full_like(red, 7), red // 2, red], axis=-1)
        write_image(folder / f"{low}-{number}.png", image)
    return sorted(folder.glob(f"{low}-*.png"))


def test_they_are_mean_and_spread_of_red_green_and_blue(tmp_path: Path) -> None:
    colours = colours_of(pictures(tmp_path, low=100, high=200))
    assert colours.mean == pytest.approx((149.5, 74.5, 7), abs=2)
    assert colours.spread == pytest.approx((28.9, 14.4, 0), abs=0.7)


def test_every_image_counts_the_same(tmp_path: Path) -> None:
    for name, side, level in (("large", 90, 200), ("small", 10, 100)):
        write_image(tmp_path / f"{name}.png", np.full((side, side, 3), level, np.uint8))
    assert colours_of(sorted(tmp_path.iterdir())).mean == (150, 150, 150)


def test_a_set_with_the_colours_of_another_has_them(tmp_path: Path) -> None:
    here, there = pictures(tmp_path, low=90, high=140), pictures(tmp_path, low=30, high=220)
    own, wanted = colours_of(here), colours_of(there)
    for path in here:
        image = read_image(path)
        kept = image.copy()
        write_image(tmp_path / f"moved-{path.name}", as_if(image, own, wanted))
        assert (image == kept).all()
    moved = colours_of(sorted(tmp_path.glob("moved-*")))
    assert moved.mean == pytest.approx(wanted.mean, abs=2)
    assert moved.spread == pytest.approx(wanted.spread, abs=2)


def test_an_image_keeps_what_tells_it_from_its_set() -> None:
    own = Colours(mean=(100, 100, 100), spread=(20, 20, 20))
    wanted = Colours(mean=(120, 120, 120), spread=(40, 40, 40))
    dark = np.full((2, 2, 3), 90, np.uint8)
    assert (as_if(dark, own, wanted) == 100).all()
    assert (as_if(dark, own, own) == dark).all()


def test_a_set_of_one_colour_is_only_moved_and_none_is_blown_up() -> None:
    flat = Colours(mean=(100, 100, 100), spread=(0, 0, 0))
    faint = Colours(mean=(100, 100, 100), spread=(0.1, 0.1, 0.1))
    rich = Colours(mean=(50, 50, 50), spread=(60, 60, 60))
    image = np.full((2, 2, 3), 110, np.uint8)
    assert (as_if(image, flat, rich) == 60).all()
    assert (as_if(image, faint, rich) == 50 + 10 * STRONGEST).all()
    assert (as_if(np.full((1, 1, 3), 255, np.uint8), faint, rich) == 255).all()  # clipped
