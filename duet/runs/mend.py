"""Mending: a merged detector learns what its specialists answer, on images without labels."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from duet.devices import parse_device
from duet.errors import ConfigError, ModelError, together
from duet.evaluation.agreement import Agreement, agreement
from duet.families.foreign import is_foreign, open_model
from duet.families.table import resolve_family
from duet.increments.manifest import DetectorManifest, IncrementManifest, read_any_manifest
from duet.increments.state import DetectorState, HeadForm, rescored
from duet.increments.store import DetectorFile
from duet.inference.sources import Source, find_images
from duet.progress import Listener
from duet.recipes.edits import kept_recipe
from duet.recipes.model import Model
from duet.recipes.plan import Plan, make_plan
from duet.recipes.prepared import Prepared
from duet.recipes.recipe import Entry, Mending, Recipe
from duet.recipes.write import stored_recipe
from duet.runs.calibrate import by_detector, spread
from duet.runs.evaluate import shown_at
from duet.runs.lab import Lab
from duet.series import Slice
from duet.series.images import inspect_images
from duet.series.model import Annotation
from duet.training.config import Mend
from duet.training.job import Job, JobPart
from duet.training.schedule import Schedule
from duet.trees import resolved


@dataclass(frozen=True)
class Specialist:
    """A detector that teaches the classes that it knows.

    Attributes:
        name: What it is called.
        state: The detector, with its score maps.
    """

    name: str
    state: DetectorState


@dataclass(frozen=True)
class Taught:
    """How much of what a specialist finds the detector finds too, on the images of the mending.

    Attributes:
        name: Of the specialist.
        fingerprint: Of its state.
        before: Agreement of the detector before it was mended.
        after: And after it, on images that it learned on.
    """

    name: str
    fingerprint: str
    before: Agreement
    after: Agreement


@dataclass(frozen=True)
class Mended:
    """A mended detector and what it stands on.

    Attributes:
        state: The detector.
        taught: By whom.
        images: How many images each place had.
        seconds: Wall time of the training.
    """

    state: DetectorState
    taught: tuple[Taught, ...]
    images: tuple[tuple[str, int], ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "teachers": [
                {
                    "name": one.name, "fingerprint": one.fingerprint,
                    "before": one.before.as_dict(), "after": one.after.as_dict(),
                }
                for one in self.taught
            ],
            "images": dict(self.images),
            "seconds": self.seconds,
        }  # fmt: skip


def mended_model(
    model: Model, specialists: Sequence[Specialist], mending: Mending, out: Path, listen: Listener,
    *, device: str = "cpu", threads: int = 1,
) -> tuple[Model, Mended]:  # fmt: skip
    """Mend a detector; a call that was stopped is continued by the same call.

    Args:
        model: The detector, in a folder or in memory.
        specialists: See `mend`.
        mending: The images, and what learns from them.
        out: Where it will be written; half-done work lies beside it, hidden, until `forget`.
        listen: Progress.
        device: See `mend`.
        threads: See `mend`.

    Returns:
        The detector, its recipe's paths relative to ``out``, and what it stands on.
    """
    old = model.manifest
    made = mend(
        model.state, specialists, mending.images, mending.settings,
        image_size=old.image_size, lab=Lab(workplace(out), listen=listen), device=device,
        threads=threads,
    )  # fmt: skip
    recipe = None
    if old.recipe is not None:
        kept = kept_recipe(old, model.folder).absolute(model.folder)
        here = mending.model_copy(
            update={"images": tuple(str(resolved(Path(one))) for one in mending.images)}
        )
        recipe = stored_recipe(kept.model_copy(update={"mend": here}), out)
    manifest = DetectorManifest.for_state(
        made.state, lineage=old.lineage, image_size=old.image_size, licence=old.licence,
        recipe=recipe,
    )  # fmt: skip
    file = DetectorFile(made.state, manifest)
    return replace(model, file=file, folder=out, saved=False), made


def workplace(out: Path) -> Path:
    """Return where the mending of a detector that will lie in ``out`` is done."""
    return out.absolute().parent / f".{out.name}.mending"


def forget(out: Path) -> None:
    """Remove what the mending of a detector left beside it: it is written."""
    shutil.rmtree(workplace(out), ignore_errors=True)


def open_specialist(
    path: Path, *, name: str | None = None, weights: str | None = None, trust: bool = False
) -> Specialist:
    """Open what teaches: an increment folder, a detector folder or a foreign file.

    Args:
        path: Where it is.
        name: What to call it; default its own name.
        weights: θ_0, which the task vector of an increment counts from.
        trust: See `duet.families.foreign.open_model`.

    Raises:
        ModelError: It is damaged, or an increment without θ_0, or one that brought no classes.
    """
    if is_foreign(path) or not isinstance(found := read_any_manifest(path), IncrementManifest):
        state = open_model(path, trust=trust).state
        return Specialist(name or path.stem, state)
    if not found.classes:
        raise ModelError(
            "an increment of known classes has no head part, so it cannot teach alone",
            where=str(path),
            remedy="give the detector after its stage",
        )
    entry = Entry(path=str(path), name=name)
    return Specialist(name or found.name, _alone(entry, weights, found.head, trust=trust))


def specialists_of(plan: Plan, *, trust: bool = False) -> tuple[Specialist, ...]:
    """Return the models of a merge as specialists, as each was trained, under its names there.

    Those without classes have nothing to teach.

    Raises:
        ModelError: See `open_specialist`.
    """
    return tuple(
        Specialist(
            source.name,
            _alone(
                source.entry.model_copy(update={"scale": 1.0}), plan.recipe.weights, source.head,
                trust=trust,
            ),
        )
        for source in plan.sources
        if source.classes
    )  # fmt: skip


def _alone(entry: Entry, weights: str | None, head: HeadForm, *, trust: bool) -> DetectorState:
    """Return the detector of one model: for an increment θ_0, its task vector and its part."""
    recipe = Recipe(method="average", increments=(entry,), weights=weights, geometry="independent")
    return Prepared(make_plan(recipe, head=head, trust=trust)).merge().state


def mend(
    start: DetectorState, specialists: Sequence[Specialist], images: Sequence[Path | str],
    settings: Mend, *, image_size: int, lab: Lab, device: str = "cpu", threads: int = 1,
) -> Mended:  # fmt: skip
    """Teach a merged detector what its specialists say of images.

    Args:
        start: The merged detector.
        specialists: Each teaches the classes that it knows, on all images.
        images: Folders, images or globs; one for each domain.
        settings: How long, how fast, and what learns.
        image_size: Side of the square that images are fitted into, pixels.
        lab: Where it is trained; what it has trained before is known.
        device: In the language of `duet.devices.parse_device`.
        threads: CPU threads.

    Raises:
        ModelError: The family cannot be mended, or specialists are of another architecture or know
            none of the classes.
        DataError: Images are missing or damaged.
        DuetError: The training failed.
    """
    resolve_family(start.family).answering(start)  # refuses families without
    require_teachable(start, specialists)
    groups = [find_images(one) for one in images]
    raw = [one.state.uncalibrated() for one in specialists]
    schedule = Schedule(
        epochs=settings.epochs_of(sum(len(one.paths) for one in groups)), lr=settings.lr,
        batch=settings.batch, warmup_epochs=0, image_size=image_size, device=device,
        threads=threads,
    )  # fmt: skip
    job = Job(
        family=start.family, architecture=start.architecture, head=start.head, phase="mend",
        parts=tuple(JobPart(increment=p.increment, classes=p.classes) for p in start.parts),
        schedule=schedule,
        seed=settings.seed, mend=settings, groups=tuple(len(one.paths) for one in groups),
        specialists=tuple(one.fingerprint() for one in raw),
    )  # fmt: skip
    data = unlabelled(groups, start.labels.names)
    trained = lab.train("mending", job, start, data, specialists=raw)
    look = (data.images, image_size, parse_device(device).torch_name)
    state = _scored(start, trained.state, specialists, *look)
    counts = tuple((str(name), len(one.paths)) for name, one in zip(images, groups, strict=True))
    return Mended(state, _compared(start, state, specialists, *look), counts, trained.seconds)


def _scored(
    start: DetectorState, trained: DetectorState, specialists: Sequence[Specialist],
    images: Sequence[Path], image_size: int, place: str,
) -> DetectorState:  # fmt: skip
    """Return what was trained with score maps that give it its specialists' scores."""
    parts = tuple(
        replace(new, scores=old.scores, colours=old.colours)
        for new, old in zip(trained.parts, start.parts, strict=True)
    )
    state = replace(trained, parts=parts)
    for one in specialists:
        if one.state.scores:
            both = [name for name in one.state.labels if name in state.labels]
            maps = by_detector(state, one.state, both, images, image_size, place)
            state = replace(state, parts=rescored(state.parts, maps))
    return state


