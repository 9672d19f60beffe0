"""`duet compare`: ranks, paired intervals, noise, and refusing what cannot be compared."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories_run as make
import numpy as np
import pytest
from factories_compare import IMAGES, SKILLS, Skill, write_run
from factories_results import FOUR_PHASE, TWO_PHASE
from scipy import stats

from duet.comparison.page import as_markdown
from duet.comparison.ranking import Comparison, Row, _interval, compare
from duet.comparison.runs import Entry, find_runs
from duet.comparison.samples import Sampler
from duet.comparison.tables import as_dict, as_text
from duet.errors import ConfigError, DataError
from duet.evaluation.matches import Matches, load_matches, save_matches
from duet.results.deployed import totals
from duet.results.files import load_results, save_results
from duet.results.schema import Results

REPEATS = 200


@pytest.fixture(scope="module")
def repeats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of three strategies."""
    folder = tmp_path_factory.mktemp("repeats")
    for seed in range(3):
        write_run(folder / f"seed-{seed}", seed=seed)
    return folder


@pytest.fixture(scope="module")
def found(repeats: Path) -> Comparison:
    return compare(find_runs([repeats]), bootstrap=REPEATS)


def row(found: Comparison, label: str) -> Row:
    return next(row for row in found.rows if row.label == label)


# ---- numbers ------------------------------------------------------------------------------


def test_means_and_spreads_are_those_of_the_results(found: Comparison, repeats: Path) -> None:
    runs = [load_results(repeats / f"seed-{seed}") for seed in range(3)]
    for position, name in enumerate(SKILLS):
        strategies = [run.strategies[position] for run in runs]
        for index in ("ri", "gi", "pi", "rai", "h"):
            values = [getattr(strategy.indices, index) for strategy in strategies]
            told = row(found, name).values[index]
            assert told.mean == pytest.approx(statistics.fmean(values))
            assert told.sd == pytest.approx(statistics.stdev(values))
        last = [m.stage_matrix().get(2, *runs[0].series.steps[1]) for m in strategies]
        assert row(found, name).values["new"].mean == pytest.approx(statistics.fmean(last))
        first = [m.stage_matrix().get(2, *runs[0].series.steps[0]) for m in strategies]
        assert row(found, name).values["old"].mean == pytest.approx(statistics.fmean(first))


def test_a_clear_difference_is_no_noise_and_equal_skill_is(found: Comparison) -> None:
    assert {found.rows[0].label, found.rows[1].label} == {"good", "twin"}
    close, far = found.rows[1].to_best, row(found, "bad").to_best
    assert found.rows[0].to_best is None
    assert close is not None
    assert close.noise is True
    assert far is not None
    assert far.noise is False
    assert far.low is not None
    assert far.high is not None
    assert far.low < far.mean < far.high < 0


def test_the_interval_holds_the_mean_and_shrinks_with_its_level(found: Comparison) -> None:
    for item in found.rows:
        for name in ("ri", "gi", "pi", "rai", "h"):
            value = item.values[name]
            assert value.low is not None
            assert value.high is not None
            assert value.low < value.mean < value.high
            assert value.high - value.low < 0.5


def test_differences_are_paired(tmp_path: Path) -> None:
    """A copy differs by exactly 0 on every resample; independent resampling would spread."""
    folder = write_run(tmp_path / "run", {"one": Skill(0.8, 0.8), "copy": Skill(0.8, 0.8)})
    found = compare(find_runs([folder]), bootstrap=REPEATS)
    value, difference = found.rows[0].values["h"], found.rows[1].to_best
    assert value.low is not None
    assert value.high is not None
    assert value.high - value.low > 0.01
    assert difference is not None
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)
    assert difference.noise


