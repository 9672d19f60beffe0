"""Does an exported file compute what the detector in memory computes?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict, Field, FiniteFloat, model_serializer

from duet.config import Config
from duet.errors import DataError, ModelError, in_short
from duet.export.formats import FORMATS, Tolerance
from duet.export.matching import differences
from duet.export.reference import Noise, Reference, allowed
from duet.families.exportable import Exportable, ExportFacts
from duet.families.inputs import alike, stacked
from duet.families.runtimes import Session, as_function, open_file, open_openvino
from duet.images import Image

Answer = Callable[[torch.Tensor], torch.Tensor]
"""``(B, 3, H, W)`` float32 on the CPU to outputs, batch first."""


class Lowered(Config):
    """What the program would compute if it chose the number format itself; for information."""

    precision: str = Field(description='Its choice on this machine, such as "bf16".')
    max_box_px: float
    max_score: float


class Parity(Config):
    """How far an exported file is from the detector in memory, before suppression."""

    model_config = ConfigDict(allow_inf_nan=True)

    max_box_px: float = Field(description="Largest difference of a box coordinate, input pixels.")
    max_score: float = Field(description="Largest difference of a class score.")
    images: int = Field(ge=1, description="How many were compared.")
    tolerance_box_px: FiniteFloat = Field(description="The most that is allowed.")
    tolerance_score: FiniteFloat
    noise: Noise | None = Field(default=None, description="None if it was not measured.")
    tolerance_why: str | None = Field(default=None, description="None for the usual tolerance.")
    lowered: Lowered | None = Field(
        default=None, description="In the format that the program prefers, if it is another."
    )

    @property
    def ok(self) -> bool:
        """Whether both differences are within tolerance; NaN is not."""
        box, score = self.max_box_px, self.max_score
        return 0 <= box <= self.tolerance_box_px and 0 <= score <= self.tolerance_score

    @model_serializer(mode="wrap")
    def _what_there_is(self, whole: Any) -> dict[str, Any]:
        return {key: value for key, value in whole(self).items() if value is not None}


def measure(
    exportable: Exportable,
    facts: ExportFacts,
    path: Path,
    form: str,
    images: Sequence[np.ndarray],
) -> Parity:
    """Compare the raw outputs of an exported file with the detector in memory.

    Args:
        exportable: The detector that was exported.
        facts: What the file must say about itself.
        path: The exported file or folder.
        form: A format with a tolerance.
        images: BGR uint8 images of any size, at least one. Two at a time are given to files that
            take any batch.

    Raises:
        DataError: No images.
        ModelError: The file does not load, says something else about itself, or gives outputs of
            another shape or NaN.
    """
    if not images:
        raise DataError("parity needs at least one image")
    most = 2 if facts.dynamic else 1
    groups = alike(images, facts.image_size, facts.fit, facts.stride, most)
    inputs = [torch.from_numpy(stacked(fitted)) for _, fitted in groups]
    reference = Reference.of(exportable, inputs)
    tolerance = allowed(FORMATS[form].tolerance or Tolerance(), reference.noise)
    box, score = _compare(_open(exportable, facts, path, form), reference, facts, tolerance)
    lowered = None
    if form == "openvino":
        session = open_openvino(path, "cpu", precision=None)
        if session.precision != "f32":
            off = _compare(_on_tensors(session), reference, facts, tolerance)
            lowered = Lowered(precision=session.precision, max_box_px=off[0], max_score=off[1])
    return Parity(
        max_box_px=box, max_score=score, images=len(images), noise=reference.noise,
        tolerance_box_px=tolerance.box_px, tolerance_score=tolerance.score,
        tolerance_why=tolerance.why or None, lowered=lowered,
    )  # fmt: skip


def _open(exportable: Exportable, facts: ExportFacts, path: Path, form: str) -> Answer:
    if form == "pt" and exportable.engine is not None:
        try:
            return as_function(exportable.engine.open(path))
        except Exception as error:  # the engine's loader; every failure means the same
            raise ModelError(
                f"the exported file does not load: {in_short(error)}",
                where=str(path),
                remedy="this is a bug in duet or in the engine's version: please report it",
            ) from error
    session = open_file(path, form, trust=True)  # written a moment ago, by duet
    if ExportFacts.from_json(session.stamp, str(path)) != facts:
        raise ModelError(
            "the metadata of the exported file is not what was written",
            where=str(path),
            remedy="this is a bug in duet or in the engine's version: please report it",
        )
    return _on_tensors(session)


def _on_tensors(session: Session) -> Answer:
    return lambda batch: torch.from_numpy(session.run(batch.numpy()))


def _compare(
    run: Answer, reference: Reference, facts: ExportFacts, tolerance: Tolerance
) -> tuple[float, float]:
    """Return the largest differences over all images, in pixels and score."""
    box = score = 0.0
    for index, wanted in enumerate(reference.outputs):
        batch, places = reference.inputs[index], reference.places
        got = run(batch)
        if got.shape != wanted.shape:
            raise ModelError(
                f"the exported file gives outputs of shape {tuple(got.shape)}, "
                f"expected {tuple(wanted.shape)}"
            )
        if not bool(got.isfinite().all()):
            raise ModelError("the exported file gives NaN or infinite outputs")
        for number, (one, other) in enumerate(zip(wanted, got, strict=True)):
            off = differences(
                one, other, facts.layout, size=facts.image_size, tolerance=tolerance,
                places=None if places is None else places[index][number],
            )  # fmt: skip
            box, score = max(box, off[0]), max(score, off[1])
    return box, score


def require(parity: Parity, where: str) -> None:
    """Refuse an export that computes something else.

    Raises:
        ModelError: A difference is above its tolerance.
    """
    if parity.ok:
        return
    noise = parity.noise
    what = (
        f"the exported file is not the same detector: boxes differ by up to "
        f"{parity.max_box_px:.2g} px (tolerance {parity.tolerance_box_px:.2g}), scores by up to "
        f"{parity.max_score:.2g} (tolerance {parity.tolerance_score:.2g}) on {parity.images} images"
    )
    remedy = "report this with the versions of torch and of the program that runs the file"
    if noise is not None and noise.decides:
        what += (
            f"; but the detector in memory, too, differs from itself in float64, by "
            f"{noise.max_box_px:.2g} px and {noise.max_score:.2g}: rounding decides what it answers"
        )
        remedy = (
            "a detector that was hardly trained answers so, on these images or on all: train it, "
            "or compare on images of its kind with --check IMAGES"
        )
    raise ModelError(what, where=where, remedy=f"the file was not kept; {remedy}")


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
