"""The command behind tools/prepare_pascal.py and tools/prepare_weather.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duet.cli.common import (
    NAME_OR_PATH,
    PATH,
    StoppedError,
    emit,
    json_option,
    note,
    stages,
    stoppable,
    tell_leftovers,
)
from duet.errors import ConfigError, DuetError, did_you_mean
from duet.text import printable, shell_line

if TYPE_CHECKING:
    from duet.archives import Group, Prepared


def run_tool(command: click.Command, arguments: list[str]) -> int:
    """Run a command as a program of its own; return its exit code."""
    try:
        with stoppable():
            result = command.main(args=arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        wrong = ConfigError(
            error.format_message(), where=command.name, remedy=f"see `{command.name} --help`"
        )
        return _fail(wrong, arguments)
    except (KeyboardInterrupt, click.Abort):
        again = StoppedError("interrupted: nothing was written", remedy="give it again")
        return _fail(again, arguments)
    except DuetError as error:
        return _fail(error, arguments)


def _fail(error: DuetError, arguments: list[str]) -> int:
    as_json = "--json" in arguments
    note(json.dumps(error.as_dict()) if as_json else f"Error [{error.kind}]: {error}")
    return error.exit_code


def prepare_command(group: Group, help_text: str) -> click.Command:
    """Return the command that prepares the data sets of a group."""

    @click.command(f"prepare_{group.name}.py", help=help_text)
    @click.argument(
        "archives", nargs=-1, type=NAME_OR_PATH, required=True, metavar="[NAME=]ARCHIVE..."
    )
    @click.option("--out", type=PATH, required=True, help="Folder to make.")
    @click.option(
        "--difficult", type=click.Choice(["ignore", "drop", "keep"]), default="ignore",
        show_default=True, help="Objects marked difficult: ignored (as VOC does), left out, kept.",
    )  # fmt: skip
    @click.option(
        "--overlap",
        type=click.Choice(["refuse", "drop-from-train"]),
        default="refuse",
        show_default=True,
        help="Images listed for training and for evaluation.",
    )
    @click.option("--allow-counts", is_flag=True, help="Accept other counts than the published.")
    @click.option(
        "--split-seed",
        type=click.IntRange(min=0),
        help="Split data sets without an evaluation list, 70 to 30, by this seed [refuse].",
    )
    @click.option("--drop-name", "drop_names", multiple=True, help="Leave such objects out.")
    @click.option("--drop-broken-boxes", is_flag=True, help="Leave out unusable boxes and repeats.")
    @click.option("--dry-run", is_flag=True, help="Check archives and labels; write nothing.")
    @json_option
    def command(
        archives: tuple[str, ...], out: Path, dry_run: bool, as_json: bool, **options: Any
    ) -> None:
        from duet.archives import Choices, prepare

        tell_leftovers(out.resolve())
        with stages() as show:
            made = prepare(
                group,
                [named(group, archive) for archive in archives],
                out,
                choices=Choices(**options),
                step=lambda title, done, total: show(title, {"done": done, "total": total}),
                dry_run=dry_run,
            )
        emit(made.as_dict(), as_json, lambda _: as_text(made))
        for line in next_commands(made):
            note(f"next: {printable(line)}")

    return command


def named(group: Group, argument: str) -> tuple[str, Path]:
    """Return what an argument says an archive is (or nothing), and its path.

    Raises:
        ConfigError: The name before ``=`` is none of the group's.
    """
    from duet.archives.plan import folder_name

    name, equals, path = argument.partition("=")
    if not equals or "/" in name or Path(argument).exists():
        return "", Path(argument)
    folder = folder_name(group, name)
    if folder is not None and not path:
        raise ConfigError("no archive after '='", where=argument, remedy=f"write {name}=ARCHIVE")
    if folder is None:
        raise ConfigError(
            f"unknown data set '{name}'{did_you_mean(name, group.known_as)}",
            where=argument,
            remedy=f"known: {', '.join(group.known_as)}",
        )
    return folder, Path(path)


def as_text(made: Prepared) -> str:
    """Return the outcome for people."""
    verb = "would make" if made.dry_run else "made"
    lines = [f"{verb} {made.out} ({made.bytes / 1e6:.1f} MB of images)", ""]
    for report in made.sets.values():
        objects = sum(report.objects.values())
        lines.append(
            f"  {report.domain}: {report.train} images to train on, {report.val} to evaluate on, "
            f"{objects} objects of {len(report.objects)} classes"
        )
        lines += [f"    renamed {name}: {count} objects" for name, count in report.renamed.items()]
        lines += [f"    left out, {why}: {count} objects" for why, count in report.dropped.items()]
        lines += [f"    note: {line}" for line in report.notes]
    lines += ["", f"objects marked difficult: {made.choices.difficult}"]
    lines += [f"series: {name}.yaml" for name in made.series]
    lines += [
        f"not possible: {name}, needs {', '.join(domains)} too"
        for name, domains in made.left_out.items()
    ]
    return "\n".join(lines)


def next_commands(made: Prepared) -> list[str]:
    """Return what to run next."""
    if made.dry_run or not made.series:
        return []
    series = made.out / f"{made.series[0]}.yaml"
    return [
        shell_line("duet", "data", "check", series),
        shell_line("duet", "run", series, "--weights", "yolo11n", "--method", "duet"),
    ]


def main(group: Group, help_text: str) -> None:
    """Run the tool of a group and exit."""
    sys.exit(run_tool(prepare_command(group, help_text), sys.argv[1:]))
