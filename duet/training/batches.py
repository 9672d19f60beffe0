"""The images of a slice as training batches: fitted into a square, augmented, cached.

What an image looks like in an epoch depends on (seed, epoch, place in the slice) alone: not on the
number of loading processes, and not on what was loaded before.

Shapes: B images, S pixels, N boxes of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from duet.images import Fit, Fitted, fit_image, read_image, squared
from duet.training.augment import Augmenter
from duet.training.job import SliceFile
from duet.training.memory import fast_images
from duet.training.pseudo import Target
from duet.training.schedule import Schedule

Item = tuple[np.ndarray, np.ndarray, np.ndarray]
"""``(S, S, 3)`` uint8 BGR, ``(N, 4)`` float32 cxcywh normalised, ``(N,)`` int64 class ids."""


class SquareImages(Dataset[Item]):
    """A slice whose items are asked for by ``(epoch, place)``; epoch −1 means unchanged.

    Args:
        slice_file: The slice.
        schedule: Image size, augmentation, and whether decoded images stay in memory.
        seed: Of the augmentation.
        fit: How images become squares; see `squared`.
    """

    def __init__(
        self, slice_file: SliceFile, schedule: Schedule, seed: int, fit: Fit = "stretch"
    ) -> None:
        self._rows = list(slice_file.rows())
        self._size, self._seed, self._fit = schedule.image_size, seed, squared(fit)
        self._augment = Augmenter(schedule.augmentation)
        self._cache: dict[int, Fitted] | None = {} if schedule.cache else None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, place = key
        _, _, boxes, class_ids = self._rows[place]
        fitted = self._fitted(place)
        square, boxes = fitted.pixels, fitted.to_input(boxes)
        if epoch < 0:
            return square, boxes, class_ids
        seed = np.random.SeedSequence([self._seed, epoch, place]).generate_state(1)[0]
        return self._augment(square, boxes, class_ids, seed=int(seed))

    def _fitted(self, place: int) -> Fitted:
        if self._cache is not None and place in self._cache:
            return self._cache[place]
        fitted = fit_image(read_image(self._rows[place][0]), self._size, self._fit)
        if self._cache is not None:
            self._cache[place] = fitted
        return fitted


class EpochOrder:
    """The batches of an epoch as keys of `SquareImages`, in an order that its seed decides."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self._count, self._batch, self._seed = count, batch, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self._count // self._batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._count)
        for start in range(0, self._count, self._batch):
            yield [(self.epoch, int(place)) for place in order[start : start + self._batch]]


@dataclass(frozen=True)
class Batch:
    """Images and labels of one step, in few tensors: each is one copy to a device.

    Attributes:
        images: ``(B, S, S, 3)`` uint8 BGR.
        boxes: ``(N, 4)`` float32 cxcywh normalised, of all images.
        labels: ``(N,)`` int64 class ids.
        counts: Labels of each image.
    """

    images: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    counts: tuple[int, ...]

    def pin_memory(self) -> Batch:
        """Return it in memory that a GPU reads by itself; the loader asks for it."""
        return Batch(
            self.images.pin_memory(), self.boxes.pin_memory(), self.labels.pin_memory(), self.counts
        )


def loader(
    images: SquareImages, order: EpochOrder, workers: int, device: torch.device
) -> DataLoader[Any]:
    """Return a loader of `collate`d batches; set ``order.epoch`` before each pass."""
    return DataLoader(
        images, batch_sampler=order, num_workers=workers, collate_fn=collate,
        persistent_workers=workers > 0, pin_memory=device.type == "cuda",
    )  # type: ignore[arg-type]  # fmt: skip


def collate(items: Sequence[Item]) -> Batch:
    """Return the batch of some items."""
    images, boxes, ids = zip(*items, strict=True)
    return Batch(
        torch.from_numpy(np.stack(images)),
        torch.from_numpy(
            np.concatenate([np.asarray(one, dtype=np.float32).reshape(-1, 4) for one in boxes])
        ),
        torch.from_numpy(np.concatenate([np.asarray(one, dtype=np.int64) for one in ids])),
        tuple(map(len, ids)),
    )


def to_device(batch: Batch, device: torch.device) -> tuple[torch.Tensor, list[Target]]:
    """Return ``(B, 3, S, S)`` float32 RGB in [0, 1] and the targets of each image, on ``device``.

    The processor does not wait for copies out of pinned memory.
    """
    images, boxes, labels = (
        one.to(device, non_blocking=device.type == "cuda")
        for one in (batch.images, batch.boxes, batch.labels)
    )
    images_B3SS = fast_images(images.flip(-1).permute(0, 3, 1, 2).float() / 255)
    counts = list(batch.counts)
    parts = zip(torch.split(boxes, counts), torch.split(labels, counts), strict=True)
    return images_B3SS, [Target(*part) for part in parts]
