"""What a strategy's detectors show their users, read out of `results.json`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from duet.config import Config
from duet.evaluation.deployment import Counted, Deployment, total
from duet.evaluation.indices import mean_of_known
from duet.fields import Amount
from duet.results.schema import Results, StrategyResult


@dataclass(frozen=True)
class Shown:
    """The classes of one increment in its domain: when they were learned and in the end.

    Attributes:
        increment: Increment, 1..T.
        domain: Its domain.
        classes: Its classes.
        earlier: What the detector right after the increment shows in that domain.
        final: What the final one shows; ``earlier`` itself for the last increment.
    """

    increment: int
    domain: str
    classes: tuple[str, ...]
    earlier: Deployment
    final: Deployment

    @property
    def before(self) -> Counted:
        """The increment's classes together, when learned."""
        return self.earlier.total(self.classes)

    @property
    def after(self) -> Counted:
        """The increment's classes together, in the end."""
        return self.final.total(self.classes)


def shown(results: Results, strategy: StrategyResult) -> tuple[Shown, ...]:
    """Return every increment that has been looked at both times, in the order learned."""
    found = []
    for number, (domain, classes) in enumerate(results.series.steps, start=1):
        earlier = _deployed(strategy, number, domain)
        final = _deployed(strategy, results.final_stage, domain)
        if earlier is not None and final is not None:
            found.append(Shown(number, domain, classes, earlier, final))
    return tuple(found)


class DoubleBoxes(Config):
    """Pairs of boxes that lie on each other, per 100 images of all domains."""

    within: Amount
    between: Amount

    @property
    def total(self) -> float:
        """Of both kinds."""
        return self.within + self.between


class Totals(Config):
    """All that a strategy's detectors show, of one run or of several together.

    Attributes:
        before: Objects of the older increments in their own domains, each right after it.
        after: The same with the final detector.
        new: Objects of the last increment with the final detector.
        olrp: Mean oLRP of the older classes, before and after; None where none is labelled.
        doubles: After the first stage and in the end; of several runs the mean.
        ece: Mean calibration error over domains of the final detector; of several runs the mean.
        ece_raw: The same of the scores before their maps.
    """

    before: Counted
    after: Counted
    new: Counted
    olrp: tuple[float | None, float | None]
    doubles: tuple[DoubleBoxes | None, DoubleBoxes | None]
    ece: float | None
    ece_raw: float | None


def totals(results: Results, strategy: StrategyResult) -> Totals | None:
    """Return what a strategy's detectors show; None where nobody looked."""
    every = shown(results, strategy)
    if not every:
        return None
    old = [one for one in every if one.increment < results.final_stage]
    final = [one.final for one in {one.domain: one for one in every}.values()]
    return Totals(
        before=total(one.before for one in old),
        after=total(one.after for one in old),
        new=total(one.after for one in every if one.increment == results.final_stage),
        olrp=(
            _olrp((one.earlier, one.classes) for one in old),
            _olrp((one.final, one.classes) for one in old),
        ),
        doubles=(
            _double_boxes(results, strategy, 1),
            _double_boxes(results, strategy, results.final_stage),
        ),
        ece=mean_of_known(one.ece for one in final),
        ece_raw=mean_of_known(one.ece_raw for one in final),
    )


def together(runs: Sequence[Totals]) -> Totals | None:
    """Return several runs as one: counts are summed, all else is the mean; None of none."""
    if not runs:
        return None

    def twice(side: int) -> DoubleBoxes | None:
        known = [pairs for one in runs if (pairs := one.doubles[side]) is not None]
        if not known:
            return None
        return DoubleBoxes(
            within=fmean(one.within for one in known), between=fmean(one.between for one in known)
        )

    return Totals(
        before=total(one.before for one in runs),
        after=total(one.after for one in runs),
        new=total(one.new for one in runs),
        olrp=(
            mean_of_known(one.olrp[0] for one in runs),
            mean_of_known(one.olrp[1] for one in runs),
        ),
        doubles=(twice(0), twice(1)),
        ece=mean_of_known(one.ece for one in runs),
        ece_raw=mean_of_known(one.ece_raw for one in runs),
    )


def _olrp(sides: Iterable[tuple[Deployment, Sequence[str]]]) -> float | None:
    rows = (side.classes.get(name) for side, names in sides for name in names)
    return mean_of_known(row.olrp for row in rows if row is not None)


def _double_boxes(results: Results, strategy: StrategyResult, stage: int) -> DoubleBoxes | None:
    """Return what the detector after a stage shows twice; None where nobody looked.

    Of the domains where both the first and the final detector were looked at.
    """
    domains = dict.fromkeys(domain for domain, _ in results.series.steps)
    ends = [
        domain
        for domain in domains
        if all(_deployed(strategy, one, domain) for one in (1, results.final_stage))
    ]
    known = [one for domain in ends if (one := _deployed(strategy, stage, domain))]
    images = sum(one.images for one in known)
    if not images:
        return None
    pairs = [sum(getattr(one, name) for one in known) for name in _DOUBLES]
    within, between = (100 * number / images for number in pairs)
    return DoubleBoxes(within=within, between=between)


_DOUBLES = ("doubles_within", "doubles_between")


def _deployed(strategy: StrategyResult, stage: int, domain: str) -> Deployment | None:
    scores = strategy.scores_at(stage, domain)
    return scores.deployed if scores else None
