"""Whether a recording reaches its end: told by the sizes that the file itself states.

Headers count frames that are no pictures (AVI repeats the last one by empty chunks, an edit list of
an MP4 hides some) and lengths include how long the last picture stands, so neither says whether
data are missing. What every container does state is how long its pieces are: where the last one
ends behind the end of the file, the file was cut off.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

Step = Callable[[BinaryIO, int, int], "int | None"]
"""From the place of a piece and the size of the file to the next place; None where it cannot tell.
"""

_TS_PACKET = 188
_TAIL = 1 << 20  # bytes at the end of a transport or program stream, where all its parts occur


def is_whole(path: Path, container: str) -> bool | None:
    """Tell whether a file ends where its own structure ends.

    Args:
        path: A recording.
        container: FFmpeg's name of its format.

    Returns:
        False if it was cut off; None if the format does not state it.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        if container == "mpegts":
            return _whole_transport(stream, size)
        if container == "mpeg":
            return _whole_program(stream, size)
        for names, step in _STEPS.items():
            if container in names:
                return _walk(stream, size, step)
    return None


def decodes(video: VideoStream, packets: Sequence[Packet[Any]]) -> bool:
    """Tell whether the last of some packets decodes without any error.

    Where a format does not state its end, the last picture does: half of it decodes, with the
    missing part made up, unless the decoder is told to be strict.

    Args:
        video: Their stream, of a file that was opened anew: nothing is decoded of it yet. A decoder
            of the same name is not enough, sizes and kinds of pixels stand in the container.
        packets: From a key frame on.

    Returns:
        True also where the decoder cannot be opened, which says nothing about the file.
    """
    import av

    context = video.codec_context
    context.options = {"err_detect": "explode"}
    context.thread_count = 1  # several threads keep the errors of slices to themselves
    try:
        context.open(strict=False)
    except av.error.FFmpegError:
        return True
    for packet in packets[:-1]:
        # The first pictures of an open group refer to those before it.
        with contextlib.suppress(av.error.FFmpegError):
            context.decode(packet)
    try:
        context.decode(packets[-1])
        context.decode(None)
    except av.error.FFmpegError:
        return False
    return True


def _walk(stream: BinaryIO, size: int, step: Step, first: int = 0) -> bool | None:
    """Go from piece to piece; every one of a file that is whole ends inside it."""
    place = first
    while place < size:
        following = step(stream, place, size)
        if following is None:  # bytes behind the last piece are of another program
            return None if place == first else True
        place = following
    return place <= size


def _at(stream: BinaryIO, place: int, count: int) -> bytes:
    stream.seek(place)
    return stream.read(count)


def _box(stream: BinaryIO, place: int, size: int) -> int | None:
    """One box of MP4, MOV, 3GP (ISO/IEC 14496-12, 4.2)."""
    head = _at(stream, place, 16)
    length, kind = int.from_bytes(head[:4], "big"), head[4:8]
    if length == 0 and len(head) >= 8:  # "to the end of the file"
        return size
    if length == 1 and len(head) == 16:
        length = int.from_bytes(head[8:], "big")
    if len(head) < 8 or length < 8 or not kind.isalnum():
        return None
    carries = kind in (b"mdat", b"moof", b"moov")  # a cut at the rest loses no picture
    return place + length if carries else min(place + length, size)


def _chunk(stream: BinaryIO, place: int, size: int) -> int | None:
    """One chunk of an AVI; RIFF and the list of pictures alone are looked into.

    The size of RIFF itself is not believed: programs count it differently, or fill it in last.
    """
    place += place % 2
    head = _at(stream, place, 12)
    if len(head) < 8 or not head[:4].strip(b"\0"):
        return None
    length = int.from_bytes(head[4:8], "little")
    if head[:4] == b"RIFF":
        return place + 12
    if head[:4] == b"LIST" and head[8:12] == b"movi":
        return place + 8 + length if length > 4 else place + 12
    return place + 8 + length if place else None


_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675


