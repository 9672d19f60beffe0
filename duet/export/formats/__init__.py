"""Formats of exported files: one row each; what writes one is imported only when it is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duet.devices import parse_device, require_device
from duet.errors import ConfigError, MissingExtraError
from duet.export.formats.machines import require_coreml, require_litert, require_tensorrt
from duet.registry import Table

if TYPE_CHECKING:
    from duet.families.exportable import Exportable, ExportFacts


@dataclass(frozen=True)
class Tolerance:
    """How far an exported file may be from the detector in memory.

    Attributes:
        box_px: Largest difference of a box coordinate, pixels of the detector's input.
        score: Largest difference of a class score.
        why: Why it is not the usual one; empty for the usual one.
    """

    box_px: float = 1e-3
    score: float = 1e-5
    why: str = ""


@dataclass(frozen=True)
class Format:
    """One row of the table.

    Attributes:
        name: What users type.
        suffix: How the file's (or folder's) name ends.
        summary: One line for people.
        needs: What the export needs beside packages; empty if nothing.
        packages: Modules that must be installed.
        install: Arguments of pip that install them.
        writer: Module that writes it for a family whose engine does not, with a function
            ``write(exportable, target, facts)``; empty where only engines can.
        gpu: Whether it is made on, and for, one NVIDIA GPU; all others are written on the CPU.
        check: Raises a `ConfigError` on a machine that cannot write it, before any work.
        folder: Whether it is a folder.
        dynamic: Whether it can take batches of any size.
        open_sides: Whether it can take inputs of any height and width.
        tolerance: For the comparison with the detector in memory; None where duet cannot run it.
    """

    name: str
    suffix: str
    summary: str
    needs: str = ""
    packages: tuple[str, ...] = ()
    install: str = ""
    writer: str = ""
    gpu: bool = False
    check: Callable[[], None] | None = None
    folder: bool = False
    dynamic: bool = False
    open_sides: bool = False
    tolerance: Tolerance | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed."""
        return tuple(name for name in self.packages if find_spec(name) is None)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        tolerance = self.tolerance
        return {
            "name": self.name,
            "suffix": self.suffix,
            "summary": self.summary,
            "needs": self.needs,
            "packages": list(self.packages),
            "missing": list(self.missing),
            "install": self.install,
            "folder": self.folder,
            "dynamic": self.dynamic,
            "open_sides": self.open_sides,
            "tolerance_box_px": tolerance.box_px if tolerance else None,
            "tolerance_score": tolerance.score if tolerance else None,
            "tolerance_why": tolerance.why if tolerance else "",
        }


_FORMATS = (
    Format(
        name="pt",
        suffix=".pt",
        summary="Ultralytics checkpoint: predict, validate and fine-tune with Ultralytics",
        tolerance=Tolerance(),
    ),
    Format(
        name="onnx",
        suffix=".onnx",
        summary="ONNX graph: ONNX Runtime, and most other programs",
        packages=("onnx", "onnxruntime", "onnxslim"),
        install='"duet-detect[onnx]"',
        writer="duet.export.formats.onnx",
        dynamic=True,
        open_sides=True,
        tolerance=Tolerance(),
    ),
    Format(
        name="torchscript",
        suffix=".torchscript",
        summary="TorchScript archive: PyTorch and C++ without Python code",
        writer="duet.export.formats.torchscript",
        dynamic=True,
        tolerance=Tolerance(),
    ),
    Format(
        name="openvino",
        suffix="_openvino_model",
        summary="OpenVINO folder: Intel processors",
        packages=("openvino",),
        install='"duet-detect[openvino]"',
        writer="duet.export.formats.openvino",
        folder=True,
        dynamic=True,
        open_sides=True,
        tolerance=Tolerance(
            box_px=1e-2,
            why="compared in float32, as duet runs it; OpenVINO adds in another order",
        ),
    ),
    Format(
        name="engine",
        suffix=".engine",
        summary="TensorRT engine for the GPU that it is built on",
        needs="an NVIDIA GPU",
        gpu=True,
        check=require_tensorrt,
        packages=("tensorrt", "onnx", "onnxslim", "onnxruntime"),
        install='tensorrt "duet-detect[onnx]"',
    ),
    Format(
        name="coreml",
        suffix=".mlpackage",
        summary="Core ML package: Apple devices",
        needs="macOS or Linux, numpy up to 2.3.5",
        check=require_coreml,
        packages=("coremltools",),
        install='"coremltools>=9" "numpy<=2.3.5"',
        folder=True,
    ),
    Format(
        name="tflite",
        suffix=".tflite",
        summary="LiteRT (TensorFlow Lite) file: phones and small boards",
        needs="macOS, or Linux on x86-64",
        check=require_litert,
        packages=("litert_torch", "ai_edge_litert"),
        install='"litert-torch>=0.10" "ai-edge-litert>=2.3"',
    ),
)