def test_the_order_of_image_files_does_not_matter(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(IMAGES)
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", order=order.tolist())]
    tables = [as_dict(compare(find_runs([folder]), bootstrap=50)) for folder in folders]
    assert tables[0]["strategies"] == tables[1]["strategies"]


def test_the_seed_decides_the_resamples(repeats: Path) -> None:
    runs = find_runs([repeats / "seed-0"])
    ends = [row(compare(runs, bootstrap=50, seed=s), "good").values["h"].low for s in (0, 0, 1)]
    assert ends[0] == ends[1] != ends[2]


def test_indices_of_resamples_are_those_of_the_definition(repeats: Path) -> None:
    """RI of a resample is the mean of ratios of means over classes, H the harmonic mean."""
    run = find_runs([repeats / "seed-0"])[0]
    sampled = Sampler(20, 0).indices(Entry(run, run.results.strategies[0]))
    assert sampled["rai"] == pytest.approx((sampled["ri"] + sampled["gi"]) / 2)
    parts = [sampled[name] for name in ("ri", "gi", "pi")]
    harmonic = [statistics.harmonic_mean(three) for three in zip(*parts, strict=True)]
    assert sampled["h"] == pytest.approx(harmonic)
    assert sampled["ri"].shape == (21,)
    assert len(np.unique(sampled["ri"])) > 15


def test_found_retention_of_resamples_is_that_of_the_objects_found(repeats: Path) -> None:
    run = find_runs([repeats / "seed-0"])[0]
    strategy = run.results.strategies[0]
    sampled = Sampler(200, 0).indices(Entry(run, strategy))
    (term,) = strategy.indices.fr_terms
    sides = [strategy.scores_at(stage, term.domain) for stage in (term.increment, term.stage)]
    found = [side.deployed.total(term.classes).found for side in sides]  # type: ignore[union-attr]
    assert strategy.indices.fr == pytest.approx(found[1] / found[0])
    assert sampled["fr"][0] == pytest.approx(strategy.indices.fr)
    assert sampled["or"][0] == pytest.approx(strategy.indices.or_)
    for name in ("fr", "or"):
        low, high = np.quantile(sampled[name][1:], [0.025, 0.975])
        assert low < sampled[name][0] < high
        assert len(np.unique(sampled[name])) > 100


def test_retention_per_domain(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "four", steps=FOUR_PHASE)
    found = compare(find_runs([folder]), bootstrap=20)
    good = row(found, "good")
    assert [domain for domain, _ in good.retention] == ["watercolor", "comic", "clipart"]
    mean = statistics.fmean(value.mean for value in good.retention.values())
    assert mean == pytest.approx(good.values["ri"].mean)
    assert "watercolor" in as_text(found)
    assert "domain by domain" in as_markdown(found)


def with_h(folder: Path, **values: float | None) -> Path:
    """Write a run without evidence whose strategies have these H and nothing else to compare."""
    write_run(folder, {n: Skill(0.9, 0.9) for n in values}, evidence=False,
              seed=int(folder.name.rsplit("-", 1)[1]))  # fmt: skip
    path = folder / "results.json"
    data = json.loads(path.read_text())
    for strategy in data["strategies"]:
        strategy["indices"]["h"] = values[strategy["name"]]
    path.write_text(json.dumps(data))
    return folder


def test_training_noise_is_that_of_the_paired_differences(tmp_path: Path) -> None:
    """Seeds and orders move both strategies alike: what is left between them is a t interval."""
    base, gaps = (0.3, 0.5, 0.7, 0.9), (0.021, 0.019, 0.02, 0.022)
    for seed, (value, gap) in enumerate(zip(base, gaps, strict=True)):
        with_h(tmp_path / f"seed-{seed}", low=value, high=value + gap)
    difference = compare(find_runs([tmp_path]), bootstrap=0).rows[1].to_best
    assert difference is not None
    assert difference.mean == pytest.approx(-0.0205)
    half = stats.t.ppf(0.975, 3) * statistics.stdev(gaps) / 2
    assert difference.spread == pytest.approx(half)
    assert (difference.noise, difference.shared) == (False, 4)


def test_runs_that_share_no_seed_are_compared_after_welch(tmp_path: Path) -> None:
    ours, theirs = (0.8, 0.82, 0.85), (0.7, 0.74)
    for seed, value in enumerate(ours):
        with_h(tmp_path / f"a-{seed}", high=value)
    for seed, value in enumerate(theirs, start=7):
        with_h(tmp_path / f"b-{seed}", low=value)
    difference = compare(find_runs([tmp_path]), bootstrap=0).rows[1].to_best
    low, high = stats.ttest_ind(theirs, ours, equal_var=False).confidence_interval()
    assert difference is not None
    assert difference.shared == 0
    assert difference.mean == pytest.approx((low + high) / 2)
    assert difference.spread == pytest.approx((high - low) / 2)


def test_two_strategies_that_never_differ_are_within_noise_without_evidence(tmp_path: Path) -> None:
    for seed in range(2):
        with_h(tmp_path / f"seed-{seed}", one=1.0, other=1.0)
    found = compare(find_runs([tmp_path]), bootstrap=0)
    assert found.rows[1].to_best is not None
    assert found.rows[1].to_best.noise is True


def test_a_strategy_that_has_other_seeds_is_not_said_to_be_below(tmp_path: Path) -> None:
    """Where both ran it was better; its other seeds were the hard ones."""
    for seed in range(3):
        with_h(tmp_path / f"hard-{seed}", some=0.3)
    for seed, value in enumerate((0.9, 0.93, 0.91), start=3):
        with_h(tmp_path / f"seed-{seed}", all=0.8, some=value)
    found = compare(find_runs([tmp_path]), bootstrap=0)
    text = as_text(found)
    assert found.rows[0].label == "all"
    assert found.rows[1].to_best is not None
    assert found.rows[1].to_best.mean == pytest.approx(0.34 / 3)
    assert "Above it beyond noise on the runs that both have: some." in text
    assert "Other runs than all: some (3 shared)" in text
    assert "Below it" not in text


def test_runs_that_leave_the_index_undefined_are_said(tmp_path: Path) -> None:
    with_h(tmp_path / "seed-0", one=0.5, two=0.4)
    with_h(tmp_path / "seed-1", one=0.6, two=None)
    found = compare(find_runs([tmp_path]), bootstrap=0)
    assert found.rows[1].values["h"].runs == 1
    assert "H is not defined in all runs of two (1 of 2)." in as_text(found)


def test_the_interval_takes_the_bias_of_resampling_out() -> None:
    """Efron's BC: resamples that lie half a deviation too high say that the value does too."""
    drawn = np.random.default_rng(0).normal(0.5, 1, 100_000)
    low, high = _interval(np.concatenate([[0.0], drawn]))
    assert (low, high) == pytest.approx((-0.5 - 1.96, -0.5 + 1.96), abs=0.05)
    assert _interval(np.array([1.0, 1.0, np.nan, 1.0])) == (1, 1)
    assert _interval(np.array([0.5, 0.7, 0.8]))[0] == 0.5  # never without the value itself
    assert _interval(np.array([0.5, np.nan])) == (None, None)


def test_costs_that_nobody_measured_are_not_zero(tmp_path: Path, repeats: Path) -> None:
    folder = shutil.copytree(repeats / "seed-0", tmp_path / "run")
    path = folder / "results.json"
    data = json.loads(path.read_text())
    for strategy in data["strategies"]:
        strategy["costs"] = []
    path.write_text(json.dumps(data))
    assert compare(find_runs([folder]), bootstrap=0).rows[0].cost.seconds is None


def test_costs(found: Comparison) -> None:
    cost = row(found, "twin").cost
    assert (cost.seconds, cost.latency_ms) == (51, 11)  # the second increment alone; seeds 0 to 2
    assert (cost.memory_mb, cost.parameters) == (800, 2_500_001)


# ---- what may be compared -----------------------------------------------------------------


def altered(folder: Path, target: Path, **changes: Any) -> Path:
    """Copy a run and change entries of `results.json`, named as ``section__key``."""
    shutil.copytree(folder, target)
    path = target / "results.json"
    data = json.loads(path.read_text())
    for name, value in changes.items():
        section, key = name.split("__")
        data[section][key] = value
    path.write_text(json.dumps(data))
    return target


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"protocol__image_size": 320}, "image size: 160 px in .*; 320 px", id="size"),
        pytest.param(
            {"protocol__shape": "rectangle"}, "160 px in .*; 160 px, rectangles", id="shape"
        ),
        pytest.param({"protocol__family": "rtdetr"}, "detector: yolo11n in .*rtdetr", id="family"),
        pytest.param({"protocol__eval_split": "test"}, "split: val in .*test", id="split"),
    ],
)
def test_other_protocols_are_refused(
    tmp_path: Path, repeats: Path, changes: dict[str, Any], words: str
) -> None:
    runs = find_runs([repeats / "seed-0", altered(repeats / "seed-1", tmp_path / "b", **changes)])
    with pytest.raises(DataError, match=words):
        compare(runs, bootstrap=0)
    forced = compare(runs, bootstrap=0, force=True)
    assert {row.label for row in forced.rows} >= {"good (seed-0)", "good (b)"}
    assert "--force" in as_text(forced)


