"""The pictures of a report: the images on which most was lost and most was gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duet.detections import Detections
from duet.devices import at_hand
from duet.evaluation.ap import Truth
from duet.evaluation.deployment import load_deployed
from duet.images import read_image, seen_suffix, write_image
from duet.results.boxes import GalleryImage, GallerySide, TruthBox
from duet.runs.assemble import StrategyOutcome
from duet.runs.evaluate import calibrated_detector_of, shown_to_users, truths
from duet.runs.plan import RunPlan
from duet.series import Slice
from duet.series.images import image_sha256

PICTURES_PER_DOMAIN, LOSSES = 3, 2
"""Images of a domain, and how many of them show the largest losses; the others show gains."""

PICTURES = 12
"""Images of a series of many domains, each of which has one at least: the largest loss."""

BESIDE = "seq-ft"
"""The strategy whose final detector stands beside: what becomes of old classes without care."""


def gallery(plan: RunPlan, outcomes: Sequence[StrategyOutcome]) -> list[GalleryImage]:
    """Copy the images that changed most and run detectors over them.

    Args:
        plan: What was run.
        outcomes: The strategy that the report is about, then the others.
    """
    main = outcomes[0]
    stages = len(main.results)
    states = {
        "before": ("after increment 1", main.results[0].merged),
        "after": (f"after increment {stages}", main.results[-1].merged),
    }
    for other in outcomes[1:]:
        if other.strategy.name == BESIDE:
            title = other.strategy.title or BESIDE
            states["beside"] = (f"{title}, after increment {stages}", other.results[-1].merged)
    device = at_hand(plan.device)
    models = {
        side: (title, state, calibrated_detector_of(state, plan.image_size, device))
        for side, (title, state) in states.items()
    }
    pictures: list[GalleryImage] = []
    most = max(min(PICTURES_PER_DOMAIN, PICTURES // len(plan.series.domains)), 1)
    for name in plan.series.domains:
        domain = plan.series.domain(name)
        cut = domain.evaluate(domain.known(plan.series.labels), plan.split)
        was, now = (_found(plan, main, stage, cut) for stage in (1, stages))
        chosen = telling(cut, was, now, most)
        files, labelled = [cut.images[index] for index in chosen], truths(cut)
        looks = {
            side: [
                _side(title, one, state.thresholds)
                for one in shown_to_users(model, state, files)[1]
            ]
            for side, (title, state, model) in models.items()
        }
        for place, index in enumerate(chosen):
            sides = {side: seen[place] for side, seen in looks.items()}
            file = _copied(plan, cut.images[index], len(pictures) + 1)
            pictures.append(_image(file, cut, index, labelled[index], sides))
    return pictures


def telling(
    cut: Slice,
    before: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
    most: int = PICTURES_PER_DOMAIN,
) -> list[int]:
    """Return the positions of a few images: the largest losses, then the largest gains.

    Where too few changed, images with the most classes make up the number.

    Args:
        cut: The images.
        before: ``(images, classes)``, objects that the first detector finds.
        after: The same of the last one.
        most: How many.
    """
    change = after - before
    lost, gained = (np.maximum(side, 0).sum(axis=1) for side in (-change, change))
    kinds = np.array([len(set(ids.tolist())) for ids in cut.class_ids], np.int64)
    chosen: list[int] = []
    # A domain without gains shows more losses, and the other way round.
    for rank, limit in (
        (lost, min(LOSSES, most)), (gained, most), (lost, most), (kinds, most),
    ):  # fmt: skip
        best = [int(i) for i in np.argsort(-rank, kind="stable") if rank[i] > 0]
        rest = [i for i in best if i not in chosen]
        chosen += rest[: max(limit - len(chosen), 0)]
    return chosen


def _found(
    plan: RunPlan, outcome: StrategyOutcome, stage: int, cut: Slice
) -> npt.NDArray[np.int64]:
    """Return ``(images, classes)``: objects found after a stage, as its users see it."""
    counts = np.zeros((len(cut), len(cut.classes)), np.int64)
    seen = outcome.scores[stage, cut.domain].seen
    if seen is None:  # the detector knows no class of this domain
        return counts
    classes = load_deployed(plan.out / seen).matches.classes
    limits = outcome.states[stage].thresholds
    for column, name in enumerate(cut.classes):
        if name in classes:
            one = classes[name]
            shown = one.scores >= np.float32(limits[name])
            np.add.at(counts[:, column], one.images[one.hit & shown], 1)
    return counts


def _image(
    file: str, cut: Slice, index: int, truth: Truth, sides: Mapping[str, GallerySide]
) -> GalleryImage:
    columns = (truth.class_ids, truth.xyxy, truth.ignored)
    labelled = cut.labelled[index] if cut.labelled else cut.classes
    return GalleryImage(
        file=file,
        domain=cut.domain,
        width=truth.width,
        height=truth.height,
        truths=tuple(
            TruthBox(name=cut.classes[c], xyxy=tuple(map(float, box)), ignored=bool(ignored))
            for c, box, ignored in zip(*columns, strict=True)
        ),
        labelled=tuple(name for name in cut.classes if name in labelled),
        before=sides["before"],
        beside=sides.get("beside"),
        after=sides["after"],
    )


def _copied(plan: RunPlan, image: Path, number: int) -> str:
    """Put an image into the gallery, as the detector sees it, and return its path there.

    The name is its number and its content: several folders hold a ``000.png``.
    """
    name = f"gallery/{number:02d}-{image_sha256(image)[:12]}{seen_suffix(image)}"
    write_image(plan.out / name, read_image(image))
    return name


def _side(title: str, found: Detections, limits: Mapping[str, float]) -> GallerySide:
    least = np.array([limits[name] for name in found.names], np.float32)
    kept = found.scores >= least
    records = Detections(
        found.xyxy[kept], found.scores[kept], found.class_ids[kept], found.labels
    ).as_records()
    return GallerySide.model_validate(
        {"title": title, "detections": records, "classes": found.labels.names}
    )
