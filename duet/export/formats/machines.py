"""What a machine must be to write a format, told before any work."""

from __future__ import annotations

import platform
import sys

from duet.errors import ConfigError

NEWEST_NUMPY = "2.3.5"
"""coremltools 9 fails with numpy 2.4 (apple/coremltools issue 2633)."""


def require_tensorrt() -> None:
    """Refuse a machine without an NVIDIA GPU.

    Raises:
        ConfigError: Torch finds none.
    """
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            "a TensorRT engine is built on the NVIDIA GPU that will run it, and torch finds none",
            remedy="export there; or --to onnx, and build the engine there with trtexec",
        )


def require_coreml() -> None:
    """Refuse Windows and a numpy that is too new.

    Raises:
        ConfigError: It is one of the two.
    """
    import numpy
    from numpy.lib import NumpyVersion

    if sys.platform == "win32":
        raise ConfigError("Core ML packages can be written on macOS and Linux only")
    if NumpyVersion(numpy.__version__) > NEWEST_NUMPY:
        raise ConfigError(
            f"coremltools needs numpy up to {NEWEST_NUMPY}, but got {numpy.__version__}",
            remedy=f'pip install "numpy<={NEWEST_NUMPY}", best in an environment of its own',
        )


def require_litert() -> None:
    """Refuse machines that LiteRT's converter does not run on.

    Raises:
        ConfigError: Another system or processor.
    """
    linux = sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
    if sys.platform != "darwin" and not linux:
        raise ConfigError(
            "LiteRT files can be written on macOS and on Linux x86-64 only, but this is "
            f"{sys.platform} on {platform.machine()}"
        )