def test_another_series_is_refused(tmp_path: Path, repeats: Path) -> None:
    other = write_run(tmp_path / "four", steps=FOUR_PHASE)
    with pytest.raises(DataError, match="increments: "):
        compare(find_runs([repeats, other]), bootstrap=0)


def test_other_images_are_refused(tmp_path: Path, repeats: Path) -> None:
    other = write_run(tmp_path / "other", data_seed=1)
    runs = find_runs([repeats / "seed-0", other])
    with pytest.raises(DataError, match="content of the evaluated images of flat"):
        compare(runs, bootstrap=5)


def test_other_images_are_refused_without_resamples_too(tmp_path: Path, repeats: Path) -> None:
    other = write_run(tmp_path / "other", data_seed=1, seed=1)
    runs = find_runs([repeats / "seed-0", other])
    with pytest.raises(DataError, match="content of the evaluated images of flat"):
        compare(runs, bootstrap=0)
    forced = compare(runs, bootstrap=0, force=True)
    assert {"good (seed-0)", "good (other)"} <= {row.label for row in forced.rows}


def test_domains_with_a_colon_are_told_apart(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=(("a:x", ("cat", "dog")), ("a:y", ("bus",))))
    assert compare(find_runs([run]), bootstrap=5).differing == ()


def test_the_order_of_classes_in_an_increment_means_nothing(tmp_path: Path) -> None:
    turned = tuple((domain, classes[::-1]) for domain, classes in TWO_PHASE)
    runs = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", {"new": Skill(1, 1)}, steps=turned),
    ]
    found = compare(find_runs(runs), bootstrap=0)
    assert found.rows[1].to_best is not None
    assert found.rows[1].to_best.shared == 1


