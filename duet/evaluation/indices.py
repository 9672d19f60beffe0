"""RI, GI, PI and what follows from them: pure functions over the stage matrix.

R[j, D, C] is the deployed (merged) model after stage j on the classes C of domain D; formulas,
sources and names are in `duet.evaluation.definitions`. mAP50 and ratios are fractions; ratios may
exceed 1 and are never clamped. RI's denominator is R[i, D_i, C_i] itself: it needs no extra model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias

from pydantic import ConfigDict, Field

from duet.config import Config
from duet.errors import DataError
from duet.evaluation.definitions import INDICES, Index
from duet.evaluation.matrix import References, Slice, StageMatrix
from duet.evaluation.pairs import Pair, SeriesSteps, gi_pairs, own_pairs, pi_pairs, ri_pairs
from duet.fields import Fraction, Names, Stage
from duet.text import short_list


class Term(Config):
    """One ratio with both of its sides.

    Attributes:
        stage: Stage of the model in the numerator, 1..T.
        increment: Increment i whose domain is meant, 1..T.
        domain: Name of D_i.
        classes: Class set of both sides.
        numerator: mAP50 (`Index.of`: or recall) of the model, a fraction.
        denominator: That of what it is compared with; above 0.
        compared_with: The denominator in words.
    """

    stage: Stage
    increment: Stage
    domain: str
    classes: Names
    numerator: Fraction
    denominator: Annotated[float, Field(gt=0, le=1)]
    compared_with: str

    @property
    def ratio(self) -> float:
        """``numerator / denominator``, unclamped."""
        return self.numerator / self.denominator


_AFTER = "the model after stage {}"
_OF = {index.title: index.of for index in INDICES}

Terms: TypeAlias = tuple[Term, ...]

Compared: TypeAlias = Callable[[Pair], tuple[float, float, str]]
"""Gives both sides of a pair's ratio, fractions, and in words what the denominator is of."""


@dataclass(frozen=True)
class Recalls:
    """Recall of the objects of one increment in its domain, fractions; see `deployment.Retained`.

    Attributes:
        before: Of the detector right after the increment, at its thresholds; None where nothing is
            labelled, or it shows nothing.
        after: Of the final detector at its thresholds.
        at_precision: Of the final one at the precision of the earlier one.
    """

    before: float | None
    after: float | None
    at_precision: float | None


