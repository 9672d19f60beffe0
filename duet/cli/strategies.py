"""`duet strategies`: how increments can be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duet.cli.common import emit, json_option
from duet.cli.names import strategies as names

EPILOG = """\b
Examples:
  duet strategies
  duet strategies duet-plus > mine.yaml
  duet strategies duet-plus --json
"""


@click.command("strategies", epilog=EPILOG)
@click.argument("name", required=False, shell_complete=names)
@json_option
def strategies(name: str | None, as_json: bool) -> None:
    """List the shipped ways to learn increments, or print one of them as YAML."""
    from duet.shipped import shipped
    from duet.training.config import load_strategy

    folder = shipped("configs", "strategy")
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name is not None:
        found = load_strategy(name, folder=folder)
        text = files.get(name, Path(name)).read_text("utf-8").rstrip()
        emit({"schema": 1, **found.model_dump(mode="json")}, as_json, lambda _: text)
        return
    shown = [load_strategy(stem, folder=folder) for stem in files]
    rows: list[dict[str, Any]] = [{"name": one.name, "title": one.title} for one in shown]
    result = {"schema": 1, "strategies": rows}
    emit(result, as_json, lambda seen: "\n".join(map(_line, seen["strategies"])))


def _line(row: dict[str, Any]) -> str:
    return f"{row['name']:<16} {row['title']}"
