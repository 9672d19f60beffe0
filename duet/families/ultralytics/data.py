"""A slice as the engine's dataset: no label cache, no rewritten label files, no index surprises."""

from __future__ import annotations

from typing import Any

import numpy as np

from duet.families.ultralytics.engine import prepare

prepare()

from ultralytics.data.dataset import YOLODataset  # noqa: E402  (the engine must be tamed first)

from duet.training.job import SliceFile  # noqa: E402


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

    def load_image(self, i: int, rect_mode: bool = True) -> Any:
        """Load one image; the engine's `rect_mode` keeps the aspect ratio."""
        return super().load_image(i, rect_mode=rect_mode and not self.stretch)

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
