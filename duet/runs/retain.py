"""`min_retention`: the shared weights move only as far as the earlier detector still finds itself.

What old classes lose is measured on the images at hand, those of the new increment, without labels:
the old head parts on the merged trunk must find again what the detector before the stage found
there. Where they find too little the trained weights are drawn back towards where they started,
before they are merged and kept; drawn back altogether they are the frozen trunk, where nothing is
lost, so that an answer always exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from duet.devices import parse_device
from duet.evaluation.agreement import IOU
from duet.files import sha256_json
from duet.increments.state import DetectorState
from duet.merging.batchnorm import BatchNormFusion, fuse_buffers
from duet.runs.calibrate import spread
from duet.runs.evaluate import image_keys, looked_at
from duet.runs.questions import Agreeing, on_any_machine
from duet.runs.setting import Before, Setting
from duet.runs.slots import CHAIN
from duet.series import Increment, train_slice

STEPS = 4
"""Bisections of the way: what is kept moves within 1/16 of what would just do."""

Merge = Callable[[DetectorState], DetectorState]
"""From the detector that a stage trained to the merged one."""


@dataclass(frozen=True)
class Retention:
    """How far a stage moved the shared weights, and what that keeps.

    Attributes:
        least: Share that must be kept, in [0, 1].
        moved: Share of the way from the detector before to the trained one, in [0, 1].
        retained: Share of the earlier detector's detections that are kept; 1 where `moved` is 0.
        detections: Of the earlier detector, on `images`; with none, nothing held the stage back.
        images: Of the increment, looked at without labels.
        tried: [moved, retained] of everything that was measured, in order.
    """

    least: float
    moved: float
    retained: float
    detections: int
    images: int
    tried: tuple[tuple[float, float], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data for the trace of the merge."""
        return asdict(self)

    def as_text(self) -> str:
        """Return one line for people."""
        way = "all of the way" if self.moved == 1 else f"{self.moved:.4g} of the way"
        return (
            f"shared weights moved {way}: {100 * self.retained:.1f} % of {self.detections} earlier "
            f"detections are kept on {self.images} images (min_retention {100 * self.least:g} %)"
        )


def retained(
    setting: Setting, least: float, increment: Increment, before: Before,
    trained: DetectorState, merge: Merge,
) -> tuple[DetectorState, Retention]:  # fmt: skip
    """Return what a stage trained, drawn back as far as `min_retention` asks.

    Args:
        setting: See `Setting`.
        least: Share of the earlier detector's detections that must be kept, in (0, 1].
        increment: Whose training images are looked at.
        before: What the stage had behind it.
        trained: The detector after its training, not merged.
        merge: Merges it with the one before; equal detectors must merge to themselves.
    """
    images = on_any_machine(spread(train_slice(increment.data, increment.classes).images))
    size = max(setting.schedule.image_size, before.image_size)
    place = parse_device(setting.schedule.device).torch_name
    previous, tried, found = before.merged, list[tuple[float, float]](), 0

    def share(moved: float) -> float:
        nonlocal found
        after = merge(drawn_back(previous, trained, moved))
        after = replace(after, parts=previous.parts)  # the new part is re-fit only later
        key = sha256_json(
            [
                "retained", previous.fingerprint(), after.fingerprint(), IOU,
                *looked_at(after, size), [str(number) for number in image_keys(images)],
            ]
        )  # fmt: skip
        path = setting.lab.folder / f"retained-{key[:16]}.json"
        asked = Agreeing(previous, after, images, size, place)
        told = setting.lab.asked(path, key, asked, rank=CHAIN)
        found = told["before"]
        tried.append((moved, told["kept"] / found if found else 1.0))
        return tried[-1][1]

    low, kept, high = 0.0, 1.0, 1.0
    if (all_the_way := share(1.0)) >= least:
        low, kept = 1.0, all_the_way
    for _ in range(STEPS if low == 0 else 0):
        middle = (low + high) / 2
        if (seen := share(middle)) >= least:
            low, kept = middle, seen
        else:
            high = middle
    result = Retention(least, low, kept, found, len(images), tuple(tried))
    setting.lab.listen(increment.name, {"note": f"{increment.name}: {result.as_text()}"})
    return drawn_back(previous, trained, low), result


def drawn_back(before: DetectorState, trained: DetectorState, moved: float) -> DetectorState:
    """Return a trained detector whose trunk went a share of its way; its head parts stay.

    Args:
        before: Where its shared weights and statistics came from.
        trained: The detector; 1 gives it back, 0 one with the trunk of ``before``, bit for bit.
        moved: Share, in [0, 1].
    """
    if moved == 1:
        return trained
    shared = {
        name: start.lerp(trained.shared[name], moved) if moved else start
        for name, start in before.shared.items()
    }
    fusion = BatchNormFusion(weights=(1 - moved, moved))
    mixed = fuse_buffers((before.buffers, trained.buffers), fusion)
    # Counters are of what was trained: a merge adds them up.
    buffers = {
        name: tensor if torch.is_floating_point(tensor) else trained.buffers[name]
        for name, tensor in mixed.items()
    }
    return replace(trained, shared=shared, buffers=buffers)
