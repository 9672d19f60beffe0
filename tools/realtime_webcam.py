"""Objects in front of a webcam, newest frame first.

python tools/realtime_webcam.py MODEL --camera 0
"""

from __future__ import annotations

import click

import duet
from duet.defaults import AGNOSTIC, Agnostic
from duet.inference.annotate import annotate
from duet.inference.window import Window


@click.command()
@click.argument("model")
@click.option("--camera", default=0, show_default=True, help="Number of the webcam.")
@click.option("--conf", type=float, help="Lowest score that counts [the detector's own].")
@click.option("--agnostic-nms", default=AGNOSTIC, show_default=True, help="all, increments or off.")
@click.option("--track", is_flag=True, help="Give objects track ids.")
@click.option("--show/--no-show", default=True, show_default=True, help="Open a window.")
def main(
    model: str, camera: int, conf: float | None, agnostic_nms: Agnostic, track: bool, show: bool
) -> None:
    """Show what the webcam sees; without a window, print it. q or Ctrl-C ends."""
    detector = duet.load(model)
    window = Window(f"webcam {camera}") if show else None
    options = {"confidence": conf, "agnostic": agnostic_nms, "track": track}
    with detector.stream(camera, **options) as stream:
        try:
            for frame, detections in stream:
                if window is None:
                    print(f"{frame.time:8.2f} s  {', '.join(detections.names) or '-'}")
                elif not window.show(
                    annotate(frame.image, detections, detector.increments, tell=True)
                ):
                    break
        except KeyboardInterrupt:
            pass
    print(stream.latency.table())


if __name__ == "__main__":
    try:
        main()
    except duet.DuetError as error:
        raise SystemExit(f"Error: {error}") from None
