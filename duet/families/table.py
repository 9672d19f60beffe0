"""The families, as data; adding one adds a folder and a row."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from duet.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from duet.families.protocol import Family


@dataclass(frozen=True)
class FamilyRow:
    """One row of the table.

    Attributes:
        module: Module that holds an object named `FAMILY`, imported on use.
        summary: One line for people.
        licence: SPDX identifier of the engine, stamped into every file.
    """

    module: str
    summary: str
    licence: str


FAMILIES: Mapping[str, FamilyRow] = MappingProxyType(
    {
        "yolo": FamilyRow(
            "duet.families.yolo.adapter",
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
    row = FAMILIES.get(name)
    if row is None:
        raise ConfigError(
            f"unknown detector family '{name}'{did_you_mean(name, FAMILIES)}",
            remedy=f"known families: {', '.join(FAMILIES)}",
        )
    return cast("Family", importlib.import_module(row.module).FAMILY)
