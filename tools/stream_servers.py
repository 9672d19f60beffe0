"""A camera to try live detection without one: MJPEG over HTTP, or H.264 over RTSP.

    python tools/stream_servers.py rtsp --port 8554 --fps 30
    duet predict MODEL rtsp://127.0.0.1:8554/cam

Every frame carries the time at which it was made, as blocks of black and white in its corner
(`read_stamp`): so latency can be measured from that moment. The server is strict: it goes on making
frames whether the client reads or not, and sends all in order, so that a client which does not keep
up with the source finds its frames getting older and older.
"""

from __future__ import annotations

import functools
import queue
import random
import re
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

BLOCK = 16  # pixels of one bit: survives JPEG and H.264
BITS, CHECK_BITS, PER_ROW = 24, 8, 8
PERIOD_MS = 1 << BITS
BOUNDARY = "frame"
PAYLOAD = 1200  # bytes of one RTP packet
CLOCK = 90_000  # RTP ticks per second


def write_stamp(image: np.ndarray, milliseconds: int) -> None:
    """Write a time into the upper left corner of an image, in place."""
    value = milliseconds % PERIOD_MS
    word = (value << CHECK_BITS) | _check(value)
    for bit in range(BITS + CHECK_BITS):
        row, column = divmod(bit, PER_ROW)
        y, x = row * BLOCK, column * BLOCK
        image[y : y + BLOCK, x : x + BLOCK] = 255 * (word >> bit & 1)


def read_stamp(image: np.ndarray) -> int | None:
    """Return the milliseconds written into an image (modulo `PERIOD_MS`); None if damaged."""
    word = 0
    for bit in range(BITS + CHECK_BITS):
        row, column = divmod(bit, PER_ROW)
        y, x = row * BLOCK + BLOCK // 4, column * BLOCK + BLOCK // 4
        half = BLOCK // 2
        word |= int(image[y : y + half, x : x + half].mean() > 127) << bit
    value = word >> CHECK_BITS
    return value if _check(value) == word & ((1 << CHECK_BITS) - 1) else None


def age_ms(image: np.ndarray, now: float) -> float | None:
    """Return how long ago an image was made, at ``now`` (`time.monotonic`), in milliseconds."""
    stamp = read_stamp(image)
    return None if stamp is None else (now * 1000 - stamp) % PERIOD_MS


def _check(value: int) -> int:
    return (value ^ value >> 8 ^ value >> 16 ^ 0x5A) & 0xFF


@dataclass(frozen=True)
class Scene:
    """What the camera sees.

    Attributes:
        width: Pixels.
        height: Pixels.
        fps: Frames per second.
        limit: Frames after which the stream ends; 0 for never.
        corrupt: Share of packets whose content is replaced by noise.
    """

    width: int = 640
    height: int = 360
    fps: float = 30.0
    limit: int = 0
    corrupt: float = 0.0

    def images(self) -> Iterator[np.ndarray]:
        """Yield ``(H, W, 3)`` uint8 BGR images, each when it is due.

        A machine too busy to make them in time makes fewer, as a camera would.
        """
        start, number, made = time.monotonic(), 0, 0
        while not self.limit or made < self.limit:
            number = max(number + 1, int((time.monotonic() - start) * self.fps))
            time.sleep(max(0.0, start + number / self.fps - time.monotonic()))
            image = np.roll(self._background, 3 * number, axis=1)
            write_stamp(image, int(time.monotonic() * 1000))
            yield image
            made += 1

    @functools.cached_property
    def _background(self) -> np.ndarray:
        """Return smooth blobs: compresses as a photo does."""
        import cv2

        noise = np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8)
        return np.asarray(cv2.resize(noise, (self.width, self.height)), dtype=np.uint8)

    def spoilt(self, data: bytes) -> bytes:
        """Return the packet, or noise of the same length."""
        return random.randbytes(len(data)) if random.random() < self.corrupt else data


