"""The good set-up that mutations start from: two tiny domains and everything duet makes of them."""

from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from fuzzing.child import Outcome, run

REPO = Path(__file__).resolve().parent.parent.parent
DOMAINS = {"day": ("cup", "plate"), "night": ("bottle", "can")}
SPLITS = {"train": 6, "val": 3}
CPU_S, WALL_S = 300.0, 900.0
RUN = (
    "run", "series.yaml", "--strategy", "method.yaml", "--no-references", "--jobs", "1",
    "--threads", "1", "--out", "run", "--json",
)  # fmt: skip
DETECTOR = "run/models/duet-plus/2-night"
BEFORE = "run/models/duet-plus/1-day"
DAY, NIGHT = (f"run/increments/duet-plus/{name}" for name in DOMAINS)


def make(folder: Path, parts: Iterable[str]) -> None:
    """Make the parts that are not there yet; each may need those before it in `PARTS`."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = set(parts)
    for name, (needs, _) in reversed(PARTS.items()):
        wanted |= set(needs) if name in wanted else set()
    for name, (_, maker) in PARTS.items():
        done = folder / f".made-{name}"
        if name in wanted and not done.exists():
            maker(folder)
            done.touch()
    for lock in folder.rglob(".lock"):
        lock.unlink()  # cases share files by hard links, and a lock is opened for writing


def _duet(folder: Path, *words: str) -> Outcome:
    """Run a command that must succeed."""
    done = run(words, folder, folder.parent, cpu_s=CPU_S, wall_s=WALL_S)
    if done.code:
        raise RuntimeError(f"duet {' '.join(words)}: exit {done.code}\n{done.err[-3000:]}")
    return done


def _pictures(folder: Path, domain: str, suffix: str) -> dict[str, Any]:
    """Write one YOLO data set of coloured blocks; return its data.yaml."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(sorted(DOMAINS).index(domain))
    for split, count in SPLITS.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for place in range(count):
            pixels = rng.integers(90, 150, (72, 96, 3), dtype=np.uint8)
            cx, cy, w, h = (0.5, 0.5, 0.4, 0.5)
            x, y = rng.integers(-15, 15, 2)
            pixels[18 + y : 54 + y, 29 + x : 67 + x] = rng.integers(0, 255, 3)
            name = f"{split}{place:03d}"
            Image.fromarray(pixels).save(folder / "images" / split / f"{name}{suffix}")
            rows = [f"{place % 2} {cx + x / 96:.4f} {cy + y / 72:.4f} {w} {h}\n"]
            rows += [f"{1 - place % 2} 0.2 0.2 0.1 0.15\n"] * (place % 2)
            (folder / "labels" / split / f"{name}.txt").write_text("".join(rows))
    splits = {split: f"images/{split}" for split in SPLITS}
    return {"names": list(DOMAINS[domain]), **splits}


