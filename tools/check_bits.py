"""Whether a change left every bit where it was: hashes of micro-runs, merges and exports.

    python tools/check_bits.py --write before.json        # in the checkout before the change
    python tools/check_bits.py --against before.json      # in the one after it, same machine

Runs the commands of the checkout that holds this file: the demo in small for YOLO and RT-DETR
(training, merging, re-fit, references, indices), every merge method on the increments that it
left, and every export that needs no engine of its own. Weights, matches and indices are compared;
paths, times and versions are not. Bits hold on one kind of processor: both sides on one machine.
Exit code 6: something differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
SMALL = ("--epochs", "1", "--train-scenes", "40", "--test-scenes", "20")
FAMILIES = {
    "yolo": ("yolo11n-emoji", ("duet-plus", "duet", "ewc", "erd", "seq-ft")),
    "rtdetr": ("rtdetr-tiny-emoji", ("duet-detr", "lwf")),
}
"""Family -> its start weights and strategies, chosen to pass every loss and every head form."""

EXPORTS = ("onnx", "torchscript", "openvino", "pt")
LEARNED = ("adamerging", "concrete")
"""Merge methods whose names hold these learn from unlabelled images."""
STEPS = ("steps", "final_steps")
"""Their parameters that say for how long."""


def duet(*words: str | Path) -> str:
    """Run one command of this checkout and return its stdout."""
    run = subprocess.run(
        [sys.executable, "-m", "duet", *map(str, words)], cwd=REPO, capture_output=True, text=True
    )
    if run.returncode:
        sys.exit(f"duet {' '.join(map(str, words))}\n{run.stderr}")
    return run.stdout


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tensors(path: Path) -> str:
    """Return the SHA-256 over the names and bytes of a file's tensors, not over its metadata."""
    import torch
    from safetensors.torch import load_file

    found = load_file(path)
    whole = hashlib.sha256()
    for name, tensor in sorted(found.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def of_run(name: str, out: Path) -> Iterator[tuple[str, str]]:
    """Learn, and give the hashes of all that was trained, merged and measured."""
    weights, strategies = FAMILIES[name]
    chosen = [word for one in strategies for word in (option("demo"), one)]
    duet("demo", "--out", out, "--weights", weights, *chosen, *SMALL)
    for kind in ("lab", "increments", "models"):
        for path in sorted((out / kind).rglob("*.safetensors")):
            if path.name not in {"start.safetensors"}:
                yield f"{name}/{path.relative_to(out)}", tensors(path)
    results = json.loads((out / "results.json").read_text())
    indices = {one["name"]: of_names(one["indices"], results) for one in of_strategies(results)}
    yield f"{name}/indices", json.dumps(indices, sort_keys=True)


def of_strategies(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was measured of each strategy; the key had another name once."""
    found: list[dict[str, Any]] = results.get("strategies") or results["methods"]
    return found


def of_names(indices: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Return indices whose terms name their classes, as they all did once."""
    sets = results.get("class_sets", ())
    terms = [term for key, found in indices.items() if key.endswith("_terms") for term in found]
    for term in terms:
        if isinstance(term["classes"], int):
            term["classes"] = sets[term["classes"]]
    return indices


def option(command: str) -> str:
    """Return the option that chooses a strategy, by the command's own help."""
    return "--strategy" if "--strategy" in duet(command, "--help") else "--method"


def of_merges(run: Path, out: Path, weights: str) -> Iterator[tuple[str, str]]:
    """Give the hash of the detector that each merge method makes of two increments."""
    increments = sorted(
        (run / "increments" / "duet-plus").iterdir(), key=lambda p: p.name == "comic"
    )
    images = run / "data" / "comic" / "images" / "val"
    for method in json.loads(duet("methods", "--json"))["methods"]:
        folder = out / method["name"]
        words: list[str | Path] = ["--method", method["name"], "--weights", weights]
        if any(part in method["name"] for part in LEARNED):
            words += ["--images", images]
            for one in method["parameters"]:
                words += ["--set", f"{one['name']}=4"] if one["name"] in STEPS else []
        duet("merge", *increments, *words, "--out", folder)
        yield f"merge/{method['name']}", tensors(next(folder.glob("*.safetensors")))


def of_exports(detector: Path, out: Path) -> Iterator[tuple[str, str]]:
    """Give what each exported file answered on the check images, to the last digit."""
    for form in EXPORTS:
        suffix = {"onnx": ".onnx", "torchscript": ".torchscript", "pt": ".pt"}.get(form)
        path = out / form / (f"model{suffix}" if suffix else "model_openvino_model")
        duet("export", detector, "--to", form, "--out", path)
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        parity = sorted(path.parent.rglob("*parity*.json"))
        answers = [json.loads(p.read_text()) for p in parity]
        kept = [{k: v for k, v in one.items() if "diff" in k or "max" in k} for one in answers]
        sizes = {p.name: p.stat().st_size for p in files if p.suffix in (".onnx", ".bin")}
        yield f"export/{form}", json.dumps([kept, sizes], sort_keys=True)


def main() -> None:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the hashes")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with these")
    parser.add_argument("--work", type=Path, help="keep the runs in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        found = {key: value for name in FAMILIES for key, value in of_run(name, work / name)}
        weights = str(REPO / "weights" / "yolo11n-emoji.safetensors")
        found |= dict(of_merges(work / "yolo", work / "merges", weights))
        detector = work / "yolo" / "models" / "duet-plus" / "2-comic"
        found |= dict(of_exports(detector, work / "exports"))
    if arguments.write:
        arguments.write.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if arguments.against:
        before = json.loads(arguments.against.read_text())
        unlike = sorted(k for k in before.keys() | found.keys() if before.get(k) != found.get(k))
        print(f"{len(found)} compared, {len(unlike)} differ", *unlike, sep="\n  ")
        sys.exit(6 if unlike else 0)
    print(f"{len(found)} hashes")


if __name__ == "__main__":
    main()
