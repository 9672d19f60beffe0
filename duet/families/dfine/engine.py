"""Tame transformers, whoever imports it: no network, no telemetry, no progress bars.

It reads its switches while it is imported. `duet.imports` has `tame` run around its import, once
any module of this folder is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from duet import imports


def tame(load: Callable[[], None]) -> None:
    """Set the environment, import the engine by ``load``, and quieten it."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    load()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


imports.tame("transformers", tame)
