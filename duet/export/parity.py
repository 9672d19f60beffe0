"""Does an exported file compute what the detector in memory computes?"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from duet.errors import DataError, ModelError
from duet.families.table import FAMILIES
from duet.images import Image

if TYPE_CHECKING:
    import torch

    from duet.increments.state import DetectorState

BOX_TOLERANCE_PX = 1e-3
SCORE_TOLERANCE = 1e-5


class ExportModule(Protocol):
    """What a family's `export.py` offers besides `Family.export`."""

    def check(self, target: Path, *, image_size: int, form: str) -> None:
        """Refuse what cannot be exported before any work."""
        ...

    def raw_module(self, state: DetectorState) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the detector in memory: ``(B, 3, S, S)`` -> ``(B, 4 + C, A)``."""
        ...

    def open_file(self, path: Path, form: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return an exported file as such a function."""
        ...

    def squares(self, images: Sequence[np.ndarray], image_size: int) -> torch.Tensor:
        """Fit BGR uint8 images into the detector's input."""
        ...


@dataclass(frozen=True)
class Parity:
    """How far an exported file is from the detector in memory, before suppression.

    Attributes:
        max_box_px: Largest difference of a box coordinate, pixels of the detector's input.
        max_score: Largest difference of a class score.
        images: How many images were compared.
    """

    max_box_px: float
    max_score: float
    images: int

    @property
    def ok(self) -> bool:
        """Whether both differences are within tolerance; NaN is not."""
        return self.max_box_px <= BOX_TOLERANCE_PX and self.max_score <= SCORE_TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data; the tolerances come along."""
        return {
            **asdict(self),
            "tolerance_box_px": BOX_TOLERANCE_PX,
            "tolerance_score": SCORE_TOLERANCE,
        }


def export_module(family: str) -> ExportModule:
    """Import a family's `export.py`: it lies beside the module that the table names."""
    package = FAMILIES[family].module.rpartition(".")[0]
    return cast("ExportModule", importlib.import_module(f"{package}.export"))


def measure(
    state: DetectorState, path: Path, form: str, images: Sequence[np.ndarray], *, image_size: int
) -> Parity:
    """Compare the raw decoded outputs of an exported file with the detector in memory.

    Args:
        state: The detector that was exported.
        path: The exported file.
        form: ``"pt"`` or ``"onnx"``.
        images: BGR uint8 images of any size, at least one.
        image_size: Side of the detector's input, pixels.

    Raises:
        DataError: No images.
        ModelError: The file does not load, or gives outputs of another shape or NaN.
    """
    if not images:
        raise DataError("parity needs at least one image")
    module = export_module(state.family)
    live, exported = module.raw_module(state), module.open_file(path, form)
    box = score = 0.0
    for image in images:
        batch = module.squares([image], image_size)
        expected, got = live(batch), exported(batch)
        if got.shape != expected.shape:
            raise ModelError(
                f"the exported file gives outputs of shape {tuple(got.shape)}, "
                f"expected {tuple(expected.shape)}",
                where=str(path),
            )
        if not bool(got.isfinite().all()):
            raise ModelError("the exported file gives NaN or infinite outputs", where=str(path))
        difference = (got - expected).abs()[0]
        box = max(box, float(difference[:4].max()))
        score = max(score, float(difference[4:].max()))
    return Parity(box, score, len(images))


def require(parity: Parity, where: str) -> None:
    """Refuse an export that computes something else.

    Raises:
        ModelError: A difference is above its tolerance.
    """
    if not parity.ok:
        raise ModelError(
            f"the exported file is not the same detector: boxes differ by up to "
            f"{parity.max_box_px:.2g} px (tolerance {BOX_TOLERANCE_PX:g}), scores by up to "
            f"{parity.max_score:.2g} (tolerance {SCORE_TOLERANCE:g}) on {parity.images} images",
            where=where,
            remedy="the file was not kept; report this with the versions of torch and onnxruntime",
        )


def sample_images(image_size: int, count: int = 3) -> list[Image]:
    """Return deterministic images of noise and shapes, wide, tall and square.

    Args:
        image_size: Longer side in pixels.
        count: How many.
    """
    cards = []
    for index in range(count):
        rng = np.random.default_rng(index)
        short = max(image_size * (2 + index % 2) // 4, 8)
        shapes = ((short, image_size), (image_size, short), (image_size, image_size))
        height, width = shapes[index % 3]
        card = rng.integers(96, 160, (height, width, 3), dtype=np.uint8)
        for _ in range(6):
            top, left = rng.integers(0, height * 3 // 4), rng.integers(0, width * 3 // 4)
            tall, wide = rng.integers(4, height // 2), rng.integers(4, width // 2)
            card[top : top + tall, left : left + wide] = rng.integers(0, 256, 3)
        cards.append(card)
    return cards
