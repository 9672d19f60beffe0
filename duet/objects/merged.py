"""A merge in memory."""

from __future__ import annotations

from pathlib import Path

from duet.increments.store import DetectorFile
from duet.progress import Progress, counted
from duet.recipes.model import Model
from duet.recipes.prepared import Prepared
from duet.recipes.write import manifest_of


def merged(merge: Prepared, progress: Progress, remarks: tuple[str, ...] = ()) -> Model:
    """Do a merge in memory.

    Args:
        merge: The merge.
        progress: A bar, nothing, or a function.
        remarks: What to say of it beside what the merge says.
    """
    with counted(f"{merge.plan.recipe.method} merge", progress) as step:
        result = merge.merge(step)
    folder = Path.cwd()
    manifest = manifest_of(merge.plan, result.state, folder)
    omitted = (merge.omission,) if merge.omission else ()
    told = (*remarks, *result.remarks, *omitted)
    file = DetectorFile(result.state, manifest)
    return Model(file, folder, False, result.traces, told)
