"""Checks that train: a base and an increment of a few steps, resuming, and exported files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duet.conformance.case import NEW, OLD, Case, squares
from duet.conformance.structure import same, same_bits

if TYPE_CHECKING:
    from duet.increments.state import DetectorState, HeadForm
    from duet.series import Slice

EPOCHS = 24
IMAGES = 8


class KilledError(Exception):
    """Stands for the end of a process."""


def check_learns(case: Case, folder: Path) -> None:
    """Two increments: losses fall, old rows stay to the bit, all of the job's files are there."""
    from duet.increments.fisher import FISHER
    from duet.increments.tensorfile import read_tensors
    from duet.vectors.tensors import require_finite

    form = case.forms[0]
    old = squares(folder / "old", OLD, count=IMAGES, size=case.image_size)
    new = squares(folder / "new", NEW, count=IMAGES, size=case.image_size)
    first = case.start(form)  # loads the engine, and what that sets is to stay
    with _settled():
        base = train(case, folder / "base", first, old, phase="base")
        grown = case.engine.grow(base, classes=NEW, increment="second", seed=4, source=None)
        trained = train(
            case, folder / "increment", grown, new, phase="increment",
            distill={"weight": 0.1}, directional={"weight": 0.01},
            direction={name: base.shared[name] * 0 + 1e-3 for name in base.shared},
        )  # fmt: skip
    for job, before, state, data in (
        (folder / "base", first, base, old),
        (folder / "increment", grown, trained, new),
    ):
        outcome = json.loads((job / "outcome.json").read_text())
        losses = [sum(v for k, v in epoch.items() if "kd" not in k) for epoch in outcome["history"]]
        assert len(losses) == EPOCHS, f"{job.name}: {len(losses)} epochs were recorded"
        # YOLO's loss rises at first, because more anchors take part; a DETR's needs longer to tell
        # classes apart. Something that trains nothing does neither.
        fell = losses[-1] < 0.9 * losses[0]
        told = separation(case, before, data), separation(case, state, data)
        assert fell or told[1] > told[0] + 0.5, f"{job.name}: separation {told}, loss {losses}"
        assert outcome["images_seen"] == EPOCHS * IMAGES, outcome["images_seen"]
        assert outcome["fisher_images"] == 2, outcome["fisher_images"]
        fisher, _ = read_tensors(job / FISHER)
        assert fisher.keys() == state.shared.keys(), "the Fisher covers other tensors"
        require_finite(state.to_tensors(), job.name)
    assert not same(base.shared, trained.shared), "the increment trained nothing shared"
    assert same(base.parts[0].tensors, trained.parts[0].tensors), "old rows moved"
    assert not same(grown.parts[1].tensors, trained.parts[1].tensors), "the new part did not train"
    history = json.loads((folder / "increment" / "outcome.json").read_text())["history"]
    assert {"kd_cls", "kd_box"} <= history[0].keys(), "distillation is not in the history"


def check_adapts(case: Case, folder: Path) -> None:
    """Known classes in a new domain: the shared tensors move, the head part stays to the bit.

    The old outputs are kept by ERD, which asks most of a family: it wants boxes too.
    """
    data = squares(folder / "data", OLD, count=IMAGES, size=case.image_size)
    start = case.start(case.forms[0])
    with _settled():
        adapted = train(
            case, folder / "job", start, data, phase="increment", epochs=1, adapts=OLD,
            distill={"method": "erd", "weight": 0.1, "images": 0.5},
        )  # fmt: skip
    assert adapted.labels == start.labels, "the classes changed"
    assert same(start.parts[0].tensors, adapted.parts[0].tensors), "the head part moved"
    assert not same(start.shared, adapted.shared), "nothing was learned"
    history = json.loads((folder / "job" / "outcome.json").read_text())["history"]
    assert {"kd_cls", "kd_box"} <= history[-1].keys(), "distillation is not in the history"


def check_refines(case: Case, folder: Path) -> None:
    """More of known classes with a frozen trunk: class rows move, all else stays to the bit."""
    from duet.families.table import class_rows

    data = squares(folder / "data", OLD, count=IMAGES, size=case.image_size)
    for form in case.forms:
        start = case.start(form)
        with _settled():
            result = train(
                case, folder / form, start, data, phase="increment", epochs=1, adapts=OLD,
                trunk="frozen",
            )  # fmt: skip
        before, after = start.parts[0].tensors, result.parts[0].tensors
        rows = class_rows(case.rules, start.head, before)
        others = before.keys() - rows
        assert rows, f"{form}: no class rows"
        assert same(start.shared, result.shared), f"{form}: shared tensors moved"
        assert same(start.buffers, result.buffers), f"{form}: statistics moved"
        assert same({n: before[n] for n in others}, {n: after[n] for n in others}), form
        still = [n for n in sorted(rows) if same({n: before[n]}, {n: after[n]})]
        assert not still, f"{form}: class rows that did not train: {still}"


