"""Runs repeated with seeds and orders, and evaluations that keep what their numbers are made of."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import factories_run as make
import numpy as np
import pytest
from factories_training import Here, trained_here

from duet.errors import ConfigError, DataError
from duet.evaluation.bootstrap import weighted_ap50
from duet.evaluation.matches import load_matches
from duet.families.table import resolve_family
from duet.results.files import load_results
from duet.runs.costs import latency_ms, parameter_count
from duet.runs.engines.engine import Engine
from duet.runs.evaluator import Evaluator
from duet.runs.inputs import read_inputs, read_strategies
from duet.runs.plan import RunPlan, planned_stages
from duet.runs.repeat import execute_repeats, ordered, repeats, repeats_as_dict
from duet.series import eval_slice
from duet.training.outcome import peak_memory


@pytest.fixture(scope="module")
def plan(base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    """One epoch of the frozen control on the tiny series, without references."""
    series = make.tiny(base)
    changes: dict[str, object] = {"epochs": 1, "threads": 1, "fisher_images": 0}
    inputs = read_inputs(series.series, changes=changes)
    return RunPlan(
        series=inputs.series, strategies=read_strategies(("frozen",), family=inputs.family),
        schedule=inputs.schedule, weights=inputs.weights, architecture=inputs.architecture,
        family=inputs.family, seed=5, out=tmp_path_factory.mktemp("repeats"), references=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def here() -> Iterator[Here]:
    with trained_here() as found:
        yield found


# ---- which runs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "orders", "names"),
    [
        pytest.param(1, 1, ["seed-5"], id="one"),
        pytest.param(3, 1, ["seed-5", "seed-6", "seed-7"], id="seeds"),
        pytest.param(1, 2, ["order-0-seed-5", "order-1-seed-5"], id="orders"),
        pytest.param(
            2, 2, [f"order-{o}-seed-{s}" for o in (0, 1) for s in (5, 6)], id="both"
        ),
    ],
)  # fmt: skip
def test_folders_seeds_and_one_lab(
    plan: RunPlan, seeds: int, orders: int, names: list[str]
) -> None:
    plans = repeats(plan, seeds=seeds, orders=orders)
    assert [item.out for item in plans] == [plan.out / name for name in names]
    assert [item.seed for item in plans] == [int(name.rsplit("-", 1)[1]) for name in names]
    assert {item.lab for item in plans} == {plan.out / "lab"}


@pytest.mark.parametrize("length", [2, 4, 9])
def test_orders_are_distinct_and_keep_classes_with_domains(plan: RunPlan, length: int) -> None:
    first = plan.series.increments[0]
    steps = tuple(
        replace(first, name=f"d{n}", domain=f"d{n}", classes=(f"c{n}",)) for n in range(length)
    )
    series = replace(plan.series, increments=steps)
    made = ordered(series, 2 if length == 2 else 6, seed=3)
    names = [[item.name for item in one.increments] for one in made]
    assert made[0] == series
    assert len(set(map(tuple, names))) == len(made) == (2 if length == 2 else 6)
    assert all(sorted(one) == sorted(names[0]) for one in names)
    pairs = {(i.name, i.domain, i.classes) for one in made for i in one.increments}
    assert pairs == {(f"d{n}", f"d{n}", (f"c{n}",)) for n in range(length)}
    again = ordered(series, len(made), seed=3)
    assert names == [[item.name for item in one.increments] for one in again]


@pytest.mark.parametrize("more", [0, 6], ids=["listed", "drawn"])
def test_orders_that_mix_new_and_known_classes_are_left_out(plan: RunPlan, more: int) -> None:
    """Night shows one of two day classes: it can come after day only."""
    first = plan.series.increments[0]
    known = [("day", ("cat", "dog")), ("fog", ("bus",)), ("night", ("cat",))]
    known += [(f"d{n}", (f"c{n}",)) for n in range(more)]
    steps = tuple(replace(first, name=d, domain=d, classes=c) for d, c in known)
    series = replace(plan.series, increments=steps)
    made = ordered(series, 3, seed=0)
    names = [[item.name for item in one.increments] for one in made]
    assert len(set(map(tuple, names))) == 3
    assert all(one.index("day") < one.index("night") for one in names)
    if not more:
        with pytest.raises(DataError, match="of 4 orders 3 can be learned"):
            ordered(series, 4, seed=0)


def test_more_orders_than_there_are(plan: RunPlan) -> None:
    with pytest.raises(ConfigError, match="2 increments have 2 orders, got 3"):
        repeats(plan, seeds=1, orders=3)


# ---- a real one ---------------------------------------------------------------------------


@pytest.mark.slow
def test_orders_are_run_and_compared(
    plan: RunPlan, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Path] = []  # drawing reports takes longer than everything else here
    monkeypatch.setattr("duet.runs.run.write_report", reported.append)
    plans = repeats(plan, seeds=1, orders=2)
    titles: set[str] = set()
    found = execute_repeats(
        plan.out,
        plans,
        lambda title, record: titles.add(title),
        date="2026-11-23",
        engine=Engine(run=here),
    )
    assert len(here.ran) == 4  # two bases, two increments
    assert {path.parent for path in here.ran} == {(plan.out / "lab").resolve()}
    assert any(title.startswith("order-1-seed-5 frozen: flat") for title in titles)
    runs = [load_results(item.out) for item in plans]
    assert [run.series.steps[0][0] for run in runs] == ["flat", "comic"]
    # Random weights find nothing in one epoch: no ratio is defined, which must not end in an error.
    assert "No index is defined" in (plan.out / "compare.md").read_text()
    assert not found.rows[0].values["old"].mean
    summary = json.loads((plan.out / "summary.json").read_text())
    assert [run["increments"] for run in summary["runs"]] == [["flat", "comic"], ["comic", "flat"]]
    assert (plan.out / "compare.md").read_text().startswith("# Comparison")
    assert reported == [item.out for item in plans]
    for item, run in zip(plans, runs, strict=True):
        method = run.strategies[0]
        files = [scores.evidence for scores in method.class_scores]
        assert len(files) == 4
        assert all(name and (item.out / name).is_file() for name in files)
        assert method.parameters is not None
        assert 1e6 < method.parameters < 4e6  # YOLO11n with ten classes has 2.6 million
        assert method.latency_ms is not None
        assert 0 < method.latency_ms < 2000
        assert method.memory_mb is not None
        assert 100 < method.memory_mb < 20_000

    # Again: nothing is trained or evaluated.
    kept = make.listing(plan.out / "lab"), make.listing(plans[0].out / "evaluations")
    execute_repeats(
        plan.out, plans[:1], lambda *_: None, date="2026-11-23", engine=Engine(run=here)
    )
    assert len(here.ran) == 4
    assert (make.listing(plan.out / "lab"), make.listing(plans[0].out / "evaluations")) == kept


@pytest.mark.slow
def test_references_are_trained_once_and_let_go(
    plan: RunPlan, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both orders ask for four models of one slice each, and one begins where the other looks."""
    monkeypatch.setattr("duet.runs.run.write_report", lambda out: None)
    plans = repeats(replace(plan, references=True, out=tmp_path), seeds=1, orders=2)
    before = len(here.ran)
    execute_repeats(tmp_path, plans, date="2026-11-23", engine=Engine(run=here))
    ran = here.ran[before:]
    asked = sum(len(planned_stages(one)) for one in plans)
    assert (len(ran), asked) == (6, 10)
    assert repeats_as_dict(plans)["trainings"] == 6
    assert len(set(ran)) == len(ran)
    results = [load_results(one.out) for one in plans]
    one, other = ({(r.domain, frozenset(r.classes)): r for r in run.references} for run in results)
    shared = one.keys() & other.keys()
    assert len(shared) == 2
    for cut in shared:
        assert one[cut].map50 == other[cut].map50
        name = one[cut].evidence
        assert name is not None
        files = {(item.out / name).stat().st_ino for item in plans}
        assert files == {(tmp_path / name).stat().st_ino}, "an evaluation is kept twice"
    # The lab keeps no tensors: they are those of detectors and increments, or nobody asks for them.
    assert not list((tmp_path / "lab").rglob("*.safetensors"))
    assert len([*(tmp_path / "lab").glob("reference-*.json")]) == 4
    kept = make.listing(tmp_path / "lab")
    execute_repeats(tmp_path, plans, date="2026-11-23", engine=Engine(run=here))
    assert len(here.ran) == before + 6
    assert make.listing(tmp_path / "lab") == kept


