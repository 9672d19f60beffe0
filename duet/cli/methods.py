"""`duet methods`: how models can be merged."""

from __future__ import annotations

from typing import Any

import click

from duet.cli.common import emit, json_option
from duet.cli.names import merge_methods

EPILOG = """\b
Examples:
  duet methods
  duet methods duet --json
"""


@click.command("methods", epilog=EPILOG)
@click.argument("name", required=False, shell_complete=merge_methods)
@json_option
def methods(name: str | None, as_json: bool) -> None:
    """List the merge methods with their papers, or one of them with its parameters."""
    from duet.merging.table import METHODS, resolve

    if name is not None:
        row = _describe(resolve(name))
        emit(row, as_json, lambda _: _as_text(row))
        return
    rows = [_describe(method) for method in METHODS.values()]
    emit({"schema": 1, "methods": rows}, as_json, lambda _: "\n".join(_line(row) for row in rows))


def _describe(method: Any) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary,
        "reference": method.reference,
        "parameters": method.parameters(),
    }


def _line(row: dict[str, Any]) -> str:
    return f"{row['name']:<20} {row['summary']}\n{'':<20} {row['reference']}"


def _as_text(row: dict[str, Any]) -> str:
    lines = [_line(row)]
    for p in row["parameters"]:
        about = "; ".join(
            x for x in (p["range"], f"source: {p['source']}" if p["source"] else "") if x
        )
        lines.append(
            f"  {p['name']} = {p['default']}  {p['description']}" + (f" ({about})" if about else "")
        )
    return "\n".join(lines)
