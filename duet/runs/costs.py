"""What a finished chain costs: numbers to store, milliseconds to look at an image, memory to train.

Latency is CPU time of one thread for one image, decoded image to detections: fitting it into the
input, the network, suppression at the confidence that `duet predict` shows by default. It is the
median over a few evaluation images after a warm-up, measured when all trainings of the run are
over; CPU time hardly changes when other programs use the machine, wall time does. It is measured
once per detector and kept beside the evaluations, so that a repeated command repeats it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from duet.defaults import AGNOSTIC, CONFIDENCE, IOU
from duet.files import sha256_json
from duet.images import read_image
from duet.increments.state import DetectorState
from duet.runs.evaluate import detector_of
from duet.runs.memo import Tell, recall, remember
from duet.runs.setting import FinishedStage

LOOK = 2
"""Of how detectors look at images: what was measured of another way is measured again."""

IMAGES, WARM_UP = 20, 3
"""Images that are timed, and that are looked at before."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def parameter_count(state: DetectorState) -> int:
    """Return how many trainable numbers a detector has: shared tensors and all head parts."""
    parts = [
        tensor
        for part in state.parts
        for name, tensor in part.tensors.items()
        if tensor.is_floating_point() and not name.endswith(_STATISTICS)
    ]
    return sum(tensor.numel() for tensor in (*state.shared.values(), *parts))


def peak_megabytes(results: Sequence[FinishedStage]) -> float | None:
    """Return the largest peak of a training process after the base, 10^6 bytes; None if unknown."""
    known = [stage.peak_memory for stage in results[1:] if stage.peak_memory is not None]
    return round(max(known) / 1e6, 1) if known else None


def latency_ms(
    state: DetectorState,
    images: Sequence[Path],
    *,
    image_size: int,
    folder: Path,
    tell: Tell = lambda line: None,
) -> float | None:
    """Return the median CPU time of one image in milliseconds; None without an image.

    Args:
        state: The detector.
        images: Files to look at; the first few are taken.
        image_size: Longer side of what images are fitted into, pixels.
        folder: Where the measurement is kept.
        tell: Told of a damaged measurement, which is made again.
    """
    if not images:
        return None
    key = sha256_json([state.fingerprint(), image_size, LOOK])
    path = folder / f"latency-{key[:16]}.json"
    kept = recall(path, key, tell)
    if kept is None:
        kept = {"latency_ms": _measure(state, images[:IMAGES], image_size)}
        remember(path, key, kept)
    return float(kept["latency_ms"])


def _measure(state: DetectorState, images: Sequence[Path], image_size: int) -> float:
    detector = detector_of(state, image_size)
    pictures = [read_image(path) for path in images]
    spent = []
    with _one_thread():
        for picture in [*pictures[:WARM_UP], *pictures]:
            began = time.thread_time()
            detector([picture], confidence=CONFIDENCE, iou=IOU, agnostic=AGNOSTIC)
            spent.append(time.thread_time() - began)
    return round(1000 * statistics.median(spent[min(WARM_UP, len(pictures)) :]), 3)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch and OpenCV work in the calling thread alone."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