def check_resumes(case: Case, folder: Path) -> None:
    """A job that dies after its second epoch ends with the same bits."""
    form = case.forms[0]
    data = squares(folder / "data", OLD, count=IMAGES, size=case.image_size)
    start = case.start(form)

    def die(record: dict[str, Any]) -> None:
        if record["epoch"] == 3:
            raise KilledError

    with _settled():
        whole = train(case, folder / "whole", start, data, phase="base", epochs=4)
        try:
            train(case, folder / "struck", start, data, phase="base", epochs=4, progress=die)
        except KilledError:
            pass
        else:
            raise AssertionError("progress is not reported in the third epoch")
        assert not (folder / "struck" / "outcome.json").exists()
        case.engine.train(folder / "struck", _ignore)
    resumed = read(folder / "struck")
    moved = [
        name
        for name, tensor in whole.to_tensors().items()
        if not same_bits(tensor, resumed.to_tensors()[name])
    ]
    assert not moved, f"{len(moved)} tensors differ after resuming, such as {moved[:3]}"


def check_exported(case: Case, folder: Path) -> None:
    """Exported files compute what the detector computes."""
    from duet.export.export import export_detector
    from duet.export.formats import FORMATS

    form: HeadForm
    for form in case.forms:
        state = case.grown(form)
        case.keep(state, folder / form)
        for name in case.formats:
            target = folder / f"{form}-{name}" / f"model{FORMATS[name].suffix}"
            report = export_detector(folder / form, target, name)  # keeps equal files only
            assert report.classes == state.labels.names, (form, name)
            assert report.parity is not None, (form, name)
            assert report.parity.ok, (form, name)


def train(
    case: Case, folder: Path, start: DetectorState, data: Slice, *, phase: str,
    epochs: int = EPOCHS, progress: Any = None, direction: Any = None, **settings: Any,
) -> DetectorState:  # fmt: skip
    """Run one job in this process and return its result."""
    from safetensors.torch import save_file

    from duet.training.job import Job, write_job, write_slice, write_state

    schedule = {
        "epochs": epochs, "batch": 4, "image_size": case.image_size, "lr": case.lr,
        "warmup_epochs": 0, "threads": 1, "fisher_images": 2,
        "augmentation": {"flip": 0.5, "scale": 0.1, "translate": 0.1},
    }  # fmt: skip
    job = Job.model_validate(
        {
            "family": case.family, "architecture": case.architecture, "head": start.head,
            "phase": phase, "schedule": schedule, "seed": 11,
            "parts": [{"increment": p.increment, "classes": p.classes} for p in start.parts],
            **settings,
        }
    )  # fmt: skip
    folder.mkdir(parents=True)
    write_state(folder / "start.safetensors", start)
    write_slice(folder / "slice.npz", data)
    if direction is not None:
        save_file(dict(direction), folder / "direction.safetensors")
    write_job(folder, job)
    case.engine.train(folder, progress or _ignore)
    return read(folder)


def separation(case: Case, state: DetectorState, data: Slice) -> float:
    """Return by how much the best logit of an image's class exceeds those of the others, mean."""
    import torch

    from duet.images import read_image

    images = case.engine.prepare([read_image(p) for p in data.images], image_size=case.image_size)
    with torch.no_grad():
        peaks = case.engine.class_logits(state)({}, images).amax(-1)
    truth = [state.labels.index(data.classes[int(ids[0])]) for ids in data.class_ids]
    own = peaks[torch.arange(len(truth)), truth]
    others = (peaks.sum(1) - own) / (peaks.shape[1] - 1)
    return float((own - others).mean())


def read(folder: Path) -> DetectorState:
    """Return the result of a finished job."""
    from duet.training.job import read_state

    return read_state(folder / "trained.safetensors")


def _ignore(_record: dict[str, Any]) -> None:
    """Report nothing."""


@contextmanager
def _settled() -> Iterator[None]:
    """Undo what engines change in the process while they train."""
    import torch

    threads, before = torch.get_num_threads(), dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
