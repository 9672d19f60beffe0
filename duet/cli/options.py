"""Options that set keys: those of a schedule come from its model, one a field; any by KEY=VALUE."""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click

from duet.cli.common import PATH, several
from duet.cli.names import weights_option

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from duet.evaluation.gate import Gate
    from duet.runs.engines.engine import Engine

SEED = click.IntRange(min=0, max=2**31 - 1)  # NumPy takes no more
_SCHEDULE = "Schedule (each replaces the file's)"


class TrainingCommand(click.Command):
    """A command that trains: it takes the keys of a schedule as options.

    They are made when the command is parsed or explains itself, so that listing the commands need
    not import the model.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own options, then those of the schedule."""
        *own, help_option = super().get_params(ctx)
        return [*own, *_schedule_options(), help_option]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the schedule's options under a heading of their own."""
        made = _schedule_options()
        plain = (param for param in self.get_params(ctx) if param not in made)
        for title, params in (("Options", plain), (_SCHEDULE, iter(made))):
            rows = [row for param in params if (row := param.get_help_record(ctx)) is not None]
            with formatter.section(title):
                formatter.write_dl(rows)


@functools.cache
def _schedule_options() -> tuple[click.Option, ...]:
    from duet.training.schedule import Schedule

    return tuple(model_options(Schedule))


def model_options(model: type[BaseModel]) -> list[click.Option]:
    """Return an option for each plain field of a model: its name, range, choices and description.

    Fields that are models themselves are left to ``--set``. An option that is not given is None.
    """
    made = []
    for name, field in model.model_fields.items():
        kind = _type_of(field)
        if kind is None:
            continue
        word = name.replace("_", "-")
        names = f"--{word}/--no-{word}" if kind is click.BOOL else f"--{word}"
        flag = {} if kind is click.BOOL else {"type": kind}
        made.append(click.Option([names, name], default=None, help=field.description, **flag))
    return made


def _type_of(field: FieldInfo) -> Any:
    """Return click's type of a field; None if it is no plain value."""
    kinds: list[Any] = [field.annotation]
    if get_origin(field.annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    bounds = [bound for item in field.metadata for bound in getattr(item, "metadata", (item,))]
    low = next((bound.ge for bound in bounds if hasattr(bound, "ge")), None)
    high = next((bound.le for bound in bounds if hasattr(bound, "le")), None)
    plain = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]
    if len(plain) > 1:  # a number or a multiple of one: the model reads it
        return click.STRING
    (kind,) = plain
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if kind is bool:
        return click.BOOL
    if kind is int:
        return click.IntRange(min=low, max=high)
    return {float: click.FLOAT, str: click.STRING}.get(kind)


training_options = several(
    click.option("--data-root", type=PATH, help="Folder of the data."),
    click.option("--train", type=PATH, help="Schedule YAML."),
    weights_option("θ_0"),
    click.option("--architecture", help="For example yolo11n.yaml."),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE",
        help="Any other key of the schedule or the strategy, such as augmentation.mosaic=1 or "
        "refit.epochs=8.",
    ),
    click.option("--seed", type=SEED, default=0, show_default=True),
)  # fmt: skip
"""What every training command takes, beside the options of the schedule."""


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return what of a training command's options is told to `duet.runs.inputs.read_inputs`."""
    names = [option.name for option in _schedule_options()]
    changes = {name: options[name] for name in names if options.get(name) is not None}
    taken = {name: options.get(name) for name in ("data_root", "train", "weights", "architecture")}
    return {**taken, "changes": changes | parse_settings(options.get("settings", ()))}


def parse_settings(words: Sequence[str], *, option: str = "--set") -> dict[str, Any]:
    """Read the `KEY=VALUE` words of `--set`, or of `--sweep`; values are YAML.

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


engine_options = several(
    click.option(
        "--engine", default="local", show_default=True, metavar="local|ray",
        help="Where trainings and evaluations are done: on this machine, or on a Ray cluster.",
    ),
    click.option(
        "--address", metavar="TEXT",
        help="Of the Ray cluster: auto, HOST:PORT [RAY_ADDRESS, else one of this machine alone].",
    ),
    click.option(
        "--store", metavar="DIR|URL",
        help="Folder that all machines share, or s3://BUCKET/FOLDER, gs://BUCKET/FOLDER: files "
        "travel and checkpoints stay there.",
    ),
    click.option("--stage-data", is_flag=True, help="Send the images through the store, too."),
)  # fmt: skip
"""Where the trainings and evaluations of a command are done; see `engine_of`."""


def engine_of(
    options: dict[str, Any], out: Path, jobs: int | None = None
) -> AbstractContextManager[Engine]:
    """Return the engine that a command's `engine_options` ask for, to be entered.

    Args:
        options: Of the command.
        out: Folder that the command writes.
        jobs: Trainings at a time, where somebody says it.
    """
    from duet.runs.engines.engine import Wishes, opened

    wishes = Wishes(options["address"], options["store"], options["stage_data"], jobs)
    return opened(options["engine"], wishes, out)


gate_options = several(
    click.option("--gate", type=PATH, help="YAML of limits; exit 6 if one is not kept."),
    click.option(
        "--max-drop", metavar="POINTS",
        help="Points that any old class may lose: 5 (AP50), or ap50=5,f1=8.",
    ),
    click.option("--min", "least", metavar="NAME=X,...", help="Least indices: ri=0.95,fr=0.95."),
    click.option("--min-map50", type=click.FloatRange(0, 1), help="Short for --min map50=X."),
    click.option(
        "--max-double", type=click.FloatRange(min=0), help="Double boxes per 100 images."
    ),
    click.option(
        "--against", type=PATH, metavar="BEFORE",
        help="What --max-drop compares with: a detector, a run, or the JSON of `duet eval`.",
    ),
)  # fmt: skip
"""What a detector must reach; see `gate_of`."""


def gate_of(options: dict[str, Any]) -> Gate | None:
    """Return the gate that a command's `gate_options` ask for; None if they ask for nothing.

    Raises:
        ConfigError: They, or their file, are not valid.
    """
    drop, least = options["max_drop"], _limits(options["least"], "--min")
    if options["min_map50"] is not None:
        least |= _limits(f"map50={options['min_map50']}", "--min-map50")
    asked = {
        "max_drop": _limits(drop, "--max-drop", plain="ap50"), "min": least,
        "max_double": options["max_double"], "against": options["against"],
    }  # fmt: skip
    given = {key: value for key, value in asked.items() if value not in (None, {})}
    if options["gate"] is None and not given:
        return None
    from duet.evaluation.gate import load_gate

    return load_gate(options["gate"], given)


def _limits(word: str | None, option: str, *, plain: str = "") -> dict[str, str]:
    """Read ``NAME=X,NAME=X``, or a number of what ``plain`` names.

    Raises:
        ConfigError: It is not of that form, or names something twice.
    """
    from duet.errors import ConfigError

    if word is None:
        return {}
    if plain and "=" not in word:
        return {plain: word}
    limits: dict[str, str] = {}
    for item in word.split(","):
        name, separator, value = (part.strip() for part in item.partition("="))
        if not (separator and name and value) or name in limits:
            what = "named twice" if name in limits else "expected NAME=NUMBER"
            raise ConfigError(f"{what}, got '{item}'", where=option)
        limits[name] = value
    return limits
