"""Writing a data set, or all data sets of a series, in another format and under other names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np

from duet.aliases import VOCABULARIES, match_classes
from duet.errors import ConfigError, DataError, DuetError, did_you_mean, together
from duet.files import atomic_folder, refuse_occupied
from duet.labels import LabelSpace
from duet.series.formats import locate, read
from duet.series.formats.base import Options, Reading, Transfer
from duet.series.formats.documents import DESCRIPTION, NO_TRAIN, write_yaml
from duet.series.formats.table import AUTO, FORMATS, resolve
from duet.series.model import Annotation, DomainData, Split
from duet.series.problems import AGAIN, Problem, raise_problems
from duet.series.reader import is_series, read_config
from duet.series.spelling import align
from duet.trees import refuse_among, resolved

SERIES = "series.yaml"

Step = Callable[[str, int, int], None]
"""Called with the folder that is being written, the images done and their total."""


@dataclass(frozen=True)
class Conversion:
    """What to write.

    Attributes:
        to: Format to write.
        form: Format to read, or ``"auto"``.
        transfer: Whether images are copied or linked.
        rename: Old class name to new; a new name that is there already joins the two classes.
        vocabulary: Key of `VOCABULARIES`: classes get its spelling where they mean one of its.
        options: Choices of the format that is read, in place of what the data say; of a series,
            for those of its data sets whose format has them.
        lossy: Leave out ignored objects where the new format cannot mark them.
    """

    to: str
    form: str = AUTO
    transfer: Transfer = "copy"
    rename: Mapping[str, str] = field(default_factory=dict)
    vocabulary: str | None = None
    options: Options = field(default_factory=dict)
    lossy: bool = False

    def __post_init__(self) -> None:
        resolve(self.to)


@dataclass(frozen=True)
class Converted:
    """One data set that was written.

    Attributes:
        source: What it was read from.
        data: Path of the new ``data.yaml``, relative to the target folder.
        read_as: Format of the source.
        images: Images per split.
        objects: Objects per split, ignored ones included.
        ignored: Ignored objects per split (difficult, crowds).
        classes: Class names, in the order of their ids.
        renamed_classes: Old name to new, where they differ.
        renamed_images: Images whose file name had to change.
        lost: Ignored objects that were left out, because the format cannot mark them.
        joined: Objects that became the same as another when two classes were joined.
        unused: What the source holds beyond boxes, with counts; it was not written.
        warnings: Warnings about the source, see ``duet data check``.
    """

    source: Path
    data: str
    read_as: str
    images: Mapping[str, int]
    objects: Mapping[str, int]
    ignored: Mapping[str, int]
    classes: tuple[str, ...]
    renamed_classes: Mapping[str, str]
    renamed_images: int
    lost: int
    joined: int
    unused: Mapping[str, int]
    warnings: int

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON-ready data."""
        return {**asdict(self), "source": str(self.source), "classes": list(self.classes)}


def convert(source: Path, target: Path, wanted: Conversion, step: Step) -> tuple[Converted, ...]:
    """Write a data set in ``target``, or all data sets of a series and a new ``series.yaml``.

    Args:
        source: A data set as `duet.series.formats.read` takes it, or a series file.
        target: A folder that does not exist yet, is empty, or holds this very result; complete
            afterwards, or absent.
        wanted: What to write.
        step: Told after each image.

    Raises:
        ConfigError: The series file is malformed, or no data set has a class to rename.
        DataError: The source has errors, or objects would be lost and ``lossy`` is not set.
        DuetError: ``target`` holds files, or cannot be written.
    """
    written = any((target / name).is_file() for name in (DESCRIPTION, SERIES))
    again = written and holds_links(target) == (wanted.transfer == "link")
    if refuse_occupied(target, again=again):
        wanted = replace(wanted, transfer="link")  # to compare with what is there, not to keep
    ready, series = (_of_series if is_series(source) else _of_data_set)(source, target, wanted)
    _refuse_losses(ready.values(), wanted)
    with atomic_folder(target, again=again) as temporary:
        done = tuple(
            _write(one, temporary / folder, folder, wanted, step) for folder, one in ready.items()
        )
        if series:
            write_yaml(temporary / SERIES, series)
    return done


