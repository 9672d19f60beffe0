"""A merge from files to a file: inputs and result are mapped, scratch memory is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from duet.files import hidden_folder, relative_path
from duet.increments.manifest import DetectorManifest, Lineage
from duet.increments.state import DetectorState
from duet.increments.store import DetectorFile, Filled, build_detector, holds
from duet.increments.tensorfile import Layout, mapped_output
from duet.merging.chunks import Listen
from duet.recipes.apply import MakeObjective, Remerged, merge_plan
from duet.recipes.heads import Allocate, head_layout
from duet.recipes.plan import Plan
from duet.recipes.recipe import Recipe
from duet.recipes.sources import Opened, open_source
from duet.vectors.tensors import Tensors


@dataclass(frozen=True)
class Written:
    """A detector folder that a merge wrote.

    Attributes:
        folder: Where it is.
        manifest: Its manifest.
        plan: What was merged.
        result: State (mapped from the folder), traces and remarks.
    """

    folder: Path
    manifest: DetectorManifest
    plan: Plan
    result: Remerged

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the merge itself found, beside the plan's remarks."""
        return self.result.remarks[len(self.plan.remarks) :]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "schema": 1,
            "detector": str(self.folder),
            "fingerprint": self.manifest.fingerprint,
            "method": self.plan.recipe.method,
            "geometry": self.plan.geometry,
            "classes": list(self.result.state.labels),
            "merges": [trace.as_dict() for trace in self.result.traces],
            "remarks": list(self.result.remarks),
        }


def write_detector(
    plan: Plan,
    folder: Path,
    *,
    overwrite: bool = False,
    theta_0: Tensors | None = None,
    make_objective: MakeObjective | None = None,
    listen: Listen | None = None,
) -> Written:
    """Merge what a plan names into a detector folder, complete or not at all.

    Args:
        plan: Checked plan.
        folder: Must not exist, be empty, or hold this very result, unless ``overwrite``.
        overwrite: Replace an older detector there.
        theta_0: See `duet.recipes.apply.merge_plan`.
        make_objective: See `duet.recipes.apply.merge_plan`.
        listen: Progress.

    Raises:
        ModelError: See `duet.recipes.apply.merge_plan`.
        DuetError: The folder is in the way, or the file system refuses the write.
    """
    opened = tuple(open_source(source) for source in plan.sources)
    results: list[Remerged] = []

    def fill(flat: dict[str, torch.Tensor]) -> Filled:
        with _workspace(folder, flat) as allocate:
            result = merge_plan(
                plan, opened=opened, theta_0=theta_0, allocate=allocate,
                make_objective=make_objective, listen=listen,
            )  # fmt: skip
        state = _moved(result.state, flat)
        results.append(Remerged(state, result.traces, result.remarks))
        return DetectorFile(state, manifest_of(plan, state, folder)), result.traces

    folder.parent.mkdir(parents=True, exist_ok=True)
    again = holds(folder, "recipe", stored_recipe(plan.recipe, folder))
    layout = _layout(plan, opened)
    manifest = build_detector(folder, layout, fill, overwrite=overwrite, again=again)
    return Written(folder, manifest, plan, results[0])


@contextmanager
def _workspace(target: Path, flat: Mapping[str, torch.Tensor]) -> Iterator[Allocate]:
    """Yield memory for `merge_plan`: the result in the detector's file, the rest beside it."""
    with ExitStack() as stack:
        folder = stack.enter_context(hidden_folder(target))

        def allocate(purpose: str, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
            if purpose == "result":
                return {name: flat[f"shared/{name}"] for name in shapes}
            layout = {name: (torch.float32, shape) for name, shape in shapes.items()}
            return stack.enter_context(mapped_output(folder / purpose, layout))

        yield allocate


def _layout(plan: Plan, opened: Sequence[Opened]) -> Layout:
    """Return what the detector's file will hold."""
    first = opened[0]
    layout: dict[str, tuple[torch.dtype, torch.Size]] = {
        f"shared/{name}": (torch.float32, tensor.shape)
        for name, tensor in first.stage.tensors.items()
    }
    layout |= {f"buffers/{name}": (t.dtype, t.shape) for name, t in first.buffers.items()}
    for index, part in enumerate(head_layout(plan, opened)):  # a re-fit part has the same shapes
        layout |= {f"part/{index}/{name}": spec for name, spec in part.items()}
    return layout


def _moved(state: DetectorState, flat: Mapping[str, torch.Tensor]) -> DetectorState:
    """Copy what is not in the file yet, and return the state on the file's memory."""
    for name, tensor in state.to_tensors().items():
        if tensor.data_ptr() != flat[name].data_ptr():
            flat[name].copy_(tensor.detach())
    return DetectorState.from_tensors(
        flat,
        [(part.increment, part.classes, part.scores, part.colours) for part in state.parts],
        family=state.family,
        architecture=state.architecture,
        head=state.head,
    )


def manifest_of(plan: Plan, state: DetectorState, folder: Path) -> DetectorManifest:
    """Return the manifest of a merged detector, with paths relative to ``folder``."""
    lineage: list[Lineage] = []
    merge = plan.recipe.model_dump(mode="json", include={"method", "params"})
    config: dict[str, Any] = {
        "merge": merge, "batchnorm": plan.recipe.batchnorm.model_dump(mode="json"),
    }  # fmt: skip
    for number, source in enumerate(plan.sources):
        if source.lineage:  # a detector brings its own history
            lineage += source.lineage
        else:
            how = config if number else None
            lineage.append(Lineage(increment=source.name, manifest=source.fingerprint, merge=how))
    return DetectorManifest.for_state(
        state,
        lineage=tuple(lineage),
        image_size=max(source.image_size for source in plan.sources),
        licence=plan.sources[0].licence,
        recipe=stored_recipe(plan.recipe, folder),
    )


def stored_recipe(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return the recipe as a manifest keeps it: JSON-ready, paths relative to ``folder``."""
    moved = recipe.moved(lambda path: relative_path(Path(path), folder))
    return moved.model_dump(mode="json", by_alias=True, exclude_none=True)
