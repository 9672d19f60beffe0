"""Images on other machines: where they lie there, and whether they are the same ones.

Paths are those of the machine that gives the command. Where its ``DUET_DATA_ROOT`` names a folder,
what lies below it is looked for below the ``DUET_DATA_ROOT`` of each other machine. Or images are
staged: sent once, by content, to a store, and fetched once by each machine into a cache of bounded
size. A job gets links to what it needs, so that nobody takes an image away from under it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from duet.errors import ConfigError, DataError
from duet.runs.engines.store import Store
from duet.series.images import image_sha256

ROOT, CACHE = "DUET_DATA_ROOT", "DUET_CACHE_GB"
"""Variables of each machine: folder of the data; gigabytes of staged images that it keeps."""

CACHE_GB = 50.0
HASHED = 2000
"""Images of a series of which each machine compares content, evenly spread, before anything trains;
of the others it compares the size. A job compares the content of all of its own."""

_THREADS = 8
STAGED = "image"
"""Owner of the images in a store: they stay when a run has ended."""


@dataclass(frozen=True)
class Shot:
    """An image file as the machine sees it that gives the command.

    Attributes:
        path: Absolute.
        size: Bytes.
        sha256: Of its content; empty where nobody compares it.
    """

    path: str
    size: int
    sha256: str = ""


@dataclass(frozen=True)
class Whereabouts:
    """How other machines find images.

    Attributes:
        root: Folder of the data on the machine that gives the command; empty: paths are equal.
        store: Address of the store that holds staged images; None: every machine has its own.
    """

    root: str = ""
    store: str | None = None

    @classmethod
    def here(cls, store: str | None) -> Whereabouts:
        """Return what this machine, which gives the command, says."""
        return cls(os.path.abspath(os.environ[ROOT]) if os.environ.get(ROOT) else "", store)

    def local(self, path: str) -> Path:
        """Return the path on this machine of an image that is not staged."""
        own = os.environ.get(ROOT)
        if self.root and own and Path(path).is_relative_to(self.root):
            return Path(own, Path(path).relative_to(self.root))
        return Path(path)


def shots(images: Iterable[Path], *, most: int | None = None) -> list[Shot]:
    """Return images with their content, or of many only of ``most``, evenly spread.

    Raises:
        OSError: One cannot be read.
    """
    paths = [os.path.abspath(image) for image in images]
    every = 1 if most is None else max(-(-len(paths) // most), 1)

    def shot(number: int) -> Shot:
        path = Path(paths[number])
        sha256 = image_sha256(path) if number % every == 0 else ""
        return Shot(str(path), path.stat().st_size, sha256)

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(shot, range(len(paths))))


def stage(images: Iterable[Path], store: Store) -> None:
    """Put images into a store, those that are not there."""
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(store.put, dict.fromkeys(images)))


def place(
    wanted: Sequence[Shot], where: Whereabouts, folder: Path, cache: Path, machine: str
) -> list[Path]:
    """Return the files of images on this machine, all of them checked.

    Args:
        wanted: With their content.
        where: See `Whereabouts`.
        folder: Of the job; gets links to staged images.
        cache: Where this machine keeps staged images, on the same file system.
        machine: Its name, for messages.

    Raises:
        DataError: An image is not there, or another one than on the machine of the command.
    """
    if where.store is not None:
        return _fetched(wanted, Store(where.store, STAGED), folder, cache)
    require_same(wanted, where, machine)
    return [where.local(shot.path) for shot in wanted]


def require_same(wanted: Sequence[Shot], where: Whereabouts, machine: str) -> None:
    """Refuse images that are not on this machine, or are others.

    Raises:
        DataError: With their number, and the first of them.
    """

    def wrong(shot: Shot) -> str:
        path = where.local(shot.path)
        try:
            if path.stat().st_size != shot.size:
                return "has another size"
            same = not shot.sha256 or image_sha256(path) == shot.sha256
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        return "" if same else "has another content"

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(wrong, wanted))
    bad = [(shot, why) for shot, why in zip(wanted, found, strict=True) if why]
    if bad:
        first, why = bad[0]
        raise DataError(
            f"{len(bad)} of {len(wanted)} images are not there as the labels' reading found them; "
            f"the first {why}",
            where=f"node {machine}: {where.local(first.path)}",
            remedy=f"copy or mount the same data there, set {ROOT} here and on each node if its "
            "folder differs, or have them sent: --stage-data with --store",
        )


# ---- staged images -------------------------------------------------------------------------------


def _fetched(wanted: Sequence[Shot], store: Store, folder: Path, cache: Path) -> list[Path]:
    """Link images into ``folder``, and fetch what this machine has not yet."""
    from filelock import FileLock

    links = folder / "images"
    links.mkdir()
    cache.mkdir(exist_ok=True)
    targets = [links / f"{n:07d}{Path(s.path).suffix}" for n, s in enumerate(wanted)]

    def link(pair: tuple[Shot, Path]) -> bool:
        kept = cache / pair[0].sha256
        try:
            os.link(kept, pair[1])
            os.utime(kept)
        except FileNotFoundError:
            return False
        return True

    def fetch(pair: tuple[Shot, Path]) -> None:
        store.get(pair[0].sha256, pair[1])
        with contextlib.suppress(FileExistsError):
            os.link(pair[1], cache / pair[0].sha256)

    def missing(pairs: list[tuple[Shot, Path]]) -> list[tuple[Shot, Path]]:
        return [pair for pair, there in zip(pairs, pool.map(link, pairs), strict=True) if not there]

    with ThreadPoolExecutor(_THREADS) as pool:
        rest = missing(list(zip(wanted, targets, strict=True)))
        if rest:
            with FileLock(cache / ".lock"):  # who comes second finds them
                list(pool.map(fetch, missing(rest)))
                _bound(cache, _limit())
    return targets


def _limit() -> int:
    """Return how many bytes of staged images this machine keeps.

    Raises:
        ConfigError: What its variable says is no number.
    """
    text = os.environ.get(CACHE, str(CACHE_GB))
    try:
        return max(int(float(text) * 1e9), 0)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"expected gigabytes, got '{text[:40]}'", where=CACHE, remedy=f"such as {CACHE_GB:g}"
        ) from None


def _bound(cache: Path, limit: int) -> None:
    """Take out what was used longest ago; jobs keep their links."""
    found = [(path, path.stat()) for path in cache.iterdir() if len(path.name) == 64]
    size = sum(about.st_size for _, about in found)
    for path, about in sorted(found, key=lambda pair: pair[1].st_mtime):
        if size <= limit:
            return
        path.unlink(missing_ok=True)
        size -= about.st_size