def test_messages_stay_readable_with_hundreds_of_classes(tmp_path: Path) -> None:
    names = tuple(f"class-{n:03}" for n in range(300))
    steps = (("a", names), ("b", ("x",)))
    one = write_run(tmp_path / "one", {"m": Skill(1, 1)}, steps=steps, evidence=False)
    steps = (("a", (*names[:250], "other", *names[251:])), ("b", ("x",)))
    two = write_run(tmp_path / "two", {"m": Skill(1, 1)}, steps=steps, evidence=False)
    with pytest.raises(DataError, match="class-250") as caught:
        compare(find_runs([one, two]), bootstrap=0)
    assert len(str(caught.value)) < 1200 + 2 * len(str(tmp_path))


def test_matches_without_the_classes_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"m": Skill(1, 1)})
    path = folder / "evaluations" / "m-2-flat.npz"
    matches = load_matches(path)
    save_matches(path, Matches(matches.keys, {"nothing": matches.classes["bear"]}))
    with pytest.raises(DataError, match=r"m-2-flat\.npz: the matches hold none of the classes"):
        compare(find_runs([folder]), bootstrap=5)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda d: d["strategies"][0].update(matrix=2 * d["strategies"][0]["matrix"]),
            "a value already",
        ),
        (
            lambda d: d["series"]["increments"][1].update(
                classes=[d["class_sets"][step["classes"]][0] for step in d["series"]["increments"]]
            ),
            "new classes and known ones",
        ),
    ],
    ids=["matrix", "series"],
)
def test_contradictions_name_the_file(
    tmp_path: Path, repeats: Path, damage: Callable[[Any], None], words: str
) -> None:
    folder = shutil.copytree(repeats / "seed-0", tmp_path / "run")
    path = folder / "results.json"
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=words) as caught:
        find_runs([folder])
    assert caught.value.where == str(path)


def test_no_strategy_is_best_where_nothing_is_defined(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=(("flat", ("cat",)),))
    told = as_dict(compare(find_runs([run]), bootstrap=5))
    assert told["best"] is None
    json.dumps(told, allow_nan=False)


