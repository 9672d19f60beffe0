"""Label formats: one file and one row each; a format is imported only when it is used.

A format reads a data set from its source, a folder or a YAML file that describes it, and writes one
that reads back the same: bit for bit the same boxes, class ids and order of images.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from duet.config import load_yaml
from duet.errors import DataError, DuetError, did_you_mean
from duet.labels import LabelSpace
from duet.series.formats.base import NO_OPTIONS, Options, Reading
from duet.series.formats.documents import DESCRIPTION
from duet.series.formats.table import AUTO, FORMATS, UNNAMED, resolve
from duet.series.images import Verify
from duet.series.model import DomainData
from duet.series.problems import error
from duet.text import shown


def read(
    source: Path,
    *,
    form: str = AUTO,
    domain: str,
    verify: Verify | None = None,
    options: Options = NO_OPTIONS,
) -> Reading:
    """Read a data set in any format.

    Args:
        source: A ``data.yaml``, or a folder that holds one or is laid out as a format asks.
        form: One of `table.choices`.
        domain: Name of the domain.
        verify: How closely images are looked at, see `duet.series.images`.
        options: Choices of the format's own, in place of what the data say.
    """
    try:
        name, place = locate(source, form)
        _check_options(name, options)
    except DuetError as failure:
        problem = error("data.format", source, failure.what, failure.remedy or "")
        return Reading(DomainData(domain, LabelSpace(()), {}, source), (problem,))
    found = resolve(name).read(place, domain=domain, verify=verify, options=options)
    problems = tuple(replace(problem, form=name) for problem in found.problems)
    return replace(found, data=replace(found.data, form=name), problems=problems)


def _check_options(form: str, options: Options) -> None:
    """Refuse a choice that a format does not have."""
    for option, value in options.items():
        values = resolve(form).OPTIONS.get(option)
        if values is None:
            owners = (name.upper() for name in FORMATS if option in resolve(name).OPTIONS)
            what = f"'{option}' is a choice for {' or '.join(owners) or 'no'} data"
            raise DataError(f"{what}, but this is {form}", remedy="leave it out")
        if value not in values:
            what = f"'{option}' must be one of {', '.join(values)}, got {shown(value)}"
            raise DataError(what, remedy="choose one of these")


def locate(source: Path, form: str = AUTO) -> tuple[str, Path]:
    """Return the format of a data set and the file or folder that its reader starts from.

    Args:
        source: What a series or a user calls the data set.
        form: One of `table.choices`; a name forces the format.

    Raises:
        ConfigError: There is no such format.
        DataError: The format cannot be told, or is not the one asked for.
    """
    if form != AUTO:
        resolve(form)
    described = source / DESCRIPTION
    if source.is_dir() and not described.is_file():
        return (form if form != AUTO else _layout(source)), source
    place = described if source.is_dir() else source
    if place.suffix.lower() == ".json":
        raise DataError(
            "a JSON file alone does not say which images are for training and which for evaluation",
            remedy="write a data.yaml with 'format: coco' and, for 'train' and 'val' each, "
            "{images: FOLDER, annotations: FILE.json}; or name the folder of the data set",
        )
    said = _said(place)
    if said is not None and said not in tuple(FORMATS):  # a list has no hash
        what = f"'format' must be one of {', '.join(FORMATS)}, got {shown(said)}"
        raise DataError(what + did_you_mean(str(said), FORMATS), remedy="correct the key 'format'")
    if form != AUTO and said not in (None, form):
        raise DataError(
            f"'{form}' was asked for, but the file says 'format: {said}'",
            remedy="ask for 'auto', or correct one of the two",
        )
    return (form if form != AUTO else str(said or UNNAMED)), place


def _said(description: Path) -> object:
    """Return the key ``format`` of a description, or None; its reader reports a broken file."""
    try:
        document = load_yaml(description)
    except DuetError:
        return None
    return document.get("format") if isinstance(document, dict) else None


def _layout(folder: Path) -> str:
    """Return the one format that a folder is laid out in."""
    fitting = [name for name in FORMATS if resolve(name).recognises(folder)]
    if len(fitting) == 1:
        return fitting[0]
    looked = "; ".join(f"{name}: {resolve(name).LAYOUT}" for name in fitting or FORMATS)
    kind = "several formats fit" if fitting else "no known format fits"
    raise DataError(
        f"{kind} this folder; looked for {looked}",
        remedy="name the format with the key 'format', or write a data.yaml",
    )
