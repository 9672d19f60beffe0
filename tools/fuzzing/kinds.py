"""The kinds of input: which files, how they are spoiled, who reads them, what must hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzzing.child import PREPARE
from fuzzing.setup import BEFORE, DAY, DETECTOR, NIGHT, RUN

Counter = Callable[[Path], int]


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        part: Part of the set-up that it needs, a key of `setup.PARTS`.
        files: Globs below the set-up.
        form: A key of `forms.FORMS`.
        commands: Command lines that read it; a ``{file}`` is the spoiled file.
        codes: Exit codes that may be right.
        bound: Whether something vouches for its content, so that exit 0 must give the result of
            the unspoiled set-up unless the file is named.
        objects: Counts the labelled objects of a spoiled file, where exit 0 must tell as many.
        cpu_s: CPU seconds that its commands may take; more where one trains again.
        results: Files whose bytes are part of the result.
        also: What else may be named in its place.
        keeps: Whether what was found before a fault is kept, as of a video that is cut off.
    """

    part: str
    files: tuple[str, ...]
    form: str
    commands: tuple[str, ...]
    codes: frozenset[int]
    bound: bool = False
    objects: Counter | None = None
    cpu_s: float = 10.0
    results: tuple[str, ...] = ("made/model.safetensors",)
    also: tuple[str, ...] = ()
    keeps: bool = False


def _lines(path: Path) -> int:
    return sum(1 for line in path.read_text("utf-8-sig", "replace").splitlines() if line.strip())


def _annotations(path: Path) -> int:
    return len(re.findall(rb'"category_id', path.read_bytes()))


def _elements(path: Path) -> int:
    return len(re.findall(rb"<object>", path.read_bytes()))


CONFIG, DATA, MODEL = (frozenset({0, code}) for code in (2, 3, 4))
_CHECK = ("data check series.yaml --json",)
_DRY = "run series.yaml --dry-run --json --strategy method.yaml"
_MERGE = f"merge {DAY} {NIGHT} --weights base.safetensors --out made --json"
_DROP = f"drop-class {DETECTOR} cup --out made --json"
_PREDICT = "yolo/day/images/val --json --conf 0.01"
_DETECTOR = (_DROP, f"predict {DETECTOR} {_PREDICT}", f"diff {BEFORE} {DETECTOR} --json")
_EXPORT = f"{DETECTOR}/export"
_AGAIN = (" ".join(RUN),)
_LAB = ("run/models/*/*/model.safetensors", "run/increments/*/*/increment.safetensors")

