"""A slice as the engine's dataset: no label cache, no rewritten label files, no index surprises."""

from __future__ import annotations

from typing import Any

import numpy as np

from duet.families.yolo.engine import prepare

prepare()

from ultralytics.data.dataset import YOLODataset  # noqa: E402  (the engine must be tamed first)

from duet.training.job import SliceFile  # noqa: E402


class SliceDataset(YOLODataset):  # type: ignore[misc]
    """Images and boxes of one stored slice.

    Args:
        slice_file: The slice.
        class_offset: Added to the slice's class ids (old classes come first in the loss).
    """

    def __init__(self, *args: Any, slice_file: SliceFile, class_offset: int, **kwargs: Any) -> None:
        self.slice_file, self.class_offset = slice_file, class_offset
        super().__init__(*args, img_path="", **kwargs)

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
