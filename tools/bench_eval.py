"""What an evaluation costs once the detector has answered: AP, matches, what users see, bootstrap.

    python tools/bench_eval.py --json

Detections are fabricated. AP, matches and deployment measures of one set take turns with
faster-coco-eval alone (COCO objects, evaluate, accumulate, of records that are made before) on the
same boxes, new ones in each round, in one process; both must tell the same AP to the bit. Large
sets run in a process of their own, whose peak memory holds the detections, too.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import machine

from duet.detections import Detections
from duet.evaluation.ap import THRESHOLDS, ClassAP, Truth
from duet.evaluation.bootstrap import resamples, weighted_ap50
from duet.evaluation.deployment import Deployed, deployment, save_deployed
from duet.evaluation.doubles import find_doubles
from duet.evaluation.matches import ClassMatches, measure, save_matches
from duet.labels import LabelSpace

OBJECTS, SIDE = 7, 640  # of an image, as COCO's have on average; pixels
GOALS = {"ratio": 1.3, "many_classes_s": 10.0, "large_mb": 2000.0, "bootstrap_ms": 0.1}


@click.command()
@click.option("--images", default=2000, show_default=True)
@click.option("--classes", default=20, show_default=True)
@click.option("--detections", default=100, show_default=True, help="Per image.")
@click.option("--rounds", default=5, show_default=True, help="Of both sides in turn.")
@click.option("--seed", default=0, show_default=True)
@click.option("--part", type=click.Choice(["all", "ratio", "many", "large", "bootstrap"]),
              default="all", show_default=True)  # fmt: skip
@click.option("--alone", is_flag=True, hidden=True, help="One set in this process.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    images: int, classes: int, detections: int, rounds: int, seed: int, part: str, alone: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure and print."""
    if alone:
        print(json.dumps(one_set(images, classes, detections, seed)))
        return
    parts: dict[str, Callable[[], Any]] = {
        "ratio": lambda: against(images, classes, detections, rounds, seed),
        "many": lambda: _apart(images, 1203, detections, seed),
        "large": lambda: _apart(50_000, classes, 300, seed),
        "bootstrap": lambda: [bootstrap(number, seed) for number in (1000, 5000, 20_000)],
    }
    result: dict[str, Any] = {"goals": GOALS, "machine": machine()}
    result |= {name: run() for name, run in parts.items() if part in ("all", name)}
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for name in parts.keys() & result.keys():
        print(f"{name}: {json.dumps(result[name])}")


def against(images: int, classes: int, detections: int, rounds: int, seed: int) -> dict[str, Any]:
    """Return CPU seconds of both sides, and their ratio round by round."""
    times: dict[str, list[float]] = {"duet": [], "faster-coco-eval": []}
    for number in range(rounds + 1):
        found, truths, labels = fabricated(images, classes, detections, seed + number)
        records = _records(found), _records(truths)
        spent, scores = _timed(_everything, found, truths, labels)
        alone, judged = _timed(_library, *records, images, labels)
        if list(scores.ap.values()) != judged:
            raise SystemExit("the two sides tell other AP")
        if number:  # the first round pays for imports
            times["duet"].append(spent)
            times["faster-coco-eval"].append(alone)
    mine, theirs = times.values()
    return {
        "settings": {"images": images, "classes": classes, "detections": detections,
                     "rounds": rounds, "order": "A B A B in one process, new boxes each round"},
        "cpu_s": {name: _spread(values) for name, values in times.items()},
        "ratio": {
            "median": statistics.median(a / b for a, b in zip(mine, theirs, strict=True)),
            "of_minima": min(mine) / min(theirs),
        },
    }  # fmt: skip


def one_set(images: int, classes: int, detections: int, seed: int) -> dict[str, Any]:
    """Return what one set costs in this process, files included."""
    found, truths, labels = fabricated(images, classes, detections, seed)
    before = _peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        spent, _ = _timed(_everything, found, truths, labels, Path(folder))
    return {
        "settings": {"images": images, "classes": classes, "detections": detections},
        "cpu_s": spent, "peak_mb": _peak_mb(), "peak_mb_of_inputs": before,
    }  # fmt: skip


