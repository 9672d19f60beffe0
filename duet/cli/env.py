"""`duet env`: what a report of a bug should say about this machine."""

from __future__ import annotations

from typing import Any

import click

from duet.cli.common import emit, json_option

EPILOG = """\b
Examples:
  duet env
  duet env --json > env.json
"""


@click.command("env", epilog=EPILOG)
@json_option
def env(as_json: bool) -> None:
    """Print versions, devices, processor, threads, extras and folders, for a report of a bug.

    Nothing is sent anywhere. Paths below your home begin with ~.
    """
    from duet.environment import environment

    emit(environment(), as_json, _text)


def _text(facts: dict[str, Any]) -> str:
    cpu, threads = facts["processor"], facts["threads"]
    features = ", ".join(cpu["features"]) or "not told by this system"
    asked = [f"{key}={value}" for key, value in threads.items() if key.isupper() and value]
    size = f"{cpu['cores']} cores, {cpu['memory_gb']:g} GB"
    counts = [f"{threads['torch']} of torch", f"{threads['between']} between operations", *asked]
    lines = [
        f"duet {facts['duet']}, Python {facts['python']}, {facts['system']}",
        f"processor  {cpu['model'] or cpu['machine']}, {size}; torch uses {cpu['torch_uses']}",
        f"           {features}",
        f"threads    {', '.join(counts)}",
    ]
    lines += [f"device     {_device(row)}" for row in facts["devices"]]
    lines.append(f"families   {', '.join(facts['families'])}")
    lines += [f"package    {_versions(facts['packages'])}"]
    for extra, packages in facts["extras"].items():
        here = "installed" if None not in packages.values() else "not installed"
        lines.append(f"extra      {extra}: {here} ({_versions(packages)})")
    lines += [f"folder     {name}: {path}" for name, path in facts["folders"].items()]
    return "\n".join(lines)


def _device(row: dict[str, Any]) -> str:
    if "model" not in row:
        return str(row["device"])
    about = f"{row['model']}, {row['memory_gb']:g} GB"
    return f"{row['device']}: {about}, compute {row['compute']}, CUDA {row['cuda']}"


def _versions(packages: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items())
