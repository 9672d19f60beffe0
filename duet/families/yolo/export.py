"""Files that other programs run: an Ultralytics checkpoint (`pt`) or an ONNX graph.

`duet.export` finds this module by its place in the family's folder and uses `raw_module`,
`open_file` and `squares` to compare an exported file with the detector in memory.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from duet.errors import ConfigError, MissingExtraError, ModelError
from duet.families.yolo import engine
from duet.families.yolo.build import inference_model
from duet.families.yolo.heads import ParallelDetect
from duet.families.yolo.predict import letterbox, to_batch
from duet.families.yolo.stock import stock_detector
from duet.files import atomic_path
from duet.increments.state import DetectorState

FORMS = ("pt", "onnx")
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxslim")
LICENCE = "AGPL-3.0 License (https://ultralytics.com/license)"

Raw = Callable[[torch.Tensor], torch.Tensor]
"""``(B, 3, S, S)`` float32 RGB in [0, 1] -> ``(B, 4 + C, A)``: cxcywh px of the square, scores."""


def write(state: DetectorState, target: Path, *, image_size: int, form: str, licence: str) -> Path:
    """Write a detector as ``pt`` or ``onnx``; the file is complete or absent.

    Args:
        state: The detector.
        target: File to write, ending in ``.pt`` or ``.onnx``.
        image_size: Side of the square that images are fitted into, pixels, a multiple of 32.
        form: ``"pt"``: unfused float32 modules, to predict, validate, export and fine-tune with
            Ultralytics; only `parallel` heads of several increments need duet installed there.
            ``"onnx"``: one graph of a static batch of one image.
        licence: Stamped into the file.

    Returns:
        ``target``.

    Raises:
        ConfigError: Unknown form, or a file name or image size that does not fit.
        MissingExtraError: The ONNX packages are not installed.
        ModelError: The engine cannot export this detector.
        DuetError: The file system refuses the write.
    """
    check(target, image_size=image_size, form=form)
    facts = lineage(state, image_size=image_size, licence=licence)
    with atomic_path(target) as temporary:
        if form == "pt":
            torch.save(_checkpoint(state, image_size, facts), temporary)
        else:
            _write_onnx(inference_model(state), temporary, image_size, facts)
    return target


def check(target: Path, *, image_size: int, form: str) -> None:
    """Refuse what cannot be exported before any work; errors as in `write`."""
    if form not in FORMS:
        raise ConfigError(
            f"unknown export form '{form}'", remedy=f"known forms: {', '.join(FORMS)}"
        )
    if target.suffix != f".{form}":
        raise ConfigError(
            f"the file of form '{form}' must end in .{form}, but got '{target.name}'",
            where=str(target),
        )
    if image_size < 32 or image_size % 32:
        raise ConfigError(f"image_size must be a multiple of 32, but got {image_size}")
    missing = [name for name in ONNX_PACKAGES if form == "onnx" and find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"ONNX export needs {', '.join(missing)}",
            remedy='pip install "duet-detect[onnx]"',
        )


def lineage(state: DetectorState, *, image_size: int, licence: str) -> dict[str, Any]:
    """Return what the exported file says about its origin; plain JSON data."""
    return {
        "format": "duet-export",
        "schema_version": 1,
        "fingerprint": state.fingerprint(),
        "family": state.family,
        "architecture": state.architecture,
        "head": state.head,
        "image_size": image_size,
        "licence": licence,
        "increments": [
            {"increment": part.increment, "classes": list(part.classes)} for part in state.parts
        ],
    }


def raw_module(state: DetectorState) -> Raw:
    """Return the detector in memory as a function, folded as for inference."""
    return _raw(inference_model(state).fuse(verbose=False))


def squares(images: Sequence[np.ndarray], image_size: int) -> torch.Tensor:
    """Fit BGR uint8 images into squares: ``(B, 3, S, S)`` float32 RGB in [0, 1]."""
    return to_batch([letterbox(image, image_size)[0] for image in images], torch.device("cpu"))


def open_file(path: Path, form: str) -> Raw:
    """Return an exported file as a function, run by the program that it was made for.

    ``pt`` goes through Ultralytics' restricted loader and is folded as `YOLO.predict` does it;
    ``onnx`` runs in ONNX Runtime on the CPU, one image at a time.

    Raises:
        ModelError: The program does not accept the file.
    """
    opened = _open_pt if form == "pt" else _open_onnx
    try:
        return opened(path)
    except Exception as error:  # loaders of two foreign programs; every failure means the same
        raise ModelError(
            f"the exported file does not load: {type(error).__name__}: {error}",
            where=str(path),
            remedy="this is a bug in duet or in the engine's version: please report it",
        ) from error


def _raw(module: nn.Module) -> Raw:
    module = module.eval().requires_grad_(False)

    def run(batch: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            output: Any = module(batch)
        y_BCA: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return y_BCA

    return run


def _open_pt(path: Path) -> Raw:
    engine.prepare()
    from ultralytics.nn.tasks import load_checkpoint

    # The restricted loader knows Ultralytics' classes; the one head of duet's own is named here.
    with torch.serialization.safe_globals([ParallelDetect]):
        # Absolute: a bare name may make the engine look for official weights.
        module, _ = load_checkpoint(str(path.resolve()))
    return _raw(module.fuse(verbose=False))


def _open_onnx(path: Path) -> Raw:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: torch.Tensor) -> torch.Tensor:
        rows = [session.run(None, {name: one[None].numpy()})[0] for one in batch]
        return torch.from_numpy(np.concatenate(rows))

    return run


def _checkpoint(state: DetectorState, image_size: int, facts: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint as Ultralytics' own `strip_optimizer` leaves it, but in float32.

    No date: equal detectors give equal files.
    """
    from ultralytics import __version__

    return {
        "epoch": -1,
        "best_fitness": None,
        "model": stock_detector(state).float().requires_grad_(True),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": {"task": "detect", "model": state.architecture, "imgsz": image_size},
        "version": __version__,
        "license": LICENCE,
        "docs": "https://docs.ultralytics.com",
        "duet": facts,
    }


def _write_onnx(model: Any, temporary: Path, image_size: int, facts: dict[str, Any]) -> None:
    """Trace one static graph with the engine's exporter, then add where it comes from.

    Raises:
        ModelError: The engine fails, or leaves no file.
    """
    from ultralytics.engine.exporter import Exporter

    model.task = "detect"
    # The exporter writes beside the checkpoint that it believes the model came from.
    model.pt_path = str(temporary.with_suffix(".pt"))
    overrides = {
        "format": "onnx", "imgsz": image_size, "batch": 1, "dynamic": False, "simplify": True,
        "device": "cpu",
    }  # fmt: skip
    try:
        with _quiet_tracing():
            Exporter(overrides=overrides)(model=model)
    except Exception as error:  # the exporter raises whatever torch, onnx and onnxslim raise
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the engine cannot export this detector: {type(error).__name__}: {reason}"
        ) from error
    import onnx

    graph = onnx.load(str(temporary))
    entries = {item.key: item for item in graph.metadata_props}
    names = ", ".join(name for part in facts["increments"] for name in part["classes"])
    added = {
        "description": f"duet detector ({facts['architecture']}, {facts['head']}): {names}",
        "duet": json.dumps(facts, ensure_ascii=False),
        "licence": facts["licence"],
        "fingerprint": facts["fingerprint"],
    }
    for key, value in added.items():
        item = entries.get(key) or graph.metadata_props.add()
        item.key, item.value = key, value
    onnx.save(graph, str(temporary))


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