class Indices(Config):
    """All indices of one strategy; None where the series or the run defines no pair.

    Attributes:
        ri: Average retention index, a fraction (1 = nothing lost).
        gi: Average generalisation index, a fraction.
        pi: Average plasticity index, a fraction.
        rai: Mean of ``ri`` and ``gi``.
        h: Harmonic mean of ``ri``, ``gi`` and ``pi``.
        fr: Found retention, a fraction; None in files of older versions, as the next.
        or_: The same at equal precision; in files ``or``, as everywhere but in Python.
        forgetting: Mean drop from the best earlier value, in mAP50 (0.1 = 10 points lost).
        bwt: Mean change since the classes were learned, in mAP50 (negative = lost).
        aa: Mean mAP50 of every increment in its own domain after the last stage, a fraction.
        aia: Mean of the same over all stages, a fraction.
        ri_terms: One term per RI pair.
        gi_terms: One term per GI pair.
        pi_terms: One term per PI pair.
        fr_terms: One term per RI pair.
        or_terms: One term per RI pair.
        left_out: Why a pair of the protocol has no term, one sentence each.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    ri: float | None
    gi: float | None
    pi: float | None
    rai: float | None
    h: float | None
    fr: float | None = None
    or_: Annotated[float | None, Field(alias="or")] = None
    forgetting: float | None
    bwt: float | None
    aa: float | None = None
    aia: float | None = None
    ri_terms: Terms = ()
    gi_terms: Terms = ()
    pi_terms: Terms = ()
    fr_terms: Terms = ()
    or_terms: Terms = ()
    left_out: tuple[str, ...] = ()

    def numbers(self) -> dict[str, float | None]:
        """Return name -> value, in the order of `INDICES`."""
        return {index.name: self.value(index.name) for index in INDICES}

    def value(self, name: str) -> float | None:
        """Return an index by name."""
        found: float | None = self.or_ if name == "or" else getattr(self, name)
        return found

    def terms(self, index: Index) -> Terms:
        """Return the ratios behind an index; none for one without."""
        return getattr(self, f"{index.name}_terms") if index.against else ()


def compute_indices(
    series: SeriesSteps,
    matrix: StageMatrix,
    references: References | None,
    *,
    undefined: Mapping[Slice, str] = MappingProxyType({}),
    recalls: Mapping[Slice, Recalls] = MappingProxyType({}),
) -> Indices:
    """Compute every index of one strategy.

    Args:
        series: (domain, classes) per increment, in order.
        matrix: mAP50 of the deployed model after every stage; see `pairs.cells_needed`.
        references: mAP50 per `pairs.reference_slices`; None when no references were trained, which
            leaves GI and PI out.
        undefined: Slices that cannot be measured, or that no reference can be trained on, and why;
            their pairs are left out and named in `Indices.left_out`.
        recalls: What is still found of each of `pairs.ri_pairs`; FR and OR are over those given.

    Raises:
        DataError: A cell or a reference is missing.
    """
    nothing = {_key(part): why for part, why in undefined.items()}
    ri, left_out = _terms("RI", ri_pairs(series), _earlier(matrix), nothing)
    found: dict[str, Terms] = {"ri": ri, "gi": (), "pi": ()}
    known = {_key(part): value for part, value in recalls.items()}
    seen = [pair for pair in ri_pairs(series) if _key(pair.slice) in known]
    for index in (one for one in INDICES if one.of == "recall"):
        side = "at_precision" if index.at_precision else "after"
        found[index.name], reasons = _terms(index.title, seen, _recalled(known, side), nothing)
        left_out += reasons
    if references is None:
        left_out.append("GI and PI: no reference models were trained")
    else:
        trained = _reference(matrix, references)
        for name, pairs in (("gi", gi_pairs), ("pi", pi_pairs)):
            found[name], reasons = _terms(name.upper(), pairs(series), trained, nothing)
            left_out += reasons
    lasting = [pair for pair in ri_pairs(series) if _key(pair.slice) not in nothing]
    accuracies = [_accuracy(matrix, pairs, nothing) for pairs in own_pairs(series)]
    return Indices(
        **combined({name: mean([term.ratio for term in terms]) for name, terms in found.items()}),
        **{f"{name}_terms": terms for name, terms in found.items()},
        forgetting=mean([forgetting(matrix, pair) for pair in lasting]),
        bwt=mean([_change(matrix, pair) for pair in lasting]),
        aa=accuracies[-1],
        aia=mean_of_known(accuracies),
        left_out=tuple(left_out),
    )


def _terms(
    name: str,
    pairs: Sequence[Pair],
    compared: Compared,
    nothing: Mapping[tuple[str, frozenset[str]], str],
) -> tuple[Terms, list[str]]:
    """Return the ratios of the pairs that define one, and a sentence for each that does not."""
    kept, reasons = [], []
    for pair in pairs:
        title = f"{name} of stage {pair.stage} on {pair.domain}[{short_list(pair.classes)}]"
        if _key(pair.slice) in nothing:
            reasons.append(f"{title}: {nothing[_key(pair.slice)]}")
            continue
        numerator, denominator, what = compared(pair)
        if denominator <= 0:
            # Not an error: hours of training would end without a report for one bad ratio.
            reasons.append(f"{title}: {what} has {_OF[name]} 0")
            continue
        kept.append(
            Term(
                stage=pair.stage,
                increment=pair.increment,
                domain=pair.domain,
                classes=pair.classes,
                numerator=numerator,
                denominator=denominator,
                compared_with=what,
            )
        )
    return tuple(kept), reasons


def _earlier(matrix: StageMatrix) -> Compared:
    def compared(pair: Pair) -> tuple[float, float, str]:
        before = matrix.get(pair.increment, *pair.slice)
        return matrix.get(*pair.cell), before, _AFTER.format(pair.increment)

    return compared


def _recalled(known: Mapping[tuple[str, frozenset[str]], Recalls], side: str) -> Compared:
    def compared(pair: Pair) -> tuple[float, float, str]:
        recalls = known[_key(pair.slice)]
        sides = getattr(recalls, side) or 0.0, recalls.before or 0.0
        return *sides, _AFTER.format(pair.increment)

    return compared


def _reference(matrix: StageMatrix, references: References) -> Compared:
    known = {_key(part): value for part, value in references.items()}

    def compared(pair: Pair) -> tuple[float, float, str]:
        title = f"{pair.domain}[{short_list(pair.classes)}]"
        if _key(pair.slice) not in known:
            raise DataError(
                f"no reference model for {title}",
                remedy="train one on this slice only, or pass references=None to leave GI and PI "
                "out",
            )
        trained = known[_key(pair.slice)]
        return matrix.get(*pair.cell), trained, f"a model trained only on {title}"

    return compared


def mean(values: Sequence[float]) -> float | None:
    """Return the arithmetic mean, or None of nothing."""
    return sum(values) / len(values) if values else None


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Return the arithmetic mean of the values that are known, or None if none is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def arithmetic_mean(values: Sequence[float | None]) -> float | None:
    """Return the arithmetic mean, or None when one value is undefined or there is none."""
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def harmonic_mean(values: Sequence[float | None]) -> float | None:
    """Return the harmonic mean; 0 when one value is 0, None when one is undefined."""
    known = [value for value in values if value is not None]
    if not values or len(known) < len(values):
        return None
    if any(value == 0 for value in known):
        return 0.0
    return len(known) / sum(1 / value for value in known)


def forgetting(matrix: StageMatrix, pair: Pair) -> float:
    """Return the drop of D_i[C_i] from its best value at stages i..T-1 to stage T = ``pair.stage``.

    Negative when the final model is better than every earlier one (Chaudhry et al., ECCV 2018).
    """
    earlier = [matrix.get(stage, *pair.slice) for stage in range(pair.increment, pair.stage)]
    return max(earlier) - matrix.get(*pair.cell)


def _accuracy(
    matrix: StageMatrix, pairs: Sequence[Pair], nothing: Mapping[tuple[str, frozenset[str]], str]
) -> float | None:
    """Return AA of one stage; None if none of its pairs can be measured."""
    return mean([matrix.get(*pair.cell) for pair in pairs if _key(pair.slice) not in nothing])


def _change(matrix: StageMatrix, pair: Pair) -> float:
    """Return what D_i[C_i] gained since stage i; needs no denominator, unlike RI."""
    return matrix.get(*pair.cell) - matrix.get(pair.increment, *pair.slice)


def _key(part: Slice) -> tuple[str, frozenset[str]]:
    return part[0], frozenset(part[1])


def combined(measured: Mapping[str, float | None]) -> dict[str, Any]:
    """Return the indices measured, and with them those that are means of others.

    Args:
        measured: Name -> value, of every index that has terms.
    """
    means = {"arithmetic": arithmetic_mean, "harmonic": harmonic_mean}
    found = dict(measured)
    for index in INDICES:
        if index.parts:
            found[index.name] = means[index.mean]([found[part] for part in index.parts])
    return found
