"""The families, as data; adding one adds a folder and a row."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from duet.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from duet.families.protocol import Family, RoleRules


@dataclass(frozen=True)
class FamilyRow:
    """One row of the table.

    Attributes:
        module: Module that holds an object named `FAMILY`, imported on use.
        roles: Module that is a `RoleRules`; importing it loads no engine.
        summary: One line for people.
        licence: SPDX identifier of the engine, stamped into every file.
    """

    module: str
    roles: str
    summary: str
    licence: str


FAMILIES: Mapping[str, FamilyRow] = MappingProxyType(
    {
        "yolo": FamilyRow(
            "duet.families.yolo.adapter",
            "duet.families.yolo.roles",
            "Ultralytics YOLO detectors with one Detect head (v8, v9, 11, 12)",
            "AGPL-3.0-or-later",
        ),
    }
)


def resolve_family(name: str) -> Family:
    """Import and return a family.

    Raises:
        ConfigError: No such family; with the nearest name.
    """
    return cast("Family", importlib.import_module(_row(name).module).FAMILY)


def resolve_roles(name: str) -> RoleRules:
    """Import and return what a family knows about its tensors, without its engine.

    Raises:
        ConfigError: No such family; with the nearest name.
    """
    return cast("RoleRules", importlib.import_module(_row(name).roles))


def _row(name: str) -> FamilyRow:
    row = FAMILIES.get(name)
    if row is None:
        raise ConfigError(
            f"unknown detector family '{name}'{did_you_mean(name, FAMILIES)}",
            remedy=f"known families: {', '.join(FAMILIES)}",
        )
    return row
