"""The families, as data; packages of others add theirs by an entry point."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from duet.errors import ConfigError, MissingExtraError, ModelError
from duet.families.row import FamilyRow
from duet.registry import Table

if TYPE_CHECKING:
    from duet.families.family import Family
    from duet.families.protocol import RoleRules
    from duet.increments.state import HeadForm


# A class of a DETR is one row in each class layer: it has no tower of its own.
_ROWS: Mapping[str, HeadForm] = {"rows": "rows", "towers": "rows", "parallel": "parallel"}

_COMPILER = "torch._dynamo"  # which every optimizer imports
_ENGINE = (_COMPILER, "albumentations", "torchvision")

_ELSEWHERE = (
    "; a package that brings another must be installed, or lie on PYTHONPATH, wherever its "
    "detectors are used"
)

FAMILIES: Mapping[str, FamilyRow] = MappingProxyType(
    {
        "yolo": FamilyRow(
            "duet.families.yolo.adapter",
            "duet.families.yolo.roles",
            "Ultralytics YOLO detectors: v8, v9, v10, 11, 12, 26",
            "AGPL-3.0-or-later",
            r"yolo(v?\d+)[nslmxtceb](6|-p2|-p6)?\.yaml",
            {"rows": "rows", "towers": "towers", "parallel": "parallel"},
            (".pt", ".pth"),
            fit="rectangle",
            leaves_out=True,
            trains_with=("duet.families.yolo.train", *_ENGINE),
            install="ultralytics==8.4.190",
        ),
        "rtdetr": FamilyRow(
            "duet.families.rtdetr.adapter",
            "duet.families.rtdetr.roles",
            "Ultralytics RT-DETR: l, x, ResNet, YOLOv8 backbones, and a tiny one of duet",
            "AGPL-3.0-or-later",
            r"rtdetr-[\w]+\.yaml|yolov8[nslmx]-rtdetr\.yaml",
            _ROWS,
            (".pt", ".pth"),
            trains_with=("duet.families.rtdetr.train", *_ENGINE),
            install="ultralytics==8.4.190",
        ),
        "dfine": FamilyRow(
            "duet.families.dfine.adapter",
            "duet.families.dfine.roles",
            "D-FINE of Hugging Face transformers (pip install 'duet-detect[dfine]')",
            "Apache-2.0",
            r"dfine-\w+",
            {"rows": "rows", "towers": "rows"},
            ("config.json",),
            trains_with=("duet.families.dfine.train", _COMPILER),
            install="duet-detect[dfine]",
        ),
    }
)


def row_of(name: str) -> FamilyRow:
    """Return what is known of a family before its engine is loaded.

    Raises:
        ConfigError: No such family; with the nearest name.
    """
    return FAMILIES[name] if name in FAMILIES else families().find(name)


def resolve_family(name: str) -> Family:
    """Import and return a family.

    Raises:
        ConfigError: No such family; with the nearest name.
        MissingExtraError: Its engine is not installed, or too old.
    """
    row = row_of(name)
    try:
        return cast("Family", importlib.import_module(row.module).FAMILY)
    except ImportError as error:
        if (error.name or "").startswith("duet."):
            raise  # a fault of duet's own, which no package mends
        raise MissingExtraError(
            f"the detector family '{name}' does not load: {error}",
            remedy=f"pip install '{row.install}'" if row.install else "install what it needs",
        ) from error


def resolve_roles(name: str) -> RoleRules:
    """Import and return what a family knows about its tensors, without its engine.

    Raises:
        ConfigError: No such family; with the nearest name.
    """
    return cast("RoleRules", importlib.import_module(row_of(name).roles))


def family_of(architecture: str) -> str:
    """Return the family of an architecture, by its name.

    Raises:
        ModelError: No family has such an architecture.
    """
    for name, row in families().items():
        if re.fullmatch(row.architectures, architecture):
            return name
    raise ModelError(
        f"no detector family has an architecture '{architecture}'",
        remedy="for example yolo11n.yaml, yolo26s.yaml, rtdetr-l.yaml or dfine-tiny",
    )


def class_rows(rules: RoleRules, head: HeadForm, names: Iterable[str]) -> frozenset[str]:
    """Return the tensors of a head part that hold one row per class: under `rows` all of them.

    Args:
        rules: Of the family.
        head: Head form.
        names: Tensors of a head part.
    """
    if head == "rows":
        return frozenset(names)
    return frozenset(name for name in names if rules.CLASS_ROWS.match(name))


def families() -> Table[FamilyRow]:
    """Return all families: duet's own, and those of installed packages.

    A package offers a family as an entry point of the group `duet.families` that names a
    `FamilyRow`; see docs/new_family.md. A name of duet's own cannot be taken.
    """
    found = {**FAMILIES}
    for entry in entry_points(group="duet.families"):
        if entry.name not in found:
            found[entry.name] = _offered(entry)
    return Table("detector family", "families", found, hint=_ELSEWHERE)


def _offered(entry: EntryPoint) -> FamilyRow:
    """Load the row that an installed package offers."""
    where = f"{entry.value} (entry point '{entry.name}' of the group duet.families)"
    try:
        row = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"an installed package offers a detector family that does not load: {error}",
            where=where,
            remedy="repair or uninstall the package",
        ) from error
    if not isinstance(row, FamilyRow):
        raise ConfigError(
            f"the entry point names a {type(row).__name__}, expected a FamilyRow",
            where=where,
            remedy="see docs/new_family.md",
        )
    return row
