"""The detector that people have as the first stage of a chain: nothing of it is trained again.

Its head parts are the old ones, its outputs are what is distilled, and its weights are θ_0 unless
the start weights that it was itself trained from are given. No image of it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from duet.errors import ConfigError, ModelError
from duet.families.foreign import file_name, is_foreign, open_model
from duet.families.runtimes import PARITY
from duet.families.table import resolve_family
from duet.files import read_json
from duet.increments.base import StartWeights
from duet.increments.manifest import MANIFEST, DetectorManifest, read_manifest
from duet.increments.state import DetectorState, HeadForm
from duet.inference.load import detector_folder, is_exported
from duet.recipes.recipe import Entry, Recipe
from duet.recipes.write import stored_recipe
from duet.series.reader import StartDetector
from duet.training.config import Strategy
from duet.weights.start import start_weights_of


@dataclass(frozen=True)
class Onto:
    """A detector that a chain goes on from.

    Attributes:
        path: Where it was read: a detector folder, or a foreign model.
        name: Of its stage.
        state: It, in the head form in which it was read.
        manifest: Facts about it.
    """

    path: Path
    name: str
    state: DetectorState
    manifest: DetectorManifest

    @property
    def known(self) -> StartDetector:
        """What a series must know of it."""
        return StartDetector(self.path, self.name, self.state.labels.names)

    @property
    def theta_0(self) -> StartWeights:
        """It as start weights; of its head parts the last one."""
        return start_weights_of(self.state)

    def in_form(self, head: HeadForm) -> DetectorState:
        """Return it in the head form of a strategy: the same tensors, other owners."""
        return resolve_family(self.state.family).recast(self.state, head)

    def manifest_of(self, state: DetectorState, folder: Path) -> DetectorManifest:
        """Return the manifest of a copy of it, which says where it was taken from.

        Args:
            state: The copy, in the head form of a strategy.
            folder: Where it is kept.
        """
        # The mean of one model is that model, to the bit.
        taken = Recipe(method="average", increments=(Entry(path=str(self.path), name=self.name),))
        recipe: dict[str, Any] = stored_recipe(taken, folder)
        return DetectorManifest.for_state(
            state, lineage=() if is_foreign(self.path) else self.manifest.lineage,
            image_size=self.manifest.image_size, licence=self.manifest.licence, recipe=recipe,
        )  # fmt: skip

    def fitted(self, strategy: Strategy) -> Strategy:
        """Return a strategy that goes on with the head form of a detector of several increments.

        Raises:
            ConfigError: The strategy needs what nobody knows of a detector that was brought.
            ModelError: The strategy cannot be carried out in that form.
        """
        require_no_past(strategy, self.path)
        if len(self.state.parts) == 1 or strategy.head == self.state.head:
            return strategy
        if self.state.head == "parallel" and strategy.old_negatives == "pseudo":
            raise ModelError(
                f"its heads stand in parallel, and '{strategy.name}' needs a head that knows all "
                "old classes",
                where=str(self.path),
                remedy="choose a strategy without old_negatives: pseudo",
            )
        return strategy.model_copy(update={"head": self.state.head})


def require_no_past(strategy: Strategy, path: Path) -> None:
    """Refuse a strategy that needs what nobody knows of a detector that was brought.

    Raises:
        ConfigError: Names what it needs.
    """
    needed = {
        "the images of all increments": strategy.data != "increment",
        "the Fisher of every increment": strategy.reads_fisher,
        # Other methods, and BatchNorm, take what is not known for the mean of the others.
        "the number of images of every increment": (
            strategy.merge.method == "mtda" and strategy.merge.params.get("weights") == "images"
        ),
    }
    missing = [what for what, needs in needed.items() if needs]
    if missing:
        raise ConfigError(
            f"strategy '{strategy.name}' needs {' and '.join(missing)}, and of a detector that a "
            "series goes on from there are none",
            where=str(path),
            remedy="choose another strategy, such as duet-plus or frozen-long",
        )


def open_onto(path: Path, *, name: str | None = None) -> Onto:
    """Open the detector that a chain shall go on from.

    Args:
        path: A `.pt` of the engine, a folder of transformers, a detector folder, or a file that
            `duet export` wrote into one.
        name: Name of its stage; by default its own.

    Raises:
        ModelError: It is missing, damaged, refused, or no detector that can be trained further.
    """
    place = _exported_from(path) if is_exported(path) else detector_folder(path)
    file = open_model(place)
    state, parts = file.state, file.state.parts
    if len(parts) == 1 and name is not None:
        state = replace(state, parts=(replace(parts[0], increment=name),))
    own = file_name(place) if is_foreign(place) else file.manifest.name_in(place)
    return Onto(place, name or own, state, file.manifest)


def _exported_from(path: Path) -> Path:
    """Return the detector folder that a file in its `export` folder was written from."""
    folder = path.absolute().parent.parent
    if not (folder / MANIFEST).is_file():
        raise ModelError(
            "an exported file cannot be trained further, and the detector folder that it was "
            "exported from is not above it",
            where=str(path),
            remedy="give that folder, or the .pt of the training",
        )
    told = path.parent / PARITY
    wrote = read_json(told, error=ModelError).get("model") if told.is_file() else None
    if wrote not in (None, read_manifest(folder, DetectorManifest).fingerprint):
        raise ModelError(
            f"was exported from another detector than the one in {folder}",
            where=str(path),
            remedy="give the folder of the detector that is meant",
        )
    return folder
