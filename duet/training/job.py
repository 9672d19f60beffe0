"""A training job: everything one stage needs, as files in one folder.

A job can be run by any process on any machine that sees the folder and the images: this is what
makes resuming, worker processes and multi-GPU launches possible. The folder holds ``job.json``,
``start.safetensors``, ``slice.npz`` and, for L_DC, ``direction.safetensors``, for EWC
``importance.safetensors``; a finished job adds ``trained.safetensors``, ``fisher.safetensors``
where the schedule asks for it, and ``outcome.json`` last (`duet.training.outcome`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from duet.config import Config, parse_config
from duet.devices import parse_device
from duet.errors import DataError
from duet.files import atomic_path, write_json
from duet.increments.forms import HeadForm
from duet.training.config import Directional, Distillation, Ewc, Mend, PseudoLabels
from duet.training.schedule import FISHER_IMAGES, Schedule
from duet.trees import resolved

if TYPE_CHECKING:
    import numpy as np

    from duet.increments.state import DetectorState
    from duet.series import Slice

DIRECTION, IMPORTANCE = "direction.safetensors", "importance.safetensors"
START, TRAINED = "start.safetensors", "trained.safetensors"


def specialist_file(number: int | str) -> str:
    """Return the name of the state of a specialist in the folder of a ``mend``; `*`: of all."""
    return f"specialist-{number}.safetensors"


Progress = Callable[[dict[str, Any]], None]
"""Takes a record after each step: ``epoch``, ``epochs``, ``done`` and ``total`` steps, ``loss``."""

PLACES = ("device", "workers", "cache")
"""Settings of a schedule that say where and how a job runs, not what comes out."""


class JobPart(Config):
    """One increment's place in the head."""

    increment: str
    classes: tuple[str, ...]


class Job(Config):
    """The settings of one stage.

    Attributes:
        phase: ``base`` (detector loss on all parts), ``increment``, ``refit``, or ``mend``, which
            has no labels but what specialists say (`duet.mending`).
        adapts: Classes that are labelled, if the increment brings no new ones but shows known ones
            in a new domain; then no part is new. If the trunk and the old parts stay, their class
            rows train, and ``parts`` hold no other classes.
        mend: What a ``mend`` trains, and by what; how long and how fast is the schedule's.
        groups: Images of each domain, in the order of the slice; of a ``mend``.
        specialists: Fingerprints of the detectors that teach, whose states are `specialist_file`s.
        key: Under which the lab knows the job, data and start included; its outcome repeats it.
    """

    family: str
    architecture: str
    head: HeadForm
    parts: tuple[JobPart, ...]
    phase: Literal["base", "increment", "refit", "mend"]
    old_part: Literal["kept", "trained"] = "kept"
    old_negatives: Literal["mask", "train", "pseudo"] = "mask"
    pseudo: PseudoLabels | None = None
    trunk: Literal["trained", "frozen"] = "trained"
    distill: Distillation | None = None
    directional: Directional | None = None
    ewc: Ewc | None = None
    adapts: tuple[str, ...] = ()
    mend: Mend | None = None
    groups: tuple[int, ...] = ()
    specialists: tuple[str, ...] = ()
    schedule: Schedule
    seed: int = Field(default=0, ge=0)
    key: str = ""


def identity(job: Job) -> dict[str, Any]:
    """Return what makes two jobs the same training: all settings but where and how they run."""
    settings = job.model_dump(mode="json", exclude={"key"})
    for place in PLACES:
        settings["schedule"].pop(place)
    settings["schedule"] |= {"ranks": ranks_of(job.schedule)}
    # What is a multiple, or decides the epochs of other trainings, counts by what comes of it.
    settings["schedule"]["warmup_epochs"] = job.schedule.warm_up
    settings["schedule"].pop("reference_steps")
    if settings["schedule"]["ranks"] == 1:  # as it was before there were several
        settings["schedule"].pop("ranks")
    # `amp` is what fp32 and fp16 were called, so that older results stay known.
    precision = settings["schedule"].pop("precision")
    settings["schedule"]["amp"] = precision == "fp16"
    if precision in {"auto", "bf16"}:
        settings["schedule"]["precision"] = precision
    # A Fisher is the same training's, whether it is wanted at once, later or never.
    if settings["schedule"]["fisher_images"] is None:
        settings["schedule"]["fisher_images"] = FISHER_IMAGES
    # What came later is left out where it is not used, so that older results stay known.
    for key in ("pseudo", "ewc", "adapts", "mend", "groups", "specialists"):
        if not settings[key]:
            settings.pop(key)
    if job.distill is not None:
        for key, plain in (("method", "duet"), ("images", 1.0)):
            if settings["distill"][key] == plain:
                settings["distill"].pop(key)
    return settings


def ranks_of(schedule: Schedule) -> int:
    """Return how many processes share each step: each sees statistics of its share alone."""
    return max(schedule.ranks, len(parse_device(schedule.device).numbers))


