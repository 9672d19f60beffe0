"""A synthetic `Results`: numbers made up by a seed, consistent with the definitions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from duet.evaluation.indices import compute_indices
from duet.evaluation.matrix import StageMatrix
from duet.evaluation.pairs import cells_needed, reference_slices
from duet.files import sha256_json
from duet.results.boxes import FoundBox, GalleryImage, GallerySide, TruthBox
from duet.results.files import load_results
from duet.results.schema import (
    ApBackend,
    ClassScores,
    Commands,
    Environment,
    IncrementEntry,
    MergeEntry,
    Protocol,
    ReferenceEntry,
    Results,
    SeriesEntry,
    SplitCount,
    StageCost,
    StrategyResult,
    TensorEntry,
)

Steps = tuple[tuple[str, tuple[str, ...]], ...]

TWO_PHASE: Steps = (
    ("flat", ("bear", "bicycle", "boat", "bus", "camel", "car", "cat", "dog", "horse", "koala")),
    ("comic", ("lion", "panda", "plane", "rabbit", "ship", "tiger", "tractor", "train", "truck")),
)
FOUR_PHASE: Steps = (
    ("watercolor", ("bicycle", "bird", "car")),
    ("comic", ("cat", "dog", "person")),
    ("clipart", ("aeroplane", "boat", "bottle", "bus", "chair", "cow", "diningtable")),
    ("voc", ("horse", "motorbike", "pottedplant", "sheep", "sofa", "train", "tvmonitor")),
)

METHODS_OF_TREES = (("duet-plus", "DuET+"), ("seq-ft", "Plain fine-tuning"))

METHODS = (
    ("duet-plus", "DuET+", 0.9, 0.8),
    ("duet", "DuET (paper)", 0.85, 0.6),
    ("seq-ft", "Plain fine-tuning", 0.03, 0.97),
    ("frozen", "Frozen trunk, new head", 0.99, 0.6),
    ("average", "Weight average", 0.8, 0.55),
)


def make_results(
    steps: Steps = TWO_PHASE, *, references: bool = True, gallery: int = 0, seed: int = 0
) -> Results:
    """Return a complete `Results`; see `write_gallery_images` for the files it names."""
    random = np.random.default_rng(seed)
    reached = {part: float(random.uniform(0.7, 0.9)) for part in reference_slices(steps)}
    methods = tuple(
        _method(steps, reached if references else None, random, *row) for row in METHODS
    )
    return Results(
        series=SeriesEntry(name="synthetic", increments=tuple(_increment(*s) for s in steps)),
        protocol=_protocol(),
        main_strategy="duet-plus",
        strategies=methods,
        references=tuple(
            ReferenceEntry(
                domain=domain, classes=classes, map50=value, seconds=61.0,
                ap50={name: min(1.0, value + random.normal(0, 0.04)) for name in classes},
            )
            for (domain, classes), value in reached.items()
        ) if references else (),
        environment=Environment(
            versions={"duet": "0.1.0", "torch": "2.14.1"}, cpu="test CPU", threads=2,
            date="2026-11-23T10:00:00Z",
        ),
        gallery=tuple(_gallery_image(steps, number, random) for number in range(gallery)),
        commands=Commands(
            reproduce=("duet run series.yaml --out RUN --seed 0",), next=("duet predict RUN img",)
        ),
    )  # fmt: skip


TREES: Steps = (("yellowstone", ("Tree",)), ("sierra", ("Dead", "Alive")))
"""Two increments that a stranger learned from few pictures."""


def exact_results(
    value: Callable[[int, str, str], float | None],
    steps: Steps = TREES,
    *,
    reference: Callable[[str, str], float] | None = lambda domain, name: 0.8,
    objects: Mapping[str, int] | None = None,
    strategies: Sequence[tuple[str, str]] = METHODS_OF_TREES,
) -> Results:
    """Return results with given numbers, the same for every strategy.

    Args:
        value: AP50 of (stage, domain, class); None where no object is labelled.
        steps: (domain, classes) per increment.
        reference: AP50 of (domain, class) of the models trained only on a slice; None for none.
        objects: Class -> labelled objects in every domain, 0 where ``value`` is None; default 100.
        strategies: (name, title) of each, the main one first.
    """
    matrix, scores = StageMatrix(), []
    every = [name for _, classes in steps for name in classes]
    cells = cells_needed(steps)
    for stage, domain in dict.fromkeys((s, d) for s, d, _ in cells):
        here = [name for s, d, c in cells if (s, d) == (stage, domain) for name in c]
        ap50 = {name: value(stage, domain, name) if name in here else None for name in every}
        counts = {n: 0 if ap50[n] is None else (objects or {}).get(n, 100) for n in here}
        scores.append(ClassScores(stage=stage, domain=domain, ap50=ap50, ap=ap50, objects=counts))
        for s, d, classes in cells:
            known = [ap for name in classes if (ap := ap50[name]) is not None]
            if (s, d) == (stage, domain) and known:
                matrix = matrix.with_value(s, d, classes, sum(known) / len(known))
    known_references = {
        (domain, classes): sum(reference(domain, name) for name in classes) / len(classes)
        for domain, classes in reference_slices(steps)
    } if reference else None  # fmt: skip
    undefined = {cell[1:]: "no labelled object" for cell in cells if cell not in matrix}
    indices = compute_indices(steps, matrix, known_references, undefined=undefined)
    plain = make_results(steps, references=False)
    return plain.model_copy(
        update={
            "strategies": tuple(
                StrategyResult(
                    name=name, title=title, indices=indices, matrix=matrix.as_records(),
                    class_scores=tuple(scores),
                )
                for name, title in strategies
            ),
            "references": tuple(
                ReferenceEntry(
                    domain=domain, classes=classes, map50=map50,
                    ap50={name: reference(domain, name) for name in classes},
                )
                for (domain, classes), map50 in (known_references or {}).items()
                if reference
            ),
        }
    )  # fmt: skip


def write_gallery_images(run_folder: Path, results: Results) -> None:
    """Write a picture for every gallery entry, with a plain rectangle per labelled object."""
    for item in results.gallery:
        image = Image.new("RGB", (item.width, item.height), (225, 230, 235))
        draw = ImageDraw.Draw(image)
        for box in item.truths:
            draw.rectangle(box.xyxy, fill=(120, 150, 140))
        path = run_folder / item.file
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def as_version_1(run_folder: Path) -> dict[str, Any]:
    """Write the `results.json` of a run as duet wrote it before version 2; return it."""
    content = load_results(run_folder).model_dump(mode="json")
    document = {"schema_version": 1, **content}
    aside = ("commands", "environment")
    seal = sha256_json({key: value for key, value in document.items() if key not in aside})
    document["sha256"] = seal
    (run_folder / "results.json").write_text(json.dumps(document, indent=2) + "\n")
    return document


def _increment(domain: str, classes: tuple[str, ...]) -> IncrementEntry:
    return IncrementEntry(
        domain=domain,
        classes=classes,
        counts={
            "train": SplitCount(images=450, boxes=1300),
            "val": SplitCount(images=400, boxes=1100),
        },
    )


def _protocol() -> Protocol:
    return Protocol(
        family="yolo11n", eval_split="val", image_rule="all images of the split",
        ap=ApBackend(name="faster-coco-eval", version="1.8.0", parameters={"max_detections": 100}),
        seed=0, image_size=160, head_form="class-tower",
        strategy_config={"gamma": 0.1, "lambda_distill": 0.1},
    )  # fmt: skip


def _method(
    steps: Steps,
    reached: dict[tuple[str, tuple[str, ...]], float] | None,
    random: np.random.Generator,
    name: str,
    title: str,
    retention: float,
    plasticity: float,
) -> StrategyResult:
    labelled = {(domain, classes): number for number, (domain, classes) in enumerate(steps, 1)}
    matrix = StageMatrix()
    for stage, domain, classes in cells_needed(steps):
        learned = labelled.get((domain, classes))
        if learned is None:
            value = 0.35 * plasticity
        else:
            start = 0.9 if learned == 1 else 0.85 * plasticity
            value = start * retention ** (stage - learned)
        noisy = float(np.clip(value + random.normal(0, 0.01), 0.001, 1))
        matrix = matrix.with_value(stage, domain, classes, noisy)
    return StrategyResult(
        name=name,
        title=title,
        indices=compute_indices(steps, matrix, reached),
        matrix=matrix.as_records(),
        class_scores=_class_scores(steps, matrix, random),
        merges=_merges(len(steps), random) if name.startswith("duet") else (),
        costs=tuple(
            StageCost(title=f"stage {stage}", seconds=95.0 * stage)
            for stage in range(1, len(steps) + 1)
        ),
    )


def _class_scores(
    steps: Steps, matrix: StageMatrix, random: np.random.Generator
) -> tuple[ClassScores, ...]:
    merged: dict[tuple[int, str], dict[str, float]] = {}
    for (stage, domain, classes), value in matrix.values.items():
        spread = np.clip(random.normal(value, 0.06, len(classes)), 0, 1)
        merged.setdefault((stage, domain), {}).update(zip(classes, map(float, spread), strict=True))
    every = [name for _, classes in steps for name in classes]
    return tuple(
        ClassScores(
            stage=stage,
            domain=domain,
            ap50={name: found.get(name) for name in every},
            ap={name: found[name] * 0.6 if name in found else None for name in every},
        )
        for (stage, domain), found in merged.items()
    )


def _merges(stages: int, random: np.random.Generator) -> tuple[MergeEntry, ...]:
    names = [f"model.{layer}.{part}" for layer in range(23) for part in ("conv.weight", "bn.bias")]
    params: dict[str, Any] = {"alpha_base": 0.5, "gamma": 0.1}
    return tuple(
        MergeEntry(
            increment=increment, method="duet", params=params,
            tensors=tuple(
                TensorEntry(
                    name=name, scalars=100, alpha=float(random.uniform(0.43, 0.57)),
                    sign_conflict=float(random.uniform(0.1, 0.5)),
                )
                for name in reversed(names)  # the report sorts into network order itself
            ),
        )
        for increment in range(2, stages + 1)
    )  # fmt: skip


def _gallery_image(steps: Steps, number: int, random: np.random.Generator) -> GalleryImage:
    domain = steps[number % len(steps)][0]
    known = [name for _, classes in steps for name in classes]
    first = steps[0][1]
    truths = []
    for slot in range(3):
        left, top = 10 + 50 * slot, float(random.uniform(20, 90))
        name = known[(3 * number + 7 * slot) % len(known)]
        truths.append(TruthBox(name=name, xyxy=(left, top, left + 40, top + 45)))
    found = [
        FoundBox(name=box.name, xyxy=box.xyxy, score=round(float(random.uniform(0.2, 1)), 2))
        for box in truths
    ]
    return GalleryImage(
        file=f"gallery/{number:02d}.png", domain=domain, width=160, height=160,
        truths=tuple(truths),
        before=GallerySide(
            title="after stage 1", detections=tuple(b for b in found if b.name in first)
        ),
        after=GallerySide(title="final model", detections=tuple(found)),
    )  # fmt: skip
