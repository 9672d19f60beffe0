"""The engines of the families are tamed whoever imports them, and only where one is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TAMED = """
import os, sys
assert os.environ["YOLO_OFFLINE"] == "true"
from ultralytics import utils
assert utils.LOGGER.level == 40
assert utils.SETTINGS["sync"] is False
assert utils.USER_CONFIG_DIR.parent.name == "engine", utils.USER_CONFIG_DIR
"""
HUB = """
import os
assert os.environ["HF_HUB_OFFLINE"] == "1"
from transformers.utils import logging
assert logging.get_verbosity() == logging.ERROR
"""


def run(code: str, tmp_path: Path) -> str:
    """Run a program in a process of its own, in an empty folder; return what it said."""
    # Without what a tamed engine left in the environment of this process.
    names = ("YOLO_", "ULTRALYTICS_", "HF_", "TRANSFORMERS_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        # Modules whose own first import is the engine's.
        pytest.param(f"import duet.families.yolo.heads\n{TAMED}", id="yolo"),
        pytest.param(f"import duet.families.rtdetr.heads\n{TAMED}", id="rtdetr"),
        pytest.param(f"import duet.families.dfine.build\n{HUB}", id="dfine"),
        # What was quiet by itself would go unnoticed if nothing were changed.
        pytest.param(f"import duet.families.yolo.roles, ultralytics\n{TAMED}", id="by others"),
    ],
)
def test_an_engine_is_tamed_before_its_first_line(code: str, tmp_path: Path) -> None:
    run(code, tmp_path)


@pytest.mark.slow
def test_an_engine_that_is_there_already_is_tamed_at_once(tmp_path: Path) -> None:
    code = "import logging, ultralytics\nfrom ultralytics.utils import LOGGER, SETTINGS\n"
    code += "assert LOGGER.level != 40\nimport duet.families.yolo.roles\n"
    run(code + 'assert (LOGGER.level, SETTINGS["sync"]) == (40, False)', tmp_path)


@pytest.mark.slow
def test_roles_load_no_engine(tmp_path: Path) -> None:
    names = ("yolo", "rtdetr", "dfine")
    code = f"import sys; {'; '.join(f'import duet.families.{name}.roles' for name in names)}\n"
    assert (
        run(code + "print({'ultralytics', 'transformers'} & {*sys.modules})", tmp_path) == "set()"
    )


def test_a_missing_engine_is_named_with_what_installs_it(tmp_path: Path) -> None:
    code = """
import sys
from duet.errors import MissingExtraError
from duet.families.table import resolve_family
for name, engine in (("yolo", "ultralytics"), ("dfine", "transformers")):
    sys.modules[engine] = None
    try:
        resolve_family(name)
    except MissingExtraError as error:
        print(error.remedy, engine in error.what)
"""
    said = run(code, tmp_path).splitlines()
    assert said == [
        "pip install 'ultralytics==8.4.190' True",
        "pip install 'duet-detect[dfine]' True",
    ]
