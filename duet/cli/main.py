"""`duet`: the command group. Command modules are imported when they are asked for."""

from __future__ import annotations

import errno
import importlib
import io
import json
import sys
from importlib.metadata import version
from typing import Any

import click

from duet.cli.common import StoppedError, stoppable
from duet.errors import ConfigError, DuetError, did_you_mean, write_remedy
from duet.text import clipped, laid_out

_REMEDIES = {
    "config": "correct it and give the same command again",
    "data": "correct the data; `duet data check SERIES.yaml` shows all problems",
    "model": "take the file or folder from its source again",
    "runtime": "the same command resumes",
}
"""What to do where an error does not say it itself."""

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)

COMMANDS = {
    "demo": "duet.cli.demo:demo",
    "run": "duet.cli.run:run",
    "base": "duet.cli.increment:base",
    "increment": "duet.cli.increment:increment",
    "import": "duet.cli.import_:import_file",
    "merge": "duet.cli.merge:merge",
    "log": "duet.cli.log:log",
    "diff": "duet.cli.diff:diff",
    "revert": "duet.cli.remerge:revert",
    "scale": "duet.cli.remerge:scale",
    "drop-class": "duet.cli.drop_class:drop_class",
    "mend": "duet.cli.mend:mend",
    "calibrate": "duet.cli.calibrate:calibrate",
    "eval": "duet.cli.evaluate:evaluate",
    "report": "duet.cli.report:report",
    "compare": "duet.cli.compare:compare",
    "runs": "duet.cli.runs:runs",
    "predict": "duet.cli.predict:predict",
    "export": "duet.cli.export:export",
    "data": "duet.cli.main:data",
    "weights": "duet.cli.weights:weights",
    "methods": "duet.cli.methods:methods",
    "strategies": "duet.cli.strategies:strategies",
    "env": "duet.cli.env:env",
    "completion": "duet.cli.completion:completion",
}
DATA_COMMANDS = {
    "emoji": "duet.cli.data_emoji:emoji",
    "check": "duet.cli.data_check:check",
    "convert": "duet.cli.data_convert:convert",
}


class LazyGroup(click.Group):
    """A group whose commands are rows of a table, imported on use."""

    def __init__(self, *args: Any, table: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table: the order of use."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None."""
        if cmd_name not in self.table:
            return None
        module, attribute = self.table[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Name the nearest command when there is none of that name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = did_you_mean(args[0], self.table) if args else ""
            raise click.UsageError(error.message.rstrip(".") + hint, ctx) from None


@click.group(
    cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(version("duet-detect"), prog_name="duet")
def cli() -> None:
    """Teach a real-time detector new classes in new domains without the old images.

    \b
    Start here:
      duet demo                      learn, merge and report on the embedded series
      duet data check SERIES.yaml    is my data fit to learn from?
      duet run SERIES.yaml           the whole job on my data
    """  # noqa: D301  (click's marker against wrapping is a real backspace)


@click.group(cls=LazyGroup, table=DATA_COMMANDS)
def data() -> None:
    """Make, check or convert the data of a series."""


def main() -> None:
    """Run the command line; every expected failure is one paragraph and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without Unicode shows escapes
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    try:
        with stoppable():
            result = cli.main(args=arguments, prog_name="duet", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except DuetError as error:
        return _fail(error, arguments)
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return error.exit_code
        return _fail(_usage_error(error, arguments), arguments)
    except (KeyboardInterrupt, click.Abort):
        return _fail(StoppedError("interrupted", remedy="the same command resumes"), arguments)
    except OSError as error:
        if error.filename is None and error.errno not in _DISK:
            raise
        if error.errno == errno.ENAMETOOLONG:
            where, remedy = clipped(str(error.filename), 200), "check the path"
            return _fail(
                ConfigError("a name that no file can have: it is too long", where=where,
                            remedy=remedy), arguments,
            )  # fmt: skip
        what = f"the file system refuses: {error.strerror}"
        remedy = f"{write_remedy(error)}; the same command resumes"
        return _fail(DuetError(what, where=error.filename, remedy=remedy), arguments)


def _usage_error(error: click.ClickException, arguments: list[str]) -> ConfigError:
    context = getattr(error, "ctx", None)  # none of an option whose value is missing
    path = context.command_path if context else _command(arguments)
    return ConfigError(error.format_message(), where=path, remedy=f"see `{path} --help`")


def _command(arguments: list[str]) -> str:
    words = [word for word in arguments[:2] if not word.startswith("-")]
    return " ".join(["duet", *words[: 2 if words[:1] == ["data"] else 1]])


def _fail(error: DuetError, arguments: list[str]) -> int:
    where, remedy = error.where or _command(arguments), error.remedy or _REMEDIES.get(error.kind)
    error = type(error)(error.what, where=where, remedy=remedy)
    if "--json" in arguments:
        click.echo(json.dumps(error.as_dict()), err=True)
    else:
        click.echo(laid_out(f"Error [{error.kind}]: {error}"), err=True)
    return error.exit_code
