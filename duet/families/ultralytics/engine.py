"""Tame the engine before it is imported: no network, no installs, no settings of the user's.

Ultralytics reads its switches at import time, looks for a font on GitHub, counts installs and
auto-loads experiment trackers (engine facts, sections 4 and 8). `prepare` must run before the
first `import ultralytics` in a process; every module of this folder calls it first.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import sys
from pathlib import Path

from duet.errors import MissingExtraError
from duet.files import atomic_path
from duet.ownfolder import own_folder

FONT_NAMES = ("Arial.ttf", "Arial.Unicode.ttf")


@functools.cache
def prepare() -> None:
    """Set the environment, then import the engine once and quieten it.

    Raises:
        MissingExtraError: Ultralytics is not installed.
    """
    folder = own_folder("engine", "Ultralytics")
    os.environ["YOLO_CONFIG_DIR"] = str(folder)
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["YOLO_VERBOSE"] = "false"
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    _place_fonts(folder / "Ultralytics")
    try:
        import ultralytics.utils as utils
    except ImportError as error:
        raise MissingExtraError(
            f"the YOLO family needs Ultralytics ({error})",
            remedy="pip install 'ultralytics==8.4.190'",
        ) from error
    utils.LOGGER.setLevel(logging.ERROR)
    trackers = ("clearml", "comet", "dvc", "mlflow", "neptune", "raytune", "tensorboard", "wandb")
    wanted: dict[str, object] = {name: False for name in trackers if name in utils.SETTINGS}
    wanted["sync"] = False  # analytics events and crash reports
    if any(utils.SETTINGS.get(name) is not value for name, value in wanted.items()):
        utils.SETTINGS.update(wanted)


def set_threads(count: int) -> None:
    """Use ``count`` CPU threads (0 = all cores), and make the engine keep to it.

    `select_device('cpu')` resets torch to min(8, cores − 1) threads: 1 on a two-core machine.
    """
    prepare()
    import torch
    from ultralytics.utils import torch_utils

    wanted = count or os.cpu_count() or 1
    torch_utils.NUM_THREADS = wanted
    torch.set_num_threads(wanted)


def _place_fonts(folder: Path) -> None:
    """Put matplotlib's own font where the engine looks before it asks GitHub."""
    missing = [name for name in FONT_NAMES if not (folder / name).is_file()]
    if not missing:
        return
    import importlib.util

    spec = importlib.util.find_spec("matplotlib")  # not imported: it is slow to load
    if spec is None or spec.origin is None:
        print("duet: matplotlib is missing, the engine may look for a font", file=sys.stderr)
        return
    font = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    for name in missing:
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(font, temporary)