def _data(folder: Path) -> None:
    from PIL import Image

    for domain, suffix in zip(DOMAINS, (".png", ".jpg"), strict=True):
        data = _pictures(folder / "yolo" / domain, domain, suffix)
        (folder / "yolo" / domain / "data.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    odd = folder / "yolo/day/images/train"
    for number, suffix in enumerate((".bmp", ".tif", ".webp")):
        path = odd / f"train{number:03d}.png"
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()
    schedule = {
        "epochs": 1, "batch": 8, "image_size": 64, "lr": 0.001, "warmup_epochs": 0.5,
        "fisher_images": 4,
    }  # fmt: skip
    method = {"name": "duet-plus", "head": "towers", "refit": {"epochs": 1}}
    for name, content in (("train", schedule), ("method", method)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for form in ("yolo", "coco", "voc"):
        series = {
            "schema": 1, "name": "tiny", "root": ".",
            "increments": [
                {"domain": domain, "data": f"{form}/{domain}/data.yaml", "classes": list(names)}
                for domain, names in DOMAINS.items()
            ],
            "defaults": {"train": "train.yaml", "weights": "base.safetensors"},
        }  # fmt: skip
        name = "series.yaml" if form == "yolo" else f"{form}.yaml"
        (folder / name).write_text(yaml.safe_dump(series, sort_keys=False))
        for domain in DOMAINS if form != "yolo" else ():
            source = f"yolo/{domain}/data.yaml"
            _duet(folder, "data", "convert", source, f"{form}/{domain}", "--to", form)
    for suffix in (".safetensors", ".json"):
        shutil.copyfile(REPO / f"weights/yolo11n-emoji{suffix}", folder / f"base{suffix}")


def _run(folder: Path) -> None:
    _duet(folder, *RUN)
    recipe = {
        "schema": 1, "method": "ties", "params": {"density": 0.3}, "weights": "base.safetensors",
        "increments": [{"path": DAY}, {"path": NIGHT, "scale": 0.5}],
        "batchnorm": {"rule": "mixture", "weights": "uniform"},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))


def _exports(folder: Path) -> None:
    for form in ("onnx", "openvino", "torchscript"):
        _duet(folder, "export", DETECTOR, "--to", form)


def _foreign(folder: Path) -> None:
    """Write an Ultralytics checkpoint; in a process of its own, as it imports the engine."""
    code = (
        "import sys, torch; from duet.families.yolo.build import stock_model; torch.manual_seed(0);"
        "m = stock_model('yolo11n.yaml', 3, 64); m.names = {0: 'ant', 1: 'bug', 2: 'cat'};"
        "torch.save({'epoch': -1, 'model': m.half(), 'train_args': {'imgsz': 64, 'task': 'detect'},"
        "'version': '8.4.190', 'license': 'AGPL-3.0'}, sys.argv[1])"
    )
    _duet(folder, "!python", code, "best.pt")


def _archives(folder: Path) -> None:
    """Write Clipart1k as a small zip and Comic2k as a small tar."""
    made = folder / "voc"
    rng = random.Random(0)
    for name, classes in (("clipart", ("cat", "dog")), ("comic", ("bird", "car"))):
        files: dict[str, bytes] = {}
        for split, renamed in (("train", "train"), ("val", "test")):
            ids = (made / f"day/ImageSets/Main/{split}.txt").read_text().split()
            ids = [word for word in ids if (made / f"day/JPEGImages/{word}.png").exists()]
            files[f"{name}/ImageSets/Main/{renamed}.txt"] = "".join(f"{i}\n" for i in ids).encode()
            for word in ids:
                text = (made / f"day/Annotations/{word}.xml").read_text()
                for old in DOMAINS["day"]:
                    text = text.replace(f">{old}<", f">{rng.choice(classes)}<")
                files[f"{name}/Annotations/{word}.xml"] = text.encode()
                files[f"{name}/JPEGImages/{word}.jpg"] = _jpeg(made / f"day/JPEGImages/{word}.png")
        if name == "clipart":
            with zipfile.ZipFile(folder / "clipart.zip", "w", zipfile.ZIP_DEFLATED) as packed:
                for member, content in files.items():
                    packed.writestr(member, content)
            continue
        with tarfile.open(folder / "comic.tar", "w") as archive:
            for member, content in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def _jpeg(path: Path) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.open(path).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


def _weights(folder: Path) -> None:
    """Write a table of weights of one's own, beside its one file."""
    side = json.loads((folder / "base.json").read_text())
    row = {
        "name": "own", "family": "yolo", "architecture": "yolo11n.yaml", "classes": "mine",
        "licence": "AGPL-3.0-or-later", "file": "base.safetensors", "sha256": side["sha256"],
    }  # fmt: skip
    table = {"schema": 1, "about": "", "class_lists": {"mine": side["classes"]}, "weights": [row]}
    (folder / "weights.json").write_text(json.dumps(table, indent=1))


def _video(folder: Path) -> None:
    import av
    import numpy as np

    rng = np.random.default_rng(0)
    for suffix, codec in (("mp4", "mpeg4"), ("avi", "mjpeg"), ("mkv", "mpeg4")):
        with av.open(str(folder / f"clip.{suffix}"), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for _ in range(6):
                pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
                for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)


PARTS: dict[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "data": ((), _data),
    "weights": (("data",), _weights),
    "archives": (("data",), _archives),
    "foreign": (("data",), _foreign),
    "run": (("data",), _run),
    "exports": (("run",), _exports),
    "video": (("run",), _video),
}
"""Part -> what it needs, and its maker."""