def _element(stream: BinaryIO, place: int, size: int) -> int | None:
    """One element of Matroska or WebM (RFC 8794); those of unknown size are looked into."""
    head = _at(stream, place, 12)
    name, used = _variable(head, marked=True)
    length, more = _variable(head[used:])
    if name is None or length is None:
        return None
    start = place + used + more
    if length == (1 << (7 * more)) - 1:
        return start if name in (_SEGMENT, _CLUSTER) else None
    return start + length


def _variable(head: bytes, *, marked: bool = False) -> tuple[int | None, int]:
    """Return a number of variable length and the bytes that it takes."""
    if not head or not head[0]:
        return None, 0
    width = 9 - head[0].bit_length()
    if len(head) < width:
        return None, 0
    value = int.from_bytes(head[:width], "big")
    return value if marked else value & ((1 << (7 * width)) - 1), width


def _tag(stream: BinaryIO, place: int, size: int) -> int | None:
    """One tag of an FLV, with the size that stands behind it."""
    head = _at(stream, place, 11)
    if place == 0:
        return int.from_bytes(head[5:9], "big") + 4
    if head[:1] not in (b"\x08", b"\x09", b"\x12"):
        return None
    return place + 11 + int.from_bytes(head[1:4], "big") + 4


def _page(stream: BinaryIO, place: int, size: int) -> int | None:
    """One page of an Ogg file (RFC 3533, section 6)."""
    head = _at(stream, place, 27)
    if head[:4] != b"OggS":
        return None
    table = _at(stream, place + 27, head[26]) if len(head) == 27 else b""
    return place + 27 + len(table) + sum(table) if table else size + 1


def _block(stream: BinaryIO, place: int, size: int) -> int | None:
    """One block of a GIF (GIF89a, sections 18 to 27)."""
    head = _at(stream, place, 13)
    if place == 0:
        return 13 + _colours(head[10]) if len(head) == 13 else size + 1
    if head[:1] == b";":
        return size
    if head[:1] == b"!":
        place += 2
    elif head[:1] == b",":
        place += 11 + (_colours(head[9]) if len(head) > 9 else 0)
    else:
        return None
    while count := _at(stream, place, 1):
        place += 1 + count[0]
        if not count[0]:
            return place
    return size + 1