@pytest.mark.slow
def test_the_command_lists_methods_and_plans_repeats(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = make.tiny(base).series
    words = [
        "run",
        series,
        "--strategies",
        "frozen, seq-ft",
        "--strategy",
        "duet",
        "--out",
        tmp_path,
    ]
    done = make.duet_here(capsys, *words, "--seeds", 2, "--orders", 2, "--dry-run", "--json")
    assert done.code == 0, done.err
    runs = done.json()["runs"]
    assert [run["strategies"] for run in runs] == [["frozen", "seq-ft", "duet"]] * 4
    assert [Path(run["out"]).name for run in runs][-1] == "order-1-seed-1"
    assert runs[0]["stages"][0]["domain"] == "flat"
    assert runs[-1]["stages"][0]["domain"] == "comic"
    people = make.duet_here(capsys, *words, "--seeds", 2, "--dry-run")
    assert "and 1 more like it" in people.out
    assert not list(tmp_path.iterdir())


# ---- evaluations and costs ----------------------------------------------------------------


@pytest.mark.slow
def test_evaluations_keep_their_matches(plan: RunPlan, tmp_path: Path) -> None:
    family = resolve_family("yolo")
    first = plan.series.increments[0]
    state = family.start_state(
        family.weights(plan.weights), architecture=plan.architecture, head="rows",
        classes=first.classes, increment="flat", seed=0,
    )  # fmt: skip
    evaluator = Evaluator(tmp_path / "evaluations", 64)
    cut = eval_slice(first.data, (*first.classes, make.NEW[0]), "test")
    scores = evaluator(state, cut)
    assert scores.evidence is not None
    path = tmp_path / scores.evidence
    matches = load_matches(path)
    assert list(matches.classes) == list(first.classes)  # what the detector does not know is left
    ones = np.ones((1, len(cut)), np.float32)
    for name, found in matches.classes.items():
        expected = scores.ap50[name]
        value = weighted_ap50(found, ones)[0]
        assert value == pytest.approx(
            np.nan if expected is None else expected, abs=1e-9, nan_ok=True
        )
    assert sum(len(found.scores) for found in matches.classes.values()) > 100
    assert scores.objects == {name: one.truths.sum() for name, one in matches.classes.items()}
    # An evaluation of an older version, without matches, is done again; others are read.
    before = make.listing(tmp_path)
    assert evaluator(state, cut) == scores
    assert make.listing(tmp_path) == before
    path.unlink()
    assert evaluator(state, cut) == scores
    assert path.is_file()
    assert scores.covering(["unknown"]).evidence == scores.evidence
    images = cut.images[:2]
    first_time = latency_ms(state, images, image_size=64, folder=tmp_path)
    assert first_time == latency_ms(state, images, image_size=64, folder=tmp_path)
    assert latency_ms(state, (), image_size=64, folder=tmp_path) is None
    stock = sum(p.numel() for p in family.detector(state, image_size=64).module.parameters())
    assert abs(parameter_count(state) - stock) < 0.01 * stock  # the engine's is fused


@pytest.mark.slow
def test_peak_memory_is_that_of_the_process() -> None:
    """A child of a large parent is small; ``ru_maxrss`` would tell the parent's size."""
    program = "from duet.training.outcome import peak_memory; print(peak_memory())"
    ballast = np.ones(50_000_000)
    small = int(subprocess.check_output([sys.executable, "-c", program]))
    mine = peak_memory()
    assert mine > ballast.nbytes
    assert 5e6 < small < mine - ballast.nbytes / 2
