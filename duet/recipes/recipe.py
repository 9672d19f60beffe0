"""The recipe: everything that decides a merge, as one YAML and as part of the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from duet.config import Config, Schema, load_yaml, parse_config
from duet.increments.manifest import Sha256, Text
from duet.merging.batchnorm import BatchNormFusion
from duet.merging.table import MergeChoice
from duet.names import Name
from duet.training.config import Mend
from duet.trees import resolved
from duet.weights import name_or_below

Geometry = Literal["sequential", "independent"]


def _possible(path: str) -> str:
    sizes = [len(part.encode("utf-8", "replace")) for part in path.split("/")]
    if "\0" in path or max(sizes) > 255 or sum(sizes) > 2048:
        raise ValueError("no file can have this name: it is too long or holds a NUL")
    return path


PathText = Annotated[Text, AfterValidator(_possible)]
"""A path in a recipe, which may come from a stranger's manifest."""


class Entry(Config):
    """One model that goes into a merge."""

    path: PathText = Field(
        description="Increment folder, detector folder, or an Ultralytics .pt file."
    )
    name: Name | None = Field(default=None, description="Default: its own name, or the file's.")
    scale: float = Field(
        default=1.0, ge=-2, le=2, description="How much of what it changed counts; 1 = all of it."
    )
    alias: dict[Text, Text] = Field(
        default_factory=dict, description="Its class names to rename: old to new."
    )
    drop: tuple[Text, ...] = Field(default=(), description="Its classes to leave out.")
    images: int | None = Field(
        default=None, ge=1,
        description="How many images it was trained on, for weights: images; default what its "
        "manifest says, of which a .pt has none.",
    )  # fmt: skip
    architecture: Text | None = Field(
        default=None, description="Its architecture; for files whose network is not recognised."
    )
    fingerprint: Sha256 | None = Field(
        default=None, description="Of its manifest or file; written by duet, checked if given."
    )


class Adapt(Config):
    """How methods that learn look at unlabelled images (`duet.merging.entropy`)."""

    images: PathText | None = Field(default=None, description="Folder, image or glob.")
    kind: Literal["scores", "classes"] = Field(
        default="classes",
        description="classes: entropy of which class an anchor shows; scores: binary entropy of "
        "every class score, whose lowest point is a detector that detects nothing.",
    )
    share: float = Field(default=0.005, gt=0, le=1, description="Part of the anchors that counts.")
    least: int = Field(default=3, ge=1, description="At least so many anchors of an image count.")
    batch: int = Field(default=8, ge=1, description="Images per step.")
    seed: int = Field(default=0, ge=0, description="Of their order.")


class Mending(Mend):
    """What a merged detector learned after its merge, from images without labels."""

    images: tuple[PathText, ...] = Field(
        min_length=1, description="Folders, images or globs; one for each domain."
    )

    @property
    def settings(self) -> Mend:
        """How it learned, without the images."""
        return Mend(**self.model_dump(exclude={"images"}))


def _as_entry(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class Recipe(MergeChoice):
    """One merge."""

    model_config = ConfigDict(populate_by_name=True)

    schema_version: Schema = Field(default=1, alias="schema")
    batchnorm: BatchNormFusion = BatchNormFusion()
    geometry: Geometry | None = Field(
        default=None,
        description="sequential: each increment was trained from the merge before it, and they "
        "are folded in that order; independent: all were trained from one start and are merged "
        "at once. Default: what the manifests say.",
    )
    weights: PathText | None = Field(
        default=None, description="θ_0: a .safetensors or .pt file, or a name of `duet weights ls`."
    )
    keep_apart: bool | None = Field(
        default=None,
        description="true: each model keeps its own head part, and a class name that several have "
        "gets the model's, as cat@night; default: parts that share a class become one.",
    )
    adapt: Adapt = Adapt()
    mend: Mending | None = Field(
        default=None, description="What it learned after the merge (`duet mend`)."
    )
    increments: tuple[Annotated[Entry, BeforeValidator(_as_entry)], ...] = Field(
        min_length=1, description="What to merge, oldest first."
    )

    def moved(self, path: Callable[[str], str]) -> Recipe:
        """Return the recipe with other paths: of its models, of θ_0 and of the images."""
        entries = tuple(
            entry.model_copy(update={"path": path(entry.path)}) for entry in self.increments
        )
        adapt = self.adapt.model_copy(
            update={"images": self.adapt.images and path(self.adapt.images)}
        )
        weights, mend = self.weights and path(self.weights), self.mend
        if mend is not None:
            mend = mend.model_copy(update={"images": tuple(map(path, mend.images))})
        changes = {"increments": entries, "weights": weights, "adapt": adapt, "mend": mend}
        return self.model_copy(update=changes)

    def absolute(self, folder: Path) -> Recipe:
        """Return the recipe with absolute paths; they are relative to ``folder``."""
        return self.moved(lambda path: str(resolved(folder / path)))


def load_recipe(path: Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe YAML; paths in it, but no names of start weights, are relative to its folder.

    Args:
        path: The file.
        changes: Keys to replace, such as `{"method": "ties"}`.

    Raises:
        ConfigError: With every problem at once, and the nearest key for each unknown one.
    """
    data = load_yaml(path) or {}
    if isinstance(data, dict):
        data = {**data, **(changes or {})}
    recipe = parse_config(Recipe, data, where=str(path))
    given = changes or {}
    kept = {key: getattr(recipe, key) for key in ("increments", "weights") if key in given}
    if recipe.weights and "weights" not in given:
        kept["weights"] = name_or_below(path.parent, recipe.weights)
    return recipe.moved(lambda text: str(path.parent / text)).model_copy(update=kept)
