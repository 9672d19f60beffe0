"""Run an exported file in the program that it was made for; no detection engine is needed.

A file is data to ONNX Runtime and OpenVINO, which are given no libraries of further operators.
TorchScript is a language: the program in the file is run, and can read and write any file.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from duet.config import load_yaml
from duet.devices import threads
from duet.errors import ConfigError, MissingExtraError, ModelError, in_short
from duet.families.exportable import STAMP
from duet.families.vouching import is_ours
from duet.files import parse_json, require_file

if TYPE_CHECKING:
    import torch

Run = Callable[[np.ndarray], np.ndarray]
"""``(B, 3, H, W)`` float32 RGB in [0, 1] to float32 outputs, batch first."""

ENGINE_FILE = "config.txt"
"""Where Ultralytics keeps the metadata inside a TorchScript archive; the others follow it."""

_ISA = "ONEDNN_MAX_CPU_ISA"
"""Holds torch's oneDNN to older instructions. OpenVINO's own copy obeys it too, but OpenVINO still
chooses bfloat16 by what the processor has, and then finds no code for it."""

OFTEN, MOST_SHAPES = 16, 4
"""Times that OpenVINO gets an input of one shape before it compiles the graph for it, and shapes of
which it does so at most."""

METADATA = "metadata.yaml"
"""Where Ultralytics keeps the metadata inside an OpenVINO folder; the others follow it."""

PARITY = "parity.json"
"""What was measured of the exports of a folder, and their hashes."""


@dataclass(frozen=True)
class Session:
    """An exported file, loaded.

    Attributes:
        run: Runs it.
        stamp: Its facts as `ExportFacts.from_json` reads them; None if it has none.
        precision: Number format that the program computes with, such as ``"f32"``.
        shape: Of its input; None for sides that it leaves open. Empty if the program does not say.
        stop: Ends the run that another thread is in, where the program can.
    """

    run: Run
    stamp: str | None
    precision: str = "f32"
    shape: tuple[int | None, ...] = ()
    stop: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Runtime:
    """One row of the table.

    Attributes:
        ending: How names of its files (or folders) end.
        package: Package that runs them.
        extra: Extra of duet that installs it.
        open: ``open(path, device, trust)``.
    """

    ending: str
    package: str
    extra: str
    open: Callable[[Path, str, bool], Session]


def open_file(path: Path, form: str, device: str = "cpu", *, trust: bool = False) -> Session:
    """Load an exported file.

    Args:
        path: File, or folder of an OpenVINO model.
        form: Key of `RUNTIMES`.
        device: ``"cpu"``; ``"cuda"`` and the like where the program can use them.
        trust: **Dangerous**: also run a TorchScript file that duet did not write here.

    Raises:
        ModelError: The program does not accept the file, or it is a program that nobody vouches
            for.
        ConfigError: The program cannot use the device.
        MissingExtraError: The program is not installed.
    """
    runtime = RUNTIMES[form]
    if find_spec(runtime.package) is None:
        raise MissingExtraError(
            f"running {runtime.ending} files needs {runtime.package}",
            where=str(path),
            remedy=f'pip install "duet-detect[{runtime.extra}]"',
        )
    try:
        return runtime.open(path, device, trust)
    except (ModelError, ConfigError):
        raise
    except Exception as error:  # foreign loaders raise half a dozen types: all mean the same
        raise ModelError(
            f"the exported file does not load: {in_short(error)}",
            where=str(path),
            remedy="it is truncated, damaged or no such file: export the detector again",
        ) from error


def _open_onnx(path: Path, device: str, _trust: bool) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads()
    providers: list[Any] = ["CPUExecutionProvider"]
    kind, _, number = device.partition(":")
    if kind != "cpu":
        wanted = f"{kind.upper()}ExecutionProvider"
        _require_device(wanted in onnxruntime.get_available_providers(), device, "onnxruntime-gpu")
        providers = [(wanted, {"device_id": int(number or 0)}), *providers]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    given = session.get_inputs()[0]
    shape = tuple(side if isinstance(side, int) else None for side in given.shape)
    metadata = session.get_modelmeta().custom_metadata_map
    how = onnxruntime.RunOptions()
    how.log_severity_level = 4  # errors are raised

    def run(batch: np.ndarray) -> np.ndarray:
        how.terminate = False
        output: np.ndarray = session.run(None, {given.name: batch}, how)[0]
        return output

    def stop() -> None:
        how.terminate = True

    return Session(run, metadata.get(STAMP), shape=shape, stop=stop)


def _open_torchscript(path: Path, device: str, trust: bool) -> Session:
    import torch

    content = path.read_bytes()  # once: what is run is what was looked up
    if not trust and not is_ours(hashlib.sha256(content).hexdigest()):
        raise ModelError(
            "a TorchScript file is a program and does not load unasked: duet did not export this "
            "file on this machine",
            where=str(path),
            remedy="it could read, write and delete any file of yours. Ask for an ONNX file (duet "
            "export MODEL --to onnx), which is data; if you know who made this one: --trust, in "
            "Python trust=True",
        )
    place = torch.device(device)
    files = {ENGINE_FILE: ""}
    jit: Any = torch.jit  # untyped
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated each time
        module = jit.load(io.BytesIO(content), map_location=place, _extra_files=files).eval()
    try:
        metadata = parse_json(files[ENGINE_FILE] or "{}")
    except ValueError:  # another program's: without a stamp
        metadata = {}

    answer = as_function(module)

    def run(batch: np.ndarray) -> np.ndarray:
        output: np.ndarray = answer(torch.from_numpy(batch).to(place)).float().cpu().numpy()
        return output

    return Session(run, _text(metadata.get(STAMP)))


def open_openvino(
    path: Path, device: str, _trust: bool = False, precision: str | None = "f32"
) -> Session:
    """Load an OpenVINO folder.

    Args:
        path: Folder with one ``.xml``, its ``.bin`` and `METADATA`.
        device: ``"cpu"``.
        precision: Number format to compute with. OpenVINO's own choice (None) is bfloat16 on
            processors that have instructions for it, which moves boxes by pixels.

    Raises:
        ModelError: The folder does not hold one model.
        ConfigError: Another device.
    """
    import openvino

    _require_device(device == "cpu", device, None)
    graphs = sorted(path.glob("*.xml"))
    if len(graphs) != 1:
        raise ModelError(
            f"expected a folder with one .xml file, got {len(graphs)}",
            where=str(path),
            remedy="give the folder *_openvino_model that `duet export` wrote",
        )
    for part in (graphs[0], graphs[0].with_suffix(".bin")):
        require_file(part)
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads()}
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision
    core = openvino.Core()
    graph = core.read_model(graphs[0])

    def compiled(shape: tuple[int, ...] | None) -> Any:
        limit = os.environ.pop(_ISA, None)
        try:
            if shape is not None:
                graph.reshape(list(shape))
            return core.compile_model(graph, "CPU", settings)
        finally:
            if limit is not None:
                os.environ[_ISA] = limit

    sides = _sides(graph.input(0).partial_shape)
    general = compiled(None)
    requests = _Requests(general.create_infer_request(), compiled, sides)
    return Session(
        requests.run,
        _stamp_of(path / METADATA),
        general.get_property("INFERENCE_PRECISION_HINT").to_string(),
        sides,
        requests.stop,
    )


class _Requests:
    """Runs of an OpenVINO graph: shapes that come often are compiled for themselves.

    That takes a tenth off each run, and as long as some seventy of these save.
    """

    def __init__(
        self, general: Any, compiled: Callable[[tuple[int, ...]], Any],
        sides: tuple[int | None, ...],
    ) -> None:  # fmt: skip
        self._general, self._compiled, self._open = general, compiled, None in sides
        self._own: dict[tuple[int, ...], Any] = {}
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._current = general

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Run a batch; see `Run`."""
        shape = batch.shape
        self._seen[shape] += self._open
        if self._seen[shape] == OFTEN and len(self._own) < MOST_SHAPES:
            self._own[shape] = self._compiled(shape).create_infer_request()
        self._current = self._own.get(shape, self._general)
        output: np.ndarray = self._current.infer(batch)[0].copy()  # the next call writes there
        return output

    def stop(self) -> None:
        """End the run that another thread is in."""
        self._current.cancel()


