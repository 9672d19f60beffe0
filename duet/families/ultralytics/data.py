"""A slice as the engine's dataset, which reads the user's images and nothing beside them.

The engine keeps decoded images as ``.npy`` beside the originals: it takes whatever file has that
name for its own, overwrites it if its shape is another, and deletes it if it cannot read it. It
keeps read labels as ``.cache``. Here duet reads the images, and the labels are the slice's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from ultralytics.data.dataset import YOLODataset

from duet.families.decode import Objects
from duet.images import read_image
from duet.training.config import PseudoLabels
from duet.training.job import SliceFile
from duet.training.pseudo import Found, Target, add_pseudo_labels, inside


class SliceDataset(YOLODataset):  # type: ignore[misc]
    """Images and boxes of one stored slice.

    Args:
        slice_file: The slice.
        class_offset: Added to the slice's class ids (old classes come first in the loss).
        stretch: Images fill the square, as RT-DETR reads them; else they keep their aspect ratio.
    """

    def __init__(
        self,
        *args: Any,
        slice_file: SliceFile,
        class_offset: int,
        stretch: bool = False,
        **kwargs: Any,
    ) -> None:
        self.slice_file, self.class_offset, self.stretch = slice_file, class_offset, stretch
        super().__init__(*args, img_path="", **kwargs)

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """Load one image, resized to the bit as `BaseDataset.load_image` of the engine does.

        Args:
            i: Index of the image.
            rect_mode: Keep the aspect ratio; else fill the square.
            resize_short: Never asked of a detector; accepted because the engine's method has it.

        Returns:
            ``(h, w, 3)`` uint8 BGR, height and width of the original, height and width now.

        Raises:
            DataError: The image cannot be read any more.
        """
        if self.ims[i] is not None:
            return self.ims[i], self.im_hw0[i], self.im_hw[i]
        image = read_image(Path(self.im_files[i]))
        height, width = image.shape[:2]
        size: int = self.imgsz
        new = (size, size)
        if rect_mode and not self.stretch:
            ratio = size / max(height, width)
            new = (min(math.ceil(height * ratio), size), min(math.ceil(width * ratio), size))
        if new != (height, width):
            resized = cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR)
            image = np.asarray(resized, dtype=np.uint8)
        if self.augment and self.cache != "ram":  # the last few are kept for mosaics
            self.ims[i], self.im_hw0[i], self.im_hw[i] = image, (height, width), new
            self.buffer.append(i)
            if 1 < len(self.buffer) >= self.max_buffer_length:
                old = self.buffer.pop(0)
                self.ims[old] = self.im_hw0[old] = self.im_hw[old] = None
        return image, (height, width), new

    def check_cache_disk(self, safety_margin: float = 0.1) -> bool:
        """Refuse the engine's cache of files beside the images."""
        self.cache = None
        return False

    def get_img_files(self, img_path: str) -> list[str]:
        """Return the slice's images in its own order."""
        return [str(path) for path in self.slice_file.images]

    def get_labels(self) -> list[dict[str, Any]]:
        """Return the slice's labels in the engine's layout (normalised xywh)."""
        return [
            {
                "im_file": str(path),
                "shape": (int(height), int(width)),
                "cls": (np.asarray(ids, dtype=np.float32) + self.class_offset).reshape(-1, 1),
                "bboxes": np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
                "segments": [],
                "keypoints": None,
                "normalized": True,
                "bbox_format": "xywh",
            }
            for path, (height, width), boxes, ids in self.slice_file.rows()
        ]

    def forget_buffer(self) -> None:
        """Drop recently loaded images: an epoch's mosaics must not depend on the one before."""
        if self.cache != "ram":
            for index in self.buffer:
                self.ims[index] = self.im_hw0[index] = self.im_hw[index] = None
            self.buffer: list[int] = []


def extend_batch(
    batch: dict[str, Any],
    found: Sequence[Objects],
    choice: PseudoLabels,
    classes: Sequence[int],
    *,
    size: int,
) -> None:
    """Add the previous detector's objects to a batch of the engine.

    Args:
        batch: ``cls`` ``(n, 1)``, ``bboxes`` ``(n, 4)`` cxcywh normalised, ``batch_idx`` ``(n,)``,
            sorted by image; changed in place.
        found: Objects in each image, in square pixels; their class ids are those of the batch.
        choice: See `duet.training.pseudo.add_pseudo_labels`.
        classes: Likewise.
        size: Side of the square in pixels.
    """
    owner, boxes, ids = batch["batch_idx"], batch["bboxes"], batch["cls"]
    targets = [
        Target(boxes[owner == image], ids[owner == image].flatten().long())
        for image in range(len(found))
    ]
    objects = [
        Found(inside(xyxy / size).to(boxes), scores, class_ids) for xyxy, scores, class_ids in found
    ]
    extended = add_pseudo_labels(targets, objects, choice, classes)
    batch["bboxes"] = torch.cat([target.boxes for target in extended])
    batch["cls"] = torch.cat([target.labels for target in extended]).reshape(-1, 1).to(ids)
    counts = torch.tensor([len(target.labels) for target in extended], device=owner.device)
    images = torch.arange(len(found), device=owner.device)
    batch["batch_idx"] = images.repeat_interleave(counts).to(owner)
