"""What a report of a bug should say about the machine: versions, device, processor, folders."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

PACKAGE = "duet-detect"

_FEATURES = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd",
    "asimddp", "bf16", "sve",
)  # fmt: skip
"""Flags of a processor that decide which kernels run, and so speed and the last bits."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def environment() -> dict[str, Any]:
    """Return JSON-ready facts about this machine; nothing is downloaded or written.

    Paths below the user's home begin with ``~``: what is pasted somewhere names nobody.
    """
    from duet.families.table import families

    packages, extras = _packages()
    return {
        "schema": 1,
        "duet": importlib.metadata.version(PACKAGE),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
        "processor": _processor(),
        "devices": _devices(),
        "threads": _threads(),
        "packages": packages,
        "extras": extras,
        "families": sorted(families()),
        "folders": _folders(),
    }


def _packages() -> tuple[dict[str, str | None], dict[str, dict[str, str | None]]]:
    """Return versions of what duet needs, and of what each extra brings; None: not installed."""
    core: dict[str, str | None] = {}
    extras: dict[str, dict[str, str | None]] = {}
    for line in importlib.metadata.requires(PACKAGE) or ():
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)", line)
        if name is None or name[0] == PACKAGE or (extra and extra[1] == "dev"):
            continue
        found = extras.setdefault(extra[1], {}) if extra else core
        found[name[0]] = _version(name[0])
    return core, extras


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> dict[str, Any]:
    import psutil
    import torch

    model, features = platform.processor(), list[str]()
    about = Path("/proc/cpuinfo")  # other systems keep it elsewhere, and torch's word must do
    if about.is_file():
        lines = (line.partition(":") for line in about.read_text(errors="replace").splitlines())
        known = {key.strip().lower(): value.strip() for key, _, value in lines}
        model = known.get("model name", model)
        flags = (known.get("flags") or known.get("features") or "").split()
        features = [flag for flag in _FEATURES if flag in flags]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": model,
        "machine": platform.machine(),
        "cores": usable,
        "features": features,
        "torch_uses": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }


def _devices() -> list[dict[str, Any]]:
    """Return what `--device` can name here."""
    import torch

    found: list[dict[str, Any]] = [{"device": "cpu"}]
    if torch.backends.mps.is_available():
        found.append({"device": "mps"})
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        found.append(
            {
                "device": f"cuda:{number}",
                "model": about.name,
                "memory_gb": round(about.total_memory / 1e9, 1),
                "compute": f"{about.major}.{about.minor}",
                "cuda": torch.version.cuda or f"hip {torch.version.hip}",
            }
        )
    return found


def _threads() -> dict[str, Any]:
    import torch

    asked = {name: os.environ.get(name) for name in _THREADS}
    return {"torch": torch.get_num_threads(), "between": torch.get_num_interop_threads(), **asked}


def _folders() -> dict[str, str]:
    from platformdirs import user_cache_path

    from duet.shipped import shipped
    from duet.weights import cache_folder

    places = {
        "package": Path(__file__).resolve().parent,
        "shipped": shipped(),
        "cache": user_cache_path("duet"),
        "weights": cache_folder(),
    }
    return {name: _private(path) for name, path in places.items()}


def _private(path: Path) -> str:
    try:
        return f"~/{path.relative_to(Path.home()).as_posix()}"
    except (ValueError, RuntimeError):  # not below it, or there is none
        return str(path)
