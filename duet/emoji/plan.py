"""What to build, as a value, and whether it can be built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from duet.emoji.vocabulary import ICONS, MAIN, Variants, Vocabulary
from duet.errors import ConfigError, did_you_mean, together

if TYPE_CHECKING:  # imports what draws
    from duet.emoji.looks import Look

GENERATOR = 1
"""Version of what the code draws: raise it with every change that alters a single byte."""

_EMOJI_DOMAINS = ("flat", "comic", "watercolor", "sketch", "night", "fog")

DOMAINS: Mapping[str, Vocabulary] = {
    **dict.fromkeys(_EMOJI_DOMAINS, MAIN),
    **dict.fromkeys(("sticker", "chalk"), ICONS),
}
"""Domains of the series and what is to be seen there; `looks.LOOKS` says how they look."""

Progress = Callable[[int, int], None]
"""Called with scenes done and scenes in all."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build; everything in it decides bytes.

    ``looks`` are those of domains beside `DOMAINS`.
    """

    kind: str
    vocabulary: Vocabulary
    domains: tuple[str, ...]
    splits: Mapping[str, int]
    seed: int
    size: int
    variants: Variants
    focus: Mapping[str, tuple[str, ...]]
    looks: Mapping[str, Look] = field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """Return what must agree for a finished build to be reused, domains aside."""
        return {
            "kind": self.kind,
            "generator": GENERATOR,
            "seed": self.seed,
            "size": self.size,
            "splits": dict(self.splits),
            "variants": self.variants,
        }


def check(plan: Plan) -> None:
    """Refuse a plan that cannot be built.

    Raises:
        ConfigError: Names every problem.
    """
    problems = [
        f"{split}: expected 0 or more scenes, got {count}"
        for split, count in plan.splits.items()
        if count < 0
    ]
    if plan.splits["train"] < 1:
        problems.append("train: expected at least one scene")
    if plan.seed < 0:
        problems.append(f"seed: expected 0 or more, got {plan.seed}")
    if not 64 <= plan.size <= 640:
        problems.append(f"size: expected 64 to 640 pixels, got {plan.size}")
    if plan.variants not in ("own", "shared"):
        problems.append(f"variants: expected 'own' or 'shared', got {plan.variants!r}")
    known = (*DOMAINS, *plan.looks)
    if not plan.domains or len(set(plan.domains)) != len(plan.domains):
        problems.append(f"domains: expected different names, got {', '.join(plan.domains) or '-'}")
    problems += [
        f"domains: unknown '{name}'{did_you_mean(name, known)} (known: {', '.join(known)})"
        for name in (*plan.domains, *plan.focus)
        if name not in known
    ]
    apart = [name for name in plan.domains if DOMAINS.get(name, plan.vocabulary) != plan.vocabulary]
    if apart:
        other, first = ", ".join(apart), plan.domains[0]
        problems.append(f"domains: {other} show other classes than {first}: draw two folders")
    problems += [
        f"focus of {domain}: unknown class '{name}'{did_you_mean(name, plan.vocabulary.names)}"
        for domain, classes in plan.focus.items()
        for name in classes
        if name not in plan.vocabulary.names
    ]
    if problems:
        raise ConfigError(together(problems, summary="the Emoji series cannot be built"))
