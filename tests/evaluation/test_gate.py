"""Gates: what is asked, and how each limit ends; nothing measured never passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from factories_compare import SKILLS, write_run
from factories_results import TWO_PHASE

from duet.comparison.gated import judge
from duet.comparison.runs import find_runs
from duet.errors import ConfigError, DataError, GateError
from duet.evaluation.cells import Cell
from duet.evaluation.checks import check, measured_of, standings
from duet.evaluation.deployment import ClassDeployment, Deployment
from duet.evaluation.gate import Check, Gate, Verdict, load_gate
from duet.report.gate import gate_text
from duet.report.phrases import FEW_NOTE
from duet.results.gated import kept_before, load_before

ALONE = "nothing to compare with"


def shown(objects: int, found: int, wrong: int) -> ClassDeployment:
    return ClassDeployment(
        objects=objects, found=found, wrong=wrong, threshold=0.25, lrp=0.5, olrp=0.5,
        olrp_threshold=0.25,
    )  # fmt: skip


def cell(
    domain: str,
    increment: str,
    ap50: dict[str, float | None],
    found: int = 8,
    *,
    taught: bool = True,
    doubles: int = 0,
    images: int = 10,
    split: str = "test",
) -> Cell:
    """Return a cell with ten objects of each labelled class, of which ``found`` are found."""
    there = [value for value in ap50.values() if value is not None]
    mean = sum(there) / len(there) if there else None
    classes = {
        name: shown(0 if value is None else 10, 0 if value is None else found, 0)
        for name, value in ap50.items()
    }
    deployed = Deployment(
        images=images, classes=classes, ece=None, doubles_within=0, doubles_between=doubles
    )
    return Cell(
        domain=domain, increment=increment, taught=taught, split=split, images=images,
        map50=mean, map=mean, ap50=ap50, deployed=deployed,
    )  # fmt: skip


BEFORE = [
    cell("day", "day", {"cat": 0.8, "dog": 0.6}),
    cell("night", "day", {"cat": 0.5}, taught=False),
]
NOW = [
    cell("day", "day", {"cat": 0.75, "dog": 0.5}, 6, doubles=1),
    cell("night", "day", {"cat": 0.1}, 1, taught=False),
    cell("night", "night", {"cup": 0.7}, doubles=3),
]


def verdict(gate: dict[str, Any], now: list[Cell] = NOW, before: list[Cell] = BEFORE) -> Verdict:
    return check(load_gate(options=gate), measured_of(now, standings(before), alone=ALONE))


def ends(found: Verdict) -> dict[str, tuple[float | None, bool]]:
    return {
        f"{one.name} {one.about}".strip(): (
            None if one.found is None else round(one.found, 6), one.passed,
        )
        for one in found.checks
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (
            {"max_drop": 5},
            {"AP50 drop cat in day": (5.0, True), "AP50 drop dog in day": (10.0, False)},
        ),
        (
            {"max_drop": {"f1": 14}},  # 16 / 18 before, 12 / 16 after
            {
                "F1 drop cat in day": (13.888889, True),
                "F1 drop dog in day": (13.888889, True),
            },
        ),
        (
            {"max_drop": 5, "classes": {"dog": {"max_drop": 12}}},
            {"AP50 drop cat in day": (5.0, True), "AP50 drop dog in day": (10.0, True)},
        ),
        (
            {"classes": {"dog": {"max_drop": 2}}},
            {"AP50 drop dog in day": (10.0, False)},
        ),
        (
            {"max_drop": 20, "domains": {"day": {"max_drop": 7}}},
            {"AP50 drop cat in day": (5.0, True), "AP50 drop dog in day": (10.0, False)},
        ),
        (
            {"max_drop": 20, "cells": {"night": ["cat"]}},
            {
                "AP50 drop cat in day": (5.0, True),
                "AP50 drop dog in day": (10.0, True),
                "AP50 drop cat in night": (40.0, False),
            },
        ),
        (
            {"min": {"map50": 0.62}},  # cats at night were never labelled
            {"mAP50 day[cat, dog]": (0.625, True), "mAP50 night[cup]": (0.7, True)},
        ),
        (
            {"min": {"map50": 0.65}, "domains": {"day": {"min": {"map50": 0.5}}}},
            {"mAP50 day[cat, dog]": (0.625, True), "mAP50 night[cup]": (0.7, True)},
        ),
        (
            {"min": {"map50": 0.6}, "cells": {"night": ["cat"]}},
            {
                "mAP50 day[cat, dog]": (0.625, True),
                "mAP50 night[cup]": (0.7, True),
                "mAP50 night[cat]": (0.1, False),
            },
        ),
        (
            {"classes": {"cup": {"min": {"ap50": 0.7, "f1": 0.9}}}},
            {"AP50 cup in night": (0.7, True), "F1 cup in night": (0.888889, False)},
        ),
        (
            {"max_double": 15},
            {"double boxes day": (10.0, True), "double boxes night": (30.0, False)},
        ),
        (
            {"max_double": 15, "domains": {"night": {"max_double": 30}}},
            {"double boxes day": (10.0, True), "double boxes night": (30.0, True)},
        ),
        (
            {"min": {"ri": 0.9, "fr": 0.7}},
            {"RI": (0.892857, False), "FR": (0.75, True)},
        ),
    ],
    ids=lambda value: str(value)[:60] if "AP50" not in str(value) else "",
)
def test_each_form_of_limit(
    gate: dict[str, Any], expected: dict[str, tuple[float | None, bool]]
) -> None:
    found = verdict(gate)
    assert ends(found) == expected
    assert found.passed == all(passed for _, passed in expected.values())


@pytest.mark.parametrize(
    ("gate", "now", "before", "why"),
    [
        ({"max_drop": 100}, NOW, [], ALONE),
        ({"max_drop": 100}, NOW, [BEFORE[1]], "no class in a domain where it was taught"),
        (
            {"max_drop": 100},
            [cell("day", "day", {"cat": 0.5})],
            [cell("day", "day", {"cat": 0.5}, split="val")],
            "different splits: now test, before val",
        ),
        (
            {"min": {"ri": 0}},
            NOW[:1],
            [cell("day", "day", {"cat": 0.5}, split="val")],
            "before val",
        ),
        ({"max_drop": 100}, NOW[2:], [cell("day", "day", {"cat": 0.8})], "not measured now"),
        (
            {"max_drop": {"f1": 100}},
            [cell("day", "day", {"cat": None})],
            [cell("day", "day", {"cat": 0.5})],
            "no labelled object now",
        ),
        (
            {"max_drop": 100},
            [cell("day", "day", {"cat": 0.5})],
            [cell("day", "day", {"cat": None})],
            "no labelled object before",
        ),
        ({"min": {"map50": 0}}, [cell("day", "day", {"cat": None})], [], "no labelled object"),
        ({"min": {"map50": 0}}, NOW[1:2], [], "nothing was measured"),
        ({"domains": {"dusk": {"min": {"map50": 0}}}}, NOW, [], "not measured"),
        ({"domains": {"dusk": {"max_drop": 100}}}, NOW, BEFORE, "no old class"),
        ({"domains": {"dusk": {"max_double": 100}}}, NOW, BEFORE, "nobody looked"),
        ({"classes": {"fox": {"max_drop": 100}}}, NOW, BEFORE, "no old class"),
        ({"classes": {"fox": {"min": {"f1": 0}}}}, NOW, BEFORE, "not measured"),
        ({"max_double": 100}, [cell("day", "day", {"cat": 1}, images=0)], [], "nobody looked"),
        ({"min": {"ri": 0}}, NOW, [], ALONE),
        ({"min": {"fr": 0}}, NOW, [cell("day", "day", {"cat": 0.5}, 0)], "recall above 0"),
        ({"min": {"h": 0}}, NOW, BEFORE, "`duet run` keeps"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, (dict, str)) else "",
)
def test_nothing_measured_is_a_failure(
    gate: dict[str, Any], now: list[Cell], before: list[Cell], why: str
) -> None:
    found = verdict(gate, now, before)
    (failed,) = found.failed
    assert failed.found is None
    assert why in failed.why
    with pytest.raises(GateError, match="1 of 1 limit not kept") as error:
        found.require("model")
    assert failed.why in str(error.value)
    assert error.value.exit_code == 6


def test_a_limit_that_is_met_exactly_is_kept() -> None:
    assert Check.of("AP50 drop", "cat", 5, 100 * (0.8 - 0.75), "").passed  # 5.000000000000004
    assert not Check.of("AP50 drop", "cat", 5, 5.001, "").passed
    assert Check.of("RI", "", 0.3, 0.1 + 0.2, "").passed
    assert not Verdict(()).passed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, ["sets no limit"]),
        ({"against": "x.json"}, ["sets no limit"]),
        ({"max_drop": {"ap5": 3}}, ["no 'ap5', did you mean 'ap50'?", "ap50, f1"]),
        ({"min": {"r": 0.9}}, ["no 'r', did you mean 'ri'?", "ri, gi, pi, rai, h, fr, or, map50"]),
        ({"min": {"forgetting": 0.9}}, ["no 'forgetting'"]),
        ({"min": {"ri": 95}}, ["min.ri", "less than or equal to 1"]),
        ({"max_drop": -1, "max_duble": 3}, ["max_drop.ap50", "did you mean 'max_double'?"]),
        ({"classes": {"cat": {"max_double": 3}}}, ["classes.cat.max_double: unknown key"]),
        ({"schema": 2, "max_drop": 1}, ["schema"]),
    ],
    ids=str,
)
def test_gates_that_are_refused(tmp_path: Path, content: dict[str, Any], words: list[str]) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as error:
        load_gate(path)
    for word in (*words, "gate.yaml"):
        assert word in str(error.value)


def test_options_replace_the_limits_of_a_file_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(
        "schema: 1\nmax_drop: 5\nmin: {ri: 0.9, fr: 0.8}\nmax_double: 3\nagainst: old.json\n"
        "classes: {no: {max_drop: {f1: 2}}}\ncells: {night: [no]}\n"
    )
    read = load_gate(path)
    assert read.max_drop == {"ap50": 5}
    assert read.against == tmp_path / "old.json"
    assert read.classes["no"].max_drop == {"f1": 2}  # a class of that name, not `false`
    given = load_gate(path, {"max_drop": {"f1": "8"}, "min": {"ri": "0.5"}, "against": "b.json"})
    assert given.max_drop == {"ap50": 5, "f1": 8}
    assert given.min == {"ri": 0.5, "fr": 0.8}
    assert given.max_double == 3
    assert given.against == Path("b.json")


def test_names_that_the_series_does_not_have_are_told_at_once() -> None:
    gate = Gate.model_validate(
        {
            "classes": {"dgo": {"max_drop": 3}}, "domains": {"nigth": {"max_double": 3}},
            "cells": {"day": ["ct"]}, "strategies": ["duet"],
        }
    )  # fmt: skip
    with pytest.raises(ConfigError) as error:
        gate.require_known(["dog", "cat"], ["day", "night"], ["duet-plus"])
    told = ("'dgo', did you mean 'dog'?", "'ct', did you", "'nigth', did you", "no strategy 'duet'")
    for word in told:
        assert word in str(error.value)
    gate.require_known(["dgo", "ct"], ["day", "nigth"], ["duet"])
    gate.require_known(["dgo", "ct"], ["day", "nigth"])  # one detector: no strategies


def test_the_table_shows_every_limit() -> None:
    text = gate_text(verdict({"max_drop": 5, "max_double": 15, "min": {"ri": 0.8, "gi": 0.5}}))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "gate of limit found pass"
    assert "RI – at least 0.8 0.893 yes" in lines
    assert "GI – at least 0.5 – NO" in lines
    assert "AP50 drop dog in day at most 5 10.0 * NO" in lines  # ten dogs
    assert "double boxes night at most 15 30.0 NO" in lines
    assert lines[-2] == "Not measured"
    assert lines[-1].startswith("GI: GI, PI, RAI, H and OR: they follow")


def test_what_hangs_on_few_objects_says_so() -> None:
    found = verdict({"max_drop": 5, "min": {"map50": 0.5, "ri": 0.5}, "max_double": 50})
    assert {one.name: one.objects for one in found.checks} == {
        "RI": None, "mAP50": 10, "AP50 drop": 10, "double boxes": None,
    }  # fmt: skip
    many = [one.model_copy(update={"objects": 20}) for one in found.checks]
    assert FEW_NOTE in gate_text(found)
    assert FEW_NOTE not in gate_text(Verdict(tuple(many)))


# ---- finished runs ------------------------------------------------------------------------------

OLD = TWO_PHASE[0][1]


def test_a_run_is_judged_by_when_classes_were_learned(tmp_path: Path) -> None:
    runs = find_runs([write_run(tmp_path / "run")])
    gate = load_gate(options={"max_drop": 30, "min": {"ri": 0.8, "rai": 0.1}})
    good, bad = (judge(gate, runs, [name]) for name in ("good", "bad"))
    assert [one.about for one in good.checks[2:]] == [f"{name} in flat" for name in OLD]
    assert good.passed
    assert {one.strategy for one in good.checks} == {"good"}
    assert not bad.passed
    assert bad.checks[0].found == runs[0].results.strategies[2].indices.ri
    assert {one.strategy for one in judge(gate, runs).checks} == set(SKILLS)


def test_what_older_files_lack_does_not_pass(tmp_path: Path) -> None:
    runs = find_runs([write_run(tmp_path / "run", references=False, evidence=False)])
    asked = {"max_drop": {"f1": 100}, "min": {"pi": 0, "fr": 0}, "max_double": 1000}
    found = judge(load_gate(options=asked), runs, ["good"])
    assert all(one.found is None and not one.passed for one in found.checks)
    told = " ".join(one.why for one in found.checks)
    for word in ("only AP was kept", "no reference models", "nobody looked", "no pair"):
        assert word in told


def test_means_over_runs_decide_and_each_run_is_shown(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "runs" / f"seed-{seed}", seed=seed)
    runs = find_runs([tmp_path / "runs"])
    ri = [run.results.strategies[0].indices.ri for run in runs]
    assert ri[0] != ri[1]
    gate = load_gate(options={"min": {"ri": sum(ri) / 2}, "strategies": ["good"]})
    found = judge(gate, runs)
    (one,) = found.checks
    assert found.passed
    assert list(one.runs.values()) == ri
    assert "In each run" in gate_text(found)
    with pytest.raises(ConfigError, match="no strategy 'god', did you mean 'good'"):
        judge(load_gate(options={"max_drop": 5, "strategies": ["god"]}), runs)


def test_a_kept_evaluation_is_what_is_compared_with(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for path in (folder, folder / "results.json"):
        known = load_before(path)
        assert known is not None
        assert known["flat", OLD[0]].taught
        assert not known["comic", OLD[0]].taught
    runs = find_runs([folder])
    same = judge(
        load_gate(options={"max_drop": 0, "against": folder}), runs, ["good"], before=known
    )
    assert len(same.checks) == sum(len(names) for _, names in TWO_PHASE)
    assert same.passed
    assert load_before(tmp_path) is None
    with pytest.raises(ConfigError, match="duet eval MODEL"):
        kept_before(load_gate(options={"max_drop": 5, "against": str(tmp_path)}))


@pytest.mark.parametrize("content", ["{}", '{"cells": [{"domain": 3}]}', "[", '{"cells": null}'])
def test_strange_evaluations_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "before.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"before\.json"):
        load_before(path)
