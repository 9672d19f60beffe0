"""The schedule: how long and how fast every stage trains (`configs/train/*.yaml`).

What is learned is the strategy's affair (`duet.training.config`), so that strategies are compared
on one schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)

from duet.config import Config, load_yaml, parse_config
from duet.devices import SPELLINGS, parse_device
from duet.errors import ConfigError
from duet.increments.manifest import LARGEST_SIDE, SMALLEST_SIDE

FISHER_IMAGES = 128
"""Images of a Fisher that is wanted without a number."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]  # the engine accepts no learning rate above 1
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]
NonNegative = Annotated[float, Field(ge=0.0)]
Multiple = Annotated[str, Field(pattern=r"^\d{1,6}(\.\d{1,6})?x$")]
"""A multiple of what the schedule says, as ``1.5x``."""


def told(number: str) -> WrapValidator:
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
    warmup_epochs: Annotated[NonNegative | Multiple, told("a number from 0")] = Field(
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


def load_schedule(path: Path) -> Schedule:
    """Read a schedule YAML (all problems in one `ConfigError`)."""
    return parse_config(Schedule, load_yaml(path) or {}, where=str(path))
