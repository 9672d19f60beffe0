"""The visual domains: one file each, found through this table.

To add a domain, write ``duet/emoji/domains/NAME.py`` with a module constant ``DOMAIN`` and add
its row here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from duet.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from duet.emoji.domains.base import Domain

DOMAINS: Mapping[str, str] = {
    "flat": "Twemoji with soft shadows on photographs",
    "comic": "OpenMoji and inked Twemoji on halftone, ray and panel backgrounds",
    "watercolor": "painted Twemoji on washes and paper",
    "sketch": "pencil lines on paper",
    "night": "flat, at night: little blue light, street lamps, sensor noise",
    "fog": "flat, in fog",
}
"""Name of each domain of the series and what it looks like."""

PRETRAINING = "mixed"
"""The domain of `build_pretraining`; it holds other classes and is no part of the series."""


def resolve(name: str) -> Domain:
    """Import and return a domain.

    Raises:
        ConfigError: There is no such domain.
    """
    if name not in DOMAINS and name != PRETRAINING:
        raise ConfigError(
            f"unknown domain '{name}'{did_you_mean(name, DOMAINS)}",
            remedy=f"known domains: {', '.join(DOMAINS)}",
        )
    domain: Domain = importlib.import_module(f"duet.emoji.domains.{name}").DOMAIN
    return domain
