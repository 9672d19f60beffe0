"""Whether increments were trained on the very detectors that a merge puts before them.

An increment is what training changed of the detector before it. Two runs of one series have
increments of the same names from the same θ_0, and a stage that was trained anew leaves those after
it behind: put together, they merge without any error into a detector that nobody trained.
"""

from __future__ import annotations

from collections.abc import Sequence

from duet.errors import ModelError
from duet.increments.state import HeadPart
from duet.recipes.plan import Plan
from duet.recipes.refined import grown
from duet.recipes.sources import Opened, merge_of
from duet.vectors.tensors import Tensors


def base_of(plan: Plan) -> int | None:
    """Return the position of the base that increments of a plan were trained on; None without."""
    number = 0 if plan.geometry == "sequential" else plan.ancestor
    whole = ("base", "detector")
    return number if number is not None and plan.sources[number].kind in whole else None


def require_descent(plan: Plan, opened: Opened, base: Tensors) -> None:
    """Refuse increments that were trained on another base than the one they are merged with.

    Args:
        plan: Checked plan.
        opened: The base, the source at `base_of`.
        base: Its shared tensors as they are merged.

    Raises:
        ModelError: With the increments and their base.
    """
    number = base_of(plan)
    if number is None or (source := plan.sources[number]).entry.scale != 1:
        return
    children = [one for one in plan.sources if one.parent is not None and one.index == 1]
    if not children:
        return
    got = plan.state(base, opened.buffers, opened.trained).fingerprint()
    strangers = [child for child in children if child.parent != got]
    if strangers:
        names = ", ".join(f"'{child.name}'" for child in strangers)
        raise ModelError(
            f"{names}: trained on another '{source.name}' than this one, on the detector "
            f"{str(strangers[0].parent)[:12]}… and not on {got[:12]}…",
            where=source.entry.path,
            remedy=f"give the '{source.name}' of the same run, or learn {names} again on this one",
        )


def stranger(plan: Plan, opened: Sequence[Opened], shared: Tensors, buffers: Tensors) -> str | None:
    """Return a remark if the next increment of a chain was not trained on the merge so far.

    Nothing is known where the merge is not the one of the training, or a source was edited.

    Args:
        plan: Checked plan.
        opened: Its sources up to and with that increment.
        shared: Shared tensors of the merge so far.
        buffers: Its statistics.
    """
    before, source = plan.sources[: len(opened) - 1], plan.sources[len(opened) - 1]
    if source.parent is None or source.merge != merge_of(plan.recipe.model_dump(mode="json")):
        return None
    if any(one.entry.scale != 1 for one in before):
        return None
    parts: tuple[HeadPart, ...] = ()
    for number, item in enumerate(opened[:-1]):
        parts = grown(plan, number, parts, item.trained)
    if plan.state(shared, buffers, parts).fingerprint() == source.parent:
        return None
    return (
        f"'{source.name}' was trained on another detector than the merge of those before it: they "
        "come from several runs, or one of them was learned again"
    )