def bootstrap(images: int, seed: int, count: int = 1000) -> dict[str, Any]:
    """Return milliseconds of CPU per image, for one class with ten detections an image."""
    random = np.random.default_rng(seed)
    n = 10 * images
    kind = random.choice(3, n, p=[0.3, 0.6, 0.1])
    where = random.integers(0, images, n)
    owners = np.sort(np.concatenate([where[kind == 0], random.integers(0, images, images // 2)]))
    scores = np.sort(random.uniform(0, 1, n).astype(np.float32))[::-1]
    iou = np.where(kind == 0, 0.8, 0).astype(np.float32)
    found = ClassMatches(scores, where, kind == 0, kind == 2, iou, owners, images)
    drawing, weights = _timed(partial(resamples, images, count, seed=seed, name="bench"))
    weighted_ap50(found, weights[:2])  # pays for imports
    times = [_timed(weighted_ap50, found, weights)[0] for _ in range(3)]
    return {
        "images": images, "resamples": count, "detections": n, "hits": int((kind == 0).sum()),
        "ms_per_image": _spread([1000 * one / images for one in times]), "drawing_s": drawing,
    }  # fmt: skip


def fabricated(
    images: int, classes: int, detections: int, seed: int
) -> tuple[list[Detections], list[Truth], LabelSpace]:
    """Return detections near some objects and elsewhere, in falling confidence, as NMS gives."""
    random = np.random.default_rng(seed)
    labels = LabelSpace.of(f"class {number}" for number in range(classes))
    found, truths = [], []
    for _ in range(images):
        count = random.poisson(OBJECTS)
        boxes = _boxes(random, count)
        ids = random.integers(0, classes, count)
        truths.append(Truth(boxes, ids, SIDE, SIDE))
        near = random.integers(0, max(count, 1), detections * 4 // 10 if count else 0)
        moved = boxes[near] + random.normal(0, 8, (len(near), 4))
        every = np.vstack([moved, _boxes(random, detections - len(near))])
        guess = random.integers(0, classes, detections)
        guess[: len(near)] = np.where(random.uniform(size=len(near)) < 0.8, ids[near],
                                      guess[: len(near)])  # fmt: skip
        scores = random.beta(0.4, 3, detections)
        order = np.argsort(-scores)
        sorted_ = every[order].astype(np.float32), scores[order].astype(np.float32)
        found.append(Detections(*sorted_, guess[order], labels))
    return found, truths, labels


def _boxes(random: np.random.Generator, count: int) -> Any:
    sizes = random.uniform(20, 200, (count, 2))
    corners = random.uniform(0, SIDE - 200, (count, 2))
    return np.hstack([corners, corners + sizes])


def _everything(
    found: list[Detections], truths: list[Truth], labels: LabelSpace, folder: Path | None = None
) -> ClassAP:
    """Do what an evaluation does, but for the detector; with a folder it writes its files, too."""
    scores, matches = measure(found, truths, labels, np.arange(len(found), dtype=np.uint64))
    seen = Deployed(matches, find_doubles(found, labels.names))
    shown = deployment(seen, dict.fromkeys(labels, 0.25), {}, raw=matches.classes.values())
    assert len(shown.classes) == len(labels)
    if folder is not None:
        save_matches(folder / "a.npz", matches)
        save_deployed(folder / "a.seen.npz", seen)
    return scores


def _records(items: Sequence[Detections | Truth]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for image, item in enumerate(items):
        sides = item.xyxy.astype(np.float64)
        sides[:, 2:] = np.maximum(sides[:, 2:] - sides[:, :2], 0)
        scores = item.scores.tolist() if isinstance(item, Detections) else None
        rows = zip(item.class_ids.tolist(), sides.tolist(), strict=True)
        for row, (index, box) in enumerate(rows):
            entry = {"id": len(made) + 1, "image_id": image, "category_id": index, "bbox": box,
                     "area": box[2] * box[3], "iscrowd": 0}  # fmt: skip
            made.append(entry if scores is None else {**entry, "score": scores[row]})
    return made


def _library(
    found: list[dict[str, Any]], labelled: list[dict[str, Any]], images: int, labels: LabelSpace
) -> list[float | None]:
    """Return AP per class by faster-coco-eval, as a user would run it."""
    from faster_coco_eval import COCO, COCOeval_faster

    frame = {
        "images": [{"id": index, "height": SIDE, "width": SIDE} for index in range(images)],
        "categories": [{"id": index, "name": name} for index, name in enumerate(labels)],
    }
    truth, detections = (
        COCO({**frame, "annotations": made}, print_function=_quiet) for made in (labelled, found)
    )
    run = COCOeval_faster(truth, detections, iouType="bbox", print_function=_quiet)
    run.params.maxDets = [100]
    run.params.areaRng, run.params.areaRngLbl = [[0, 1e5**2]], ["all"]
    assert run.params.iouThrs.tolist() == list(THRESHOLDS)
    run.evaluate()
    run.accumulate()
    table = np.asarray(run.eval["precision"])[..., 0, 0]
    return [
        float(table[..., index].mean()) if (table[..., index] > -1).all() else None
        for index in range(len(labels))
    ]


def _apart(images: int, classes: int, detections: int, seed: int) -> Any:
    """Return what `one_set` does in a process of its own."""
    options = {"--images": images, "--classes": classes, "--detections": detections, "--seed": seed}
    words = [str(word) for pair in options.items() for word in pair]
    done = subprocess.run(
        [sys.executable, __file__, "--alone", *words], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def _timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return CPU seconds of this process, and what the work returns."""
    begin = time.process_time()
    result = work(*arguments)
    return time.process_time() - begin, result


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values)}


def _peak_mb() -> float:
    """Return the largest resident size of this process so far.

    Linux tells it per address space; ``ru_maxrss`` starts with the size of who launched a process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _quiet(*_: object) -> None:
    """Swallow progress lines."""


if __name__ == "__main__":
    main()
