"""The strategy: what is learned and how it is joined (`configs/strategy/*.yaml`).

How long and how fast is the schedule's affair (`duet.training.schedule`), so that strategies are
compared on one schedule.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from duet.config import Config, load_yaml, parse_config
from duet.errors import ConfigError, did_you_mean
from duet.increments.forms import HeadForm
from duet.merging.batchnorm import BatchNormFusion
from duet.merging.table import METHODS, MergeChoice
from duet.names import Name
from duet.training.losses.distillation.table import DISTILLATIONS
from duet.training.schedule import Multiple, NonNegative, Rate, Schedule, Share, resolve, told


class Distillation(Config):
    """Keeping the old classes' raw outputs (docs/method.md, Distillation)."""

    method: str = Field(default="duet", description="which outputs are kept, and how")
    weight: NonNegative = Field(default=0.01, description="lambda_Distill, per image; 0 = off")
    class_quantile: Share = Field(
        default=0.75, description="anchors at or above it by max old logit"
    )
    box_quantile: Share = Field(default=0.75, description="anchors at or below it by box variance")
    images: Share = Field(
        default=1.0, gt=0.0,
        description="share of a step's images that are distilled, the first ones of its random "
        "order; the loss is their mean",
    )  # fmt: skip

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        try:
            DISTILLATIONS.find(value)
        except ConfigError as error:
            raise ValueError(f"{error.what}; {error.remedy}") from None
        return value


class PseudoLabels(Config):
    """The previous detector labels old objects in new images (`old_negatives: pseudo`)."""

    confidence: Share = Field(default=0.4, description="its objects must score above it")
    iou: Share = Field(
        default=0.5, description="objects that overlap a label by this much are left out"
    )


class Directional(Config):
    """L_DC, the directional consistency loss (DuET; docs/method.md)."""

    weight: NonNegative = Field(default=0.01, description="lambda_DC, per image; 0 = off")


class Ewc(Config):
    """Elastic weight consolidation (Kirkpatrick et al., PNAS 2017), on the shared weights.

    L = weight / 2 · Σ_i F_i (θ_i − θ_{t−1,i})², with the Fishers of all earlier increments summed.
    """

    weight: NonNegative = Field(default=0.0, description="lambda_EWC, per image; 0 = off")


class Refit(Config):
    """Extra epochs for the new head part on the merged, frozen detector.

    Numbers are what they are, whatever the schedule; multiples go with it: eight epochs at 1e-3
    make twelve at 4e-3 of ``1.5x`` and ``4x``.
    """

    epochs: Annotated[
        Annotated[int, Field(ge=0, le=10**6)] | Multiple, told("a whole number from 0")
    ] = Field(
        default=0, description="epochs, or a multiple of the schedule's, such as 1.5x; 0 = off"
    )
    lr: Annotated[Rate | Multiple, told("a number above 0, 1 at most")] = Field(
        default=1e-3,
        description="peak learning rate, or a multiple of the schedule's for increments, such as "
        "4x; at most 1",
    )
    min_steps: int = Field(
        default=0, ge=0, le=10**6,
        description="of a multiple: the optimizer steps that few images get at least",
    )  # fmt: skip

    def of(self, schedule: Schedule, images: int) -> Schedule | None:
        """Return the schedule of a re-fit on so many images, in numbers; None if there is none."""
        epochs = math.floor(resolve(self.epochs, schedule.epochs) + 0.5)
        if epochs and isinstance(self.epochs, str):
            epochs = max(epochs, math.ceil(self.min_steps / schedule.steps(max(images, 1))))
        if not epochs:
            return None
        changes = {
            "epochs": epochs,
            "lr": min(resolve(self.lr, schedule.increment_lr), 1.0),
            "lr_increment": None,
            "warmup_epochs": 0.0,
        }
        return schedule.model_copy(update=changes)


class Mend(Config):
    """Teaching a merged detector what its specialists say of images that nobody labelled."""

    epochs: int | None = Field(
        default=None, ge=1, le=10**6,
        description="passes over the images; default 12, or as many as make 300 steps",
    )  # fmt: skip
    lr: Rate = Field(default=4e-3, description="peak learning rate (AdamW)")
    batch: int = Field(default=16, ge=1, le=2**16, description="images per step")
    trains: Literal["head", "neck", "all"] = Field(
        default="neck",
        description="what learns: the head; the neck and the head; or the backbone, too",
    )
    statistics: Share = Field(
        default=1.0,
        description="share of BatchNorm statistics estimated anew on the images in the ones that "
        "it begins with; the rest stays as merged",
    )
    boxes: NonNegative = Field(default=1.0, description="weight of the distance of boxes")
    seed: int = Field(default=0, ge=0, description="of order and augmentation")

    def epochs_of(self, images: int) -> int:
        """Return how often so many images are seen."""
        return self.epochs or max(12, math.ceil(300 * self.batch / images))


