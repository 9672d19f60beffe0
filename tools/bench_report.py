"""What `duet report` costs: CPU time, pictures, and the size of results.json, by size of series.

    python tools/bench_report.py --json

Makes up finished runs with the library's own values, two strategies each: two increments of ten
classes, sixteen of twenty, two of six hundred. Then the whole command runs, cold, in a process of
its own; the settings take turns. CPU time is user and system of that process. `--run` measures the
report of a run folder that is there, on a copy.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from machine import machine

if TYPE_CHECKING:
    from duet.evaluation.deployment import Deployment
    from duet.results.boxes import GalleryImage
    from duet.results.schema import ClassScores, Results, StrategyResult

SETTINGS = {"2 x 10": (2, 10), "16 x 20": (16, 20), "2 x 600": (2, 600)}
"""Increments and classes of each."""

STRATEGIES = (("duet-plus", "DuET+", 0.97), ("seq-ft", "Plain fine-tuning", 0.4))
"""Name, title, and the share of AP50 that a stage leaves of old classes."""

TENSORS = 189  # shared ones of a YOLO11n
OBJECTS = 120  # of a class in the evaluation images

Steps = tuple[tuple[str, tuple[str, ...]], ...]


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--pictures", default=6, show_default=True, help="Of the gallery of made-up runs.")
@click.option("--only", type=click.Choice(list(SETTINGS)), multiple=True, help="[all]")
@click.option("--run", type=click.Path(path_type=Path, exists=True), help="A finished run, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    rounds: int, pictures: int, only: tuple[str, ...], run: Path | None, as_json: bool
) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as place:
        folders: dict[str, Path] = {}
        for name in only or SETTINGS:
            folders[name] = Path(place) / str(len(folders))
            write_run(folders[name], *SETTINGS[name], pictures)
        if run is not None:
            folders[str(run)] = Path(place) / "run"
            copy_run(run, folders[str(run)])
        times: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
        for number in range(rounds):
            for name in reversed(folders) if number % 2 else folders:
                times[name].append(report(folders[name]))
        rows = {name: row(folder, times[name]) for name, folder in folders.items()}
    result = {
        "what": "the whole command `duet report RUN`, in a cold process",
        "settings": {"rounds": rounds, "pictures": pictures, "strategies": len(STRATEGIES)},
        "runs": rows,
        "machine": machine(),
    }  # fmt: skip
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'run':<12}{'CPU s':>8}{'least':>8}{'MB RAM':>8}{'pictures':>10}{'results':>10}  MB")
    for name, one in rows.items():
        print(
            f"{name:<12}{one['cpu_s_median']:8.2f}{one['cpu_s_min']:8.2f}{one['peak_mb']:8.0f}"
            f"{one['pictures_mb']:10.2f}{one['results_mb']:10.2f}"
        )


def report(folder: Path) -> dict[str, float]:
    """Run the command once; return its CPU seconds and its peak of memory in 10^6 bytes."""
    command = [str(Path(sys.executable).with_name("duet")), "report", str(folder), "--json"]
    with tempfile.TemporaryFile() as told, subprocess.Popen(command, stdout=told) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"cpu": usage.ru_utime + usage.ru_stime, "peak": peak / 1e6}


def row(folder: Path, times: list[dict[str, float]]) -> dict[str, Any]:
    """Return what the rounds of one run took, and how large its files are."""
    files = [file for file in (folder / "plots").rglob("*") if file.is_file()]
    spent = [one["cpu"] for one in times]
    return {
        "cpu_s_median": statistics.median(spent),
        "cpu_s_min": min(spent),
        "cpu_s": spent,
        "peak_mb": max(one["peak"] for one in times),
        "pictures": len(files),
        "pictures_mb": sum(file.stat().st_size for file in files) / 1e6,
        "largest_picture_mb": max((file.stat().st_size for file in files), default=0) / 1e6,
        "results_mb": (folder / "results.json").stat().st_size / 1e6,
        "report_mb": (folder / "report.md").stat().st_size / 1e6,
    }


def copy_run(run: Path, folder: Path) -> None:
    """Copy what a report reads."""
    folder.mkdir()
    shutil.copyfile(run / "results.json", folder / "results.json")
    if (run / "gallery").is_dir():
        shutil.copytree(run / "gallery", folder / "gallery")


# ---- runs that nobody trained -------------------------------------------------------------------


def write_run(folder: Path, increments: int, classes: int, pictures: int) -> None:
    """Write a run folder with `results.json` and the images that it names."""
    from duet.images import write_image
    from duet.results.files import save_results

    random = np.random.default_rng(0)
    steps: Steps = tuple(
        (f"domain {step}", tuple(f"object {step}-{number}" for number in range(1, classes + 1)))
        for step in range(1, increments + 1)
    )
    results = made_up(steps, pictures, random)
    folder.mkdir()
    save_results(folder, results)
    for item in results.gallery:
        # As smooth as photographs are: noise would be no picture that JPEG can hold.
        small = random.integers(0, 256, (item.height // 40, item.width // 40, 3)).astype(np.uint8)
        write_image(folder / item.file, _enlarged(small, item.width, item.height))


def _enlarged(small: Any, width: int, height: int) -> Any:
    import cv2

    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def made_up(steps: Steps, pictures: int, random: np.random.Generator) -> Results:
    """Return results whose numbers fit each other as those of a run do."""
    from duet.evaluation.pairs import reference_slices
    from duet.results import schema

    trained = {part: float(random.uniform(0.7, 0.9)) for part in reference_slices(steps)}
    counts = {
        split: schema.SplitCount(images=450, boxes=1300) for split in ("train", "val")
    }  # fmt: skip
    return schema.Results(
        series=schema.SeriesEntry(
            name="made up",
            increments=tuple(
                schema.IncrementEntry(domain=domain, classes=classes, counts=counts)
                for domain, classes in steps
            ),
        ),
        protocol=schema.Protocol(
            family="yolo11n", eval_split="val", image_rule="all images of the split", seed=0,
            ap=schema.ApBackend(name="made up", version="1"), image_size=160, head_form="towers",
        ),
        main_strategy=STRATEGIES[0][0],
        strategies=tuple(strategy(steps, trained, *one, random) for one in STRATEGIES),
        references=tuple(
            schema.ReferenceEntry(
                domain=domain, classes=classes, map50=value, seconds=60.0,
                ap50=dict.fromkeys(classes, value),
            )
            for (domain, classes), value in trained.items()
        ),
        environment=schema.Environment(versions={}, cpu="none", threads=1, date="2026-11-30"),
        gallery=tuple(gallery_image(steps, number, random) for number in range(pictures)),
    )  # fmt: skip


def strategy(
    steps: Steps, trained: Mapping[Any, float], name: str, title: str, kept: float,
    random: np.random.Generator,
) -> StrategyResult:  # fmt: skip
    """Return one strategy: AP50 of old classes falls with every stage, that of others is low."""
    from duet.evaluation.indices import compute_indices
    from duet.evaluation.matrix import StageMatrix
    from duet.evaluation.pairs import cells_needed
    from duet.results.schema import MergeEntry, StageCost, StrategyResult, TensorEntry

    learned = {step: number for number, step in enumerate(steps, start=1)}
    matrix, found = {}, dict[tuple[int, str], dict[str, float]]()
    for stage, domain, classes in cells_needed(steps):
        first = learned.get((domain, classes))
        level = 0.3 if first is None else 0.8 * kept ** (stage - first)
        scores = np.clip(random.normal(level, 0.08, len(classes)), 0.001, 1)
        matrix[stage, domain, classes] = float(scores.mean())
        found.setdefault((stage, domain), {}).update(zip(classes, map(float, scores), strict=True))
    whole = StageMatrix(matrix)
    return StrategyResult(
        name=name, title=title, matrix=whole.as_records(),
        indices=compute_indices(steps, whole, trained),
        class_scores=tuple(
            class_scores(stage, domain, ap50, random) for (stage, domain), ap50 in found.items()
        ),
        merges=tuple(
            MergeEntry(
                increment=number, method="duet", params={"gamma": 0.1},
                tensors=tuple(
                    TensorEntry(
                        name=f"model.{place // 9}.part.{place % 9}.weight", scalars=1000,
                        alpha=float(random.uniform(0.4, 0.6)),
                        sign_conflict=float(random.uniform(0.1, 0.5)),
                    )
                    for place in range(TENSORS)
                ),
            )
            for number in range(2, len(steps) + 1)
        ),
        costs=tuple(StageCost(title=f"stage {n}", seconds=95.0) for n in range(1, len(steps) + 1)),
    )  # fmt: skip


def class_scores(
    stage: int, domain: str, ap50: Mapping[str, float], random: np.random.Generator
) -> ClassScores:
    """Return AP and what users are shown of the classes of one cell."""
    from duet.results.schema import ClassScores

    return ClassScores(
        stage=stage, domain=domain, ap50=dict(ap50),
        ap={name: 0.6 * value for name, value in ap50.items()},
        objects=dict.fromkeys(ap50, OBJECTS), evidence=f"evaluations/{stage}-{domain}.npz",
        deployed=deployed(ap50, random),
    )  # fmt: skip


def deployed(ap50: Mapping[str, float], random: np.random.Generator) -> Deployment:
    """Return counts that follow the AP50."""
    from duet.evaluation.deployment import ClassDeployment, Counted, Deployment

    rows = {}
    for name, value in ap50.items():
        found, wrong = round(value * OBJECTS), int(random.integers(0, OBJECTS))
        counted = Counted(objects=OBJECTS, found=found, wrong=wrong)
        rows[name] = ClassDeployment(
            **counted.model_dump(), at_precision=counted, threshold=float(random.uniform(0.1, 0.9)),
            lrp=float(random.uniform()), olrp=float(random.uniform()),
            olrp_threshold=float(random.uniform()),
        )  # fmt: skip
    return Deployment(
        images=250, classes=rows, ece=0.1, ece_raw=0.2, doubles_within=3, doubles_between=4
    )


def gallery_image(steps: Steps, number: int, random: np.random.Generator) -> GalleryImage:
    """Return one picture with eight objects, of which the models find some."""
    from duet.results.boxes import FoundBox, GalleryImage, GallerySide, TruthBox

    domain, classes = steps[number % len(steps)]
    known = (*classes[:4], *steps[0][1][4:8])
    corners = [(40 + 150 * (place % 4), 60 + 220 * (place // 4)) for place in range(8)]
    boxes = [
        (name, (float(x), float(y), float(x + random.integers(30, 120)), float(y + 90)))
        for name, (x, y) in zip(known, corners, strict=True)
    ]

    def side(title: str, chance: float) -> GallerySide:
        seen = tuple(
            FoundBox(name=name, xyxy=xyxy, score=float(random.uniform(0.2, 1)))
            for name, xyxy in boxes if random.uniform() < chance
        )  # fmt: skip
        return GallerySide(title=title, detections=seen, classes=known)

    return GalleryImage(
        file=f"gallery/{number:02d}.jpg", domain=domain, width=640, height=480, labelled=known,
        truths=tuple(TruthBox(name=name, xyxy=xyxy) for name, xyxy in boxes),
        before=side("after increment 1", 0.5), after=side("after the last", 0.8),
        beside=side("Plain fine-tuning, after the last", 0.4),
    )  # fmt: skip


if __name__ == "__main__":
    main()
