"""Does latency stay flat where the detector is slower than the camera? Is a lost one rejoined?

    python tools/check_stream.py --seconds 120 --json

A server of this machine sends 30 frames per second; each carries the time at which it was made, so
that a result's age is known from that moment. The server sends every frame in order: a client that
reads too slowly sees older and older ones. That is the control, run first: reading frame by frame,
as a plain loop does. `--slow-ms` makes a looked-at frame take at least so long, by waiting: also a
fast machine is then slower than the camera, and a busy one is not measured instead of duet.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from bench_stream import open_detector
from stream_servers import age_ms

SERVER = Path(__file__).with_name("stream_servers.py")
TCP = {"rtsp_transport": "tcp"}
LIMIT = 1.2  # p95 at the end over p95 at the start


@click.command()
@click.option("--kind", "kinds", multiple=True, default=("rtsp", "mjpeg"), show_default=True)
@click.option("--seconds", default=120.0, show_default=True, help="Of steady streaming.")
@click.option(
    "--window", default=20.0, show_default=True, help="Seconds at start and end compared."
)
@click.option("--control", default=15.0, show_default=True, help="Seconds of the control.")
@click.option("--fps", default=30.0, show_default=True)
@click.option("--down", default=3.0, show_default=True, help="Seconds that the server is dead.")
@click.option("--size", default="640x360", show_default=True, help="Of the camera's picture.")
@click.option("--image-size", default=320, show_default=True)
@click.option("--slow-ms", default=100.0, show_default=True, help="A frame takes at least so long.")
@click.option("--model", type=click.Path(path_type=Path), help="Detector [YOLO11n, 3 new classes].")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    kinds: tuple[str, ...], seconds: float, window: float, control: float, fps: float, down: float,
    size: str, image_size: int, slow_ms: float, model: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure; exit 1 if a check fails."""
    import torch

    torch.set_num_threads(1)
    detector = open_detector(model, image_size)
    results = []
    for kind in kinds:
        server = Server(kind, fps, size)
        try:
            result: dict[str, Any] = {"kind": kind, "fps": fps, "slow_ms": slow_ms}
            result["control"] = run_control(detector, server, control, slow_ms)
            result["flat"] = run_flat(detector, server, seconds, window, slow_ms)
            result["rejoin"] = run_rejoin(detector, server, down)
        finally:
            server.kill()
        results.append(result)
    passed = all(r["flat"]["passed"] and r["rejoin"]["passed"] for r in results)
    document = {"passed": passed, "results": results, "load": list(os.getloadavg())}
    print(json.dumps(document, indent=2) if as_json else text(document))
    sys.exit(0 if passed else 1)


class Server:
    """A camera in a process of its own, which can be killed and started again."""

    def __init__(self, kind: str, fps: float, size: str) -> None:
        self._command = [sys.executable, str(SERVER), kind, "--fps", str(fps), "--size", size]
        self._process = self._start()
        self.url = self._process.stdout.readline().strip()  # type: ignore[union-attr]
        self._command += ["--port", self.url.rpartition(":")[2].partition("/")[0]]

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)

    def kill(self) -> None:
        """Kill it without a goodbye."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def restart(self) -> float:
        """Start it on the same port; returns `time.monotonic` when it serves."""
        self._process = self._start()
        self._process.stdout.readline()  # type: ignore[union-attr]
        return time.monotonic()


def run_control(detector: Any, server: Server, seconds: float, slow_ms: float) -> dict[str, Any]:
    """Read frame after frame, as a loop over a container does."""
    import av

    ages, container = [], av.open(server.url, options=TCP, timeout=(5, 5))
    end = time.monotonic() + seconds
    for frame in container.decode(video=0):
        image = frame.to_ndarray(format="bgr24")
        began = time.monotonic()
        detector(image)
        wait(began, slow_ms)
        ages.append((time.monotonic(), age_ms(image, time.monotonic())))
        if time.monotonic() > end:
            break
    container.close()
    return {"frames": len(ages), **compare(ages, min(3.0, seconds / 3))}


def run_flat(
    detector: Any, server: Server, seconds: float, window: float, slow_ms: float
) -> dict[str, Any]:
    """Stream for a while and compare the ages at start and end."""
    ages = []
    with detector.stream(server.url, seconds=seconds) as stream:
        for frame, _ in stream:
            began = frame.captured + stream.latency.last("capture")
            wait(began, slow_ms)
            ages.append((time.monotonic(), age_ms(frame.image, time.monotonic())))
    compared = compare(ages, window)
    return {
        "seconds": seconds, "frames": stream.looked_at, "dropped": stream.dropped, **compared,
        "latency": stream.latency.as_dict(), "limit": LIMIT,
        "passed": bool(compared["p95_ratio"] <= LIMIT and stream.dropped > 0),
    }  # fmt: skip


def run_rejoin(detector: Any, server: Server, down: float) -> dict[str, Any]:
    """Kill the server, start it again, and see whether the stream goes on by itself."""
    lines: list[str] = []
    killed = started = back = None
    after = 0
    for _ in detector.stream(server.url, seconds=60 + down, notify=lines.append):
        now = time.monotonic()
        if killed is None:
            server.kill()
            killed = now
            time.sleep(down)
            started = server.restart()
        elif started is not None and any("rejoined" in line for line in lines):
            back = now if back is None else back
            after += 1
        if after >= 30:
            break
    seconds = None if back is None or started is None else round(back - started, 3)
    return {
        "down_seconds": down, "back_after_restart_seconds": seconds, "frames_after": after,
        "events": lines, "passed": after >= 30,
    }  # fmt: skip


def wait(began: float, slow_ms: float) -> None:
    """Make a frame take at least ``slow_ms``, so that also a fast machine is too slow."""
    time.sleep(max(0.0, began + slow_ms / 1000 - time.monotonic()))


def compare(ages: list[tuple[float, float | None]], window: float) -> dict[str, Any]:
    """Return percentiles of the ages in the first and the last ``window`` seconds."""
    known = [(at, age) for at, age in ages if age is not None]
    first, last = known[0][0], known[-1][0]
    start = [age for at, age in known if at <= first + window]
    end = [age for at, age in known if at >= last - window]
    shares = (50, 95, 99)
    rows = {
        name: {f"p{s}_ms": round(float(np.percentile(part, s)), 1) for s in shares}
        for name, part in (("start", start), ("end", end))
    }
    ratio = rows["end"]["p95_ms"] / rows["start"]["p95_ms"]
    return {**rows, "p95_ratio": round(ratio, 3), "unreadable_stamps": len(ages) - len(known)}


def text(document: dict[str, Any]) -> str:
    """Return the result for people."""
    lines = []
    for r in document["results"]:
        flat, control, rejoin = r["flat"], r["control"], r["rejoin"]
        ages = " -> ".join(f"{flat[part]['p95_ms']}" for part in ("start", "end"))
        grown = " -> ".join(f"{control[part]['p95_ms']}" for part in ("start", "end"))
        lines += [
            f"{r['kind']}: p95 of a result's age {ages} ms, start to end (x{flat['p95_ratio']})",
            f"  {flat['frames']} frames looked at, {flat['dropped']} dropped",
            f"  control, frame by frame: {grown} ms",
            f"  rejoined {rejoin['back_after_restart_seconds']} s after the restart",
        ]
    return "\n".join([*lines, "passed" if document["passed"] else "FAILED"])


if __name__ == "__main__":
    main()
