"""Files written by the engine's own exporter: what Ultralytics users expect of them is in them.

`YOLO("model.onnx")` works because the engine's metadata is there; duet's facts stand beside it.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics import __version__
from ultralytics.nn.tasks import load_checkpoint

from duet.errors import ModelError, in_short
from duet.families.exportable import STAMP, ExportFacts
from duet.files import hidden_folder, refused_by_disk

LICENCE = "AGPL-3.0 License (https://ultralytics.com/license)"
FORMS = ("pt", "onnx", "torchscript", "engine", "tflite", "openvino", "coreml")

_ENGINE_NAMES = {"tflite": "litert"}


@dataclass(frozen=True)
class UltralyticsEngine:
    """The engine's exporter for one detector (`duet.families.exportable.Engine`).

    Attributes:
        build: Return the network for inference, one of the engine's models.
        stock: Return it unfused, out of the engine's own modules where they suffice: for ``pt``.
        end_to_end: Whether its one-to-one branch answers (layout ``picked``).
        heads: Classes of duet's own that a ``pt`` file may hold.
        forms: Names of the formats it writes.
    """

    build: Callable[[], nn.Module]
    stock: Callable[[], nn.Module]
    end_to_end: bool = False
    heads: tuple[type, ...] = ()
    forms: tuple[str, ...] = FORMS

    def write(self, form: str, target: Path, facts: ExportFacts, *, device: str = "cpu") -> None:
        """Write a file, or replace the empty folder ``target``; see `Engine`."""
        if form == "pt":
            with target.open("wb") as stream:  # given a path, torch writes its name into the file
                torch.save(checkpoint(self.stock(), facts), stream)
            return
        # The exporter names its files after the checkpoint that it believes the model came from.
        with hidden_folder(target) as folder:
            made = self._export(form, folder / "model.duet-export", facts, device)
            if form == "onnx":
                drop_inner_shapes(made)
            os.replace(made, target)

    def open(self, path: Path) -> Callable[[torch.Tensor], Any]:
        """Return a ``pt`` file as the engine's restricted loader reads it, folded for inference."""
        # The restricted loader knows Ultralytics' classes; heads of duet's own are named here.
        with _plain_name(path) as name, torch.serialization.safe_globals(list(self.heads)):
            module, _ = load_checkpoint(str(name))
        folded: nn.Module = module.fuse(verbose=False).eval().requires_grad_(False)
        return folded

    def _export(self, form: str, source: Path, facts: ExportFacts, device: str) -> Path:
        from ultralytics.engine.exporter import Exporter
        from ultralytics.utils.callbacks import get_default_callbacks

        model: Any = self.build()
        model.task, model.pt_path = "detect", str(source)
        overrides = {
            "format": _ENGINE_NAMES.get(form, form),
            "imgsz": facts.image_size,
            "batch": 1,
            "dynamic": facts.dynamic,
            "device": device,
            "nms": False if self.end_to_end else None,
        }
        if form in ("onnx", "engine"):
            overrides["simplify"] = True
        callbacks = get_default_callbacks()
        callbacks["on_export_start"].append(lambda exporter: _stamp(exporter.metadata, facts))
        try:
            with _quiet_tracing():
                made = Exporter(overrides=overrides, _callbacks=callbacks)(model=model)
        except Exception as error:  # the exporter raises whatever torch, onnx and others raise
            if refused_by_disk(error) and not isinstance(error, FileNotFoundError):
                raise  # told by `duet.files.atomic_path`, in which every export is written
            raise ModelError(
                f"the engine cannot export this detector: {in_short(error)}"
            ) from error
        return Path(made)


def drop_inner_shapes(path: Path) -> None:
    """Take the shapes of inner tensors out of an ONNX file: programs infer them.

    onnxslim leaves those of nodes that are gone, in each process another lot of them, and equal
    detectors shall give equal files.
    """
    import onnx

    graph = onnx.load(str(path))
    del graph.graph.value_info[:]
    onnx.save(graph, str(path))


def checkpoint(model: nn.Module, facts: ExportFacts) -> dict[str, Any]:
    """Return a checkpoint as Ultralytics' own `strip_optimizer` leaves it, but in float32.

    No date: equal detectors give equal files.
    """
    arguments = {"task": "detect", "model": facts.architecture, "imgsz": facts.image_size}
    return {
        "epoch": -1,
        "best_fitness": None,
        "model": model.float().requires_grad_(True),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": arguments,
        "version": __version__,
        "license": LICENCE,
        "docs": "https://docs.ultralytics.com",
        STAMP: facts.model_dump(mode="json"),
    }


def _stamp(metadata: dict[str, Any], facts: ExportFacts) -> None:
    """Add duet's facts to what the exporter is about to write into the file."""
    metadata.pop("date", None)  # equal detectors give equal files
    metadata["description"] = facts.description
    metadata[STAMP] = facts.to_json()
    metadata["licence"], metadata["fingerprint"] = facts.licence, facts.fingerprint


@contextmanager
def _quiet_tracing() -> Iterator[None]:
    """Silence tracing warnings and give back the threads that the exporter takes away."""
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _plain_name(path: Path) -> Iterator[Path]:
    """Yield another name of the file, which Ultralytics takes for nothing but a file.

    It drops quotes from a path, reads ``yolov5n.pt`` as ``yolov5nu.pt``, and where no file has the
    name that results, it downloads official weights and opens those instead.
    """
    with tempfile.TemporaryDirectory(prefix="duet-") as folder:
        link = Path(folder).resolve() / "checkpoint.pt"
        if "'" in str(link) or str(link) != str(link).strip():
            raise ModelError(
                "the folder for temporary files has a quote in its name",
                where=folder,
                remedy="set TMPDIR to a folder without",
            )
        link.symlink_to(path.resolve())
        yield link
