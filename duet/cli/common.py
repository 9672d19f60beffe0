"""What the commands share: results on stdout, people on stderr."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from duet.errors import ConfigError, DuetError
from duet.progress import note
from duet.text import for_people, is_address, masked, printable, shell_line

if TYPE_CHECKING:
    from duet.runs.there import There
    from duet.series import Problem, Series

Command = TypeVar("Command", bound=Callable[..., Any])

LEFT = "note: {} was left by a command that was killed: remove it"
WHOLE = "note: {} held this very result already and stays as it is"


class LocalPath(click.Path):
    """A path on this machine. An address, which may hold a password, is refused before all else."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path of a word.

        Raises:
            ConfigError: It is an address, and no file has that name.
        """
        text = os.fsdecode(value)
        if is_address(text) and not os.path.lexists(text):
            raise ConfigError(
                f"expected a path on this machine, got the address {masked(text)}",
                where=param.get_error_hint(ctx).replace("'", "") if param and ctx else None,
                remedy="copy it here and give its path; a path with ':' and '@' must exist already",
            )
        return super().convert(value, param, ctx)


PATH = LocalPath(path_type=Path)
NAME_OR_PATH = LocalPath(path_type=str)  # names that come with duet, and NAME=PATH

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def several(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Return one decorator for options that commands share, in the order of their help."""
    return lambda command: functools.reduce(lambda made, add: add(made), reversed(options), command)


def emit(result: dict[str, Any], as_json: bool, human: Callable[[dict[str, Any]], str]) -> None:
    """Print a result: JSON for programs, or the text that ``human`` makes of it.

    ``human`` gets the result with every text made `printable`, so that no name is a line of its
    own.
    """
    if as_json:
        click.echo(json.dumps(result, indent=2, allow_nan=False))
    else:
        say(human(for_people(result)))


def say(text: str) -> None:
    """Print text for people on stdout."""
    click.echo(printable(text, lines=True))


def hint(*words: str | Path) -> None:
    """Tell people what to do next: a command whose words are quoted for their shell."""
    note(f"next: {shell_line(*words)}")


def tell_warnings(warnings: Sequence[Problem], series: Path) -> None:
    """Tell people on stderr what is odd about a series' data, one line per kind."""
    from duet.series.problems import first_of_each

    for line in first_of_each(warnings):
        note(f"warning: {printable(line)}")
    if warnings:
        note(f"`{shell_line('duet', 'data', 'check', series)}` lists all and what to do")


def read_told(path: Path, data_root: Path | None) -> Series:
    """Read and check a series, and tell people what is odd about its data."""
    from duet.runs.inputs import read_checked

    series, warnings = read_checked(path, data_root=data_root)
    tell_warnings(warnings, path)
    return series


def read_there_told(
    data: Path, classes: Sequence[str], data_root: Path | None, domain: str | None = None
) -> There:
    """Read what is there of a series or a data set, and tell what is not and what is odd."""
    from duet.runs.there import read_data
    from duet.series.problems import first_of_each
    from duet.series.reader import is_series

    there = read_data(data, classes, data_root=data_root, domain=domain)
    if is_series(data):
        tell_warnings(there.warnings, data)
    else:
        for line in first_of_each(there.warnings):
            note(f"warning: {printable(line)}")
    for name, one in there.unread.items():
        note(f"warning: {name} ({one.domain}) is left out, its data cannot be read: {one.why}")
    return there


def _warned(_context: click.Context, _option: click.Parameter, trust: bool) -> bool:
    if trust:
        note(
            "DANGER: --trust runs the program in each .pt and .torchscript file, whatever it is, "
            "with all your rights"
        )
    return trust


trust_option = click.option(
    "--trust", is_flag=True, callback=_warned,
    help="DANGEROUS: run the program that a .pt or .torchscript file is.",
)  # fmt: skip


device_option = click.option(
    "--device", default="cpu", show_default=True, help="cpu, mps, cuda, or a GPU: 1 or cuda:1."
)


architecture_option = click.option(
    "--architecture", metavar="NAME",
    help="The only one that a .pt may be, such as yolo11n.yaml [the one that its layers are].",
)  # fmt: skip


def tell_leftovers(*targets: Path) -> None:
    """Name what killed commands left of these files or folders beside them."""
    from duet.leftovers import leftovers

    for path in (path for target in targets for path in leftovers(target)):
        note(LEFT.format(path))


def tell_leftovers_in(folder: Path, only: Collection[str] | None = None) -> None:
    """Name what killed commands left in a folder; see `duet.leftovers.leftovers_below`."""
    from duet.leftovers import leftovers_below

    for path in leftovers_below(folder, only):
        note(LEFT.format(path))


def tell_changed(run: Path, document: Mapping[str, Any] | None = None) -> None:
    """Warn of a run whose results are not those that it wrote; ``document``, if it is read."""
    from duet.results.files import RESULTS_FILE, read_document, was_changed

    if was_changed(read_document(run) if document is None else document):
        note(
            f"warning: {run / RESULTS_FILE} was changed since the run wrote it; the same "
            "`duet run` writes it anew"
        )


@contextmanager
def writing(out: Path, *, overwrite: bool = False) -> Iterator[None]:
    """Name what killed commands left beside ``out``; say it if it held this very result before.

    The block writes ``out``, or raises because it holds something else; see `atomic_folder`.
    """
    from duet.files import is_occupied

    tell_leftovers(out)
    held = not overwrite and is_occupied(out)
    yield
    if held:
        note(WHOLE.format(out))


class StoppedError(DuetError):
    """Somebody stopped the command: Ctrl-C, or a signal that asks for the same."""

    exit_code = 130
    kind = "interrupted"


@contextmanager
def stoppable() -> Iterator[None]:
    """Take other wishes to stop as Ctrl-C: what is unfinished is removed, files are closed."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    names = ("SIGTERM", "SIGHUP", "SIGBREAK")  # no system has all of them
    before: dict[signal.Signals, Any] = {}
    try:
        for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
                before[number] = signal.signal(number, stop)
    except ValueError:  # not in the main thread: there are no signals here
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def require_place(out: Path, *, overwrite: bool) -> None:
    """Refuse where no detector can be written, before anything is looked at."""
    from duet.files import refuse_occupied, require_writable
    from duet.increments.manifest import MANIFEST

    if not overwrite and not (out / MANIFEST).is_file():  # a detector may be this very result
        refuse_occupied(out)
    require_writable(out)
