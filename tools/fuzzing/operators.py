"""Seeded operators that spoil one file: bytes, lines, values of a tree, or what the file is."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1", "0", "-0.0", "1.5", str(10**30), "9" * 5000,
    '""', '" "', "null", "[]", "{}", "true", '"\\u0000"', '"\\u001b]0;title\\u0007"',
    '"a\\u202eb"', '"\\u009b31m"', '"\\ud800"', '"line\\nend"', '"../../../../elsewhere"',
    '"/dev/zero"', '"$(touch planted)"', '"%s%n{0}"', '"$x_$"', '"```\\n# h"', '"nan"',
    '"' + "x" * 50_000 + '"', "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000,
    "[" + "0," * 20_000 + "0]", '"2026-99-99"', "1_000", "0x1F",
)  # fmt: skip
"""JSON (some of it only nearly), which is YAML too."""

_YAML_ODD = (
    ".nan", ".inf", "2026-99-99", "!!int x", "!!python/object/apply:os.system [id]", "*nothing",
    "&a [*a]", "12:30", "no", "02146", "!!binary x", "? [a]", "'", "{", "\t", "!!timestamp x",
    "&a [&b [&c [x,x,x,x,x,x,x,x,x],*c,*c,*c,*c,*c,*c,*c,*c],*b,*b,*b,*b,*b,*b,*b,*b]",
)  # fmt: skip
_HOLE = "@@hole@@"
_ENCODINGS = ("utf-8-sig", "utf-16", "utf-32", "latin-1")

Operator = Callable[[Path, random.Random], str]
"""Spoils the file at the path and says how."""


# ---- any file ---------------------------------------------------------------------------------


def flip(path: Path, rng: random.Random) -> str:
    """Change one bit of up to four bytes; in large files often one of the first or last."""
    content = bytearray(path.read_bytes())
    places = [_place(len(content), rng) for _ in range(rng.choice((1, 1, 2, 4)))]
    for place in places:
        content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"flipped a bit at {places}"


def _place(size: int, rng: random.Random) -> int:
    ends = [(0, size), (0, min(size, 4096)), (max(0, size - 4096), size)]
    return rng.randrange(*rng.choice(ends))


def cut(path: Path, rng: random.Random) -> str:
    """Keep the beginning only."""
    content = path.read_bytes()
    keep = rng.choice((rng.randrange(len(content)), len(content) - 1, min(20, len(content) - 1)))
    path.write_bytes(content[:keep])
    return f"cut to {keep} of {len(content)} bytes"


def empty(path: Path, rng: random.Random) -> str:
    """Keep nothing."""
    path.write_bytes(b"")
    return "emptied"


def repeat(path: Path, rng: random.Random) -> str:
    """Write a piece of the file twice."""
    content = path.read_bytes()
    start = _place(len(content), rng)
    end = min(len(content), start + rng.choice((1, 16, 1000)))
    path.write_bytes(content[:end] + content[start:])
    return f"bytes {start} to {end} twice"


def insert(path: Path, rng: random.Random) -> str:
    """Put some bytes in."""
    content = path.read_bytes()
    place = _place(len(content) + 1, rng)
    bytes_ = rng.choice((b"\0", b"\xff\xfe", b"\x1b[2J", b"\n", rng.randbytes(40), b"0" * 9000))
    path.write_bytes(content[:place] + bytes_ + content[place:])
    return f"{bytes_[:8]!r} put in at {place}"


def other_thing(path: Path, rng: random.Random) -> str:
    """Replace the file by something that is no file, or by none."""
    path.unlink()
    what = rng.choice(("folder", "dangling link", "link to itself", "fifo", "device", "nothing"))
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what != "nothing":
        targets = {"dangling link": "not-there", "link to itself": path.name, "device": "/dev/zero"}
        path.symlink_to(targets[what])
    return f"replaced by: {what}"


# ---- text -------------------------------------------------------------------------------------


def swap_lines(path: Path, rng: random.Random) -> str:
    """Exchange two lines."""
    lines = path.read_bytes().splitlines(keepends=True)
    if len(lines) < 2:
        return repeat(path, rng)
    one, other = rng.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]
    path.write_bytes(b"".join(lines))
    return f"lines {one + 1} and {other + 1} exchanged"


def encode(path: Path, rng: random.Random) -> str:
    """Write it in another encoding, or with other line ends."""
    text = path.read_text(encoding="utf-8")
    how = rng.choice((*_ENCODINGS, "crlf", "cr"))
    if how in _ENCODINGS:
        text = text if how != "latin-1" else text.replace("a", "é", 1)
        path.write_bytes(text.encode(how))
    else:
        path.write_bytes(text.replace("\n", {"crlf": "\r\n", "cr": "\r"}[how]).encode())
    return f"encoded as {how}"


def odd_word(path: Path, rng: random.Random) -> str:
    """Replace one word of a line by an odd one."""
    text = path.read_text(encoding="utf-8")
    words = list(re.finditer(r"[^\s<>]+", text))
    if not words:
        return insert(path, rng)
    word = rng.choice(words)
    odd = rng.choice((*ODD, "nan", "inf", "0x10", "1,5", "１", "1_0", "-", "\x00", "\x1b[31m", "é"))
    path.write_text(text[: word.start()] + odd + text[word.end() :], "utf-8", "surrogatepass")
    return f"{word[0][:30]!r} became {odd[:30]!r}"


# ---- trees ------------------------------------------------------------------------------------


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything in a tree of dicts and lists."""
    found, stack = [], [tree]
    while stack:
        node = stack.pop()
        items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
        for key, value in items:
            found.append((node, key))
            if isinstance(value, (dict, list)):
                stack.append(value)
    return found


