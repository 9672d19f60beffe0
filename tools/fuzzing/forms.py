"""Operators that know a container: safetensors, zip (also .pt and .npz), tar, ONNX."""

from __future__ import annotations

import io
import random
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

from fuzzing.operators import (
    BINARY,
    TEXT,
    Operator,
    element,
    encode,
    flip,
    odd_word,
    spoil_json,
    swap_lines,
    tree_json,
    tree_yaml,
)

_NAMES = (
    "../../escaped", "/absolute", "a\\b", "C:/x", "", "a/../../b", "\x1b]0;x\x07", "x" * 300, "CON",
)  # fmt: skip


def header(path: Path, rng: random.Random) -> str:
    """Spoil one place of a safetensors header and keep its length right."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    text, how = spoil_json(content[8 : 8 + size].decode(), rng)
    raw = text.encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + size :])
    return f"header: {how}"


def number(path: Path, rng: random.Random) -> str:
    """Flip a bit in the numbers of a safetensors file."""
    content = bytearray(path.read_bytes())
    start = 8 + struct.unpack("<Q", content[:8])[0]
    place = rng.randrange(start, len(content))
    content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"a number changed at byte {place}"


def _spoil_member(name: str, content: bytes, rng: random.Random) -> tuple[bytes, str]:
    suffix = Path(name).suffix
    own: tuple[Operator, ...] = (flip,)
    if suffix == ".xml":
        own = (element, odd_word, encode)
    elif suffix == ".json":
        own = (tree_json,)
    elif suffix == ".txt":
        own = (odd_word, swap_lines, encode)
    # Nobody can put a device into a zip; what is none of these is bytes.
    operators = [*own, *(o for o in BINARY if o.__name__ != "other_thing")]
    if not content:
        return b"x", "a byte written into an empty file"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "member"
        path.write_bytes(content)
        how = rng.choice(operators)(path, rng)
        return path.read_bytes(), how


def _spoil_members(
    members: list[tuple[str, bytes]], rng: random.Random
) -> tuple[list[tuple[str, bytes]], str]:
    """Spoil, rename, double or remove one member."""
    place = rng.randrange(len(members))
    name, content = members[place]
    what = rng.choice(("content", "content", "content", "name", "double", "remove"))
    if what == "content":
        content, how = _spoil_member(name, content, rng)
        members[place] = (name, content)
        return members, f"{name}: {how}"
    if what == "name":
        new = rng.choice(_NAMES)
        members[place] = (new, content)
        return members, f"{name} renamed {new[:20]!r}"
    if what == "double":
        members.append((name, content[::-1]))
        return members, f"{name} twice"
    del members[place]
    return members, f"{name} removed"


def member_zip(path: Path, rng: random.Random) -> str:
    """Spoil a member of a zip file and pack it again, with right check sums."""
    with zipfile.ZipFile(path) as archive:
        kind = archive.infolist()[0].compress_type
        members = [(i.filename, archive.read(i)) for i in archive.infolist() if not i.is_dir()]
    members, how = _spoil_members(members, rng)
    import warnings

    with zipfile.ZipFile(path, "w", kind) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a doubled name is the point
        for name, content in members:
            archive.writestr(name, content)
    return how


def member_tar(path: Path, rng: random.Random) -> str:
    """Spoil a member of a tar file and pack it again; or make one a link or a device."""
    with tarfile.open(path) as archive:
        members = [(i.name, archive.extractfile(i).read()) for i in archive if i.isfile()]  # type: ignore[union-attr]
    kind, how = tarfile.REGTYPE, ""
    if rng.random() < 0.25:
        place = rng.randrange(len(members))
        kind = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE))
        how, special = f"{members[place][0]} is of type {kind!r}", members[place][0]
    else:
        members, how = _spoil_members(members, rng)
        special = ""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name == special and kind != tarfile.REGTYPE:
                info.type, info.size, info.linkname = kind, 0, "../../../etc/hostname"
            archive.addfile(info, io.BytesIO(content))
    return how


def stamp(path: Path, rng: random.Random) -> str:
    """Spoil the metadata of an ONNX file."""
    import onnx

    model = onnx.load(path)
    pairs = {row.key: row.value for row in model.metadata_props}
    key = rng.choice(sorted(pairs))
    try:
        value, how = spoil_json(pairs[key], rng)
    except (ValueError, IndexError, TypeError, AttributeError):  # no JSON in it
        how = "odd"
        value = rng.choice((*_NAMES, "nan", "-1", "1e400", "[" * 3000, "{'a': 1}", "x" * 50_000))
    del model.metadata_props[:]
    for name, old in pairs.items():
        new = value if name == key else old
        model.metadata_props.add(key=name, value=new.encode("utf-8", "replace").decode())
    onnx.save(model, path)
    return f"stamp {key}: {how}"


FORMS: dict[str, tuple[Operator, ...]] = {
    "bytes": BINARY,
    "text": TEXT,
    "json": (*TEXT, *[tree_json] * 10),
    "yaml": (*TEXT, *[tree_yaml] * 10),
    "xml": (*TEXT, *[element] * 10),
    "tensors": (*BINARY, *[header] * 6, *[number] * 4),
    "zip": (*BINARY, *[member_zip] * 8),
    "tar": (*BINARY, *[member_tar] * 8),
    "onnx": (*BINARY, *[stamp] * 6),
}
"""Form of a file -> operators for it; repeats are weights."""


def spoil(form: str, path: Path, rng: random.Random) -> str:
    """Spoil a file of a form by an operator that changes it; return how."""
    before = path.read_bytes()
    for _ in range(50):
        operator = rng.choice(FORMS[form] if before else (FORMS["bytes"][-1],))
        try:
            how = operator(path, rng)
        except (UnicodeError, IndexError):  # this operator cannot be applied here
            path.write_bytes(before)
            continue
        if path.is_symlink() or not path.is_file() or path.read_bytes() != before:
            return f"{operator.__name__}: {how}"
    raise AssertionError(f"no operator changes {path}")
