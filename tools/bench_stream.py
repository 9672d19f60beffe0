"""What `detector.stream` costs: a recording through the stream against bare calls of the detector.

    python tools/bench_stream.py --json

Both look at the same frames with the same detector object, in turns, one clip each per round; the
order changes from round to round. The bare calls get frames that were decoded before the clock
starts; the stream reads and decodes the file. Ratios compare the two of one round.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import machine

TRUNK = "yolo11n-emoji.safetensors"


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Detector [YOLO11n, 3 new classes].")
@click.option("--image-size", default=640, show_default=True, help="Of the detector made here.")
@click.option("--size", default="1280x720", show_default=True, help="Of the clip.")
@click.option("--frames", default=40, show_default=True, help="Of the clip.")
@click.option("--rounds", default=6, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    model: Path | None, image_size: int, size: str, frames: int, rounds: int, threads: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure and print."""
    import torch

    torch.set_num_threads(threads)
    detector = open_detector(model, image_size)
    width, height = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(Path(folder) / "clip.mp4", width, height, frames)
        measured = [measure(detector, clip, swap=bool(number % 2)) for number in range(rounds + 1)]
    kept = measured[1:]  # the first round warms up
    ratios = {
        clock: [round_["stream"][clock] / round_["bare"][clock] for round_ in kept]
        for clock in ("wall", "cpu")
    }
    result: dict[str, Any] = {
        "what": "seconds per clip: stream of the file / detector(frame) on its decoded frames",
        "settings": {
            "image_size": detector.facts.image_size, "clip": size, "frames": frames,
            "rounds": rounds, "threads": threads, "order": "in turns, changing",
        },
        "bare_ms_per_frame": 1000 * statistics.median(r["bare"]["wall"] for r in kept) / frames,
        "stream_ms_per_frame": 1000 * statistics.median(r["stream"]["wall"] for r in kept) / frames,
        "wall_ratio_median": statistics.median(ratios["wall"]),
        "wall_ratio_of_minima": _of_minima(kept, "wall"),
        "cpu_ratio_median": statistics.median(ratios["cpu"]),
        "cpu_ratio_of_minima": _of_minima(kept, "cpu"),
        "ratios": ratios,
        "machine": machine(),
    }  # fmt: skip
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"bare   {result['bare_ms_per_frame']:8.2f} ms per frame")
    print(f"stream {result['stream_ms_per_frame']:8.2f} ms per frame")
    for clock in ("wall", "cpu"):
        print(
            f"{clock:<5} median x{result[f'{clock}_ratio_median']:.3f}, "
            f"of minima x{result[f'{clock}_ratio_of_minima']:.3f}"
        )


def measure(detector: Any, clip: Path, *, swap: bool) -> dict[str, dict[str, float]]:
    """Return wall and CPU seconds of both ways for one clip."""
    from duet.inference.places import find_place
    from duet.inference.video import VideoCapture

    capture = VideoCapture(find_place(clip))
    images = [picture.image() for picture in capture.pictures()]
    capture.close()

    def bare() -> int:
        return len([detector(image) for image in images])

    def stream() -> int:
        return sum(1 for _ in detector.stream(clip))

    ways = {"bare": bare, "stream": stream}
    times = {}
    for name in reversed(ways) if swap else ways:
        wall, cpu = time.perf_counter(), time.process_time()
        seen = ways[name]()
        times[name] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        if seen != len(images):
            raise SystemExit(f"{name} saw {seen} of {len(images)} frames")
    return times


def _of_minima(rounds: list[dict[str, dict[str, float]]], clock: str) -> float:
    return min(r["stream"][clock] for r in rounds) / min(r["bare"][clock] for r in rounds)


def open_detector(model: Path | None, image_size: int) -> Any:
    """Open a detector, or make one: the shipped trunk with fresh class rows."""
    import duet
    from duet.families.table import resolve_family
    from duet.inference.detector import DetectorFacts, LoadedDetector
    from duet.shipped import shipped

    if model is not None:
        return duet.load(model)
    family, names = resolve_family("yolo"), ("cat", "dog", "bus")
    state = family.start_state(
        family.weights(shipped("weights") / TRUNK), architecture="yolo11n.yaml", head="rows",
        classes=names, increment="base", seed=0,
    )  # fmt: skip
    detector = family.detector(state, image_size=image_size)
    facts = DetectorFacts(state.fingerprint(), family.licence, image_size, (("base", names),))
    return LoadedDetector(detector, facts)


def make_clip(path: Path, width: int, height: int, frames: int) -> Path:
    """Write an H.264 clip of moving blobs."""
    import av
    from stream_servers import Scene

    images = Scene(width, height, fps=1e9, limit=frames).images()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    main()
