"""Joint training, the yardstick of continual learning: all images so far, from θ_0, at every stage.

It breaks the rule that old images are gone, on purpose. With partial labels each image carries the
labels of its own increment, as it did when it came; with full labels it carries every class known
so far that its data set labels, and images that hold such classes alone join: the ceiling
(method.md section 6).
"""

from __future__ import annotations

from duet.families.table import resolve_family
from duet.runs.chain import Setting, StageResult, run_base, train_alone
from duet.series import DomainData, Increment, Slice, train_slice
from duet.series.joining import join_slices
from duet.training.config import Method


def run_joint(setting: Setting, method: Method) -> list[StageResult]:
    """Train one detector per stage on the increments up to it."""
    results = [run_base(setting, method)]
    increments = setting.series.increments
    family = resolve_family(setting.family)
    for stage, increment in enumerate(increments[1:], start=2):
        seen = increments[:stage]
        classes = tuple(dict.fromkeys(name for item in seen for name in item.classes))
        data = joint_slice(seen, classes, full=method.data == "joint-full")
        title = f"{method.name}: {increment.name}"
        trained = train_alone(setting, data, increment.name, title)
        results.append(StageResult(increment, trained, family.recast(trained.state, method.head)))
    return results


def joint_slice(seen: tuple[Increment, ...], classes: tuple[str, ...], *, full: bool) -> Slice:
    """Return the training images of several increments.

    An image that several increments use appears once, with the labels of all of them.

    Args:
        seen: The increments.
        classes: All their classes; positions become class ids.
        full: Take every image of the data sets that holds one of ``classes``, labelled with all of
            them, not only with those of the increments that use the data set.
    """
    cuts: dict[str, tuple[DomainData, tuple[str, ...]]] = {}
    for item in seen:
        key = str(item.data.source)
        there = tuple(name for name in classes if name in item.data.labels)
        wanted = there if full else (*cuts.get(key, (None, ()))[1], *item.classes)
        cuts[key] = (item.data, tuple(dict.fromkeys(wanted)))
    return join_slices([train_slice(*cut) for cut in cuts.values()], classes)
