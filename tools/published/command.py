"""The command behind tools/prepare_pascal.py, prepare_weather.py and prepare_photos.py."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from duet.errors import ConfigError, DuetError, did_you_mean
from duet.leftovers import leftovers
from duet.progress import note, stages
from duet.series.formats.voc import DIFFICULT
from duet.text import is_address, masked, printable, shell_line
from published.choices import Choices
from published.plan import folder_name
from published.prepare import prepare
from published.report import Prepared
from published.sets import Group

_PATH = click.Path(path_type=Path)


class StoppedError(DuetError):
    """Somebody stopped the tool: Ctrl-C, or SIGTERM."""

    exit_code = 130
    kind = "interrupted"


def run_tool(command: click.Command, arguments: list[str]) -> int:
    """Run a command as a program of its own; return its exit code."""
    try:
        with _stoppable():
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


@contextmanager
def _stoppable() -> Iterator[None]:
    """Take SIGTERM, which `timeout` and batch systems send, as Ctrl-C: the half-done goes."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(error: DuetError, arguments: list[str]) -> int:
    as_json = "--json" in arguments
    note(json.dumps(error.as_dict()) if as_json else f"Error [{error.kind}]: {error}")
    return error.exit_code


def _local(_context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Refuse an address, which may hold a password, where a path is expected."""
    for word in map(os.fspath, value if isinstance(value, tuple) else (value,)):
        if is_address(word) and not os.path.lexists(word):
            raise ConfigError(
                f"expected a path on this machine, got the address {masked(word)}",
                where=option.human_readable_name,
                remedy="download it yourself and give its path",
            )
    return value


def prepare_command(group: Group, help_text: str) -> click.Command:
    """Return the command that prepares the data sets of a group."""

    @click.command(f"prepare_{group.name}.py", help=help_text)
    @click.argument(
        "archives", nargs=-1, required=True, callback=_local, metavar="[NAME=]ARCHIVE..."
    )
    @click.option("--out", type=_PATH, required=True, callback=_local, help="Folder to make.")
    @click.option(
        "--difficult", type=click.Choice(DIFFICULT), default="ignore",
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
    @_split_options(group)
    @click.option("--drop-name", "drop_names", multiple=True, help="Leave such objects out.")
    @click.option("--drop-broken-boxes", is_flag=True, help="Leave out unusable boxes and repeats.")
    @click.option("--dry-run", is_flag=True, help="Check archives and labels; write nothing.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
    def command(
        archives: tuple[str, ...], out: Path, dry_run: bool, as_json: bool, **options: Any
    ) -> None:
        for path in leftovers(out.resolve()):
            note(f"note: {path} was left by a command that was killed: remove it")
        with stages() as show:
            made = prepare(
                group,
                [named(group, archive) for archive in archives],
                out,
                choices=Choices(**options),
                step=lambda title, done, total: show(title, {"done": done, "total": total}),
                dry_run=dry_run,
            )
        plain = printable(as_text(made), lines=True)
        click.echo(json.dumps(made.as_dict(), indent=2) if as_json else plain)
        for line in next_commands(group, made):
            note(f"next: {printable(line)}")

    return command


def _split_options(group: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what adds the options for splits that the authors do not give."""
    if not group.folded:
        return click.option(
            "--split-seed",
            type=click.IntRange(min=0),
            help="Split data sets without an evaluation list, 70 to 30, by this seed [refuse].",
        )
    folds = click.option(
        "--folds", type=click.IntRange(min=3), default=5, show_default=True,
        help="Folds of images whose authors do not give all splits.",
    )  # fmt: skip
    fold = click.option(
        "--fold", type=click.IntRange(min=0), default=0, show_default=True,
        help="The fold to evaluate on; the next one is to choose on, the others to train on.",
    )  # fmt: skip
    return lambda command: folds(fold(command))


def named(group: Group, argument: str) -> tuple[str, Path]:
    """Return what an argument says an archive is (or nothing), and its path.

    Raises:
        ConfigError: The name before ``=`` is none of the group's.
    """
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
        chosen = f"{report.val} to choose on, " if report.test else ""
        lines.append(
            f"  {report.domain}: {report.train} images to train on, {chosen}"
            f"{report.test or report.val} to evaluate on, "
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


def next_commands(group: Group, made: Prepared) -> list[str]:
    """Return what to run next."""
    if made.dry_run or not made.series:
        return []
    series = made.out / f"{made.series[0]}.yaml"
    return [
        shell_line("duet", "data", "check", series),
        shell_line("duet", "run", series, *group.run),
    ]


def main(group: Group, help_text: str) -> None:
    """Run the tool of a group and exit."""
    sys.exit(run_tool(prepare_command(group, help_text), sys.argv[1:]))