KINDS: dict[str, Kind] = {
    "yolo-labels": Kind(
        "data", ("yolo/*/labels/*/*.txt",), "text",
        (*_CHECK, "data check series.yaml --fix made --json"), DATA, objects=_lines,
    ),
    "coco-labels": Kind(
        "data", ("coco/*/annotations/*.json",), "json", ("data check coco.yaml --json",), DATA,
        objects=_annotations,
    ),
    "voc-labels": Kind(
        "data", ("voc/*/Annotations/*.xml",), "xml", ("data check voc.yaml --json",), DATA,
        objects=_elements,
    ),
    "voc-lists": Kind(
        "data", ("voc/*/ImageSets/Main/*.txt",), "text", ("data check voc.yaml --json",), DATA,
        also=("JPEGImages", "Annotations"),
    ),
    "images": Kind(
        "data", ("yolo/*/images/*/*",), "bytes",
        (*_CHECK, "data check series.yaml --fix made --json"), DATA,
    ),
    "predicted-images": Kind(
        "run", ("yolo/*/images/*/*",), "bytes",
        (f"predict {DETECTOR} {{file}} --out made --json",), DATA,
    ),
    "data-yaml": Kind(
        "data", ("yolo/*/data.yaml",), "yaml",
        (*_CHECK, "data convert {file} made --to coco --json", _DRY), frozenset({0, 2, 3}),
    ),
    "coco-yaml": Kind(
        "data", ("coco/*/data.yaml", "voc/*/data.yaml"), "yaml",
        ("data convert {file} made --to yolo --json",), frozenset({0, 2, 3}),
    ),
    "series": Kind(
        "data", ("series.yaml",), "yaml", (*_CHECK, _DRY), frozenset({0, 2, 3, 4}),
    ),
    "schedule": Kind("data", ("train.yaml",), "yaml", (_DRY,), CONFIG),
    "method": Kind("data", ("method.yaml",), "yaml", (_DRY,), CONFIG),
    "recipe": Kind(
        "run", ("recipe.yaml",), "yaml",
        ("merge --recipe recipe.yaml --out made --json",
         "merge --recipe recipe.yaml --dry-run --out made --json"), frozenset({0, 2, 4}),
        also=("run/increments",),
    ),
    "weights": Kind(
        "weights", ("base.safetensors",), "tensors",
        ("weights get base.safetensors --json", _DRY), frozenset({0, 2, 4}), bound=True,
    ),
    "side-file": Kind(
        "weights", ("base.json",), "json", ("weights get base.safetensors --json", _DRY),
        frozenset({0, 2, 4}), also=("base.safetensors",),
    ),
    "weights-table": Kind(
        "weights", ("weights.json",), "json",
        ("weights ls --manifest weights.json --json",
         "weights get own --manifest weights.json --to got --dry-run --json"), CONFIG,
    ),
    "foreign-pt": Kind(
        "foreign", ("best.pt",), "zip",
        ("import best.pt --as mine --out made --json", "weights get best.pt --json"),
        frozenset({0, 2, 4}),  # 2: a link that leads nowhere, or a folder, is no file to get
    ),
    "increment-manifest": Kind(
        "run", ("run/increments/*/*/manifest.json",), "json", (_MERGE,), MODEL, bound=True,
    ),
    "increment-tensors": Kind(
        "run", ("run/increments/*/*/increment.safetensors",), "tensors",
        (_MERGE, f"diff {DAY} {NIGHT} --weights base.safetensors --json"), MODEL, bound=True,
    ),
    "fisher": Kind(
        "run", ("run/increments/*/*/fisher.safetensors",), "tensors",
        (f"{_MERGE} --method fisher",), MODEL, bound=True,
    ),
    "detector-manifest": Kind(
        "run", (f"{DETECTOR}/manifest.json",), "json",
        (*_DETECTOR, f"log {DETECTOR} --json", f"scale {DETECTOR} night 0.5 --out made --json"),
        MODEL, bound=True,
    ),
    "detector-tensors": Kind(
        "run", (f"{DETECTOR}/model.safetensors",), "tensors", _DETECTOR, MODEL, bound=True,
    ),
    "trace": Kind("run", (f"{DETECTOR}/trace.json",), "json", (f"log {DETECTOR} --json",), MODEL),
    "onnx": Kind(
        "exports", (f"{_EXPORT}/model.onnx",), "onnx", (f"predict {{file}} {_PREDICT}",), MODEL,
        bound=True,
    ),
    "openvino": Kind(
        "exports", (f"{_EXPORT}/model_openvino_model/*",), "bytes",
        (f"predict {_EXPORT}/model_openvino_model {_PREDICT}",), MODEL, bound=True,
    ),
    "openvino-metadata": Kind(
        "exports", (f"{_EXPORT}/model_openvino_model/metadata.yaml",), "yaml",
        (f"predict {_EXPORT}/model_openvino_model {_PREDICT}",), MODEL, bound=True,
    ),
    "torchscript": Kind(
        "exports", (f"{_EXPORT}/model.torchscript",), "zip",
        (f"predict {{file}} {_PREDICT} --trust",), MODEL,
    ),
    "parity": Kind(
        "exports", (f"{_EXPORT}/parity.json",), "json",
        (f"predict {_EXPORT}/model.onnx {_PREDICT}",), MODEL, bound=True,
    ),
    "video": Kind(
        "video", ("clip.*",), "bytes",
        (f"predict {DETECTOR} {{file}} --save jsonl --out made --json",), DATA, keeps=True,
    ),
    "results": Kind(
        "run", ("run/results.json",), "json", ("report run --json", "compare run --json"), DATA,
    ),
    "matches": Kind("run", ("run/evaluations/*.npz",), "zip", ("compare run --json",), DATA,
                    bound=True),
    "gallery": Kind("run", ("run/gallery/*",), "bytes", ("report run --json",), DATA, bound=True),
    "lab-outcome": Kind(
        "run", ("run/lab/*/outcome.json", "run/lab/*/job.json"), "json", _AGAIN,
        frozenset({0, 3, 4}), bound=True, cpu_s=60, results=_LAB,
    ),
    "lab-tensors": Kind(
        "run", ("run/lab/*/*.safetensors", "run/models/*/*/model.safetensors"), "tensors", _AGAIN,
        MODEL, bound=True, cpu_s=60,
        results=_LAB,
    ),
    "lab-slices": Kind(
        "run", ("run/lab/*/slice.npz",), "zip", _AGAIN, frozenset({0, 3, 4}), bound=True, cpu_s=60,
        results=_LAB,
    ),
    "evaluations": Kind(
        "run", ("run/evaluations/*.json",), "json", _AGAIN, DATA, bound=True, cpu_s=60,
        results=_LAB,
    ),
    "kept-run": Kind(
        "run", ("run/increments/*/*/*.json", "run/models/*/*/*.json", "run/results.json"), "json",
        _AGAIN, frozenset({0, 3, 4}), bound=True, cpu_s=60, results=_LAB,
    ),
    "zip-archive": Kind(
        "archives", ("clipart.zip",), "zip",
        (f"{PREPARE} clipart.zip --allow-counts --out made --json",
         f"{PREPARE} clipart.zip --allow-counts --out made --dry-run --json"), DATA,
    ),
    "tar-archive": Kind(
        "archives", ("comic.tar",), "tar",
        (f"{PREPARE} comic.tar --allow-counts --out made --json",), DATA,
    ),
}  # fmt: skip
"""Name -> kind; sorted by what reads them."""
