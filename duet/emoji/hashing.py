"""One hash for the content of a domain folder."""

from __future__ import annotations

import hashlib
from pathlib import Path


def domain_sha256(folder: Path) -> str:
    """Return the SHA-256 of a domain's data.yaml, images and labels with their relative names.

    Other files (a trainer's ``labels/train.cache``, say) do not count.
    """
    files = [folder / "data.yaml", *folder.glob("images/*/*.jpg"), *folder.glob("labels/*/*.txt")]
    digest = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
