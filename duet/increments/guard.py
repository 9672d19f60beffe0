"""The one guarded door for `.pt` files, which are pickles and therefore programs.

Own files are safetensors, but for the checkpoint of an unfinished training, which
`duet.training.checkpoint` reads back as plain tensors (`weights_only`). Nothing else unpickles.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch

from duet.errors import MissingExtraError, ModelError

# Modules whose classes Ultralytics' restricted loader may accept (it holds the exact list).
_PLAUSIBLE = ("torch.", "ultralytics.", "numpy.", "pathlib.", "torchvision.transforms.")
_PLAUSIBLE_NAMES = ("builtins.getattr", "numpy.dtype")


def load_pt(path: Path, *, trust: bool = False) -> Any:
    """Read a `.pt` file without running code from it.

    First as plain tensors and containers (`torch.load(weights_only=True)`), then with Ultralytics'
    list of known model classes (`torch_safe_load(safe_only=True)`). Anything else is refused.

    Args:
        path: A local `.pt` or `.pth` file.
        trust: **Dangerous.** True unpickles the file without any check: whoever made it can run
            any program with your rights, silently, while it still loads like a model. Only for
            files that you made yourself on this machine. Never set it for a download, and never
            because an error message of another tool told you to.

    Returns:
        The object in the file: a state dict or a checkpoint dict; modules are in evaluation
        precision as stored (Ultralytics stores float16: never subtract those).

    Raises:
        ModelError: The file is missing, damaged, or wants a class or function that is not
            allowed; the error names it.
        MissingExtraError: The file holds Ultralytics modules and Ultralytics is not installed.
    """
    if not path.is_file():
        raise ModelError("no such file", where=str(path), remedy="check the path")
    if path.suffix not in (".pt", ".pth"):
        raise ModelError(
            f"expected a .pt or .pth file, got '{path.suffix}'",
            where=str(path),
            remedy="duet's own weights are .safetensors files and have loaders of their own",
        )
    if trust:
        _prepare_engine()
        try:
            return _read(path, lambda: torch.load(path, map_location="cpu", weights_only=False))
        except pickle.UnpicklingError as error:
            raise _damage(path, str(error)) from None
    try:
        return _read(path, lambda: torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        refused, detail = _refused_globals(path, error), _reason(error)
    # A file that wants anything beyond model classes is refused before an engine is even imported.
    foreign = [name for name in refused if not _plausible(name)]
    if foreign or not refused:
        raise _refusal(path, foreign, detail=detail)
    return _load_ultralytics(path, refused)


def _read(path: Path, load: Callable[[], Any]) -> Any:
    """Call ``load``; a damaged file becomes a `ModelError`, a refused global passes through."""
    try:
        return load()
    except pickle.UnpicklingError:
        if not _looks_like_checkpoint(path):
            raise _damage(path, "it is not a torch file") from None
        raise
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError) as error:
        raise _damage(path, f"{type(error).__name__}: {error}") from None
    except ImportError as error:
        raise ModelError(f"the file needs a module: {error}", where=str(path)) from None


def _load_ultralytics(path: Path, refused: list[str]) -> Any:
    _prepare_engine()
    try:
        tasks = importlib.import_module("ultralytics.nn.tasks")
    except ImportError:
        raise MissingExtraError(
            f"the file holds Ultralytics modules (such as {refused[0]})",
            where=str(path),
            remedy="install ultralytics, or convert the file to safetensors where it is installed",
        ) from None
    # Without this function Ultralytics falls back to an unrestricted load, silently.
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        raise ModelError(
            f"torch {torch.__version__} has no restricted loading", remedy="upgrade to torch 2.6"
        )
    with plain_name(path) as safe:
        try:
            checkpoint, _ = tasks.torch_safe_load(str(safe), safe_only=True)
        except Exception as error:  # the loader's errors are of many types and all mean "refused"
            named = _named_in(error) or _named_in(error.__cause__)
            raise _refusal(path, [named] if named else refused, detail=_reason(error)) from None
    return checkpoint


@contextlib.contextmanager
def plain_name(path: Path) -> Iterator[Path]:
    """Yield another name of the file, which Ultralytics takes for nothing but a file.

    It drops quotes from a path, reads ``yolov5n.pt`` as ``yolov5nu.pt``, and where no file has the
    name that results, it downloads official weights and opens those instead.
    """
    with tempfile.TemporaryDirectory(prefix="duet-") as folder:
        link = Path(folder).resolve() / "checkpoint.pt"
        if "'" in str(link) or str(link) != str(link).strip():
            raise ModelError(
                "the folder for temporary files has a quote in its name",
                where=folder,
                remedy="set TMPDIR to a folder without",
            )
        link.symlink_to(path.resolve())
        yield link


def _prepare_engine() -> None:
    """Close the side doors of Ultralytics (auto-install, network) before its first import."""
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
    os.environ["YOLO_AUTOINSTALL"] = "0"
    os.environ.setdefault("YOLO_OFFLINE", "1")
    try:
        # By name: this layer must not depend on a detector family, only use it where it exists.
        engine = importlib.import_module("duet.families.ultralytics.engine")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("duet"):
            raise
        return
    engine.prepare()


def _looks_like_checkpoint(path: Path) -> bool:
    """Tell a pickle (zip archive or legacy stream) from any other file renamed to .pt."""
    with path.open("rb") as stream:
        start = stream.read(2)
    return zipfile.is_zipfile(path) or (start[:1] == b"\x80" and start[1:] in b"\x02\x03\x04\x05")


def _refused_globals(path: Path, error: Exception) -> list[str]:
    """Return the classes and functions that the file wants and plain loading refuses."""
    scan = cast(
        "Callable[[str], list[str]] | None",
        getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None),
    )
    try:
        found = sorted(set(scan(str(path)))) if scan is not None else []
    except Exception:  # legacy archives cannot be scanned; a hostile one may break the scanner
        found = []
    named = _named_in(error)
    return found or ([named] if named else [])


def _named_in(error: BaseException | None) -> str | None:
    """Return the global that an unpickling error names, such as `posix.system`."""
    match = re.search(r"GLOBAL ([\w.]+)|class ([\w.]+\.[\w.]+)", str(error or ""))
    return (match.group(1) or match.group(2)).rstrip(".") if match else None


def _reason(error: BaseException) -> str:
    """Return torch's reason without its advice, which is to switch the protection off."""
    match = re.search(r"WeightsUnpickler error: ([^\n]*)", str(error))
    return match.group(1).strip() if match else " ".join(str(error).split())[:200]


def _plausible(name: str) -> bool:
    return name.startswith(_PLAUSIBLE) or name in _PLAUSIBLE_NAMES


def _refusal(path: Path, names: list[str], *, detail: str = "") -> ModelError:
    wanted = ", ".join(names) if names else "something that weights do not need"
    return ModelError(
        f"refused: the file wants to call {wanted}, which is not on the list of known model "
        f"classes{f' ({detail})' if detail and not names else ''}",
        where=str(path),
        remedy="a .pt file is a program; ask its author for a safetensors file or a plain state "
        "dict. Nothing of it was run",
    )


def _damage(path: Path, detail: str) -> ModelError:
    return ModelError(
        f"not a readable checkpoint: {' '.join(detail.split())[:300]}",
        where=str(path),
        remedy="the file is empty, truncated or damaged: download or export it again",
    )
