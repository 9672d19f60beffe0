"""Where a network computes: one language for schedules, options and Python."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import Literal

from duet.errors import ConfigError

SPELLINGS = "cpu, mps, cuda, the number of a GPU (0 or cuda:0), or several (0,1)"


@dataclass(frozen=True)
class Device:
    """A processor, or several GPUs.

    Attributes:
        kind: Of hardware.
        numbers: Of the GPUs; empty for the other kinds.
    """

    kind: Literal["cpu", "cuda", "mps"]
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return the name that the engines know: ``cpu``, ``mps``, ``0`` or ``0,1``."""
        return ",".join(map(str, self.numbers)) if self.kind == "cuda" else self.kind

    @property
    def torch_name(self) -> str:
        """Torch's name of it; of several GPUs, of the first."""
        return f"cuda:{self.numbers[0]}" if self.kind == "cuda" else self.kind

    def single(self, who: str) -> Device:
        """Return the device itself if it is one.

        Args:
            who: Needs one, for the message: ``"a detector runs"``.

        Raises:
            ConfigError: It is several GPUs.
        """
        if len(self.numbers) > 1:
            raise ConfigError(
                f"{who} on one device, got '{self}'", where="device",
                remedy=f"use cpu, mps, or one GPU such as {self.numbers[0]}",
            )  # fmt: skip
        return self


def parse_device(text: str) -> Device:
    """Return the device that a name means; nobody looks whether it is there.

    Raises:
        ConfigError: It is no name of a device.
    """
    words = [word.strip().lower() for word in str(text).split(",")]
    if words in (["cpu"], ["mps"]):
        return Device("cpu" if words == ["cpu"] else "mps")
    if words == ["cuda"]:
        return Device("cuda", (0,))
    found = [re.fullmatch(r"(?:cuda:)?(\d{1,3})", word) for word in words]
    numbers = tuple(int(match[1]) for match in found if match is not None)
    if len(numbers) == len(words) == len(set(numbers)):
        return Device("cuda", numbers)
    raise ConfigError(
        f"'{str(text)[:40]}' is no device", where="device", remedy=f"expected {SPELLINGS}"
    )


def require_device(device: Device) -> Device:
    """Return the device if this machine has it and torch can use it.

    Raises:
        ConfigError: It has not; says what there is.
    """
    import torch

    if device.kind == "cpu":
        return device
    metal, count = torch.backends.mps.is_available(), torch.cuda.device_count()
    if device.kind == "mps" and metal:
        return device
    missing = [f"cuda:{number}" for number in device.numbers if number >= count]
    if device.kind == "cuda" and not missing and torch.cuda.is_available():
        return device
    if not metal and not (count and torch.cuda.is_available()):
        what = "this machine has no GPU that torch can use (CUDA or MPS)"
    elif device.kind == "mps":
        what = "this machine has no MPS"
    else:
        what = f"there is no {', '.join(missing)}: this machine has {count} CUDA GPU(s)"
    got = ",".join(f"cuda:{number}" for number in device.numbers) or device.kind
    raise ConfigError(f"{what}, got device '{got}'", where="device", remedy="cpu works everywhere")


def at_hand(text: str) -> str:
    """Return torch's name of a device if this machine has it, else ``cpu``.

    For what a machine looks at by itself whose trainings are done elsewhere.
    """
    device = parse_device(text)
    try:
        return require_device(device).torch_name
    except ConfigError:
        return "cpu"


def one_place(text: str, who: str = "a detector runs") -> str:
    """Return torch's name of the one device of this machine that a name means.

    Args:
        text: In the language of `parse_device`.
        who: Needs one, for the message.

    Raises:
        ConfigError: It is no name of a device, several GPUs, or not there.
    """
    return require_device(parse_device(text).single(who)).torch_name


def threads() -> int:
    """Return how many threads a network may use: torch's number, or what it would be.

    Torch is asked only if it is there already: it takes a second to load.
    """
    if "torch" in sys.modules:
        import torch

        return torch.get_num_threads()
    told = (os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    chosen = next((int(text) for text in told if text.isdecimal() and int(text) > 0), None)
    if chosen is not None:
        return chosen
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, psutil.cpu_count(logical=False) or 1_000_000))