def _colours(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _properties(stream: BinaryIO, place: int, size: int) -> int | None:
    """The one place of an ASF or WMV that states how long the file is (ASF 1.2, section 3.2)."""
    head = _at(stream, 0, 1 << 16)
    found = head.find(_ASF_PROPERTIES)
    if place or found < 0 or len(head) < found + 92:
        return None
    broadcast = head[found + 88] & 1
    return None if broadcast else int.from_bytes(head[found + 40 : found + 48], "little")


_Y4M_KIND = re.compile(rb" C(420|422|444|411|mono)(alpha)?(?:p?(\d+))?")
_Y4M_CHROMA = {b"420": (2, 2), b"422": (2, 1), b"444": (1, 1), b"411": (4, 1)}


def _raw_frame(stream: BinaryIO, place: int, size: int) -> int | None:
    """One picture of a YUV4MPEG2 file, behind a line of its own; its first line says how large."""
    head = _at(stream, 0, 256).partition(b"\n")[0]
    line, end, _ = _at(stream, place, 256).partition(b"\n")
    if place == 0:
        return len(head) + 1
    sides = [re.search(rb" %c(\d+)" % letter, head) for letter in b"WH"]
    kind = _Y4M_KIND.search(head if b" C" in head else b" C420")
    if not end or not line.startswith(b"FRAME"):
        return size + 1 if b"FRAME".startswith(line[:5]) else None
    if None in sides or kind is None:
        return None
    width, height = (int(side[1]) for side in sides if side)
    values = width * height * (2 if kind[2] else 1)
    if across_down := _Y4M_CHROMA.get(kind[1]):
        values += 2 * -(-width // across_down[0]) * -(-height // across_down[1])
    return place + len(line) + 1 + values * (2 if int(kind[3] or 8) > 8 else 1)


_STEPS: dict[tuple[str, ...], Step] = {
    ("mov,mp4,m4a,3gp,3g2,mj2",): _box,
    ("avi",): _chunk,
    ("matroska,webm", "matroska", "webm"): _element,
    ("flv", "live_flv"): _tag,
    ("ogg",): _page,
    ("asf", "asf_o"): _properties,
    ("gif",): _block,
    ("yuv4mpegpipe",): _raw_frame,
}


def _whole_program(stream: BinaryIO, size: int) -> bool | None:
    """Tell whether the last packet of a program stream (MPG, VOB; ISO 13818-1, 2.5) is cut.

    Where it is not, a picture may still go on behind the end.
    """
    start = max(0, size - _TAIL)
    found = _at(stream, start, size - start).find(b"\0\0\1\xba")
    whole = None if found < 0 else _walk(stream, size, _pack, start + found)
    return False if whole is False else None


def _pack(stream: BinaryIO, place: int, size: int) -> int | None:
    head = _at(stream, place, 14)
    if head[:3] != b"\0\0\1" or len(head) < 6:
        return size + 1 if b"\0\0\1".startswith(head[:3]) and len(head) < 6 else None
    if head[3] == 0xB9:
        return place + 4
    if head[3] == 0xBA:
        return place + (14 + (head[-1] & 7) if head[4] >> 6 == 1 else 12)
    return place + 6 + int.from_bytes(head[4:6], "big") if head[3] > 0xBA else None


def _whole_transport(stream: BinaryIO, size: int) -> bool | None:
    """Tell whether each stream of a transport stream ends with its last packet (ISO 13818-1, 2.4).

    A picture begins in a packet of its own, so the last packet of the one before is filled up;
    where it is full instead, the picture may go on behind the end.
    """
    head = _at(stream, 0, 1 << 12)
    found = _synchronised(head)
    if found is None:
        return None
    first, step = found
    lead = step - _TS_PACKET if step == 192 else 0  # the time of arrival of M2TS stands in front
    rest = (size - first + lead) % step
    if rest and _at(stream, size - rest + lead, 1) in (b"G", b""):
        return False
    full: dict[int, bool] = {}
    start = first + max(0, (size - first - _TAIL) // step * step)
    tail = _at(stream, start, size - start)
    for packet in (tail[at : at + _TS_PACKET] for at in range(0, len(tail) - 187, step)):
        number = int.from_bytes(packet[1:3], "big") & 0x1FFF
        if packet[3] & 0x10 and number > 0x1F:
            full[number] = not _filled_up(packet)
    tables = _tables(head, first, step)
    return None if any(now for number, now in full.items() if number not in tables) else True


def _filled_up(packet: bytes) -> bool:
    """Tell whether the header of a packet is longer than what it states needs."""
    if not packet[3] & 0x20:
        return False
    flags = packet[5] if packet[4] else 0
    needed = 1 + 6 * bool(flags & 0x10) + 6 * bool(flags & 0x08) + bool(flags & 0x04)
    return packet[4] == 0 or (not flags & 0x03 and packet[4] > needed)


def _synchronised(head: bytes) -> tuple[int, int] | None:
    """Return where the first packet begins and how far it is to the next."""
    for first, step in itertools.product(range(204), (188, 192, 204)):
        marks = range(first, min(len(head), first + 5 * step), step)
        if len(marks) > 1 and all(head[mark] == 0x47 for mark in marks):
            return first, step
    return None


def _tables(head: bytes, first: int, step: int) -> set[int]:
    """Return the numbers of the packets that carry program maps, which are always full."""
    found: set[int] = set()
    for at in range(first, len(head) - _TS_PACKET, step):
        packet = head[at : at + _TS_PACKET]
        if int.from_bytes(packet[1:3], "big") & 0x5FFF == 0x4000:  # table 0, at its start
            found |= set(_programs(packet[5 + packet[4] :]))
    return found


def _programs(table: bytes) -> Iterator[int]:
    end = 3 + (int.from_bytes(table[1:3], "big") & 0xFFF) - 4
    for at in range(8, min(end, len(table) - 3), 4):
        yield int.from_bytes(table[at + 2 : at + 4], "big") & 0x1FFF
