"""The detector under test: one architecture of a family, with random weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from duet.families.table import families, resolve_family, resolve_roles
from duet.series import Annotation, Slice

if TYPE_CHECKING:
    import numpy as np
    import torch

    from duet.families.family import Family
    from duet.families.protocol import RoleRules
    from duet.increments.state import DetectorState, HeadForm, HeadPart

OLD, NEW = ("red", "green", "blue"), ("yellow", "pink")
"""Classes of the first and of the second increment."""


@dataclass(frozen=True)
class Case:
    """One architecture to check.

    Attributes:
        family: Name of the family.
        architecture: A small one: the checks train it.
        image_size: Pixels.
        lr: Learning rate at which it learns coloured squares in 48 steps.
        formats: Formats of `duet export` whose files must compute the same.
    """

    family: str
    architecture: str
    image_size: int = 64
    lr: float = 1e-2
    formats: tuple[str, ...] = ("onnx", "torchscript")

    @property
    def engine(self) -> Family:
        """The family itself."""
        return resolve_family(self.family)

    @property
    def rules(self) -> RoleRules:
        """What it knows about names of tensors."""
        return resolve_roles(self.family)

    @property
    def forms(self) -> tuple[HeadForm, ...]:
        """The head forms that the family builds."""
        return tuple(dict.fromkeys(families()[self.family].heads.values()))

    def start(self, form: HeadForm, classes: tuple[str, ...] = OLD) -> DetectorState:
        """Return a detector of one increment, its class rows all different."""
        fresh = self.engine.fresh(self.architecture, classes, seed=1)
        state = self.engine.start_state(
            replace(fresh, classes=()), architecture=self.architecture, head=form, classes=classes,
            increment="first", seed=2,
        )  # fmt: skip
        return replace(state, parts=(lively(state.parts[0], seed=3),))

    def grown(self, form: HeadForm) -> DetectorState:
        """Return a detector of two increments."""
        state = self.engine.grow(
            self.start(form), classes=NEW, increment="second", seed=4, source=None
        )
        return replace(state, parts=(state.parts[0], lively(state.parts[1], seed=5)))

    def keep(self, state: DetectorState, folder: Path) -> None:
        """Save a detector folder."""
        from duet.increments.manifest import DetectorManifest
        from duet.increments.store import save_detector

        manifest = DetectorManifest.for_state(
            state, lineage=(), image_size=self.image_size, licence=self.engine.licence
        )
        save_detector(folder, state, manifest)

    def batch(self, count: int = 2) -> torch.Tensor:
        """Return noise as the network reads it."""
        import torch

        generator = torch.Generator().manual_seed(6)
        return torch.rand((count, 3, self.image_size, self.image_size), generator=generator)


def lively(part: HeadPart, *, seed: int) -> HeadPart:
    """Return the part with noise on its floating tensors, statistics left valid.

    Fresh class rows have equal biases; a mix-up of rows would go unnoticed.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point() and "running_" not in name
        else tensor
        for name, tensor in part.tensors.items()
    }
    return replace(part, tensors=tensors)


COLOURS = {
    "red": (40, 40, 220), "green": (40, 200, 40), "blue": (220, 60, 40),
    "yellow": (40, 220, 220), "pink": (200, 120, 240),
}  # fmt: skip


def scene(name: str, size: int, seed: int) -> tuple[np.ndarray, list[float]]:
    """Return a noisy BGR image with one coloured square, and the square as normalised cxcywh."""
    import numpy as np

    rng = np.random.default_rng(seed)
    image = rng.integers(90, 150, (size, size, 3), dtype=np.uint8)
    side = size // 2
    left, top = rng.integers(0, size - side, 2)
    image[top : top + side, left : left + side] = COLOURS[name]
    centre = ((left + side / 2) / size, (top + side / 2) / size)
    return image, [*centre, side / size, side / size]


def squares(folder: Path, classes: tuple[str, ...], *, count: int, size: int) -> Slice:
    """Write images of one coloured square each; image i shows class i mod n."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    paths, annotations = [], []
    for index in range(count):
        label = index % len(classes)
        image, box = scene(classes[label], size, seed=index)
        paths.append(folder / f"{index}.png")
        Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(paths[-1])
        annotations.append(Annotation(np.array([label]), np.array([box]), size, size))
    return Slice(folder.name, "train", classes, tuple(paths), tuple(annotations))
