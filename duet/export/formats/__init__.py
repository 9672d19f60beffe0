"""Formats of exported files: one row each; a format's module is imported only when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from duet.errors import ConfigError, MissingExtraError, did_you_mean

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
        traced: Whether duet can write it for a family without an exporter of its own.
        folder: Whether it is a folder.
        dynamic: Whether it can take batches of any size.
        tolerance: For the comparison with the detector in memory; None where duet cannot run it.
    """

    name: str
    suffix: str
    summary: str
    needs: str = ""
    packages: tuple[str, ...] = ()
    install: str = ""
    traced: bool = False
    folder: bool = False
    dynamic: bool = False
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
            "tolerance_box_px": tolerance.box_px if tolerance else None,
            "tolerance_score": tolerance.score if tolerance else None,
            "tolerance_why": tolerance.why if tolerance else "",
        }


class Writer(Protocol):
    """What a format's module offers."""

    def check(self) -> None:
        """Refuse a machine that cannot write the format, before any work.

        Raises:
            ConfigError: Hardware, operating system or version of a package does not fit.
        """
        ...

    def write(self, exportable: Exportable, target: Path, facts: ExportFacts) -> None:
        """Write ``target``: a file, or an empty folder that exists.

        Raises:
            ModelError: The detector cannot be written in this format.
        """
        ...


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
        traced=True,
        dynamic=True,
        tolerance=Tolerance(),
    ),
    Format(
        name="torchscript",
        suffix=".torchscript",
        summary="TorchScript archive: PyTorch and C++ without Python code",
        traced=True,
        dynamic=True,
        tolerance=Tolerance(),
    ),
    Format(
        name="openvino",
        suffix="_openvino_model",
        summary="OpenVINO folder: Intel processors",
        packages=("openvino",),
        install='"duet-detect[openvino]"',
        traced=True,
        folder=True,
        dynamic=True,
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
        packages=("tensorrt", "onnx", "onnxslim", "onnxruntime"),
        install='tensorrt "duet-detect[onnx]"',
    ),
    Format(
        name="coreml",
        suffix=".mlpackage",
        summary="Core ML package: Apple devices",
        needs="macOS or Linux, numpy up to 2.3.5",
        packages=("coremltools",),
        install='"coremltools>=9" "numpy<=2.3.5"',
        folder=True,
    ),
    Format(
        name="tflite",
        suffix=".tflite",
        summary="LiteRT (TensorFlow Lite) file: phones and small boards",
        needs="macOS, or Linux on x86-64",
        packages=("litert_torch", "ai_edge_litert"),
        install='"litert-torch>=0.10" "ai-edge-litert>=2.3"',
    ),
)

FORMATS: Mapping[str, Format] = MappingProxyType({row.name: row for row in _FORMATS})


def resolve(name: str) -> Format:
    """Return the row called ``name``.

    Raises:
        ConfigError: There is no such format.
    """
    if name not in FORMATS:
        raise ConfigError(
            f"unknown export form '{name}'{did_you_mean(name, FORMATS)}",
            remedy=f"known forms: {', '.join(FORMATS)}",
        )
    return FORMATS[name]


def writer(form: Format) -> Writer:
    """Import a format's module."""
    return cast("Writer", importlib.import_module(f"{__name__}.{form.name}"))


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


def offered(exportable: Exportable) -> tuple[str, ...]:
    """Return the names of the formats that a family's detectors can be written in."""
    return tuple(
        name for name, row in FORMATS.items() if row.traced or exportable.written_by_engine(name)
    )


def by_engine(exportable: Exportable, form: str, target: Path, facts: ExportFacts) -> bool:
    """Let the engine write the file if it knows the format; return whether it did."""
    engine = exportable.written_by_engine(form)
    if engine is not None:
        engine.write(form, target, facts)
    return engine is not None


def require_engine(exportable: Exportable, form: str, target: Path, facts: ExportFacts) -> None:
    """Let the engine write a format that duet cannot write itself.

    Raises:
        ConfigError: The family has no exporter for it.
    """
    if not by_engine(exportable, form, target, facts):
        raise ConfigError(
            f"the family {facts.family} cannot be exported as {form}",
            remedy=f"it has: {', '.join(offered(exportable))}",
        )
