"""Objects in a network stream, newest frame first; a camera that went away is rejoined.

python tools/realtime_rtsp.py MODEL rtsp://USER:PASSWORD@camera/1 > seen.jsonl
"""

from __future__ import annotations

import json

import click

import duet
from duet.defaults import AGNOSTIC, Agnostic


@click.command()
@click.argument("model")
@click.argument("url")
@click.option("--conf", type=float, help="Lowest score that counts [the detector's own].")
@click.option("--agnostic-nms", default=AGNOSTIC, show_default=True, help="all, increments or off.")
@click.option("--track", is_flag=True, help="Give objects track ids.")
@click.option("--seconds", type=float, help="Stop after so long [never].")
@click.option("--give-up-after", type=float, help="Seconds of trying to rejoin [no limit].")
def main(
    model: str, url: str, conf: float | None, agnostic_nms: Agnostic, track: bool,
    seconds: float | None, give_up_after: float | None,
) -> None:  # fmt: skip
    """Print one JSON line per frame; what happens to the stream goes to stderr."""
    detector = duet.load(model)
    retry = duet.Retry(give_up_after=give_up_after)
    with detector.stream(
        url, confidence=conf, agnostic=agnostic_nms, track=track, seconds=seconds, retry=retry,
        notify=lambda line: click.echo(line, err=True),
    ) as stream:  # fmt: skip
        try:
            for frame, detections in stream:
                record = {"time": round(frame.time, 3), "dropped": frame.dropped}
                print(json.dumps(record | {"detections": detections.as_records()}), flush=True)
        except KeyboardInterrupt:
            pass
    click.echo(stream.latency.table(), err=True)


if __name__ == "__main__":
    try:
        main()
    except duet.DuetError as error:
        raise SystemExit(f"Error: {error}") from None
