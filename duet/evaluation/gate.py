"""What a detector must reach: limits from options or a YAML, and how each of them ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from duet.config import Config, Schema, load_yaml, problems_of
from duet.errors import ConfigError, GateError, did_you_mean, together
from duet.evaluation.definitions import RATIOS
from duet.fields import Names

MEASURES = {"ap50": "AP50", "f1": "F1"}
"""What is measured of one class in one domain; F1 at the deployed threshold."""

MAP50 = "map50"
"""Of all classes of an increment in one domain."""

INDICES = {index.name: index.title for index in RATIOS}

Limits = dict[str, float]
"""Name of what is measured -> its limit."""


def _of(known: Collection[str]) -> Callable[[Limits], Limits]:
    def check(limits: Limits) -> Limits:
        unknown = [f"no '{name}'{did_you_mean(name, known)}" for name in limits.keys() - known]
        if unknown:
            raise ValueError(f"{'; '.join(sorted(unknown))}; there are {', '.join(known)}")
        return limits

    return check


def _plain(value: Any) -> Any:
    return value if isinstance(value, Mapping) else {"ap50": value}


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):  # true would count as 1
        raise ValueError("expected a number")
    return value


Number = Annotated[float, BeforeValidator(_no_boolean)]
Share = Annotated[Number, Field(ge=0, le=1)]
Pairs = Annotated[Number, Field(ge=0)]
Points = Annotated[Number, Field(ge=0, le=100)]
Drops = Annotated[dict[str, Points], BeforeValidator(_plain), AfterValidator(_of(MEASURES))]
"""Measure -> percentage points that a class may lose; a number alone is of AP50."""

_DROP: Any = Field(default={}, description="Points that an old class may lose in its own domain.")


class ClassLimits(Config):
    """Limits of one class, in place of the general ones."""

    max_drop: Drops = _DROP
    min: Annotated[dict[str, Share], AfterValidator(_of(MEASURES))] = Field(
        default={}, description="Least AP50 or F1 in each domain where it was learned."
    )


class DomainLimits(Config):
    """Limits in one domain, in place of the general ones."""

    max_drop: Drops = _DROP
    min: Annotated[dict[str, Share], AfterValidator(_of((MAP50,)))] = Field(
        default={}, description="Least mAP50 of each increment there."
    )
    max_double: Pairs | None = None


class Gate(Config):
    """All that is asked of a detector, or of a run.

    A limit of a class goes before that of a domain, and that before the general one.

    Raises:
        ConfigError: With every problem at once.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_version: Schema = Field(default=1, alias="schema")
    max_drop: Drops = _DROP
    min: Annotated[dict[str, Share], AfterValidator(_of((*INDICES, MAP50)))] = Field(
        default={}, description="Least value of indices, and of mAP50 in every cell; fractions."
    )
    max_double: Pairs | None = Field(
        default=None, description="Double boxes per 100 images in any domain, of all kinds."
    )
    against: Path | None = Field(
        default=None,
        description="What old classes are compared with: a detector, a run folder, or the JSON of "
        "`duet eval`. Default: when they were learned.",
    )
    classes: dict[str, ClassLimits] = Field(default={}, description="By class name.")
    domains: dict[str, DomainLimits] = Field(default={}, description="By domain.")
    cells: dict[str, Names] = Field(
        default={},
        description="Domain -> classes that count there although no increment taught them there.",
    )
    strategies: tuple[str, ...] = Field(
        default=(), description="Of a run or comparison: whom it is about. Default: the one that "
        "the run reports on; all that are compared.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _asks(self) -> Gate:
        parts: tuple[Any, ...] = (self, *self.domains.values(), *self.classes.values())
        double = (self.max_double, *(one.max_double for one in self.domains.values()))
        if not any(one.max_drop or one.min for one in parts) and set(double) == {None}:
            raise ValueError("sets no limit: give max_drop, min or max_double")
        return self

    @model_validator(mode="wrap")  # after `_asks`, whose error it turns into ours, too
    @classmethod
    def _told(cls, said: Any, build: Callable[[Any], Gate], info: ValidationInfo) -> Gate:
        try:
            return build(said)
        except ValidationError as error:
            where = (info.context or {}).get("where", "duet.Gate")
            raise ConfigError(problems_of(error, cls, said, "the gate"), where=where) from None

    def drop(self, measure: str, domain: str, name: str) -> float | None:
        """Return how many points a class may lose in a domain; None if that is not limited."""
        return _first(measure, (self.classes.get(name), self.domains.get(domain), self), "max_drop")

    def least_map50(self, domain: str) -> float | None:
        """Return the least mAP50 of a cell in a domain."""
        return _first(MAP50, (self.domains.get(domain), self), "min")

    def require_known(
        self,
        classes: Collection[str],
        domains: Collection[str],
        strategies: Collection[str] | None = None,
    ) -> None:
        """Refuse limits on what a series or a run does not have, before anything is done for them.

        Without ``strategies`` there are none that a limit could be about, as for one detector.

        Raises:
            ConfigError: With every such name, and the nearest one.
        """
        taught = [name for names in self.cells.values() for name in names]
        asked = (
            ("class", (*self.classes, *taught), classes),
            ("domain", (*self.domains, *self.cells), domains),
            ("strategy", self.strategies, self.strategies if strategies is None else strategies),
        )
        unknown = [
            f"no {kind} '{name}'{did_you_mean(name, known)}"
            for kind, names, known in asked
            for name in dict.fromkeys(names)
            if name not in known
        ]
        if unknown:
            what = unknown[0] if len(unknown) == 1 else together(unknown, summary="unknown names")
            raise ConfigError(what, where="the gate")


def _first(key: str, limits: Iterable[Any], kind: str) -> float | None:
    found = (getattr(one, kind).get(key) for one in limits if one is not None)
    return next((value for value in found if value is not None), None)


def load_gate(file: Path | None = None, options: Mapping[str, Any] | None = None) -> Gate:
    """Read a gate.

    Args:
        file: YAML; its ``against`` is relative to its folder.
        options: Keys that replace those of the file, in ``max_drop`` and ``min`` one by one.

    Raises:
        ConfigError: With every problem at once.
    """
    said = (load_yaml(file) or {}) if file is not None else {}
    where = "the gate" if file is None else str(file)
    if isinstance(said, dict):
        if file is not None and isinstance(said.get("against"), str):
            said = {**said, "against": str(file.parent / str(said["against"]))}
        for key, value in (options or {}).items():
            both = isinstance(value, Mapping) and said.get(key) is not None
            said = {**said, key: {**_plain(said[key]), **value} if both else value}
    return Gate.model_validate(said, context={"where": where})


class Check(Config):
    """How one limit ended.

    Attributes:
        name: What is limited, such as ``RI`` or ``AP50 drop``.
        about: Whose it is: a class, a domain, or both; empty for an index.
        at_most: Whether the limit is the largest value that passes, else the smallest.
        limit: A fraction; of drops percentage points, of double boxes pairs per 100 images.
        found: What was measured, in the same unit; None if nothing was.
        passed: Whether it was measured and keeps the limit.
        why: Why nothing was measured.
        objects: Labelled objects of the class that it is about, of several the fewest; None of
            what is about no class, and where nobody counted.
        strategy: Of a run or a comparison: whose it is.
        runs: Run folder -> what was measured there, where ``found`` is the mean of several.
    """

    name: str
    about: str
    at_most: bool
    limit: float
    found: float | None
    passed: bool
    why: str = ""
    objects: int | None = None
    strategy: str = ""
    runs: dict[str, float | None] = Field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, about: str, limit: float, found: float | None, why: str, **more: Any
    ) -> Check:
        """Compare what was found with a limit; ``why`` is kept where nothing was found."""
        at_most = name in AT_MOST
        # Differences of decimal fractions miss a limit that they equal by a rounding error.
        room = None if found is None else limit - found if at_most else found - limit
        passed = room is not None and room >= -ROUNDING
        return cls(
            name=name, about=about, at_most=at_most, limit=limit, found=found, passed=passed,
            why=why if found is None else "", **more,
        )  # fmt: skip

    def as_text(self) -> str:
        """Return it in words."""
        parts = (self.strategy, self.name, self.about and f"of {self.about}")
        bound = f"at {'most' if self.at_most else 'least'} {self.limit:g}"
        title = " ".join(part for part in parts if part)
        if self.found is None:
            return f"{title}: {bound}, nothing measured ({self.why})"
        return f"{title}: {bound}, found {self.found:.4g}"


ROUNDING = 1e-9

DROP = {key: f"{title} drop" for key, title in MEASURES.items()}
DOUBLE = "double boxes"
AT_MOST = (*DROP.values(), DOUBLE)
"""Names of the limits that are largest values."""


@dataclass(frozen=True)
class Verdict:
    """Every limit of a gate and how it ended."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """Those that are not kept."""
        return tuple(one for one in self.checks if not one.passed)

    @property
    def passed(self) -> bool:
        """Whether something was checked and every limit is kept."""
        return bool(self.checks) and not self.failed

    def as_records(self) -> list[dict[str, Any]]:
        """Return JSON-ready data."""
        return [one.model_dump() for one in self.checks]

    def require(self, where: object) -> None:
        """Refuse what does not keep every limit.

        Raises:
            GateError: With each limit that is not kept.
        """
        if not self.passed:
            raise GateError(
                together(
                    [one.as_text() for one in self.failed],
                    summary=f"{len(self.failed)} of {_limits(self.checks)} not kept",
                ),
                where=str(where),
                remedy="the table of the gate shows all; what the command made is kept",
            )


def _limits(checks: Sequence[Check]) -> str:
    return f"{len(checks)} limits" if len(checks) != 1 else "1 limit"
