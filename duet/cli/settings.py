"""`--set KEY=VALUE` and its grid form `--sweep KEY=V1,V2`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def parse_settings(words: Sequence[str], *, option: str = "--set") -> dict[str, Any]:
    """Read `KEY=VALUE` words; values are YAML.

    Raises:
        ConfigError: A word is not of that form.
    """
    from duet.errors import ConfigError
    from duet.text import clipped
    from duet.yamltree import parse_yaml, resolved

    parsed: dict[str, Any] = {}
    for item in words:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise ConfigError(f"expected KEY=VALUE, got '{item}'", where=option)
        try:
            parsed[key.strip()] = resolved(parse_yaml(value, where=option))
        except ConfigError as error:
            what = f"not a YAML value in '{clipped(item, 200)}': {error.what}"
            raise ConfigError(what, where=option) from None
    return parsed
