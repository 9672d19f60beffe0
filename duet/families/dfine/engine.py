"""Tame transformers before it is imported: no network, no telemetry, no progress bars.

It reads its switches at import time. `prepare` must run before the first `import transformers` in
a process; every module of this folder that needs the engine calls it first.
"""

from __future__ import annotations

import functools
import os

from duet.errors import MissingExtraError


@functools.cache
def prepare() -> None:
    """Set the environment, then import the engine once and quieten it.

    Raises:
        MissingExtraError: transformers, or its D-FINE, is not installed.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import transformers.utils.logging as logging
        from transformers.models import d_fine  # noqa: F401  (older versions have none)
    except ImportError as error:
        raise MissingExtraError(
            f"the dfine family needs transformers ({error})",
            remedy="pip install 'duet-detect[dfine]'",
        ) from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
