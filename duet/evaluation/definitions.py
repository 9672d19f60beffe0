"""The indices as data: the one list that files, tables, figures, sentences and options follow.

An index more is a row here, a field of `duet.evaluation.indices.Indices` and, unless it is a mean
of others, its computation there. Nothing is imported, so that the command line can offer the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Index:
    """What people read about one index, and how it follows from others.

    Attributes:
        name: Field of `Indices`.
        title: In tables and sentences.
        meaning: In a few words.
        formula: In the notation of `duet.evaluation.indices`.
        source: Who defined it.
        panel: Title in a figure, after ``title``.
        against: What each of its terms (``<name>_terms``) is divided by: the same of the model
            right after the classes were learned, or of a reference; None without terms.
        of: What its terms are ratios of.
        at_precision: Whether the later recall is that at the precision of the earlier one.
        parts: Indices that it is the mean of.
        mean: Which mean.
    """

    name: str
    title: str
    meaning: str
    formula: str
    source: str
    panel: str = ""
    against: Literal["earlier", "reference"] | None = None
    parts: tuple[str, ...] = ()
    mean: Literal["arithmetic", "harmonic"] = "arithmetic"
    of: Literal["mAP50", "recall"] = "mAP50"
    at_precision: bool = False


_DUET = "DuET, ICCV 2025 (arXiv 2506.21260)"
_RICO = "RICO, ICCVW 2025 (arXiv 2508.13878)"

INDICES = (
    Index(
        name="ri",
        title="RI",
        meaning="retention: what the final model still knows",
        formula="mean over i < T of R[T, D_i, C_i] / R[i, D_i, C_i]",
        source=f"{_DUET}, eq. 17",
        panel="old knowledge kept",
        against="earlier",
    ),
    Index(
        name="gi",
        title="GI",
        meaning="generalisation: classes in a domain where they were never labelled",
        formula="mean over j ≥ 2, i ≤ j of R[j, D_i, U_i] / ref(D_i, U_i); U_1 = C_2, "
        "U_i = C_1..C_(i−1)",
        source=f"{_DUET}, eq. 18 and supplement A",
        panel="classes where they\nwere never labelled",
        against="reference",
    ),
    Index(
        name="pi",
        title="PI",
        meaning="plasticity: how well new classes are learned",
        formula="mean over j ≥ 2 of R[j, D_j, C_j] / ref(D_j, C_j)",
        source="duet; RAI does not score the newest classes",
        panel="new classes learned",
        against="reference",
    ),
    Index(
        name="rai",
        title="RAI",
        meaning="retention and generalisation together",
        formula="(RI + GI) / 2",
        source=_DUET,
        panel="mean of RI and GI",
        parts=("ri", "gi"),
    ),
    Index(
        name="h",
        title="H",
        meaning="all three together; low if one of them is low",
        formula="3 / (1/RI + 1/GI + 1/PI)",
        source="duet",
        panel="all three together",
        parts=("ri", "gi", "pi"),
        mean="harmonic",
    ),
    Index(
        name="fr",
        title="FR",
        meaning="found retention: known objects that are still found at the threshold in use",
        formula="mean over i < T of recall[T, D_i, C_i] / recall[i, D_i, C_i]",
        source="duet",
        panel="known objects still found",
        against="earlier",
        of="recall",
    ),
    Index(
        name="or",
        title="OR",
        meaning="the same at equal precision: what is lost beyond scores that moved",
        formula="mean over i < T of recall[T, D_i, C_i, precision of i] / recall[i, D_i, C_i]",
        source="duet",
        panel="the same at equal precision",
        against="earlier",
        of="recall",
        at_precision=True,
    ),
    Index(
        name="forgetting",
        title="Forgetting",
        meaning="points of mAP50 lost since the best earlier stage",
        formula="mean over i < T of max(i ≤ l < T) R[l, D_i, C_i] − R[T, D_i, C_i]",
        source=f"Chaudhry et al., ECCV 2018; FM of {_RICO}",
    ),
    Index(
        name="bwt",
        title="BWT",
        meaning="change of mAP50 since the classes were learned",
        formula="mean over i < T of R[T, D_i, C_i] − R[i, D_i, C_i]",
        source="Lopez-Paz and Ranzato, NeurIPS 2017",
    ),
    Index(
        name="aa",
        title="AA",
        meaning="average accuracy: mAP50 of every increment in its own domain, at the end",
        formula="AA_T; AA_j = mean over i ≤ j of R[j, D_i, C_i]",
        source=_RICO,
    ),
    Index(
        name="aia",
        title="AIA",
        meaning="average incremental accuracy: the same, over all stages on the way",
        formula="mean over j ≤ T of AA_j",
        source=_RICO,
    ),
)
"""All indices, in the order of files and tables."""

RATIOS = tuple(index for index in INDICES if index.against or index.parts)
"""Those that are shares, of which more is better."""

LEVELS = tuple(index for index in INDICES if index not in RATIOS)
"""Those in mAP50 itself: means of it, and differences over the stages."""

RANKED = tuple(sorted(RATIOS, key=lambda index: -len(index.parts)))
"""What strategies are ranked by: the index that sums up most comes first."""