def ahead(items: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the items in order; a thread makes them whether anyone takes them or not."""
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    left = threading.Event()

    def fill() -> None:
        for item in items:
            if left.is_set():
                return
            waiting.put(item)
        waiting.put(None)

    threading.Thread(target=fill, daemon=True).start()
    try:
        while (item := waiting.get()) is not None:
            yield item
    finally:
        left.set()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, handler: type[Any], scene: Scene) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.scene = scene

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error."""


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def head(self) -> dict[str, str] | None:
        """Return one request: ``method``, ``path`` and lower-case headers; None at the end."""
        while (first := self.rfile.read(1)) == b"$":  # RTCP of the client
            self.rfile.read(struct.unpack(">BH", self.rfile.read(3))[1])
        line = first + self.rfile.readline()
        if not line.strip():
            return None
        method, path = line.decode().split()[:2]
        fields = {"method": method, "path": path}
        while line := self.rfile.readline().strip():
            key, _, value = line.decode().partition(":")
            fields[key.lower()] = value.strip()
        return fields


class MjpegHandler(_Handler):
    """JPEG images, one after the other, in one HTTP response."""

    def handle(self) -> None:
        """Answer one request with a stream that never ends (or with 404)."""
        import cv2

        request = self.head()
        if request is None or request["path"] != "/cam":
            self.wfile.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode())
        scene = self.server.scene
        for data in ahead(cv2.imencode(".jpg", image)[1].tobytes() for image in scene.images()):
            data = scene.spoilt(data)
            part = (
                f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            self.wfile.write(part.encode() + data + b"\r\n")


class RtspHandler(_Handler):
    """RTSP 1.0 with RTP inside the same TCP connection (RFC 2326, RFC 6184)."""

    def handle(self) -> None:
        """Answer requests until the client leaves; the frames come from a thread."""
        self.lock = threading.Lock()
        while (request := self.head()) is not None:
            method = request["method"]
            body, extra = "", {"Session": "1"}
            if method == "OPTIONS":
                extra = {"Public": "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"}
            elif method == "DESCRIBE":
                body = (
                    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=duet\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
                    f"a=rtpmap:96 H264/{CLOCK}\r\na=fmtp:96 packetization-mode=1\r\n"
                    "a=control:track\r\n"
                )
                extra = {"Content-Type": "application/sdp", "Content-Length": str(len(body))}
            elif method == "SETUP":
                extra["Transport"] = "RTP/AVP/TCP;unicast;interleaved=0-1"
            status = "200 OK" if "/cam" in request["path"] else "404 Not Found"
            lines = [f"RTSP/1.0 {status}", f"CSeq: {request['cseq']}"]
            lines += [f"{key}: {value}" for key, value in extra.items()]
            with self.lock:
                self.wfile.write("\r\n".join([*lines, "", body]).encode())
            if method == "PLAY":
                threading.Thread(target=self._play, daemon=True).start()
            if method == "TEARDOWN":
                return

    def _play(self) -> None:
        scene, sequence = self.server.scene, 0
        try:
            for number, data in enumerate(ahead(_h264(scene))):
                ticks = int(number * CLOCK / scene.fps) & 0xFFFFFFFF
                payloads = list(_rtp_payloads(scene.spoilt(data)))
                for place, payload in enumerate(payloads):
                    last = 0x80 if place == len(payloads) - 1 else 0
                    header = struct.pack(">BBHII", 0x80, last | 96, sequence, ticks, 1)
                    packet = header + payload
                    with self.lock:
                        self.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                    sequence = (sequence + 1) & 0xFFFF
        except OSError:  # the client left
            return
        self.connection.shutdown(2)


def _h264(scene: Scene) -> Iterator[bytes]:
    """Yield one access unit (Annex B) per image; a key frame each half second."""
    import av

    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = scene.width, scene.height, "yuv420p"
    encoder.framerate = round(scene.fps)
    encoder.gop_size = max(1, round(scene.fps / 2))
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency"}
    for image in scene.images():
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        yield b"".join(bytes(packet) for packet in encoder.encode(frame))


def _rtp_payloads(access_unit: bytes) -> Iterator[bytes]:
    """Split an access unit into RTP payloads: whole NAL units, or FU-A fragments of long ones."""
    for unit in re.split(rb"\x00?\x00\x00\x01", access_unit):
        if len(unit) <= PAYLOAD:
            if unit:
                yield unit
            continue
        kind, rest = unit[0], unit[1:]
        for start in range(0, len(rest), PAYLOAD):
            begins, ends = start == 0, start + PAYLOAD >= len(rest)
            fragment = begins << 7 | ends << 6 | kind & 0x1F
            yield bytes((kind & 0xE0 | 28, fragment)) + rest[start : start + PAYLOAD]


HANDLERS = {"mjpeg": (MjpegHandler, "http"), "rtsp": (RtspHandler, "rtsp")}


@click.command()
@click.argument("kind", type=click.Choice(list(HANDLERS)))
@click.option("--port", default=0, help="0 takes a free one.")
@click.option("--fps", default=30.0, show_default=True)
@click.option("--size", default="640x360", show_default=True)
@click.option("--limit", default=0, help="Frames after which each stream ends [never].")
@click.option("--corrupt", default=0.0, help="Share of packets replaced by noise.")
def main(kind: str, port: int, fps: float, size: str, limit: int, corrupt: float) -> None:
    """Print the URL, then serve until killed."""
    width, height = map(int, size.split("x"))
    handler, scheme = HANDLERS[kind]
    with _Server(port, handler, Scene(width, height, fps, limit, corrupt)) as server:
        print(f"{scheme}://127.0.0.1:{server.server_address[1]}/cam", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
