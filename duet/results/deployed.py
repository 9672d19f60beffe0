"""What a strategy's detectors show their users, read out of `results.json`."""

from __future__ import annotations

from dataclasses import dataclass

from duet.evaluation.deployment import Counted, Deployment
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


@dataclass(frozen=True)
class DoubleBoxes:
    """Pairs of boxes that lie on each other, per 100 images of all domains."""

    within: float
    between: float


def double_boxes(results: Results, strategy: StrategyResult, stage: int) -> DoubleBoxes | None:
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
    return DoubleBoxes(*(100 * number / images for number in pairs))


_DOUBLES = ("doubles_within", "doubles_between")


def _deployed(strategy: StrategyResult, stage: int, domain: str) -> Deployment | None:
    scores = strategy.scores_at(stage, domain)
    return scores.deployed if scores else None