def holds_links(folder: Path) -> bool:
    """Tell whether a folder holds a link, at any depth."""
    return any(path.is_symlink() for path in folder.rglob("*"))


@dataclass(frozen=True)
class _Ready:
    """A data set with its final names."""

    data: DomainData
    renamed: Mapping[str, str]
    joined: int
    reading: Reading


_Plan: TypeAlias = tuple[dict[str, _Ready], dict[str, Any]]
"""The data sets by their folder in the target, and the new series file; empty without one."""


def _of_data_set(source: Path, target: Path, wanted: Conversion) -> _Plan:
    reading = read(source, form=wanted.form, domain=source.stem, options=wanted.options)
    raise_problems(reading.problems, where=str(source), remedy=AGAIN)
    _check_renames(wanted, reading.data.labels)
    refuse_among(target, reading.data.images)
    return {"": _prepare(reading, wanted, ())}, {}


def _of_series(source: Path, target: Path, wanted: Conversion) -> _Plan:
    config = read_config(source)
    root = source.parent / config.root
    classes = tuple(dict.fromkeys(name for item in config.increments for name in item.classes))
    new = _new_names(classes, wanted)
    folders: dict[tuple[str, Path], str] = {}
    readings: dict[tuple[str, Path], Reading] = {}
    problems: list[Problem] = []
    sets = config.with_data
    keys = [_key(root / str(item.data), item.format, wanted) for item in sets]
    taught = set(keys[-len(config.increments) :])
    for item, key in zip(sets, keys, strict=True):
        if key in folders:
            continue
        domain = item.domain or "start"
        folders[key] = unused_name(domain, folders.values())
        known = resolve(key[0]).OPTIONS if key[0] in FORMATS else ()
        options = {name: value for name, value in wanted.options.items() if name in known}
        readings[key] = read(key[1], form=key[0], domain=domain, options=options)
        found = readings[key].problems
        problems += (one for one in found if key in taught or one.code != NO_TRAIN)
        refuse_among(target, readings[key].data.images)
    raise_problems(problems, where=str(source))
    present = [name for reading in readings.values() for name in reading.data.labels]
    _check_renames(wanted, [*present, *classes])
    ready = {
        folders[key]: _prepare(reading, wanted, tuple(new.values()))
        for key, reading in readings.items()
    }
    places = [f"{folders[key]}/{DESCRIPTION}" for key in keys]
    return ready, _with_names(config.moved(source, target, places), new)


def _key(data: Path, form: str, wanted: Conversion) -> tuple[str, Path]:
    """Return format and source of a data set: the same for a folder and for its data.yaml."""
    form = form if form != AUTO else wanted.form
    try:
        return locate(resolved(data), form)
    except DuetError:  # reading the data set reports it
        return form, resolved(data)


def unused_name(wanted: str, taken: Iterable[str]) -> str:
    """Return a folder name that is not taken: the wanted one, or that and a number from 2."""
    taken = set(taken)
    names = (wanted if number == 1 else f"{wanted}-{number}" for number in range(1, 10**6))
    return next(name for name in names if name not in taken)


def _check_renames(wanted: Conversion, known: Iterable[str]) -> None:
    names = tuple(dict.fromkeys(known))
    unknown = [
        f"no class '{old}'{did_you_mean(old, names)}" for old in wanted.rename if old not in names
    ]
    if unknown:
        raise ConfigError(
            together(unknown, summary="nothing to rename"),
            where="--rename",
            remedy=f"classes: {', '.join(names)}",
        )


def _new_names(names: Sequence[str], wanted: Conversion) -> dict[str, str]:
    """Return the new name of each class."""
    renamed = {name: wanted.rename.get(name, name) for name in names}
    if wanted.vocabulary is None:
        return renamed
    pairs = match_classes(tuple(dict.fromkeys(renamed.values())), VOCABULARIES[wanted.vocabulary])
    return {old: pairs.get(new, new) for old, new in renamed.items()}


