"""Draw the scenes of a plan and write them: images, labels, data.yaml."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2

from duet.emoji.looks import LOOKS
from duet.emoji.plan import Plan, Progress
from duet.emoji.raster import Image
from duet.emoji.scenes import Scene, SceneObject, compose, scene_rng
from duet.emoji.vocabulary import Pool
from duet.errors import DataError

_QUALITY = 92  # 8 kB a scene instead of 45 kB as PNG, without visible artefacts


def write_domains(folder: Path, plan: Plan, progress: Progress | None) -> dict[str, Any]:
    """Write every domain of ``plan`` below ``folder``.

    Returns:
        Per domain: ``focus``, ``images`` per split, and ``objects`` per split and class.
    """
    records: dict[str, Any] = {}
    total = len(plan.domains) * sum(plan.splits.values())
    steps = itertools.count(1)
    with _one_thread():
        for name in plan.domains:
            objects: dict[str, dict[str, int]] = {}
            for split in plan.splits:
                seen: Counter[int] = Counter()
                for index, scene in enumerate(scenes_of(plan, name, split)):
                    _write_scene(folder / name, split, index, scene)
                    seen.update(item.class_index for item in scene.objects)
                    if progress is not None:
                        progress(next(steps), total)
                names = plan.vocabulary.names
                objects[split] = {label: seen[i] for i, label in enumerate(names)}
            (folder / name / "data.yaml").write_text(_data_yaml(plan), encoding="utf-8")
            records[name] = {
                "focus": list(plan.focus.get(name, ())),
                "images": dict(plan.splits),
                "objects": objects,
            }
    return records


def scenes_of(plan: Plan, domain: str, split: str) -> Iterator[Scene]:
    """Yield the scenes of one split, in order."""
    look = {**LOOKS, **plan.looks}[domain]
    names = plan.vocabulary.names
    focus = plan.focus.get(domain, ()) if split == "train" else ()
    deck = [names.index(name) for name in focus] or list(range(len(names)))
    pool: Pool = "train" if split == "train" or plan.variants == "shared" else "eval"
    for index in range(plan.splits[split]):
        yield compose(
            scene_rng(plan.seed, domain, split, index),
            look,
            plan.vocabulary,
            size=plan.size,
            pool=pool,
            primary=_primary(plan.seed, domain, split, index, deck),
        )


def _primary(seed: int, domain: str, split: str, index: int, deck: Sequence[int]) -> int:
    """Return the class that scene ``index`` certainly holds.

    The deck is dealt in shuffled rounds: after each, every class was the primary one equally often.
    """
    turn, place = divmod(index, len(deck))
    order = scene_rng(seed, domain, split, "deck", turn).permutation(len(deck))
    return deck[int(order[place])]


def label_line(item: SceneObject, size: int) -> str:
    """Return ``class cx cy w h`` as shares of the image side, six decimals."""
    x0, y0, x1, y1 = (value / size for value in item.xyxy)
    box = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
    return " ".join([str(item.class_index), *(f"{value:.6f}" for value in box)])


def _write_scene(folder: Path, split: str, index: int, scene: Scene) -> None:
    if index == 0:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{label_line(item, scene.image.shape[0])}\n" for item in scene.objects)
    (folder / "images" / split / f"{index:06d}.jpg").write_bytes(_jpeg(scene.image))
    (folder / "labels" / split / f"{index:06d}.txt").write_text(lines, encoding="ascii")


def _jpeg(image: Image) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise DataError("OpenCV cannot encode this image as JPEG")
    return encoded.tobytes()


def _data_yaml(plan: Plan) -> str:
    val = "val" if "val" in plan.splits else "test"
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(plan.vocabulary.names))
    return f"path: .\ntrain: images/train\nval: images/{val}\ntest: images/test\nnames:\n{names}"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep OpenCV to one thread: scenes are too small to share, and other people use the cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
