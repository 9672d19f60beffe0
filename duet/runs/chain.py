"""One strategy over one series: every stage in its order, each on the one before it."""

from __future__ import annotations

from duet.increments.fisher import sum_fishers
from duet.runs.learn import run_base, run_increment, train_alone
from duet.runs.setting import Before, Setting, StageResult
from duet.series.series import joint_slice
from duet.training.config import Strategy


def run_chain(setting: Setting, strategy: Strategy) -> list[StageResult]:
    """Learn the whole series with one strategy, oldest increment first."""
    if strategy.data != "increment":
        return _joint(setting, strategy)
    results = [run_base(setting, strategy)]
    earlier = setting.shared_start(strategy.head)
    for increment in setting.series.increments[1:]:
        images = sum(result.trained.images_seen for result in results)
        previous = results[-1].merged
        fisher = sum_fishers([result.trained.fisher for result in results], previous.shared)
        before = Before(previous, earlier, len(results), images, fisher)
        results.append(run_increment(setting, strategy, increment, before))
        earlier = before.merged.shared
    return results


def _joint(setting: Setting, strategy: Strategy) -> list[StageResult]:
    """Train one detector per stage on all images so far, from θ_0: the yardstick of the field.

    It breaks the rule that old images are gone, on purpose. With partial labels each image carries
    the labels of its own increment, as it did when it came. With full labels it carries every class
    known so far that its data set labels, and images that hold such classes alone join: the
    ceiling.
    """
    results = [run_base(setting, strategy)]
    increments = setting.series.increments
    for stage, increment in enumerate(increments[1:], start=2):
        seen = increments[:stage]
        classes = tuple(dict.fromkeys(name for item in seen for name in item.classes))
        data = joint_slice(seen, classes, full=strategy.data == "joint-full")
        title = f"{strategy.name}: {increment.name}"
        trained = train_alone(setting, data, increment.name, title)
        results.append(
            StageResult(increment, trained, setting.engine.recast(trained.state, strategy.head))
        )
    return results