def test_strategies_of_several_folders_stand_side_by_side(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", {"good": SKILLS["good"]})
    two = write_run(tmp_path / "two", {"bad": SKILLS["bad"]})
    found = compare(find_runs([one, two]), bootstrap=REPEATS)
    assert [row.label for row in found.rows] == ["good", "bad"]
    assert found.rows[1].to_best is not None
    assert found.rows[1].to_best.noise is False


def test_equal_names_with_other_numbers_are_told_apart(tmp_path: Path, repeats: Path) -> None:
    short = write_run(tmp_path / "short", {"good": Skill(0.5, 0.5)})
    found = compare(find_runs([repeats / "seed-0", short]), bootstrap=0)
    assert {row.label for row in found.rows} == {"good (seed-0)", "good (short)", "twin", "bad"}


def test_equal_results_count_once(tmp_path: Path, repeats: Path) -> None:
    copy = shutil.copytree(repeats / "seed-0", tmp_path / "copy")
    found = compare(find_runs([repeats, copy, repeats / "seed-1"]), bootstrap=0)
    assert row(found, "good").seeds == (0, 1, 2)


def test_orders_of_the_same_increments_are_repeats(tmp_path: Path) -> None:
    forward = write_run(tmp_path / "order-0")
    backward = write_run(tmp_path / "order-1", steps=(TWO_PHASE[1], TWO_PHASE[0]))
    found = compare(find_runs([forward, backward]), bootstrap=20)
    assert len(row(found, "good").seeds) == 2
    assert "1 other order" in as_text(found)


# ---- what is missing ----------------------------------------------------------------------


def test_runs_without_evidence_have_no_intervals(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "old", evidence=False)
    found = compare(find_runs([folder]), bootstrap=50)
    assert found.without_evidence == (folder,)
    difference = row(found, "bad").to_best
    assert difference is not None
    assert (difference.low, difference.noise) == (None, None)
    text = as_text(found)
    assert "No evidence in" in text
    assert "Not known whether noise" in text


def test_lost_files_of_evidence_are_said(tmp_path: Path, repeats: Path) -> None:
    folder = shutil.copytree(repeats / "seed-0", tmp_path / "run")
    (folder / "evaluations" / "bad-2-flat.npz").unlink()
    found = compare(find_runs([folder]), bootstrap=50)
    assert found.without_evidence == (folder,)
    assert row(found, "good").values["h"].low is not None
    assert row(found, "bad").values["h"].low is None


def test_results_that_the_evidence_contradicts_are_refused(tmp_path: Path, repeats: Path) -> None:
    folder = shutil.copytree(repeats / "seed-0", tmp_path / "run")
    path = folder / "results.json"
    data = json.loads(path.read_text())
    data["strategies"][0]["indices"]["ri"] += 0.01
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="the matches of good give RI"):
        compare(find_runs([folder]), bootstrap=5)


def test_without_references_ri_decides(tmp_path: Path) -> None:
    runs = find_runs([write_run(tmp_path / "run", references=False)])
    found = compare(runs, bootstrap=20)
    assert found.metric == "ri"
    assert "h" not in found.rows[0].values
    with pytest.raises(ConfigError, match="none of these runs defines H"):
        compare(runs, metric="h", bootstrap=0)


def test_where_ri_decides_who_learned_most_is_said_beside(tmp_path: Path) -> None:
    """In class-only and domain-only series GI, and so H, is undefined; PI is not."""
    write_run(tmp_path, {n: Skill(0.9, 0.9) for n in ("kept", "learned")}, evidence=False)
    path = tmp_path / "results.json"
    data = json.loads(path.read_text())
    for strategy, ri, pi in zip(data["strategies"], (1.0, 0.8), (0.5, 1.1), strict=True):
        strategy["indices"] |= {"h": None, "rai": None, "gi": None, "ri": ri, "pi": pi}
    path.write_text(json.dumps(data))
    text = as_text(compare(find_runs([tmp_path]), bootstrap=0))
    assert "Highest RI: kept with 100.0 %" in text
    assert "Highest PI: learned with 110.0 %." in text


# ---- the command --------------------------------------------------------------------------