def _prepare(reading: Reading, wanted: Conversion, series: Sequence[str]) -> _Ready:
    """Give the classes of a data set their new names, those of ``series`` where there is one.

    Classes of one name become one.
    """
    _refuse_unlabelled(reading.data)
    old = reading.data.labels
    new = _new_names(tuple(old), wanted)
    labels = LabelSpace.of(dict.fromkeys(new.values()))
    data, joined = reading.data, 0
    if len(labels) < len(old):
        positions = np.array([labels.index(new[name]) for name in old], np.int64)
        data, joined = _joined(data, positions)
    aligned, found = align(replace(data, labels=labels), series)
    raise_problems(found, where=str(data.source), remedy=AGAIN)
    final = dict(zip(labels, aligned.labels, strict=True))
    renamed = {name: final[new[name]] for name in old if final[new[name]] != name}
    return _Ready(aligned, renamed, joined, reading)


def _refuse_unlabelled(data: DomainData) -> None:
    """Raise if no training image has an object: its labels lie where nothing looks for them."""
    train = data.splits.get("train")  # a detector that is gone on from needs none
    found = train.annotations if train is not None else ()
    if train is not None and not any(len(annotation.class_ids) for annotation in found):
        lie = resolve(data.form).LABELS_LIE
        looked = f": those of {data.form.upper()} are looked for {lie}" if lie else ""
        raise DataError(
            f"none of the {len(found)} training images has an object",
            where=str(data.source),
            remedy=f"check where the labels lie{looked}",
        )


def _joined(data: DomainData, positions: np.ndarray[Any, Any]) -> tuple[DomainData, int]:
    """Return the data set with new class ids; objects that are now the same are one."""
    dropped = 0
    splits: dict[str, Split] = {}
    for name, split in data.splits.items():
        annotations: list[Annotation] = []
        for found in split.annotations:
            ids = positions[found.class_ids]
            table = np.column_stack([ids, found.ignored, found.crowds, found.boxes])
            kept = np.sort(np.unique(table, axis=0, return_index=True)[1])
            dropped += len(ids) - len(kept)
            annotations.append(replace(found, class_ids=ids).take(kept))
        splits[name] = replace(split, annotations=tuple(annotations))
    return replace(data, splits=splits), dropped


def _refuse_losses(ready: Iterable[_Ready], wanted: Conversion) -> None:
    if wanted.lossy or resolve(wanted.to).HOLDS_IGNORED:
        return
    lost = {str(one.data.source): sum(_ignored(one.data).values()) for one in ready}
    problems = [f"{place}: {count} ignored objects" for place, count in lost.items() if count]
    if problems:
        raise DataError(
            together(problems, summary=f"{wanted.to} cannot mark objects as ignored"),
            remedy="give --lossy to leave them out (they become background), choose another "
            "format, or for VOC's difficult objects --difficult keep",
        )


def _ignored(data: DomainData) -> dict[str, int]:
    return {
        name: sum(int(found.ignored.sum()) for found in split.annotations)
        for name, split in data.splits.items()
    }


def _write(ready: _Ready, folder: Path, name: str, wanted: Conversion, step: Step) -> Converted:
    folder.mkdir(exist_ok=True)
    total, done = len(ready.data.images), 0

    def progress(images: int) -> None:
        nonlocal done
        done += images
        step(name or wanted.to, done, total)

    form = resolve(wanted.to)
    renamed = form.write(ready.data, folder, transfer=wanted.transfer, progress=progress)
    splits, ignored = ready.data.splits, _ignored(ready.data)
    return Converted(
        source=ready.data.source,
        data=str(PurePosixPath(name, DESCRIPTION)),
        read_as=ready.data.form,
        images={key: len(split.images) for key, split in splits.items()},
        objects={
            key: sum(len(found.class_ids) for found in split.annotations)
            for key, split in splits.items()
        },
        ignored=ignored,
        classes=ready.data.labels.names,
        renamed_classes=ready.renamed,
        renamed_images=renamed,
        lost=0 if form.HOLDS_IGNORED else sum(ignored.values()),
        joined=ready.joined,
        unused=dict(ready.reading.unused),
        warnings=sum(problem.severity == "warning" for problem in ready.reading.problems),
    )


def _with_names(value: Any, names: Mapping[str, str]) -> Any:
    """Return a document in which every list called ``classes`` has the new names."""
    if isinstance(value, list):
        return [_with_names(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: list(dict.fromkeys(names.get(name, name) for name in item))
        if key == "classes" and isinstance(item, list)
        else _with_names(item, names)
        for key, item in value.items()
    }