def unlabelled_classes(job: Job) -> list[int]:
    """Return the known classes whose objects nobody labelled in the job's images, as class ids."""
    names = [name for part in job.parts[: old_part_count(job)] for name in part.classes]
    return [index for index, name in enumerate(names) if name not in job.adapts]


def keeps_trunk(job: Job) -> bool:
    """Tell whether a job leaves the shared tensors and their statistics as they are."""
    return job.phase == "refit" or job.trunk == "frozen"


def refines(job: Job) -> bool:
    """Tell whether a job trains class rows of known classes and nothing else."""
    return bool(job.adapts) and job.trunk == "frozen" and job.old_part == "kept"


def old_part_count(job: Job) -> int:
    """Return how many of the leading parts were learned before this job."""
    if job.phase == "base":
        return 0
    return len(job.parts) - (0 if job.adapts else 1)


@dataclass(frozen=True)
class SliceFile:
    """Images and labels of a slice.

    Attributes:
        images: Absolute paths, one per image.
        sizes: ``(n, 2)`` int64 height and width in pixels.
        boxes: ``(count, 4)`` float32 cxcywh of each image, normalised to it.
        class_ids: ``(count,)`` int64 of each image.
    """

    images: tuple[Path, ...]
    sizes: np.ndarray
    boxes: Sequence[np.ndarray]
    class_ids: Sequence[np.ndarray]

    def rows(self) -> Iterator[tuple[Path, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield ``(image, (height, width), boxes, class ids)`` per image."""
        return zip(self.images, self.sizes, self.boxes, self.class_ids, strict=True)


def write_slice(path: Path, data: Slice) -> None:
    """Store a slice; paths are made absolute because workers may start elsewhere."""
    import numpy as np

    counts = np.array([len(ids) for ids in data.class_ids], dtype=np.int64)
    sizes = [(found.height, found.width) for found in data.annotations]
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            images=np.array([str(resolved(Path(image))) for image in data.images]),
            sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
            counts=counts,
            boxes=np.concatenate([*data.boxes, np.zeros((0, 4))]).astype(np.float32),
            class_ids=np.concatenate([*data.class_ids, np.zeros(0)]).astype(np.int64),
        )


def read_slice(path: Path) -> SliceFile:
    """Read a stored slice.

    Raises:
        DataError: An image has gone since the job was written.
    """
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:
        images = tuple(Path(str(name)) for name in stored["images"])
        sizes, ends = stored["sizes"], np.cumsum(stored["counts"])
        boxes, class_ids = (np.split(stored[key], ends)[:-1] for key in ("boxes", "class_ids"))
    gone = [str(image) for image in images if not image.is_file()]
    if gone:
        raise DataError(
            f"{len(gone)} training images are gone, the first is {gone[0]}",
            where=str(path),
            remedy="put the images back, or start the run anew",
        )
    return SliceFile(images, sizes, boxes, class_ids)


def write_job(folder: Path, job: Job) -> None:
    """Write ``job.json``."""
    write_json(folder / "job.json", job.model_dump(mode="json"))


def read_job(folder: Path) -> Job:
    """Read ``job.json``."""
    path = folder / "job.json"
    return parse_config(Job, json.loads(path.read_text()), where=str(path))


def write_state(path: Path, state: DetectorState) -> None:
    """Store a detector state in one safetensors file: a job's start and its result."""
    from safetensors.torch import save_file

    about: dict[str, Any] = {
        "family": state.family,
        "architecture": state.architecture,
        "head": state.head,
        "parts": [{"increment": part.increment, "classes": part.classes} for part in state.parts],
    }
    if state.scores:
        about["scores"] = {name: one.model_dump() for name, one in state.scores.items()}
    if colours := {one.increment: one.colours.model_dump() for one in state.parts if one.colours}:
        about["colours"] = colours
    with atomic_path(path) as temporary:
        contiguous = {name: tensor.contiguous() for name, tensor in state.to_tensors().items()}
        save_file(contiguous, temporary, metadata={"duet": json.dumps(about)})


def read_state(path: Path) -> DetectorState:
    """Read a state written by `write_state`."""
    from safetensors import safe_open

    from duet.increments.colours import Colours
    from duet.increments.scores import ScoreMap, chosen
    from duet.increments.state import DetectorState

    with safe_open(path, framework="pt") as stored:
        about = json.loads((stored.metadata() or {})["duet"])
        flat = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118

    scores = {name: ScoreMap(**one) for name, one in about.get("scores", {}).items()}
    colours = {name: Colours(**one) for name, one in about.get("colours", {}).items()}
    parts = [
        (name, tuple(part["classes"]), chosen(scores, part["classes"]), colours.get(name))
        for part in about["parts"]
        for name in (part["increment"],)
    ]
    return DetectorState.from_tensors(
        flat, parts, family=about["family"], architecture=about["architecture"], head=about["head"]
    )
