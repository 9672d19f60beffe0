"""Two users' YOLO files, fine-tuned apart by stock Ultralytics, merged by one command each.

    python tools/foreign_merge.py --out runs/foreign        # the table in docs/merging.md

Both start from one YOLO11n `.pt`; one learns ten classes on photographs, the other ten classes in
comic style. Each merged detector is exported, loaded by stock Ultralytics, and the AP of each class
set is measured on its own domain, beside the two files before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

RECIPES: dict[str, list[str]] = {
    "average": ["--method", "average"],
    "task-arithmetic 0.5": ["--method", "task-arithmetic", "--set", "weight=0.5"],
    "ties": ["--method", "ties"],
    "ties density 0.5": ["--method", "ties", "--set", "density=0.5"],
    "magmax 1": ["--method", "magmax", "--set", "weight=1"],
}


@click.command()
@click.option("--epochs", default=8, show_default=True)
@click.option("--data-seed", default=1, show_default=True)
@click.option("--test-scenes", default=400, show_default=True)
@click.option("--head", default="towers", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/foreign"))
@click.option("--json", "as_json", is_flag=True)
def main(
    epochs: int, data_seed: int, test_scenes: int, head: str, out: Path, as_json: bool
) -> None:
    """Train two files, merge them in several ways, measure."""
    from duet.emoji.build import build
    from duet.series import read_series
    from duet.shipped import shipped

    data = out / f"data-{data_seed}-{test_scenes}"
    build(data, seed=data_seed, test=test_scenes)
    series = read_series(shipped("configs", "series", "emoji-2phase.yaml"), data_root=data)
    base = make_base(out / "base.pt")
    users = {item.name: train(item, base, out / item.name, epochs) for item in series.increments}
    rows = {
        f"{name}.pt alone": measure(
            duet(
                "import",
                path,
                "--as",
                name,
                "--head",
                head,
                "--out",
                out / "imported" / name,
                "--overwrite",
            ),
            series,
        )
        for name, path in users.items()
    }
    for name, options in RECIPES.items():
        target = out / "merged" / name.replace(" ", "-")
        merged = duet(
            "merge", *users.values(), "--weights", base, "--head", head, *options,
            "--out", target, "--overwrite",
        )  # fmt: skip
        rows[name] = measure(merged, series) | {"stock": stock_detects(target, series)}
    report = {"schema": 1, "epochs": epochs, "head": head, "rows": rows}
    (out / "foreign.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2) if as_json else as_table(rows))


def make_base(path: Path) -> Path:
    """Write the shipped start weights as an Ultralytics checkpoint, as a model hub would."""
    import torch

    from duet.families.yolo.build import stock_model
    from duet.increments.base import load_start
    from duet.shipped import shipped

    tensors = load_start(shipped("weights", "yolo11n-emoji.safetensors")).tensors
    classes = next(v.shape[0] for k, v in tensors.items() if k.endswith("cv3.0.2.bias"))
    model = stock_model("yolo11n.yaml", classes, 64)
    model.load_state_dict(tensors)
    model.names = {i: f"emoji {i}" for i in range(classes)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.half(), "train_args": {"imgsz": 160, "model": "base.pt"}}, path)
    return path


def train(increment: Any, base: Path, folder: Path, epochs: int) -> Path:
    """Fine-tune a copy of ``base`` with stock Ultralytics, on this increment's labels alone."""
    best = folder / "weights" / "last.pt"
    if best.is_file():
        return best
    data = stock_data(increment, folder / "data")
    code = (
        "import ultralytics\n"
        "m = ultralytics.YOLO(sys.argv[1])\n"
        f"m.train(data=sys.argv[2], epochs={epochs}, imgsz=160, batch=16, optimizer='AdamW', "
        "lr0=0.001, warmup_epochs=1.4, mosaic=0.0, device='cpu', workers=0, plots=False, "
        "val=False, seed=0, project=sys.argv[3], name='.', exist_ok=True, verbose=False)\n"
    )
    stock(code, base, data, folder)
    return best


def stock_data(increment: Any, folder: Path) -> Path:
    """Write the increment's training slice in Ultralytics' own layout."""
    import shutil

    import yaml

    from duet.series import train_slice

    cut = train_slice(increment.data, increment.classes)
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True, exist_ok=True)
    for image, boxes, ids in zip(cut.images, cut.boxes, cut.class_ids, strict=True):
        shutil.copyfile(image, folder / "images" / "train" / image.name)
        lines = [
            f"{c} {' '.join(f'{v:.6f}' for v in box)}" for c, box in zip(ids, boxes, strict=True)
        ]
        (folder / "labels" / "train" / f"{image.stem}.txt").write_text("\n".join(lines) + "\n")
    content = {
        "path": str(folder.resolve()), "train": "images/train", "val": "images/train",
        "names": dict(enumerate(increment.classes)),
    }  # fmt: skip
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def stock(code: str, *paths: Path) -> str:
    """Run code of the engine's own, offline and where nothing else lies; return its stdout."""
    first = "import sys; sys.path[:] = [place for place in sys.path if place]\n"
    environment = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-c", first + code, *(str(path.resolve()) for path in paths)],
            check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=empty,
        )  # fmt: skip
    return done.stdout


def duet(*words: object) -> Path:
    """Run one duet command and return the detector folder that it names."""
    command = [str(Path(sys.executable).with_name("duet")), *map(str, words), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    for line in done.stderr.splitlines():
        if line.startswith("note:"):
            print(line, file=sys.stderr)
    return Path(json.loads(done.stdout)["detector"])


def measure(detector: Path, series: Any) -> dict[str, float | None]:
    """Return mAP50 in percent of each increment's classes on its own domain."""
    from duet.increments.store import load_detector
    from duet.runs.cells import evaluate_cells

    loaded = load_detector(detector)
    cells = evaluate_cells(loaded.state, series, "test", loaded.manifest.image_size)
    found = {c.increment: 100 * c.map50 for c in cells if c.taught and c.map50 is not None}
    return {item.name: found.get(item.name) for item in series.increments}


def stock_detects(detector: Path, series: Any) -> int:
    """Export, load in stock Ultralytics without duet, and count its detections on eight images."""
    target = duet_export(detector)
    code = (
        "sys.modules['duet'] = None\n"
        "import ultralytics\n"
        "m = ultralytics.YOLO(sys.argv[1])\n"
        "r = m.predict(sys.argv[2:], imgsz=160, verbose=False, save=False, device='cpu')\n"
        "print(sum(len(x.boxes) for x in r))\n"
    )
    images = [path for item in series.increments for path in item.data.split("test").images[:4]]
    return int(stock(code, target, *images).splitlines()[-1])


def duet_export(detector: Path) -> Path:
    """Export a detector as a stock checkpoint."""
    target = detector.parent / f"{detector.name}.pt"
    command = [str(Path(sys.executable).with_name("duet")), "export", str(detector), "--to", "pt",
               "--out", str(target), "--overwrite", "--json"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def as_table(rows: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table."""
    names = [name for name in next(iter(rows.values())) if name != "stock"]
    lines = [f"| detector | {' | '.join(f'{n} classes on {n}' for n in names)} | stock boxes |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for key, row in rows.items():
        cells = ["-" if row[n] is None else f"{row[n]:.1f}" for n in names]
        lines.append(f"| {key} | {' | '.join(cells)} | {row.get('stock', '')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
