"""How long `duet data check` takes and how much memory it needs, on a data set drawn for it.

Every image is a part of a sample photograph, turned, mirrored and re-coloured, with pieces of other
photographs pasted in as objects: files of realistic size on which thousands of scenes share a
background. All is as it should be, so whatever the check says of them is a false alarm.

    python tools/bench_doctor.py --images 20000 --size 500x375 --json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

PHOTOS = (
    "astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png",
    "motorcycle_left.png", "retina.jpg", "rocket.jpg", "brick.png", "grass.png", "gravel.png",
    "camera.png", "coins.png", "page.png", "text.png", "color.png",
)  # fmt: skip
CLASSES = ("ellipse", "box", "diamond", "half")
_CHILD = """
import sys
sys.path[:] = [place for place in sys.path if place]  # not the working folder
import json, resource, time
began = time.perf_counter()
from pathlib import Path
from duet.doctor import examine, findings
rows = [row.as_dict() for row in findings(examine(Path(sys.argv[1])).problems)]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"seconds": time.perf_counter() - began, "peak_bytes": peak,
    "cpu_seconds": used.ru_utime + used.ru_stime, "findings": rows}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", default="500x375", help="width x height in pixels")
    parser.add_argument("--folder", type=Path, help="keep the drawn data here, and reuse them")
    parser.add_argument("--cores", type=int, default=2, help="cores that the check may use")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        series = folder / f"{options.images}-{options.size}" / "series.yaml"
        if not series.is_file():
            draw(series, options.images, (width, height))
        result = measure(series, options.cores)
    counted = [row for row in result["findings"] if row["severity"] != "note"]
    result |= {"images": options.images, "size": options.size, "false_alarms": counted}
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{options.images} images of {options.size}: {result['seconds']:.1f} s "
        f"({result['cpu_seconds']:.1f} s of CPU), {result['peak_bytes'] / 2**20:.0f} MB, "
        f"{sum(row['count'] for row in counted)} false alarms"
    )
    for row in result["findings"]:
        print(f"  {row['severity']} {row['code']}: {row['count']}, {row['examples'][0]}")


def measure(series: Path, cores: int) -> dict[str, Any]:
    """Run the check in a process of its own and return its figures."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(series)],
        capture_output=True, text=True, check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def draw(series: Path, count: int, size: tuple[int, int]) -> None:
    """Write a series of two increments with ``count`` images in all, a fifth for evaluation."""
    photos = load_photos()
    began = time.perf_counter()
    items = []
    for number, name in enumerate(("first", "second")):
        folder = series.parent / name
        share = count // 2 if number else count - count // 2
        for split, images in (("train", share - share // 5), ("val", share // 5)):
            for kind in ("images", "labels"):
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
            for index in range(images):
                rng = np.random.default_rng([number, split == "val", index])
                content, rows = scene(rng, photos, size)
                (folder / "images" / split / f"{index:06d}.jpg").write_bytes(content)
                (folder / "labels" / split / f"{index:06d}.txt").write_text("\n".join(rows) + "\n")
        document = {"names": list(CLASSES), "train": "images/train", "val": "images/val"}
        (folder / "data.yaml").write_text(yaml.safe_dump(document))
        classes = list(CLASSES[2 * number : 2 * number + 2])
        items.append({"domain": name, "data": f"{name}/data.yaml", "classes": classes})
    series.write_text(yaml.safe_dump({"schema": 1, "name": "bench", "increments": items}))
    print(f"drawn in {time.perf_counter() - began:.0f} s", file=sys.stderr)


def load_photos() -> list[np.ndarray[Any, Any]]:
    """Return sample photographs that come with scikit-image, BGR."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    found = [cv2.imread(str(folder / name)) for name in PHOTOS if (folder / name).is_file()]
    return [photo for photo in found if photo is not None and min(photo.shape[:2]) >= 150]


def scene(
    rng: np.random.Generator, photos: list[np.ndarray[Any, Any]], size: tuple[int, int]
) -> tuple[bytes, list[str]]:
    """Return a JPEG and its label rows."""
    picture = part(rng, photos[rng.integers(len(photos))], size).astype(np.float32)
    other = part(rng, photos[rng.integers(len(photos))], size).astype(np.float32)
    picture += rng.uniform(0.2, 0.6) * (other - picture)
    rows = []
    for _ in range(rng.integers(2, 7)):
        kind = int(rng.integers(len(CLASSES)))
        w, h = (int(side * rng.uniform(0.12, 0.35)) for side in size)
        x, y = int(rng.integers(size[0] - w)), int(rng.integers(size[1] - h))
        cut = part(rng, photos[rng.integers(len(photos))], (w, h)).astype(np.float32)
        piece = cut * rng.uniform(0.5, 1.3) + rng.uniform(-60, 60, 3)
        mask = shape(kind, w, h)[..., None]
        area = picture[y : y + h, x : x + w]
        area += mask * (piece - area)
        cx, cy = (x + w / 2) / size[0], (y + h / 2) / size[1]
        rows.append(f"{kind} {cx:.6f} {cy:.6f} {w / size[0]:.6f} {h / size[1]:.6f}")
    picture += rng.normal(0, rng.uniform(1, 6), (size[1], size[0], 1)).astype(np.float32)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 96))]
    encoded = cv2.imencode(".jpg", picture.clip(0, 255).astype(np.uint8), quality)[1]
    return encoded.tobytes(), rows


def part(
    rng: np.random.Generator, photo: np.ndarray[Any, Any], size: tuple[int, int]
) -> np.ndarray[Any, Any]:
    """Return a turned, mirrored, tinted part of a photograph, ``(h, w, 3) uint8``."""
    height, width = photo.shape[:2]
    centre = (rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height)
    zoom = max(size[0] / width, size[1] / height) * rng.uniform(1.1, 3.5)
    turn = cv2.getRotationMatrix2D(centre, rng.uniform(-180, 180), zoom)
    turn[:, 2] += np.array(size) / 2 - centre
    cut = cv2.warpAffine(photo, turn, size, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(cv2.convertScaleAbs(cut, alpha=rng.uniform(0.7, 1.2)))


def shape(kind: int, w: int, h: int) -> np.ndarray[Any, Any]:
    """Return the outline of an object as ``(h, w) float32``, 0 or 1."""
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    inside = (x * x + y * y <= 1, x * x <= 1, abs(x) + abs(y) <= 1, (x * x + y * y <= 1) & (y > 0))
    return np.asarray(inside[kind], np.float32)


if __name__ == "__main__":
    main()
