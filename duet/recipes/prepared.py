"""A merge that was checked and can be done: in memory, into a folder, or in rehearsal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from duet.merging.chunks import Listen
from duet.recipes.apply import MakeObjective, Remerged, merge_plan, rehearse, start_tensors
from duet.recipes.estimate import estimate
from duet.recipes.plan import Plan
from duet.recipes.write import Written, write_detector
from duet.vectors.tensors import Tensors


@dataclass(frozen=True)
class Prepared:
    """A plan whose start weights are there and the right ones.

    Attributes:
        plan: What to merge.
        images: Unlabelled, for methods that learn; default those of the recipe.
    """

    plan: Plan
    images: str | Path | None = None

    def __post_init__(self) -> None:
        """Look for the start weights: missing or other ones are told before any work.

        Raises:
            ModelError: See `duet.recipes.apply.start_tensors`.
        """
        _ = self.theta_0

    @cached_property
    def theta_0(self) -> Tensors | None:
        """Shared tensors of the start weights; None where they are not needed."""
        return start_tensors(self.plan)

    @cached_property
    def _found(self) -> Any:
        chosen = self.images if self.images is not None else self.plan.recipe.adapt.images
        if chosen is None:
            return None
        from duet.inference.sources import find_images

        return find_images(chosen)

    @property
    def omission(self) -> str | None:
        """What of the unlabelled images is left out, in words."""
        return self._found.omission() if self._found is not None else None

    def objective(self) -> MakeObjective | None:
        """Return what a learned merge minimises on the images; None without any.

        Raises:
            DataError: There is no image.
        """
        if self._found is None:
            return None
        from duet.recipes.objective import objective_from

        size = max(source.image_size for source in self.plan.sources)
        paths, adapt = self._found.paths, self.plan.recipe.adapt
        return lambda state: objective_from(state, paths, image_size=size, adapt=adapt)

    def rehearse(self) -> dict[str, Any]:
        """Look whether all fits together; return the plan and its cost, JSON-ready.

        Raises:
            ModelError: See `duet.recipes.apply.rehearse`.
        """
        rehearse(self.plan, self.theta_0)
        return {
            "schema": 1, "detector": None, **self.plan.as_dict(), "estimate": estimate(self.plan),
        }  # fmt: skip

    def merge(self, listen: Listen | None = None) -> Remerged:
        """Merge in memory.

        Raises:
            ModelError: See `duet.recipes.apply.merge_plan`.
        """
        objective = self.objective()
        return merge_plan(self.plan, theta_0=self.theta_0, make_objective=objective, listen=listen)

    def write(
        self, folder: Path, *, overwrite: bool = False, listen: Listen | None = None
    ) -> Written:
        """Merge into a detector folder.

        Raises:
            DuetError: See `duet.recipes.write.write_detector`.
        """
        return write_detector(
            self.plan, folder, overwrite=overwrite, theta_0=self.theta_0,
            make_objective=self.objective(), listen=listen,
        )  # fmt: skip