FORMATS = Table(
    "export form", "forms", {row.name: row for row in _FORMATS}, module=lambda row: row.writer
)


def form_of(target: Path) -> str:
    """Return the form that a file's or folder's name ends like.

    Raises:
        ConfigError: None does.
    """
    for name, row in FORMATS.items():
        if target.name.endswith(row.suffix):
            return name
    raise ConfigError(
        f"no form of export is called like '{target.name}'",
        where=str(target),
        remedy=f"end it with one of {', '.join(row.suffix for row in FORMATS.values())}",
    )


def require_packages(form: Format) -> None:
    """Check that the packages of a format are installed; nothing is installed by itself.

    Raises:
        MissingExtraError: With the line that installs them.
    """
    if form.missing:
        raise MissingExtraError(
            f"{form.name} export needs {', '.join(form.missing)}",
            remedy=f"pip install {form.install}",
        )


def require_offered(exportable: Exportable, form: str, family: str) -> None:
    """Check that a family's detectors can be written in a format.

    Raises:
        ConfigError: Neither its engine nor duet writes it; names what can be written.
    """
    offered = [
        name for name, row in FORMATS.items() if row.writer or exportable.written_by_engine(name)
    ]
    if form not in offered:
        raise ConfigError(
            f"the family {family} cannot be exported as {form}",
            remedy=f"it has: {', '.join(offered)}",
        )


def device_for(form: Format, device: str | None) -> str:
    """Return where a format is written, as the engines call it.

    Args:
        form: The format.
        device: What the user chose, in the language of `duet.devices`; None for the usual one.

    Raises:
        ConfigError: It is no device, not there, or not where this format is written.
    """
    chosen = parse_device(("0" if form.gpu else "cpu") if device is None else device)
    if (chosen.kind == "cuda") != form.gpu:
        place = "an NVIDIA GPU, for that GPU alone" if form.gpu else "the CPU, and run anywhere"
        raise ConfigError(
            f"{form.name} files are written on {place}; got device '{chosen}'",
            where="--device",
            remedy="leave it out",
        )
    return str(require_device(chosen.single("a file is written")))


def write(
    form: Format, exportable: Exportable, target: Path, facts: ExportFacts, *, device: str = "cpu"
) -> None:
    """Write a detector: the family's engine does it if it knows the format, else duet.

    Args:
        form: The format.
        exportable: The detector.
        target: A file to create, or an empty folder that exists.
        facts: What the file says of itself.
        device: As `device_for` returns it.

    Raises:
        ConfigError: Neither can write it.
        ModelError: The detector cannot be written in this format.
    """
    require_offered(exportable, form.name, facts.family)
    engine = exportable.written_by_engine(form.name)
    if engine is not None:  # its files carry what the engine's users expect
        engine.write(form.name, target, facts, device=device)
    else:
        FORMATS.load(form.name).write(exportable, target, facts)