class Strategy(Config):
    """How increments are learned and joined. One YAML under `configs/strategy/`."""

    name: Name
    title: str = ""
    head: HeadForm = "towers"
    new_part: Literal["previous", "pretrained"] = Field(
        "previous", description="where the new head part starts: the previous increment's or θ_0's"
    )
    old_part: Literal["kept", "trained"] = Field(
        "kept", description="old head tensors stay bit for bit, or train with the rest"
    )
    old_negatives: Literal["mask", "train", "pseudo"] = Field(
        "mask",
        description="unlabelled old objects in new images: mask = old classes take no part in the "
        "loss; train = they count as background; pseudo = the previous detector labels them",
    )
    pseudo: PseudoLabels = PseudoLabels()
    trunk: Literal["trained", "frozen"] = "trained"
    distill: Distillation = Distillation()
    directional: Directional = Directional()
    ewc: Ewc = Ewc()
    data: Literal["increment", "joint-partial", "joint-full"] = Field(
        "increment",
        description="what a stage trains on: the increment alone; or, as a yardstick that keeps "
        "every image, all increments so far with their own labels, or with all labels there are",
    )
    merge: MergeChoice = MergeChoice()
    geometry: Literal["sequential", "independent"] = Field(
        "sequential",
        description="sequential: each increment is trained from the merge before it; independent: "
        "each is trained apart, from θ_0, or where all bring known classes from the base, and all "
        "so far are merged at once. Strategies that merge nothing learn as they do",
    )
    batchnorm: BatchNormFusion = BatchNormFusion()
    min_retention: Share = Field(
        default=0.0,
        description="share of the previous detector's detections on the new images that the "
        "merged shared weights must keep; they move only as far as that allows; 0 = off",
    )
    refit: Refit = Refit()
    calibrate: bool = Field(
        default=False,
        description="fit score maps and thresholds after every stage (docs/method.md, Calibration)",
    )

    @model_validator(mode="after")
    def _joint_training_has_one_head(self) -> Strategy:
        if self.data != "increment" and (self.head != "rows" or self.old_part != "trained"):
            raise ValueError(
                f"data: {self.data} trains one head on all images, so it needs head: rows and "
                f"old_part: trained, but got {self.head} and {self.old_part}"
            )
        return self

    @model_validator(mode="after")
    def _what_must_be_kept_can_be(self) -> Strategy:
        if not self.min_retention:
            return self
        if self.old_part != "kept":
            raise ValueError("min_retention needs old_part: kept: rows that train are not held")
        if not METHODS[self.merge.method].idempotent:
            able = ", ".join(name for name in METHODS if METHODS[name].idempotent)
            raise ValueError(
                f"min_retention needs a merge that gives equal models back ({able}), but got "
                f"{self.merge.method}"
            )
        return self

    @model_validator(mode="after")
    def _parallel_heads_know_their_own(self) -> Strategy:
        if self.head == "parallel" and self.old_negatives == "pseudo":
            raise ValueError(
                "old_negatives: pseudo needs a head that knows the old classes: rows or towers, "
                "but got parallel"
            )
        return self

    @model_serializer(mode="wrap")
    def _chains_as_ever(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        if data.get("geometry") == "sequential":  # increments' fingerprints hold this mapping
            del data["geometry"]
        return data

    @property
    def apart(self) -> bool:
        """Whether increments are trained apart and merged at once."""
        return self.geometry == "independent" and self.old_part == "kept"

    @property
    def reads_fisher(self) -> bool:
        """Whether learning or merging reads the Fishers of increments."""
        merges = self.data == "increment" and "fisher" in METHODS[self.merge.method].needs
        return bool(self.ewc.weight) or merges

    @property
    def refines(self) -> bool:
        """Whether an increment of known classes trains their class rows: nothing else may move."""
        return self.trunk == "frozen" and self.old_part == "kept"


def load_strategy(name_or_path: str, *, folder: Path) -> Strategy:
    """Read a strategy by shipped name or by path to a YAML.

    Args:
        name_or_path: ``duet-plus`` or ``my/strategy.yaml``.
        folder: Where the shipped strategies lie.

    Raises:
        ConfigError: No such strategy (with the nearest name) or an invalid file.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = folder / f"{name_or_path}.yaml"
        if not path.is_file():
            known = sorted(item.stem for item in folder.glob("*.yaml"))
            raise ConfigError(
                f"unknown strategy '{name_or_path}'{did_you_mean(name_or_path, known)}",
                remedy=f"shipped strategies: {', '.join(known)}; or give the path of a YAML file",
            )
    return parse_config(Strategy, load_yaml(path) or {}, where=str(path))
