"""Pairs, matrix and indices: the protocol table and the published numbers."""

from __future__ import annotations

import ast
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import REPO, TESTS

from duet.errors import DataError
from duet.evaluation.definitions import INDICES, RANKED
from duet.evaluation.indices import (
    Indices,
    arithmetic_mean,
    compute_indices,
    harmonic_mean,
)
from duet.evaluation.matrix import MatrixRecord, StageMatrix
from duet.evaluation.pairs import cells_needed, gi_pairs, pi_pairs, reference_slices, ri_pairs

Steps = list[tuple[str, tuple[str, ...]]]


def _ids(first: int, last: int) -> tuple[str, ...]:
    return tuple(f"c{number}" for number in range(first, last + 1))


TWO: Steps = [("A", _ids(1, 10)), ("B", _ids(11, 20))]
PASCAL: Steps = [
    ("W", _ids(1, 3)), ("Co", _ids(4, 6)), ("Cl", _ids(7, 13)), ("VOC", _ids(14, 20))
]  # fmt: skip
WEATHER: Steps = [("NS", _ids(1, 2)), ("DS", _ids(3, 4)), ("DF", _ids(5, 7))]


@pytest.mark.parametrize(
    ("steps", "ri", "gi", "references"),
    [
        pytest.param(
            TWO,
            {("A", _ids(1, 10))},
            {(2, "A", _ids(11, 20)), (2, "B", _ids(1, 10))},
            [("A", _ids(11, 20)), ("B", _ids(1, 10)), ("B", _ids(11, 20))],
            id="2-phase",
        ),
        pytest.param(
            PASCAL,
            {("W", _ids(1, 3)), ("Co", _ids(4, 6)), ("Cl", _ids(7, 13))},
            {(j, "W", _ids(4, 6)) for j in (2, 3, 4)}
            | {(j, "Co", _ids(1, 3)) for j in (2, 3, 4)}
            | {(j, "Cl", _ids(1, 6)) for j in (3, 4)}
            | {(4, "VOC", _ids(1, 13))},
            [
                ("W", _ids(4, 6)), ("Co", _ids(1, 3)), ("Cl", _ids(1, 6)), ("VOC", _ids(1, 13)),
                ("Co", _ids(4, 6)), ("Cl", _ids(7, 13)), ("VOC", _ids(14, 20)),
            ],
            id="pascal-4",
        ),
        pytest.param(
            WEATHER,
            {("NS", _ids(1, 2)), ("DS", _ids(3, 4))},
            {(j, "NS", _ids(3, 4)) for j in (2, 3)}
            | {(j, "DS", _ids(1, 2)) for j in (2, 3)}
            | {(3, "DF", _ids(1, 4))},
            [
                ("NS", _ids(3, 4)), ("DS", _ids(1, 2)), ("DF", _ids(1, 4)),
                ("DS", _ids(3, 4)), ("DF", _ids(5, 7)),
            ],
            id="weather-3",
        ),
        pytest.param([("A", ("a",))], set(), set(), [], id="one-increment"),
        pytest.param(
            [("A", ("a",)), ("A", ("b",))],
            {("A", ("a",))},
            set(),
            [("A", ("b",))],
            id="classes-only-has-no-gi",
        ),
        pytest.param(
            [("A", ("a",)), ("B", ("b",)), ("A", ("c",))],
            {("A", ("a",)), ("B", ("b",))},
            # Increment 3 would ask for A[a, b]; a was labelled in A, and A[b] is asked already.
            {(2, "A", ("b",)), (2, "B", ("a",)), (3, "A", ("b",)), (3, "B", ("a",))},
            [("A", ("b",)), ("B", ("a",)), ("B", ("b",)), ("A", ("c",))],
            id="domain-comes-back",
        ),
    ],
)  # fmt: skip
def test_pairs_follow_the_protocol_table(
    steps: Steps,
    ri: set[tuple[str, tuple[str, ...]]],
    gi: set[tuple[int, str, tuple[str, ...]]],
    references: list[tuple[str, tuple[str, ...]]],
) -> None:
    assert {pair.slice for pair in ri_pairs(steps)} == ri
    assert all(pair.stage == len(steps) for pair in ri_pairs(steps))
    assert {pair.cell for pair in gi_pairs(steps)} == gi
    assert len(gi_pairs(steps)) == len(gi)
    assert set(reference_slices(steps)) == set(references)
    assert len(reference_slices(steps)) == len(references)


@pytest.mark.parametrize(("steps", "ri", "gi"), [(TWO, 1, 2), (PASCAL, 3, 9), (WEATHER, 2, 5)])
def test_pair_counts(steps: Steps, ri: int, gi: int) -> None:
    assert (len(ri_pairs(steps)), len(gi_pairs(steps))) == (ri, gi)
    assert [pair.stage for pair in pi_pairs(steps)] == list(range(2, len(steps) + 1))


@pytest.mark.parametrize("steps", [TWO, PASCAL, WEATHER, TWO[:1]])
def test_cells_needed_are_enough_and_nothing_more(steps: Steps) -> None:
    cells = cells_needed(steps)
    full = dict.fromkeys(reference_slices(steps), 0.5)
    complete = StageMatrix(dict.fromkeys(cells, 0.4))
    compute_indices(steps, complete, full)
    for missing in cells:
        if len(steps) == 1:
            continue  # one increment has no index at all; its cell is for the report
        fewer = StageMatrix({cell: 0.4 for cell in cells if cell != missing})
        with pytest.raises(DataError, match="no mAP50 for stage"):
            compute_indices(steps, fewer, full)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        pytest.param([], "at least one increment", id="empty"),
        pytest.param([("A", ())], "at least one class", id="no-class"),
        pytest.param([("A", ("a",)), ("A", ("a", "b"))], "split it in two", id="mixed-in-one"),
        pytest.param([("A", ("a",)), ("B", ("a", "b"))], "split it in two", id="mixed"),
    ],
)
def test_series_errors(steps: Steps, words: str) -> None:
    with pytest.raises(DataError, match=words):
        cells_needed(steps)


# --- the matrix ---------------------------------------------------------------------------------


def test_matrix_is_immutable_order_free_and_round_trips() -> None:
    empty = StageMatrix()
    matrix = empty.with_value(1, "A", ("b", "a"), 0.5).with_value(2, "A", ("a", "b"), 0.25)
    assert not empty.values
    assert matrix.get(1, "A", ["a", "b"]) == 0.5
    assert (2, "A", ("b", "a")) in matrix
    assert (1, "B", ("a",)) not in matrix
    stored = [json.loads(record.model_dump_json()) for record in matrix.as_records()]
    assert StageMatrix.from_records(map(MatrixRecord.model_validate, stored)) == matrix


@pytest.mark.parametrize(
    ("cell", "value", "words"),
    [
        pytest.param((0, "A", ("a",)), 0.5, "count from 1", id="stage-0"),
        pytest.param((1, "A", ()), 0.5, "distinct classes", id="no-class"),
        pytest.param((1, "A", ("a", "a")), 0.5, "distinct classes", id="doubled"),
        pytest.param((1, "A", ("a",)), float("nan"), "fraction", id="nan"),
        pytest.param((1, "A", ("a",)), 55.0, "fraction", id="percent"),
        pytest.param((1, "A", ("x",)), 0.5, "has a value already", id="twice"),
    ],
)
def test_matrix_errors(cell: tuple[int, str, tuple[str, ...]], value: float, words: str) -> None:
    with pytest.raises(DataError, match=words):
        StageMatrix({(1, "A", ("x",)): 0.1}).with_value(*cell, value)


def test_matrix_names_the_missing_cell() -> None:
    with pytest.raises(DataError, match=r"stage 3 on fog\[bus, car\]"):
        StageMatrix().get(3, "fog", ["bus", "car"])


# --- the indices --------------------------------------------------------------------------------


def _two_phase(old: float, new_in_old: float, old_in_new: float, new: float) -> StageMatrix:
    a, b = TWO[0][1], TWO[1][1]
    return StageMatrix({
        (1, "A", a): 0.804, (2, "A", a): old, (2, "A", b): new_in_old,
        (2, "B", a): old_in_new, (2, "B", b): new,
    })  # fmt: skip


VOC_TO_CLIPART = {("A", TWO[1][1]): 0.7386, ("B", TWO[0][1]): 0.471, ("B", TWO[1][1]): 0.483}


def test_published_voc_to_clipart_from_its_implied_references() -> None:
    """DuET's row RI 87.44, GI 44.54, RAI 65.99, new classes 17.5 % of their reference."""
    # RI fixes the first cell; any split of the GI sum over its two pairs gives the same average.
    matrix = _two_phase(
        old=0.8744 * 0.804, new_in_old=0.2 * 0.7386, old_in_new=0.6908 * 0.471, new=0.175 * 0.483
    )
    result = compute_indices(TWO, matrix, VOC_TO_CLIPART)
    assert result.ri == pytest.approx(0.8744)
    assert result.gi == pytest.approx(0.4454)
    assert result.rai == pytest.approx(0.6599)
    assert result.pi == pytest.approx(0.175)
    assert result.bwt == pytest.approx((0.8744 - 1) * 0.804)
    assert result.forgetting == pytest.approx((1 - 0.8744) * 0.804)
    assert [term.increment for term in result.gi_terms] == [1, 2]
    assert result.gi_terms[1].compared_with.startswith("a model trained only on B[")


@pytest.mark.parametrize(
    ("ri", "gi", "expected"),
    [
        # VOC->Clipart, Pascal-4, DaySunny->NightSunny, Weather-3; percent, two published decimals
        (0.75, 12.86, 6.81), (0, 11.05, 5.53), (0, 45.88, 22.94), (0, 30.51, 15.26),  # Seq FT
        (72.64, 33.74, 53.19), (52.66, 17.01, 34.84), (55.87, 21.88, 38.88), (27.94, 23.78, 25.86),
        (68.66, 43.68, 56.17), (54.76, 41.13, 47.95), (66.80, 53.04, 59.92), (44.60, 39.40, 42.00),
        (87.44, 44.54, 65.99), (89.30, 42.60, 65.95), (88.06, 56.95, 72.51), (88.57, 41.92, 65.25),
    ],
)  # fmt: skip
def test_rai_is_the_mean_in_every_published_row(ri: float, gi: float, expected: float) -> None:
    assert arithmetic_mean((ri, gi)) == pytest.approx(expected, abs=0.00501)


def test_three_increments_by_hand() -> None:
    steps: Steps = [("A", ("a",)), ("B", ("b",)), ("C", ("c",))]
    matrix = StageMatrix({
        (1, "A", ("a",)): 0.8,
        (2, "A", ("a",)): 0.9, (2, "B", ("b",)): 0.5, (2, "A", ("b",)): 0.2, (2, "B", ("a",)): 0.4,
        (3, "A", ("a",)): 0.6, (3, "B", ("b",)): 0.6, (3, "C", ("c",)): 0.3,
        (3, "A", ("b",)): 0.1, (3, "B", ("a",)): 0.3, (3, "C", ("a", "b")): 0.2,
    })  # fmt: skip
    references = {
        ("A", ("b",)): 0.4, ("B", ("a",)): 0.5, ("C", ("b", "a")): 0.8,
        ("B", ("b",)): 0.4, ("C", ("c",)): 0.6,
    }  # fmt: skip
    result = compute_indices(steps, matrix, references)
    assert result.ri == pytest.approx((0.6 / 0.8 + 0.6 / 0.5) / 2)  # 0.975; 1.2 is not clamped
    assert result.gi == pytest.approx((0.5 + 0.8 + 0.25 + 0.6 + 0.25) / 5)
    assert result.pi == pytest.approx((1.25 + 0.5) / 2)
    assert result.rai == pytest.approx((0.975 + 0.48) / 2)
    assert result.h == pytest.approx(3 / (1 / 0.975 + 1 / 0.48 + 1 / 0.875))
    assert result.forgetting == pytest.approx(((0.9 - 0.6) + (0.5 - 0.6)) / 2)
    assert result.bwt == pytest.approx((-0.2 + 0.1) / 2)
    assert result.aa == pytest.approx((0.6 + 0.6 + 0.3) / 3)
    assert result.aia == pytest.approx((0.8 + (0.9 + 0.5) / 2 + 0.5) / 3)
    assert result.left_out == ()


def test_without_references_only_retention_is_left() -> None:
    result = compute_indices(TWO, _two_phase(0.4, 0.1, 0.2, 0.3), None)
    assert result.ri == pytest.approx(0.4 / 0.804)
    assert (result.gi, result.pi, result.rai, result.h) == (None, None, None, None)
    assert "no reference models" in result.left_out[0]


def test_pairs_without_labelled_objects_are_left_out_and_named() -> None:
    absent = ("A", TWO[1][1])
    references = {key: value for key, value in VOC_TO_CLIPART.items() if key != absent}
    matrix = StageMatrix({
        cell: value
        for cell, value in _two_phase(0.4, 0.1, 0.2, 0.3).values.items()
        if cell[1:] != absent
    })  # fmt: skip
    result = compute_indices(TWO, matrix, references, undefined={absent: "nobody labelled them"})
    assert result.gi == pytest.approx(0.2 / 0.471)
    assert len(result.left_out) == 1
    assert result.left_out[0].startswith("GI of stage 2 on A[c11")
    assert result.left_out[0].endswith("]: nobody labelled them")


def test_accuracy_leaves_out_increments_that_cannot_be_measured() -> None:
    steps: Steps = [("A", ("a",)), ("B", ("b",)), ("C", ("c",))]
    values = {(2, "B", ("b",)): 0.5, (3, "B", ("b",)): 0.4, (3, "C", ("c",)): 0.8}
    absent = {("A", ("a",)): "its images are gone"}
    result = compute_indices(steps, StageMatrix(values), None, undefined=absent)
    assert result.aa == pytest.approx(0.6)  # of b and c
    assert result.aia == pytest.approx((0.5 + 0.6) / 2)  # nothing can be said of stage 1


def test_a_class_only_series_has_retention_and_plasticity_but_no_gi() -> None:
    steps: Steps = [("A", ("a",)), ("A", ("b",))]
    matrix = StageMatrix({(1, "A", ("a",)): 0.8, (2, "A", ("a",)): 0.4, (2, "A", ("b",)): 0.3})
    result = compute_indices(steps, matrix, {("A", ("b",)): 0.6})
    assert (result.ri, result.pi, result.gi) == (pytest.approx(0.5), pytest.approx(0.5), None)


def plainly(steps: Steps, cell: Any, reference: Any) -> dict[str, float | None]:
    """Return all indices, written from docs/method.md and `pairs`, with nothing shared."""
    last, sets = len(steps), [frozenset(classes) for _, classes in steps]
    homes = [domain for domain, _ in steps]
    taught = {home: {n for d, c in steps if d == home for n in c} for home in homes}
    unseen = {}
    for stage, i in itertools.product(range(2, last + 1), range(last)):
        union = sets[1] if i == 0 else frozenset().union(*sets[:i])
        if i < stage and union - taught[homes[i]]:
            unseen[stage, homes[i], union - taught[homes[i]]] = None
    final = [cell(last, homes[i], sets[i]) for i in range(last - 1)]
    first = [cell(i + 1, homes[i], sets[i]) for i in range(last - 1)]
    best = [max(cell(s, homes[i], sets[i]) for s in range(i + 1, last)) for i in range(last - 1)]
    accuracy = [
        statistics.fmean(cell(j + 1, homes[i], sets[i]) for i in range(j + 1)) for j in range(last)
    ]
    ri = [one / other for one, other in zip(final, first, strict=True)]
    gi = [cell(*key) / reference(*key[1:]) for key in unseen]
    pi = [cell(j + 1, homes[j], sets[j]) / reference(homes[j], sets[j]) for j in range(1, last)]
    mean = [statistics.fmean(values) if values else None for values in (ri, gi, pi)]
    known = [value for value in mean if value is not None]
    return {
        "ri": mean[0], "gi": mean[1], "pi": mean[2],
        "rai": None if mean[0] is None or mean[1] is None else (mean[0] + mean[1]) / 2,
        "h": statistics.harmonic_mean(known) if len(known) == 3 else None,
        "forgetting": statistics.fmean(np.subtract(best, final)) if final else None,
        "bwt": statistics.fmean(np.subtract(final, first)) if final else None,
        "aa": accuracy[-1],
        "aia": statistics.fmean(accuracy),
    }  # fmt: skip


@st.composite
def any_series(draw: st.DrawFn) -> Steps:
    """Draw increments of new classes and of known ones, in one domain or several."""
    names, steps, known = iter("abcdefghij"), [], list[str]()
    for _ in range(draw(st.integers(1, 5))):
        domain = draw(st.sampled_from(["A", "B", "C"]))
        if known and draw(st.booleans()):
            classes = draw(st.lists(st.sampled_from(known), min_size=1, unique=True))
        else:
            classes = [next(names) for _ in range(draw(st.integers(1, 2)))]
            known += classes
        steps.append((domain, tuple(classes)))
    return steps


@settings(max_examples=150, deadline=None)
@given(steps=any_series(), seed=st.integers(0, 2**32 - 1))
def test_all_kinds_of_series_against_the_definitions(steps: Steps, seed: int) -> None:
    random, drawn = np.random.default_rng(seed), dict[Any, float]()

    def value(*key: Any) -> float:
        return drawn.setdefault((*key[:-1], frozenset(key[-1])), float(random.uniform(0.01, 1)))

    matrix = StageMatrix({cell: value(*cell) for cell in cells_needed(steps)})
    references = {part: value(*part) for part in reference_slices(steps)}
    result = compute_indices(steps, matrix, references)
    for name, expected in plainly(steps, value, value).items():
        assert getattr(result, name) == (None if expected is None else pytest.approx(expected))


def test_what_was_lost_needs_no_denominator() -> None:
    """A base that found nothing leaves RI undefined; what came later was gained all the same."""
    steps: Steps = [("A", ("a",)), ("A", ("b",)), ("A", ("c",))]
    matrix = StageMatrix({
        (1, "A", ("a",)): 0.0, (2, "A", ("a",)): 0.3, (3, "A", ("a",)): 0.2,
        (2, "A", ("b",)): 0.5, (3, "A", ("b",)): 0.4, (3, "A", ("c",)): 0.6,
    })  # fmt: skip
    result = compute_indices(steps, matrix, None)
    assert result.ri == pytest.approx(0.8)
    assert result.forgetting == pytest.approx((0.1 + 0.1) / 2)
    assert result.bwt == pytest.approx((0.2 - 0.1) / 2)


def test_a_missing_reference_is_named() -> None:
    with pytest.raises(DataError, match=r"no reference model for A\[c11"):
        compute_indices(TWO, _two_phase(0.4, 0.1, 0.2, 0.3), {})


def test_a_reference_that_learned_nothing_leaves_its_pair_out_by_name() -> None:
    references = {**VOC_TO_CLIPART, ("B", TWO[0][1]): 0.0}
    result = compute_indices(TWO, _two_phase(0.4, 0.1, 0.2, 0.3), references)
    assert len(result.gi_terms) == 1
    assert any("B[c1" in line and "mAP50 0" in line for line in result.left_out)


@given(st.lists(st.floats(0.01, 2), min_size=1, max_size=5))
def test_harmonic_mean_lies_between_the_smallest_and_the_mean(values: list[float]) -> None:
    result = harmonic_mean(values)
    assert result is not None
    assert min(values) - 1e-9 <= result <= sum(values) / len(values) + 1e-9


@pytest.mark.parametrize(
    ("values", "expected"), [((), None), ((0.5, None), None), ((0.5, 0.0), 0.0), ((0.5,), 0.5)]
)
def test_harmonic_mean_edges(values: tuple[float | None, ...], expected: float | None) -> None:
    assert harmonic_mean(values) == expected


def test_the_table_of_indices_and_their_values_agree() -> None:
    numbers = {n for n in Indices.model_fields if not n.endswith("_terms") and n != "left_out"}
    fields = [name.rstrip("_") for name in Indices.model_fields]  # "or" is a word of Python's
    assert [index.name for index in INDICES] == fields[: len(numbers)]
    terms = {n.removesuffix("_terms") for n in Indices.model_fields if n.endswith("_terms")}
    assert terms == {index.name for index in INDICES if index.against}
    assert {part for index in INDICES for part in index.parts} <= numbers
    assert [index.name for index in RANKED] == ["h", "rai", "ri", "gi", "pi", "fr", "or"]


@pytest.mark.slow
def test_no_other_module_lists_the_indices() -> None:
    """An index more is a row of the table and its computation: all else follows by itself."""
    names = {index.name for index in INDICES} | {index.title for index in INDICES}
    owners = {"definitions.py", "indices.py"}
    found = []
    for path in [*REPO.glob("duet/**/*.py"), *REPO.glob("tools/**/*.py")]:
        if path.parent.name == "evaluation" and path.name in owners:
            continue
        most = 3 if "duet" in path.relative_to(REPO).parts else 4  # a tool measures RI, GI and PI
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            # A tuple, list, set, dict or call with some names of indices in it is a list of them.
            words = [n.value for n in ast.iter_child_nodes(node) if isinstance(n, ast.Constant)]
            words += [n.arg for n in ast.iter_child_nodes(node) if isinstance(n, ast.keyword)]
            words += [n.attr for n in ast.iter_child_nodes(node) if isinstance(n, ast.Attribute)]
            if len(names.intersection(word for word in words if isinstance(word, str))) >= most:
                found.append(f"{path}:{node.lineno}")
    assert found == []


@pytest.mark.slow
def test_an_index_more_is_in_files_tables_figures_and_comparisons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A toy index, as a subclass and a row would bring it, needs no other change."""
    code = """
import sys
from duet.evaluation import definitions
toy = definitions.Index("toy", "Toy", "a toy", "RI / 1", "nobody", "a toy", parts=("ri", "pi"))
definitions.INDICES = (*definitions.INDICES, toy)
definitions.RATIOS = (*definitions.RATIOS, toy)
definitions.RANKED = (*definitions.RANKED, toy)
from duet.evaluation import indices
class Indices(indices.Indices):
    toy: float | None
indices.Indices = Indices
from pathlib import Path
from factories_compare import write_run
from duet.comparison.ranking import compare
from duet.comparison.runs import find_runs
from duet.comparison.page import as_markdown
from duet.report.figures import figures
from duet.report.tables import definition_table, summary_table
from duet.results.files import load_results
folder = write_run(Path(sys.argv[1]))
results = load_results(folder)
assert results.main.indices.toy == (results.main.indices.ri + results.main.indices.pi) / 2
assert "Toy" in summary_table(results).header
assert definition_table().rows[-1][0] == "Toy"
assert ",toy," in (folder / "results.csv").read_text(encoding="utf-8")
titles = [axes.get_title(loc="left") for axes in figures(results)["indices"](results).axes]
assert "Toy: a toy" in titles
found = compare(find_runs([folder]), metric="toy", bootstrap=20)
assert found.rows[0].values["toy"].low is not None
assert "Toy to best" in as_markdown(found)
"""
    path = os.pathsep.join((str(TESTS), os.environ.get("PYTHONPATH", "")))
    monkeypatch.setenv("PYTHONPATH", path)
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True)
