"""Two configurations of training: the schedule (how long, how fast) and the strategy (what for).

They are separate files so that strategies are compared on one schedule: `configs/train/*.yaml` and
`configs/strategy/*.yaml`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    WrapValidator,
    field_validator,
    model_serializer,
    model_validator,
)

from duet.config import Config, load_yaml, parse_config
from duet.devices import SPELLINGS, parse_device
from duet.errors import ConfigError, did_you_mean
from duet.increments.forms import HeadForm
from duet.increments.manifest import LARGEST_SIDE, SMALLEST_SIDE
from duet.merging.batchnorm import BatchNormFusion
from duet.merging.table import METHODS, MergeChoice
from duet.names import Name
from duet.training.losses.distillation.table import DISTILLATIONS

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]  # the engine accepts no learning rate above 1
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]
NonNegative = Annotated[float, Field(ge=0.0)]
Multiple = Annotated[str, Field(pattern=r"^\d{1,6}(\.\d{1,6})?x$")]
"""A multiple of what the schedule says, as ``1.5x``."""


def _told(number: str) -> WrapValidator:
    """Return what says once what a number or its multiple should have been."""

    def check(value: Any, read: Callable[[Any], Any]) -> Any:
        try:
            return read(value)
        except ValidationError:
            raise ValueError(
                f"expected {number}, or a multiple of the schedule's such as 1.5x"
            ) from None

    return WrapValidator(check)


def resolve(value: float | str, of: float) -> float:
    """Return a number as it is, or a `Multiple` of what the schedule says."""
    return float(value[:-1]) * of if isinstance(value, str) else value


class Augmentation(Config):
    """Random changes to training images, as Ultralytics names them; 0 switches one off."""

    mosaic: Share = Field(default=0.0, description="probability of a four-image mosaic")
    mosaic_off_epochs: int = Field(
        default=0, ge=0, description="last epochs trained without mosaic"
    )
    flip: Share = Field(default=0.5, description="probability of a left-right flip")
    scale: Share = Field(default=0.4, description="zoom range: factor 1 ± scale")
    translate: Share = Field(default=0.1, description="shift range, share of the image side")
    degrees: NonNegative = Field(default=0.0, description="rotation range in degrees")
    hue: Share = Field(default=0.015, description="hue jitter, share of the circle")
    saturation: Share = Field(default=0.7, description="saturation jitter")
    brightness: Share = Field(default=0.4, description="brightness jitter")
    mixup: Share = Field(default=0.0, description="probability of mixing two images")


class Schedule(Config):
    """How one stage is trained. Equal for every stage unless a `*_increment` key says otherwise."""

    epochs: int = Field(default=100, ge=1, le=10**6, description="passes over the slice")
    batch: int = Field(default=64, ge=1, le=2**16, description="images per step and device group")
    accumulate: int = Field(default=1, ge=1, description="steps whose gradients are added up")
    image_size: int = Field(
        default=640, ge=SMALLEST_SIDE, le=LARGEST_SIDE, multiple_of=32,
        description="training side in pixels",
    )  # fmt: skip
    optimizer: Literal["AdamW", "SGD"] = Field(
        default="AdamW", description="never 'auto': it ignores lr"
    )
    lr: Rate = Field(default=1e-3, description="peak learning rate")
    lr_increment: Rate | None = Field(
        default=None, description="peak rate of increments; default lr"
    )
    final_lr: Share = Field(default=0.01, description="last learning rate as a share of the peak")
    decay: Literal["linear", "one-cycle"] = Field(
        default="linear", description="shape after warm-up"
    )
    warmup_epochs: Annotated[NonNegative | Multiple, _told("a number from 0")] = Field(
        default=5.0,
        description="epochs of linear warm-up, from 0; or a share of the training, such as 0.175x",
    )
    reference_steps: int = Field(
        default=0, ge=0, le=10**7,
        description="optimizer steps that a reference trains at least, by more epochs: what GI and "
        "PI divide by should have converged",
    )  # fmt: skip
    momentum: Share = Field(default=0.9, description="SGD momentum or AdamW beta1")
    weight_decay: Share = Field(default=5e-4, description="of the base stage")
    weight_decay_increment: Share | None = Field(default=None, description="default weight_decay")
    precision: PrecisionChoice = Field(
        default="fp32",
        description="numbers that convolutions compute in; auto = bf16 where the hardware has it, "
        "else fp32; fp16 is for CUDA",
    )
    device: str = Field(default="cpu", description=SPELLINGS)
    ranks: int = Field(
        default=1, ge=1, le=1024,
        description="processes that share each step of a training, each on one GPU or core of any "
        "machine of a cluster (--engine ray)",
    )  # fmt: skip
    workers: int = Field(
        default=0, ge=0, le=1024, description="data loading processes; on a CPU always 0"
    )
    threads: int = Field(default=1, ge=0, le=1024, description="CPU threads of one stage; 0 = all")
    cache: bool = Field(default=True, description="keep decoded images in memory")
    fisher_images: int | None = Field(
        default=None,
        ge=0,
        description="images of the slice whose squared gradients are stored after training, for "
        "Fisher merging and EWC; default 128 where a strategy of the run reads them, else none; "
        "0 = off",
    )
    augmentation: Augmentation = Augmentation()

    @property
    def warm_up(self) -> float:
        """Epochs of linear warm-up, in numbers."""
        return float(resolve(self.warmup_epochs, self.epochs))

    @property
    def increment_lr(self) -> float:
        """Peak learning rate of everything but a base."""
        return self.lr_increment or self.lr

    def of_reference(self, images: int) -> Schedule:
        """Return the schedule of a reference on so many images: nobody merges it."""
        steps = self.steps(max(images, 1))
        epochs = max(self.epochs, math.ceil(self.reference_steps / steps))
        fisher = None if self.fisher_images else self.fisher_images
        return self.model_copy(update={"epochs": epochs, "fisher_images": fisher})

    def steps(self, images: int) -> int:
        """Return the optimizer steps of one epoch of so many images."""
        return math.ceil(math.ceil(images / self.batch) / self.accumulate)

    @field_validator("device", mode="before")
    @classmethod
    def _known_device(cls, value: Any) -> str:
        # A YAML that says `device: 0` means the first GPU.
        given = str(value) if isinstance(value, (str, int)) else ""
        try:
            return str(parse_device(given))
        except ConfigError as error:
            raise ValueError(f"{error.what}: {error.remedy}") from None

    @model_validator(mode="before")
    @classmethod
    def _amp_is_a_precision(cls, given: Any) -> Any:
        # What schedules called it before: `amp: true` meant float16 on CUDA.
        if not isinstance(given, dict) or "amp" not in given:
            return given
        rest = {key: value for key, value in given.items() if key != "amp"}
        if not isinstance(given["amp"], bool) or "precision" in given:
            raise ValueError("amp is called precision now: auto, fp32, bf16 or fp16")
        return rest | {"precision": "fp16" if given["amp"] else "fp32"}

    @model_validator(mode="after")
    def _float16_has_a_scaler(self) -> Schedule:
        if self.precision == "fp16" and parse_device(self.device).kind != "cuda":
            raise ValueError(
                f"precision fp16 needs a CUDA device, but got {self.device}: float16 loses small "
                "gradients, and only CUDA has the scaler that saves them; use fp32, bf16 or auto"
            )
        return self

    @model_validator(mode="after")
    def _ranks_share_a_step(self) -> Schedule:
        if self.ranks == 1:
            return self
        device = parse_device(self.device)
        if device.kind == "mps" or len(device.numbers) > 1:
            raise ValueError(
                f"each of {self.ranks} ranks has one GPU, or the CPU, but got device "
                f"{self.device}: use cpu or cuda"
            )
        if self.batch % self.ranks:
            raise ValueError(
                f"{self.ranks} ranks cannot share a batch of {self.batch} images evenly"
            )
        return self

    @model_validator(mode="after")
    def _momentum_leaves_something(self) -> Schedule:
        if self.optimizer == "AdamW" and self.momentum >= 1:
            raise ValueError(f"AdamW needs a momentum below 1, but got {self.momentum}")
        return self


def needs_a_cluster(ranks: int) -> ConfigError:
    """Return the error of a training in several processes where there is but one machine."""
    return ConfigError(
        f"{ranks} ranks are for the machines of a cluster", where="ranks",
        remedy="add --engine ray; several GPUs of this machine are --device 0,1",
    )  # fmt: skip


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
        Annotated[int, Field(ge=0, le=10**6)] | Multiple, _told("a whole number from 0")
    ] = Field(
        default=0, description="epochs, or a multiple of the schedule's, such as 1.5x; 0 = off"
    )
    lr: Annotated[Rate | Multiple, _told("a number above 0, 1 at most")] = Field(
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


FISHER_IMAGES = 128
"""Images of a Fisher that is wanted without a number."""


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


def load_schedule(path: Path) -> Schedule:
    """Read a schedule YAML (all problems in one `ConfigError`)."""
    return parse_config(Schedule, load_yaml(path) or {}, where=str(path))


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
