"""`duet calibrate`: score maps and thresholds of a detector that is there, fitted anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from duet.calibration.stage import of_labels
from duet.devices import one_place
from duet.errors import ConfigError, ModelError
from duet.families.foreign import open_model
from duet.increments.manifest import DetectorManifest
from duet.increments.scores import ScoreMap
from duet.increments.state import DetectorState, rescored
from duet.increments.store import DetectorFile
from duet.inference.sources import find_images
from duet.recipes.edits import kept_recipe, revert
from duet.recipes.model import Model
from duet.recipes.prepared import Prepared
from duet.recipes.write import stored_recipe
from duet.runs.calibrate import by_detector, found_on, labelled_cuts, right_at_thresholds
from duet.series import Series


@dataclass(frozen=True)
class Calibrated:
    """A detector with other score maps.

    Attributes:
        model: It; its recipe's paths are relative to the folder that was asked for.
        scores: The new maps by class name; the others are as they were.
        unfitted: Classes that were looked for and not found, with labels not found right: their
            maps are as they were.
        short: Class -> share that is right at its threshold, where that is less than was wanted.
    """

    model: Model
    scores: Mapping[str, ScoreMap]
    unfitted: tuple[str, ...]
    short: Mapping[str, float]


def recalibrate(
    model: Model,
    out: Path,
    *,
    series: Series | None = None,
    split: str = "val",
    images: Path | str | None = None,
    before: Path | None = None,
    precision: float | None = None,
    device: str = "cpu",
) -> Calibrated:
    """Fit score maps; tensors, rankings and AP stay as they are. Nothing is written.

    Images without labels come first: they bring the classes of an earlier detector back to its
    scores. Labels then decide for the classes that have some.

    Args:
        model: The detector.
        out: What paths of the result's recipe shall be relative to.
        series: Labelled images, each increment's for its own classes.
        split: Which of them; not those that the result is to be judged on.
        images: Without labels: an image, a folder or a glob.
        before: Earlier detector; by default the model without its last increment, merged again.
        precision: Wanted share of right detections, which thresholds keep; default the best F1.
        device: In the language of `duet.devices.parse_device`.

    Raises:
        ConfigError: Neither ``series`` nor ``images``, an argument without what it needs, or there
            is no such device.
        DataError: A data set has no such split, or no image is there.
        ModelError: There is no earlier detector, or it shares no class with this one.
    """
    _require_sense(series, images, before, precision)
    place, size, state = one_place(device), model.manifest.image_size, model.state
    cuts = labelled_cuts(state, series, split) if series is not None else []
    maps, asked = dict[str, ScoreMap](), set[str]()
    if images is not None:
        paths, earlier = find_images(images).paths, _earlier(model, before)
        both = [name for name in earlier.labels if name in state.labels]
        maps, asked = by_detector(state, earlier, both, paths, size, place), set(both)
    if cuts:
        known = replace(state, parts=rescored(state.parts, maps))
        maps |= of_labels(found_on(known, cuts, size, place), precision=precision)
    asked |= {name for cut in cuts for name in cut.classes}
    unfitted = tuple(name for name in state.labels if name in asked and name not in maps)
    fitted = replace(state, parts=rescored(state.parts, maps))
    shares = {} if precision is None else right_at_thresholds(fitted, cuts, size, place)
    short = {name: share for name, share in shares.items() if share < (precision or 0)}
    return Calibrated(_with_state(model, fitted, out), maps, unfitted, short)


def _require_sense(
    series: Series | None,
    images: Path | str | None,
    before: Path | None,
    precision: float | None,
) -> None:
    """Refuse arguments that ask for nothing, or for what the others cannot give."""
    if precision is not None and not 0 < precision <= 1:
        raise ConfigError(
            f"a precision is above 0 and at most 1, got {precision}", where="--precision"
        )
    if precision is not None and series is None:
        raise ConfigError(
            "a wanted precision needs labels", where="--precision", remedy="give --series as well"
        )
    if before is not None and images is None:
        raise ConfigError(
            "an earlier detector is compared on images", where="--before",
            remedy="give --images as well",
        )  # fmt: skip
    if series is None and images is None:
        raise ConfigError(
            "nothing to calibrate on: expected labelled images of a series, or images without "
            "labels",
            where="--series, --images",
            remedy="give --series SERIES.yaml, or --images FOLDER, or both",
        )


def _earlier(model: Model, before: Path | None) -> DetectorState:
    """Return what the scores are brought back to."""
    if before is not None:
        found = open_model(before).state
    else:
        last = model.state.parts[-1].increment
        try:
            found = Prepared(revert(model, last).plan).merge().state
        except (ConfigError, ModelError) as error:
            raise ModelError(
                f"the detector before '{last}' cannot be merged: {error.what}",
                where=error.where,
                remedy="give it with --before",
            ) from None
    if not set(found.labels) & set(model.state.labels):
        raise ConfigError(
            "the earlier detector knows none of the classes",
            where=str(before or model.folder),
            remedy="give the detector before the last increment with --before",
        )
    return found


def _with_state(model: Model, state: DetectorState, out: Path) -> Model:
    old = model.manifest
    recipe = None
    if old.recipe is not None:
        recipe = stored_recipe(kept_recipe(old, model.folder).absolute(model.folder), out)
    manifest = DetectorManifest.for_state(
        state, lineage=old.lineage, image_size=old.image_size, licence=old.licence, recipe=recipe
    )
    return replace(model, file=DetectorFile(state, manifest), folder=out, saved=False)
