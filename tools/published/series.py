"""The shipped series whose data are there, copied beside the data."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from duet.files import write_text
from duet.series.reader import read_config
from duet.shipped import shipped
from published.sets import Group

_ROOT = re.compile(r"^root: .*$", re.MULTILINE)
_TRAIN = re.compile(r"^(  train: ).*$", re.MULTILINE)
_DATA = re.compile(r"^# Data: .*\n")


def usable_series(
    group: Group, domains: Collection[str]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Return the names of the series whose domains are all there, and what the others lack."""
    usable: list[str] = []
    lacking: dict[str, tuple[str, ...]] = {}
    for path in sorted(shipped("configs", "series").glob(f"{group.name}-*.yaml")):
        needed = dict.fromkeys(item.domain for item in read_config(path).increments)
        absent = tuple(domain for domain in needed if domain not in domains)
        if absent:
            lacking[path.stem] = absent
        else:
            usable.append(path.stem)
    return tuple(usable), lacking


def write_series(root: Path, names: Collection[str]) -> None:
    """Copy series and their schedules into ``root``, with paths that hold there."""
    for name in names:
        path = shipped("configs", "series", f"{name}.yaml")
        defaults = read_config(path).defaults
        text = _ROOT.sub("root: .", _DATA.sub("", path.read_text(encoding="utf-8")), count=1)
        if defaults.train is not None:
            schedule = (path.parent / defaults.train).resolve()
            text = _TRAIN.sub(rf"\g<1>{schedule.name}", text, count=1)
            write_text(root / schedule.name, schedule.read_text(encoding="utf-8"))
        write_text(root / path.name, text)