def test_the_command(repeats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    words = ["compare", repeats, "--bootstrap", "50", "--metric", "ri", "--out", page]
    done = make.duet_here(capsys, *words, "--json")
    assert done.code == 0, done.err
    told = done.json()
    assert (told["metric"], told["bootstrap"]["resamples"], len(told["runs"])) == ("ri", 50, 3)
    assert [strategy["seeds"] for strategy in told["strategies"]] == [[0, 1, 2]] * 3
    assert told["strategies"][-1]["to_best"]["noise"] is False
    text = page.read_text()
    assert text.startswith("# Comparison\n")
    assert text.count("| good |") == 4  # ranking, what a user sees, intervals, costs
    kept = [load_results(repeats / f"seed-{seed}") for seed in range(3)]
    for side in ("before", "after", "new"):
        for row in told["strategies"]:
            runs = [
                totals(one, own) for one in kept
                for own in one.strategies if own.name == row["strategy"]
            ]  # fmt: skip
            found = [getattr(one, side).found for one in runs if one is not None]
            assert len(found) == 3
            assert row["seen"][side]["found"] == sum(found) > 0
    assert make.duet_here(capsys, *words).code == 0  # an older page may be replaced
    people = make.duet_here(capsys, *words[:4])
    assert people.code == 0
    assert "Highest H: " in people.out


@pytest.mark.parametrize("name", ["results.json", "notes.md", "folder.md", "link.md"])
def test_a_page_takes_the_place_of_a_page_only(
    name: str, repeats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kept in ("results.json", "notes.md"):
        (tmp_path / kept).write_text("mine")
    (tmp_path / "folder.md").mkdir()
    (tmp_path / "link.md").symlink_to("nowhere")
    done = make.duet_here(capsys, "compare", repeats, "--bootstrap", 0, "--out", tmp_path / name)
    assert (done.code, done.out) == (2, "")
    assert name in done.err
    assert [(tmp_path / kept).read_text() for kept in ("results.json", "notes.md")] == ["mine"] * 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param(["nowhere"], 3, "no finished run here", id="no-run"),
        pytest.param([], 2, "Missing argument", id="nothing"),
        pytest.param(["RUN", "--metric", "map"], 2, "'map'", id="metric"),
    ],
)
def test_errors(
    repeats: Path, tmp_path: Path, words: list[str], code: int, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    places = {"RUN": str(repeats), "nowhere": str(tmp_path)}
    done = make.duet_here(capsys, "compare", *(places.get(w, w) for w in words), "--json")
    assert done.code == code
    assert message in done.error()["message"]


@pytest.mark.slow
def test_comparing_loads_no_torch(repeats: Path) -> None:
    program = (
        "import sys\n"
        "from duet.cli.main import _run\n"
        f"code = _run(['compare', {str(repeats)!r}, '--bootstrap', '5'])\n"
        "heavy = {'torch', 'ultralytics', 'matplotlib', 'faster_coco_eval'} & set(sys.modules)\n"
        "sys.exit(code or (f'loaded {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_ratios_from_few_objects_are_marked(tmp_path: Path) -> None:
    """A class with three objects in the domain of the old classes: RI and what is made of it."""
    results = load_results(write_run(tmp_path))
    assert "*" not in as_text(compare(find_runs([tmp_path]), bootstrap=0))
    document = results.model_dump(by_alias=True)
    domain, classes = TWO_PHASE[0]
    for strategy in document["strategies"]:
        for scores in strategy["class_scores"]:
            few = 3 if scores["domain"] == domain else 50
            scores["objects"] = dict.fromkeys(scores["ap50"], 50) | {classes[0]: few}
    save_results(tmp_path, Results.model_validate(document))
    found = compare(find_runs([tmp_path]), bootstrap=0)
    row = found.rows[0]
    assert {name: value.few for name, value in row.values.items()} == {
        "ri": True, "gi": False, "pi": False, "rai": True, "h": True, "fr": False, "or": False,
        "old": False, "new": False,
    }  # fmt: skip
    text = as_text(found)
    assert f"{100 * row.values['ri'].mean:.1f} *" in text
    assert f"Fewer than 20 objects in the evaluation images (marked *): {classes[0]} 3 in" in text
    assert "* hangs on a class with fewer than 20 objects" in as_markdown(found).replace("\\", "")
    told = as_dict(found)
    assert told["objects"][domain][classes[0]] == 3
    assert isinstance(told["strategies"][0]["ri"]["mean"], float)
