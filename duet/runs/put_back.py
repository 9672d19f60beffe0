"""A trained state out of a folder that a run keeps of it: the lab need not hold a second copy.

A detector folder holds what a re-fit, a base or a plain fine-tuning trained; an increment folder
holds the task vector, the statistics and the head part of what was merged afterwards. Both give the
trained state to the last bit, together with where the training started. Whoever asks compares the
fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from duet.families.table import resolve_family
from duet.increments.manifest import IncrementManifest, read_any_manifest
from duet.increments.state import DetectorState, HeadForm
from duet.increments.store import load_detector, load_increment
from duet.vectors.tensors import Tensors

SharedStart = Callable[[HeadForm], Tensors]
"""Returns θ_0's shared tensors, as a detector of that head form has them."""


def put_back(place: Path, start: DetectorState, shared_start: SharedStart) -> DetectorState:
    """Return the state that was trained from ``start``, if the folder is of that training.

    Args:
        place: Increment folder or detector folder.
        start: Where the training started.
        shared_start: See `SharedStart`.

    Raises:
        ModelError: The folder is missing or damaged.
    """
    found: Tensors
    if isinstance(read_any_manifest(place), IncrementManifest):
        found = _of_increment(place, start, shared_start)
    else:
        kept = load_detector(place).state.uncalibrated()
        found = resolve_family(kept.family).recast(kept, start.head).to_tensors()
    whole = start.to_tensors()
    return DetectorState.from_tensors(
        {name: found.get(name, tensor) for name, tensor in whole.items()},
        [(part.increment, part.classes, {}, part.colours) for part in start.parts],
        family=start.family, architecture=start.architecture, head=start.head,
    )  # fmt: skip


def _of_increment(place: Path, start: DetectorState, shared_start: SharedStart) -> Tensors:
    item = load_increment(place)
    stage = item.vector.stage(shared_start(start.head))
    flat = {f"shared/{name}": tensor for name, tensor in stage.items()}
    flat |= {f"buffers/{name}": tensor for name, tensor in item.buffers.items()}
    if item.part is not None:
        last = len(start.parts) - 1
        flat |= {f"part/{last}/{name}": tensor for name, tensor in item.part.tensors.items()}
    return flat
