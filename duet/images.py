"""Reading image files into arrays, and fitting them into what a network reads.

Three ways to fit: "letterbox" keeps the aspect ratio and pads to a square (training of YOLO),
"rectangle" pads no further than the network needs (YOLO looking at images, as its engine does), and
"stretch" fills a square (DETR).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from duet.ahead import Ahead
from duet.errors import DataError, DuetError
from duet.files import atomic_path
from duet.orientation import orientation
from duet.trees import lost_link

Image = npt.NDArray[np.uint8]
"""``(H, W, 3)`` uint8, BGR, upright (see `duet.orientation`)."""

Fit = Literal["letterbox", "rectangle", "stretch"]

STRIDE = 32
"""What the sides of a network's input are multiples of, pixels, unless a network says otherwise."""

PAD = 114  # grey of the letterbox border, as in the engines' training

MOST_PIXELS, MOST_SIDE = 2**30, 1_000_000
"""What OpenCV reads at most: pixels of an image, and pixels of a side (of a PNG)."""

_GROUP_BYTES = 1 << 28


def read_image(path: Path) -> Image:
    """Return an image as every part of duet sees it: ``(H, W, 3)`` uint8 BGR, upright.

    Raises:
        DataError: The file is gone, is no readable image, or is too large.
    """
    return decode_image(read_content(path), where=str(path))