def _stamp_of(metadata: Path) -> str | None:
    try:
        told = load_yaml(metadata) if metadata.is_file() else None
    except ConfigError as error:
        again = "the folder was edited or damaged: export the detector again"
        raise ModelError(error.what, where=error.where, remedy=again) from None
    return _text(told.get(STAMP)) if isinstance(told, dict) else None


RUNTIMES: Mapping[str, Runtime] = MappingProxyType(
    {
        "onnx": Runtime(".onnx", "onnxruntime", "onnx", _open_onnx),
        "torchscript": Runtime(".torchscript", "torch", "torch", _open_torchscript),
        "openvino": Runtime("_openvino_model", "openvino", "openvino", open_openvino),
    }
)


def _require_device(usable: bool, device: str, package: str | None) -> None:
    if not usable:
        advice = f"install {package} with its CUDA libraries, or " if package else ""
        raise ConfigError(
            f"this exported file cannot run on device '{device}'",
            where="--device",
            remedy=f"{advice}use --device cpu",
        )


def _sides(shape: Any) -> tuple[int | None, ...]:
    """Return the sides of OpenVINO's input."""
    return tuple(None if side.is_dynamic else side.get_length() for side in shape)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def as_function(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a torch network as a function of a batch; of several outputs the first counts."""
    import torch

    def run(batch: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            output = module(batch)
        first: torch.Tensor = output[0] if isinstance(output, (tuple, list)) else output
        return first

    return run
