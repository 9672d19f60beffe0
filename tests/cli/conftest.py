"""The tiny series and its finished run, which the tests of commands share."""

from __future__ import annotations

from pathlib import Path

import factories_run as make
import pytest


@pytest.fixture(scope="session")
def series(base: Path) -> make.Tiny:
    return make.tiny(base)


@pytest.fixture(scope="session")
def run(base: Path) -> Path:
    return make.finished_run(base)[0]
