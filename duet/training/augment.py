"""Random changes to training images and their boxes, by albumentations."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from duet.errors import ConfigError
from duet.training.schedule import Augmentation

PAD = 114  # grey of what a shift or a zoom uncovers, as in YOLO's training
MIN_SIDE = 2  # pixels; a box that is smaller after the change is dropped
MIN_SHARE = 0.1  # so is one of which less is left inside


class Augmenter:
    """Flip, affine map and colour jitter; the same seed gives the same image.

    Args:
        settings: What to change, and how much.

    Raises:
        ConfigError: The settings ask for a mosaic or for mixing images.
    """

    def __init__(self, settings: Augmentation) -> None:
        require_single(settings)
        # Otherwise the import asks PyPI for a newer version; duet never goes online by itself.
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        import albumentations

        boxes = albumentations.BboxParams(
            format="yolo", label_fields=["class_ids"], clip=True, min_visibility=MIN_SHARE,
            min_width=MIN_SIDE, min_height=MIN_SIDE,
        )  # fmt: skip
        self._compose = albumentations.Compose(_steps(settings), bbox_params=boxes)

    def __call__(
        self, image_SS3: np.ndarray, boxes_N4: np.ndarray, class_ids: np.ndarray, *, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the changed image, boxes and class ids.

        Args:
            image_SS3: ``(S, S, 3)`` uint8, BGR.
            boxes_N4: ``(N, 4)`` float32 cxcywh, normalised to the image.
            class_ids: ``(N,)`` int64.
            seed: Of all that is random.
        """
        self._compose.set_random_seed(seed)
        changed: Any = self._compose(
            image=np.ascontiguousarray(image_SS3[..., ::-1]), bboxes=boxes_N4, class_ids=class_ids
        )
        return (
            np.ascontiguousarray(changed["image"][..., ::-1]),
            np.asarray(changed["bboxes"], dtype=np.float32).reshape(-1, 4),
            np.asarray(changed["class_ids"], dtype=np.int64),
        )


def require_single(settings: Augmentation) -> None:
    """Refuse what joins several images.

    Raises:
        ConfigError: The settings ask for a mosaic or for mixing images.
    """
    wanted = [name for name in ("mosaic", "mixup") if getattr(settings, name) > 0]
    if wanted:
        raise ConfigError(
            f"this detector family trains without {' and '.join(wanted)}",
            where="augmentation",
            remedy="; ".join(f"set {name}: 0" for name in wanted),
        )


def _steps(settings: Augmentation) -> list[Any]:
    import albumentations

    steps: list[Any] = []
    if settings.flip:
        steps.append(albumentations.HorizontalFlip(p=settings.flip))
    if settings.scale or settings.translate or settings.degrees:
        steps.append(
            albumentations.Affine(
                scale=_around_one(settings.scale), keep_ratio=True,
                translate_percent=(-settings.translate, settings.translate),
                rotate=(-settings.degrees, settings.degrees), fill=PAD, p=1,
            )
        )  # fmt: skip
    if settings.hue or settings.saturation or settings.brightness:
        half_circle = min(settings.hue, 0.5)
        steps.append(
            albumentations.ColorJitter(
                brightness=_around_one(settings.brightness), contrast=(1, 1),
                saturation=_around_one(settings.saturation), hue=(-half_circle, half_circle), p=1,
            )
        )  # fmt: skip
    return steps


def _around_one(share: float) -> tuple[float, float]:
    # Nothing is left of an image at a factor of 0.
    return max(1 - share, 0.05), 1 + share