def spoil_tree(tree: Any, rng: random.Random, odd: tuple[str, ...]) -> tuple[str, str, str]:
    """Spoil one place of a tree of dicts and lists.

    Returns:
        (what was done, text to look for in the written tree, text to put there); the last two may
        be empty.
    """
    nodes = _nodes(tree)
    container, key = rng.choice(nodes)
    named = [(c, k) for c, k in nodes if isinstance(c, dict) and isinstance(k, str)]
    how = rng.choice(("odd", "odd", "odd", "delete", "rename", "double", "odd key"))
    if how not in ("odd", "delete") and named:
        container, key = rng.choice(named)
        value = container.pop(key)
        if how == "rename":
            container[key + rng.choice("sx_")] = value
            return f"key {key!r} renamed", "", ""
        container[_HOLE] = value
        if how == "odd key":
            word = rng.choice([word for word in odd if word.startswith('"')])
            return f"key {key!r} became {word[:30]}", f'"{_HOLE}"', word
        container[key] = value
        return f"key {key!r} doubled", _HOLE, key
    if how == "delete":
        del container[key]
        return f"{key!r} deleted", "", ""
    old, container[key] = container[key], _HOLE
    word = rng.choice(odd)
    return f"{key!r}: {str(old)[:30]} became {word[:30]}", f'"{_HOLE}"', word


def spoil_json(text: str, rng: random.Random) -> tuple[str, str]:
    """Return a spoiled JSON document, and how."""
    tree = json.loads(text)
    how, hole, word = spoil_tree(tree, rng, ODD)
    written = json.dumps(tree, indent=1)
    return written.replace(hole, word) if hole else written, how


def tree_json(path: Path, rng: random.Random) -> str:
    """Spoil one place of a JSON document."""
    text, how = spoil_json(path.read_text(encoding="utf-8"), rng)
    path.write_text(text, encoding="utf-8")
    return how


def tree_yaml(path: Path, rng: random.Random) -> str:
    """Spoil one place of a YAML document."""
    import yaml

    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    how, hole, word = spoil_tree(tree, rng, ODD + _YAML_ODD)
    written = yaml.safe_dump(tree, sort_keys=False, width=10**6)
    hole = hole.strip('"')
    path.write_text(written.replace(hole, word).replace(f"'{word}'", word) if hole else written)
    return how


def element(path: Path, rng: random.Random) -> str:
    """Spoil one element of an XML document."""
    text = path.read_text(encoding="utf-8")
    found = rng.choice(list(re.finditer(r"<(\w+)>([^<]*)</\1>", text)))
    name, value = found[1], found[2]
    word = rng.choice((*ODD, "1,5", "&undefined;", "&#0;", "<x>", "<![CDATA[x]]>", "-"))
    new = rng.choice((
        "", found[0] * 2, f"<{name}s>{value}</{name}s>", f"<{name}>", f"<{name}>{word}</{name}>",
        f"<{name}>{word}</{name}>", f"<{name}>{found[0]}</{name}>",
    ))  # fmt: skip
    path.write_text(text[: found.start()] + new + text[found.end() :], encoding="utf-8")
    return f"{found[0][:40]!r} became {new[:40]!r}"


BINARY: tuple[Operator, ...] = (flip, flip, flip, cut, empty, repeat, insert, other_thing)
TEXT: tuple[Operator, ...] = (
    flip, cut, empty, repeat, insert, other_thing, swap_lines, encode, odd_word, odd_word,
)  # fmt: skip


def remove(path: Path) -> None:
    """Remove whatever an operator left."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
