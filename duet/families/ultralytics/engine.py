"""Tame the engine, whoever imports it: no network, no installs, no settings of the user's.

Ultralytics reads its switches while it is imported, looks for a font on GitHub, counts installs and
loads the clients of experiment trackers. `duet.imports` has `tame` run around its import, once any
module of this folder, or of a family on this engine, is imported.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from duet import imports
from duet.files import atomic_path
from duet.ownfolder import own_folder

FONT_NAMES = ("Arial.ttf", "Arial.Unicode.ttf")
TRACKERS = ("clearml", "comet", "dvc", "mlflow", "neptune", "raytune", "tensorboard", "wandb")


def tame(load: Callable[[], None]) -> None:
    """Set the environment, import the engine by ``load``, and quieten it."""
    folder = own_folder("engine", "Ultralytics")
    os.environ["YOLO_CONFIG_DIR"] = str(folder)
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["YOLO_VERBOSE"] = "false"
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    _place_fonts(folder / "Ultralytics")
    load()
    from ultralytics import utils

    utils.LOGGER.setLevel(logging.ERROR)
    wanted: dict[str, object] = {name: False for name in TRACKERS if name in utils.SETTINGS}
    wanted["sync"] = False  # analytics events and crash reports
    if any(utils.SETTINGS.get(name) is not value for name, value in wanted.items()):
        utils.SETTINGS.update(wanted)


def set_threads(count: int) -> None:
    """Use ``count`` CPU threads (0 = all cores), and make the engine keep to it.

    `select_device('cpu')` resets torch to min(8, cores − 1) threads: 1 on a two-core machine.
    """
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


imports.tame("ultralytics", tame)