def _compared(
    before: DetectorState, after: DetectorState, specialists: Sequence[Specialist],
    images: Sequence[Path], image_size: int, place: str,
) -> tuple[Taught, ...]:  # fmt: skip
    """Return how much of what each specialist finds is found before and after."""
    some = spread(images)
    seen = [shown_at(one, some, image_size, place) for one in (before, after)]
    taught = []
    for one in specialists:
        theirs = shown_at(one.state, some, image_size, place)
        was, now = (agreement(theirs, ours) for ours in seen)
        taught.append(Taught(one.name, one.state.fingerprint(), was, now))
    return tuple(taught)


def require_teachable(start: DetectorState, specialists: Sequence[Specialist]) -> None:
    """Refuse specialists that cannot teach a detector, all problems at once.

    Raises:
        ConfigError: There is none.
        ModelError: One is of another family or architecture, or knows none of the classes; or
            classes have nobody who teaches them.
    """
    if not specialists:
        raise ConfigError("nobody teaches: expected one specialist or more", where="--teachers")
    problems = []
    for one in specialists:
        for fact in ("family", "architecture"):
            got, wanted = getattr(one.state, fact), getattr(start, fact)
            if got != wanted:
                problems.append(f"'{one.name}': its {fact} is {got}, expected {wanted}")
        if not set(one.state.labels) & set(start.labels):
            problems.append(f"'{one.name}' knows none of the detector's classes")
    known = {name for one in specialists for name in one.state.labels}
    if alone := [name for name in start.labels if name not in known]:
        problems.append(f"nobody teaches {', '.join(alone)}")
    if problems:
        raise ModelError(
            together(problems, summary="these specialists do not fit the detector"),
            remedy="give what the detector was merged from: between them they know all its classes",
        )


def unlabelled(groups: Sequence[Source], classes: Sequence[str]) -> Slice:
    """Return images without labels as a slice, the groups one after another."""
    import numpy as np

    paths = [path for one in groups for path in one.paths]
    if len(set(paths)) < len(paths):
        raise ConfigError(
            "an image is named twice", where="images", remedy="give each folder or image once"
        )
    facts = inspect_images(paths, verify="header")
    ids, boxes = np.zeros(0, np.int64), np.zeros((0, 4))
    annotations = tuple(Annotation(ids, boxes, facts[p].width, facts[p].height) for p in paths)
    return Slice("unlabelled", "train", tuple(classes), tuple(paths), annotations)