def read_content(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        DataError: The file is gone, or cannot be read.
    """
    try:
        if not os.path.isfile(path):  # a FIFO would be waited for
            raise FileNotFoundError(2, lost_link(path) or "no such file")
        return path.read_bytes()
    except (OSError, ValueError) as failure:  # ValueError: a NUL in the path
        raise DataError(
            f"not a readable image: {getattr(failure, 'strerror', None) or failure}",
            where=str(path),
            remedy="restore the file, or take it out of the data",
        ) from failure


def write_image(target: Path, image_BGR: Image) -> None:
    """Write an image atomically in the format of its suffix, JPEG in OpenCV's quality, 95.

    Raises:
        DuetError: The file system refuses the write.
    """
    import cv2

    with atomic_path(target) as temporary:
        done, encoded = cv2.imencode(target.suffix.lower(), image_BGR)
        if not done:
            raise DuetError(f"cannot encode an image as {target.suffix}", where=str(target))
        temporary.write_bytes(encoded.tobytes())


def seen_suffix(path: Path) -> str:
    """Return the suffix for a copy of an image as a detector sees it, readable for every program.

    Photographs stay JPEG, all else is kept to the bit.
    """
    return ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png"


def decode_image(content: bytes, *, where: str, turned: bool = True) -> Image:
    """Return the image that a file's bytes hold, see `read_image`.

    Args:
        content: The whole file. 16 bits become 8 (the upper ones), and grey becomes BGR.
        where: Name of the file, for the error.
        turned: Upright; else as the file's pixels lie.

    Raises:
        DataError: These are not the bytes of a readable image, or it is too large.
    """
    import cv2

    turn = orientation(content)
    flags = cv2.IMREAD_COLOR if turn is None else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    reason = "not a readable image"
    image: Any = None
    try:
        if content:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as failure:  # pixels above OpenCV's limit, or no memory for them
        reason = f"OpenCV cannot load this image: {' '.join(str(failure.err).split())}"
    except MemoryError:
        reason = "the machine has not enough memory for this image"
    if image is None:
        raise DataError(reason, where=where, remedy="replace or remove the file")
    pixels = np.asarray(image, dtype=np.uint8)
    return upright(pixels, turn) if turned and turn else pixels


def upright(image: npt.NDArray[np.uint8], turn: int) -> npt.NDArray[np.uint8]:
    """Return ``(H, W[, 3])`` uint8 pixels turned as EXIF's orientation ``turn``, 1 to 8, asks."""
    import cv2

    rotations = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
    flips = {2: 1, 4: 0, 7: -1}  # 7: after the transposition
    turned: Any = cv2.transpose(image) if turn in (5, 7) else image
    if turn in rotations:
        turned = cv2.rotate(image, rotations[turn])
    elif turn in flips:
        turned = cv2.flip(turned, flips[turn])
    return np.asarray(turned, np.uint8)


def read_groups(
    paths: Sequence[Path], most: int, read: Callable[[Path], Image] = read_image,
    lost: Callable[[Path, DataError], None] | None = None,
) -> Generator[tuple[list[Path], list[Image]], None, None]:  # fmt: skip
    """Yield files and their images in order, ``most`` at a time, fewer where they are large.

    The next group is read in threads while one is looked at.

    Args:
        paths: Image files.
        most: Images of a group.
        read: Reads a file.
        lost: Told of each file that is not a readable image, which is then left out.

    Raises:
        DataError: A file is not a readable image, and nobody is told.
    """
    names: list[Path] = []
    images: list[Image] = []
    ahead = Ahead(read, lambda image: image.nbytes, most=most, most_bytes=_GROUP_BYTES)
    for path, made in zip(paths, ahead(paths), strict=True):
        try:
            image = made()
        except DataError as error:
            if lost is None:
                raise
            lost(path, error)
            continue
        names.append(path)
        images.append(image)
        if len(images) == most or sum(image.nbytes for image in images) > _GROUP_BYTES:
            yield names, images
            names, images = [], []
    if images:
        yield names, images


@dataclass(frozen=True)
class Fitted:
    """One image fitted into the input of a network.

    Attributes:
        pixels: ``(h, w, 3)`` uint8, BGR: the input.
        scale: Input pixels per original pixel, along x and y.
        border: Left and top border in input pixels.
        size: Height and width of the original in pixels.
    """

    pixels: np.ndarray
    scale: tuple[float, float]
    border: tuple[int, int]
    size: tuple[int, int]

    def to_original(self, xyxy: np.ndarray) -> np.ndarray:
        """Map ``(n, 4)`` float xyxy from input pixels to original pixels, clipped to the image."""
        height, width = self.size
        moved: Any = (xyxy - np.array(self.border * 2, np.float32)) / np.array(
            self.scale * 2, np.float32
        )
        clipped: np.ndarray = np.clip(moved, 0, [width, height, width, height]).astype(np.float32)
        return clipped

    def to_input(self, boxes_N4: np.ndarray) -> np.ndarray:
        """Map float32 cxcywh, normalised to the original, to such normalised to the input."""
        (tall, wide), (height, width) = self.pixels.shape[:2], self.size
        sides = np.array((wide, tall) * 2)
        share = np.array((self.scale[0] * width, self.scale[1] * height) * 2) / sides
        border = np.array((*self.border, 0, 0)) / sides
        moved: np.ndarray = (boxes_N4 * share + border).astype(np.float32)
        return moved


def squared(fit: Fit) -> Fit:
    """Return how images become squares: in training, and for files that take nothing else."""
    return "letterbox" if fit == "rectangle" else fit


def input_shape(
    shape: tuple[int, int], size: int, fit: Fit, stride: int = STRIDE
) -> tuple[int, int]:
    """Return height and width of what `fit_image` makes of an image of ``shape`` (h, w)."""
    if fit != "rectangle":
        return size, size
    tall, wide = _scaled(shape, size)
    return tall + (size - tall) % stride, wide + (size - wide) % stride


def fit_image(image_HWC: np.ndarray, size: int, fit: Fit, stride: int = STRIDE) -> Fitted:
    """Fit an image into the input of a network.

    Args:
        image_HWC: ``(H, W, 3)`` uint8, BGR.
        size: Longer side of the input in pixels, a multiple of ``stride``.
        fit: ``"letterbox"`` keeps the aspect ratio and pads with grey to a square, ``"rectangle"``
            to the next multiple of ``stride`` a side, as Ultralytics' predictor does
            (``LetterBox(auto=True)``); ``"stretch"`` scales x and y apart, to a square.
        stride: Coarsest stride of the network in pixels.
    """
    height, width = image_HWC.shape[:2]
    new_h, new_w = (size, size) if fit == "stretch" else _scaled((height, width), size)
    tall, wide = input_shape((height, width), size, fit, stride)
    left, top = (wide - new_w) // 2, (tall - new_h) // 2
    pixels = _resized(image_HWC, new_h, new_w)
    if (tall, wide) != (new_h, new_w):
        padded = np.full((tall, wide, 3), PAD, dtype=np.uint8)
        padded[top : top + new_h, left : left + new_w] = pixels
        pixels = padded
    # What the rounded sides really are, as the engine has it.
    return Fitted(pixels, (new_w / width, new_h / height), (left, top), (height, width))


def _scaled(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Return height and width of an image whose longer side becomes ``size``."""
    scale = size / max(shape)
    return max(round(shape[0] * scale), 1), max(round(shape[1] * scale), 1)


def _resized(image_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    import cv2

    if image_HWC.shape[:2] == (height, width):
        return image_HWC
    resized: np.ndarray = cv2.resize(image_HWC, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized
