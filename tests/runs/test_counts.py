"""How much a run does, counted before it is done: nothing that no index and no report needs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from factories_results import make_results
from factories_series import make_dataset, make_series
from factories_yolo import micro_schedule

from duet.evaluation.checks import check
from duet.evaluation.gate import Gate
from duet.evaluation.pairs import cells_needed, reference_slices
from duet.results.files import load_results, save_results
from duet.results.gated import measured_run
from duet.results.schema import Results
from duet.runs.needed import looks, not_looked_at
from duet.runs.plan import RunPlan, plan_as_dict, plan_as_text, planned_stages
from duet.runs.repeat import repeats, repeats_as_dict, repeats_as_text
from duet.series.reader import read_series
from duet.training.config import Refit, Strategy


@pytest.fixture(scope="module")
def longest(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    """Sixteen increments, a class and a domain each; every class is labelled in every domain."""
    root = tmp_path_factory.mktemp("counts")
    names = [f"c{number:02d}" for number in range(16)]
    for number in range(16):
        make_dataset(root / f"d{number:02d}", names=names, counts={"train": 16, "val": 16},
                     seed=number)  # fmt: skip
    path = make_series(root, [
        {"domain": f"d{n:02d}", "data": f"d{n:02d}/data.yaml", "classes": [name]}
        for n, name in enumerate(names)
    ])  # fmt: skip
    return RunPlan(
        read_series(path), micro_schedule(), path, "yolo11n.yaml", "yolo",
        strategies=(Strategy(name="re-fit", head="rows", refit=Refit(epochs=1)),), seed=0,
        out=root / "run",
    )  # fmt: skip


def first(plan: RunPlan, length: int) -> RunPlan:
    """Return the plan of the first increments alone."""
    series = replace(plan.series, increments=plan.series.increments[:length])
    return replace(plan, series=series, written=(), begun=frozenset())


@pytest.mark.parametrize("length", [2, 4, 8, 16])
def test_trainings_and_evaluations(longest: RunPlan, length: int) -> None:
    plan = first(longest, length)
    stages = planned_stages(plan)
    kinds = Counter(one.title.split()[0] if "re-fit" not in one.title else one.title.split()[-1]
                    for one in stages)  # fmt: skip
    assert kinds["base"] == 1
    assert kinds["reference"] == 2 * length - 1
    assert len(stages) == 1 + 2 * (length - 1) + 2 * length - 1
    assert len({one.same for one in stages}) == len(stages), "one training is planned twice"
    told = plan_as_dict(plan)["evaluations"]
    assert told == {
        "chains": length * (length + 1) // 2 + length - 1,
        "cells": length**2,
        "references": 2 * length - 1,
    }
    assert f"{told['chains']} of {told['cells']} cells" in plan_as_text(plan)


@pytest.mark.parametrize("length", [2, 4, 16])
def test_all_that_an_index_needs_is_looked_at(longest: RunPlan, length: int) -> None:
    plan = first(longest, length)
    needed = {(stage, domain) for stage, domain, _ in cells_needed(plan.steps)}
    assert needed < set(plan.looks)
    # The rest is of the first detector, which the report holds against the last one everywhere.
    assert {stage for stage, _ in set(plan.looks) - needed} == {1}
    assert len(plan.looks) == len(set(plan.looks))
    assert list(plan.looks) == sorted(plan.looks)


def test_everything_on_demand(longest: RunPlan) -> None:
    plan = replace(longest, cells="all")
    assert len(plan.looks) == 256
    assert not not_looked_at(plan.steps, plan.series.domains, plan.looks)
    left = not_looked_at(longest.steps, longest.series.domains, longest.looks)
    assert sum(map(len, left.values())) == 256 - 151
    assert left["d15"] == tuple(range(2, 16))
    assert "d00" not in left
    assert "d01" not in left


def test_a_domain_that_a_gate_names_is_looked_at_by_all(longest: RunPlan) -> None:
    plan = replace(longest, watched=("d15",))
    assert [stage for stage, domain in plan.looks if domain == "d15"] == list(range(1, 17))
    assert len(plan.looks) == 151 + 14


def test_one_domain_has_one_cell_a_stage() -> None:
    steps = [("shop", (name,)) for name in "abcd"]
    assert looks(steps, ["shop"]) == ((1, "shop"), (2, "shop"), (3, "shop"), (4, "shop"))


@pytest.mark.parametrize("orders", [1, 4])
@pytest.mark.parametrize("seeds", [1, 2])
def test_no_reference_is_trained_twice_over_repeats(
    longest: RunPlan, orders: int, seeds: int
) -> None:
    plans = repeats(first(longest, 4), seeds=seeds, orders=orders)
    asked = [
        (plan.seed, domain, frozenset(classes))
        for plan in plans
        for domain, classes in reference_slices(plan.steps)
    ]
    begun = {(plan.seed, plan.steps[0][0], frozenset(plan.steps[0][1])) for plan in plans}
    planned = [one for plan in plans for one in planned_stages(plan)]
    alone = {one.same for one in planned if one.title == "base" or one.title[:9] == "reference"}
    assert len(alone) == len(set(asked) | begun)
    told = repeats_as_dict(plans)
    assert told["asked"] == len(planned)
    assert told["trainings"] == len({one.same for one in planned}) <= told["asked"]
    assert (told["trainings"] < told["asked"]) is (orders > 1)
    if len(plans) > 1:
        wanted = f"{told['trainings']} trainings for {told['asked']} that the runs ask for"
        assert wanted in repeats_as_text(plans)


def test_a_longer_reference_is_no_base_of_another_order(longest: RunPlan) -> None:
    schedule = longest.schedule.model_copy(update={"reference_steps": 40})
    plans = repeats(replace(first(longest, 2), schedule=schedule), seeds=1, orders=2)
    planned = [one for plan in plans for one in planned_stages(plan)]
    bases = {one.same for one in planned if one.title == "base"}
    references = [one for one in planned if one.title.startswith("reference")]
    assert len(bases) == 2
    assert all(one.steps >= 40 > one.steps - len(references) for one in references)
    assert not bases & {one.same for one in references}


def test_classes_of_a_reference_have_one_order_whatever_was_learned_first(
    longest: RunPlan,
) -> None:
    plans = repeats(first(longest, 4), seeds=1, orders=6)
    assert len({plan.steps[0] for plan in plans}) > 1
    for plan in plans:
        for cut in plan.reference_cuts:
            assert plan.in_written_order(cut[1]) == tuple(sorted(cut[1]))
            own = cut in plan.steps
            assert plan.reference_name(cut) == (cut[0] if own else f"reference-{cut[0]}")
        assert plan.begun == {one.steps[0] for one in plans}


THREE = (("day", ("cat", "dog")), ("night", ("bus",)), ("fog", ("ship",)))


def without_later_domains(results: Results) -> Results:
    """Return results as `duet run` writes them: the second detector did not look at fog."""
    main = results.main
    seen = tuple(one for one in main.class_scores if (one.stage, one.domain) != (2, "fog"))
    others = (one for one in results.strategies if one.name != main.name)
    scores = main.model_copy(update={"class_scores": seen})
    changes = {"strategies": (scores, *others), "not_looked_at": {"fog": (2,)}}
    return results.model_copy(update=changes)


def test_a_gate_says_who_did_not_look() -> None:
    """A class that nobody asked of in a later domain has no zero there, and no limit is kept."""
    results = without_later_domains(make_results(THREE))
    (domain, _), (_, classes) = results.series.steps[2], results.series.steps[1]
    measured = measured_run(results, results.main)
    before = measured.before[domain, classes[0]]
    assert (before.ap50, before.counted, before.taught) == (None, None, False)
    assert f"stage 2 did not look at {domain}: `duet run --cells all`" in before.why
    gate = Gate(max_drop={"ap50": 50}, cells={domain: [classes[0]]})
    rows = {one.about: one for one in check(gate, measured).checks}
    row = rows[f"{classes[0]} in {domain}"]
    assert not row.passed
    assert "--cells all" in row.why
    loose = check(Gate(max_drop={"ap50": 50}), measured)
    assert f"{classes[0]} in {domain}" not in {one.about for one in loose.checks}


def test_results_keep_who_did_not_look(tmp_path: Path) -> None:
    results = without_later_domains(make_results(THREE))
    save_results(tmp_path, results)
    assert load_results(tmp_path) == results
    domain = results.series.steps[2][0]
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert not [row for row in rows if row.startswith(f"{results.main_strategy},ap50,2,{domain},")]
    assert [row for row in rows if row.startswith(f"{results.main_strategy},ap50,3,{domain},")]
