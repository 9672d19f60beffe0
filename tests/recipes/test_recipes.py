"""Recipes end to end: what fits, in which geometry, from which files, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from factories_detectors import pretrained
from factories_foreign import original, stored
from factories_states import moved
from factories_yolo import NAMES, YOLO11N, flat, make_domain, theta_0, write_increment

from duet.cli.main import cli
from duet.errors import ConfigError, DuetError, ModelError
from duet.families.yolo.adapter import FAMILY
from duet.families.yolo.build import stock_model
from duet.increments.base import load_start, save_base
from duet.increments.scores import ScoreMap
from duet.increments.store import load_detector, load_increment, save_increment
from duet.merging.batchnorm import BatchNormFusion, fuse_buffers
from duet.merging.table import METHODS
from duet.recipes.apply import merge_plan
from duet.recipes.plan import make_plan
from duet.recipes.prepared import Prepared
from duet.recipes.recipe import Recipe, load_recipe
from duet.recipes.write import write_detector
from duet.runs import sweep as sweep_module
from duet.runs.engines.engine import Engine
from duet.series import Increment, Series

CLASSES = {"day": NAMES[:2], "night": NAMES[2:3], "fog": NAMES[3:5]}
UNORDERED = [
    n for n, row in METHODS.items() if not row.ordered and not {"images", "fisher"} & {*row.needs}
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three increments trained apart (shaken, not trained), and the θ_0 they belong to."""
    folder = tmp_path_factory.mktemp("kept")
    save_base(folder / "base.safetensors", theta_0())
    for seed, (name, classes) in enumerate(CLASSES.items()):
        write_increment(folder / name, folder / "base.safetensors", name, classes, seed)
    return folder


def recipe_of(kept: Path, *names: str, **options: Any) -> Recipe:
    options = {"method": "ties", "weights": str(kept / "base.safetensors")} | options
    return Recipe(increments=[str(kept / name) for name in names], **options)


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=True)


# ---- geometries ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", UNORDERED)
def test_independent_increments_merge_in_any_order(kept: Path, method: str) -> None:
    first = merge_plan(make_plan(recipe_of(kept, "day", "night", "fog", method=method)))
    other = merge_plan(make_plan(recipe_of(kept, "fog", "day", "night", method=method)))
    assert not moved(first.state.shared, other.state.shared)
    parts = {part.increment: part.classes for part in first.state.parts}
    assert parts == {part.increment: part.classes for part in other.state.parts} == CLASSES
    variances = [t for n, t in first.state.buffers.items() if n.endswith("running_var")]
    assert variances
    assert all(bool((v >= 0).all() and v.isfinite().all()) for v in variances)


@pytest.mark.slow
def test_statistics_of_independent_increments_mix_evenly(kept: Path) -> None:
    plan = make_plan(recipe_of(kept, "day", "night", "fog"))
    state = merge_plan(plan).state
    buffers = [
        merge_plan(make_plan(recipe_of(kept, n, method="average"))).state.buffers for n in CLASSES
    ]
    assert not moved(state.buffers, fuse_buffers(buffers, BatchNormFusion()))


@pytest.mark.slow
def test_one_independent_increment_is_itself(kept: Path) -> None:
    for method, params in (("average", {}), ("task-arithmetic", {"weight": 1.0})):
        state = merge_plan(make_plan(recipe_of(kept, "night", method=method, params=params))).state
        alone = merge_plan(make_plan(recipe_of(kept, "night", method="newest"))).state
        for name, tensor in alone.shared.items():
            torch.testing.assert_close(state.shared[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_a_star_is_merged_around_its_base(kept: Path, tmp_path: Path) -> None:
    """Two increments of one trained base: its weights take the place of θ_0."""
    weights = kept / "base.safetensors"
    write_increment(tmp_path / "base", weights, "base", ("hat",), 7, kind="base")
    alone = make_plan(Recipe(increments=[str(tmp_path / "base")], weights=str(weights)))
    parent = merge_plan(alone).state.fingerprint()
    for seed, name in enumerate(("a", "b"), start=8):
        write_increment(
            tmp_path / name, weights, name, (f"thing {name}",), seed, kind="increment", index=1,
            parent=parent,
        )  # fmt: skip
    options: dict[str, Any] = {"method": "task-arithmetic", "params": {"weight": 0.5},
                               "weights": str(weights)}  # fmt: skip
    recipe = Recipe(increments=[str(tmp_path / n) for n in ("base", "a", "b")], **options)
    plan = make_plan(recipe)
    assert (plan.geometry, plan.ancestor) == ("independent", 0)
    state = merge_plan(plan).state
    single = {"geometry": "independent", "method": "newest", "weights": str(weights)}
    plans = [
        make_plan(Recipe(increments=[str(tmp_path / n)], **single)) for n in ("base", "a", "b")
    ]
    own = [merge_plan(plan).state.shared for plan in plans]
    for name, tensor in state.shared.items():
        base, a, b = (theta[name].double() for theta in own)
        torch.testing.assert_close(
            tensor.double(), base + 0.5 * (a + b - 2 * base), rtol=0, atol=1e-6
        )
    assert state.labels.names == ("hat", "thing a", "thing b")


@pytest.mark.slow
def test_an_increment_brings_the_score_maps_of_older_classes(kept: Path, tmp_path: Path) -> None:
    weights = kept / "base.safetensors"
    maps = {
        "base": {"hat": ScoreMap(offset=1, threshold=0.3)},
        "a": {"hat": ScoreMap(offset=2, threshold=0.3), "kite": ScoreMap(scale=0.5)},
        "b": {"kite": ScoreMap(scale=0.25), "sun": ScoreMap(threshold=0.4)},
    }
    parent, index = None, 0
    for name, classes in (("base", ("hat", "cap")), ("a", ("kite",)), ("b", ("sun",))):
        path, kind = tmp_path / name, "increment" if parent else "base"
        write_increment(
            path, weights, name, classes, 7 + index, kind=kind, index=index, parent=parent
        )
        save_increment(path, load_increment(path).with_scores(maps[name]), overwrite=True)
        entries = [str(tmp_path / one) for one in ("base", "a", "b")[: index + 1]]
        state = merge_plan(make_plan(Recipe(increments=entries, weights=str(weights)))).state
        parent, index = state.fingerprint(), index + 1
    # The newest increment that speaks of a class has the last word; "cap" has no map at all.
    assert state.scores == {
        "hat": maps["a"]["hat"], "kite": maps["b"]["kite"], "sun": maps["b"]["sun"],
    }  # fmt: skip


@pytest.mark.slow
def test_scale_shrinks_what_an_increment_changed(kept: Path) -> None:
    recipe = recipe_of(kept, "day", "night", method="average", params={"weights": [0, 1]})
    entries = list(recipe.increments)
    entries[1] = entries[1].model_copy(update={"scale": 0.25})
    scaled = merge_plan(make_plan(recipe.model_copy(update={"increments": tuple(entries)}))).state
    whole = merge_plan(make_plan(recipe)).state
    theta = FAMILY.rules.split_roles(load_start(kept / "base.safetensors").tensors, "towers").shared
    for name, tensor in scaled.shared.items():
        expected = theta[name] + 0.25 * (whole.shared[name] - theta[name])
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-7)


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_class_of_two_models_joins_them_unless_renamed_or_dropped(
    kept: Path, tmp_path: Path
) -> None:
    write_increment(tmp_path / "rival", kept / "base.safetensors", "rival", (NAMES[0], "kite"), 9)
    words = [kept / "day", tmp_path / "rival", "--weights", kept / "base.safetensors",
             "--method", "ties", "--json"]  # fmt: skip
    joined = run("merge", *words, "--out", tmp_path / "x")
    assert json.loads(joined.stdout)["classes"] == [*CLASSES["day"], "kite"]
    assert f"'day' and 'rival' share {NAMES[0]}" in joined.stderr
    assert len(load_detector(tmp_path / "x").state.parts) == 1
    renamed = run("merge", *words, "--alias", f"rival:{NAMES[0]}=other", "--out", tmp_path / "a")
    assert json.loads(renamed.stdout)["classes"] == [*CLASSES["day"], "other", "kite"]
    dropped = run("merge", *words, "--drop", f"rival:{NAMES[0]}", "--out", tmp_path / "b")
    assert json.loads(dropped.stdout)["classes"] == [*CLASSES["day"], "kite"]
    kept_rows = load_detector(tmp_path / "b").state.parts[1].tensors["cv3.0.2.weight"]
    assert torch.equal(
        kept_rows, load_detector(tmp_path / "a").state.parts[1].tensors["cv3.0.2.weight"][1:]
    )


@pytest.mark.parametrize(
    ("option", "word", "match"),
    [
        ("--alias", f"day:{NAMES[1][:-1]}x=y", "no class"),
        ("--alias", "dya:a=b", "did you mean 'day'"),
        ("--alias", "day=b", "expected NAME:OLD=NEW"),
        ("--scale", "day=lots", "scale: Input should be a valid number"),
        ("--scale", "day=9", "less than or equal to 2"),
        ("--drop", "night:ball", "no class 'ball'"),
        ("--set", "densty=0.2", "did you mean 'density'"),
        ("--method", "tise", "did you mean 'ties'"),
    ],
)  # fmt: skip
def test_words_are_checked(kept: Path, tmp_path: Path, option: str, word: str, match: str) -> None:
    result = run("merge", kept / "day", kept / "night", "--weights", kept / "base.safetensors",
                 "--method", "ties", option, word, "--out", tmp_path / "out")  # fmt: skip
    assert result.exit_code != 0
    assert match in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_increments_of_one_name_get_names(kept: Path, tmp_path: Path) -> None:
    twin = write_increment(tmp_path / "x", kept / "base.safetensors", "day", ("sun",), 5)
    words = ["--weights", kept / "base.safetensors", "--method", "average", "--out", tmp_path / "o"]
    refused = run("merge", kept / "day", twin, *words)
    assert "'day' occurs 2 times" in str(refused.exception)
    assert run("merge", kept / "day", f"other={twin}", *words).exit_code == 0
    assert [p.increment for p in load_detector(tmp_path / "o").state.parts] == ["day", "other"]


# ---- recipes as files ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_recipe_file_and_the_one_in_the_result_give_the_same_bits(
    kept: Path, tmp_path: Path
) -> None:
    data = {
        "schema": 1, "method": "ties", "weights": "base.safetensors",
        "params": {"density": {"backbone": 0.1, "default": 0.5}, "scope": "tensor",
                   "weight": [0.2, 1.0]},
        "increments": ["day", {"path": "fog", "name": "mist", "scale": 0.5}],
    }  # fmt: skip
    (kept / "r.yaml").write_text(yaml.safe_dump(data))
    assert run("merge", "--recipe", kept / "r.yaml", "--out", tmp_path / "a").exit_code == 0
    first = load_detector(tmp_path / "a")
    assert first.manifest.recipe is not None
    stored_recipe = tmp_path / "a" / "again.yaml"
    stored_recipe.write_text(yaml.safe_dump(first.manifest.recipe))
    again = merge_plan(make_plan(load_recipe(stored_recipe))).state
    assert again.fingerprint() == first.state.fingerprint()
    trace = json.loads((tmp_path / "a" / "trace.json").read_text())[0]
    depths = {row["values"]["weight"] for row in trace["tensors"].values()}
    assert min(depths) == 0.2
    assert max(depths) == 1.0
    assert len(depths) > 10


def test_all_errors_of_a_recipe_at_once(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("metod: ties\nincrements: []\nbatchnorm: {rule: mix}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert "metod: unknown key, did you mean 'method'" in str(caught.value)
    assert "increments" in str(caught.value)
    assert "batchnorm.rule" in str(caught.value)


def test_dry_run_writes_nothing(kept: Path, tmp_path: Path) -> None:
    result = run("merge", kept / "day", kept / "night", "--weights", kept / "base.safetensors",
                 "--method", "ties", "--out", tmp_path / "o", "--dry-run", "--json")  # fmt: skip
    data = json.loads(result.stdout)
    assert data["geometry"] == "independent"
    assert data["estimate"]["tensors"]["shared"] > 100
    assert data["estimate"]["disk_mb"] > 5
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "change",
    [{"increments": ["gone"]}, {"weights": "gone.safetensors"}, {"weights": "1.5"}],
    ids=["increment", "weights", "suffix"],
)
@pytest.mark.parametrize("dry", [["--dry-run"], []], ids=["dry", "run"])
def test_what_a_recipe_names_is_looked_at_first_and_the_recipe_is_named(
    kept: Path, tmp_path: Path, change: dict[str, Any], dry: list[str]
) -> None:
    content = {"increments": [str(kept / "day")], "weights": str(kept / "base.safetensors")}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content | change))
    result = run("merge", "--recipe", tmp_path / "r.yaml", "--out", tmp_path / "o", *dry)
    assert isinstance(result.exception, ConfigError if "weights" in change else ModelError)
    assert str(result.exception).startswith(f"{tmp_path / 'r.yaml'}: ")
    assert not (tmp_path / "o").exists()


def test_weights_of_another_start_are_refused(kept: Path, tmp_path: Path) -> None:
    other = {n: t + 1 if t.is_floating_point() else t for n, t in theta_0().items()}
    save_base(tmp_path / "other.safetensors", other)
    plan = make_plan(recipe_of(kept, "day", "night", weights=str(tmp_path / "other.safetensors")))
    with pytest.raises(ModelError, match="other start weights"):
        write_detector(plan, tmp_path / "o")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "other.json", "other.safetensors",
    ]  # fmt: skip


# ---- foreign files ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two users' files with different classes, fine-tuned (shaken) from one base file."""
    folder = tmp_path_factory.mktemp("users")
    base = stock_model(YOLO11N, 60, 64)  # trained: random networks magnify rounding a hundredfold
    base.load_state_dict(pretrained())
    base.names = {index: f"emoji {index}" for index in range(60)}
    stored(folder / "base.pt", base)
    for seed, (name, classes) in enumerate({"mine": ("cup", "fork"), "theirs": ("bolt",)}.items()):
        # Where Ultralytics puts it: such files are known by their run.
        (folder / name / "weights").mkdir(parents=True)
        stored(folder / name / "weights" / "best.pt", nudged(base, seed, classes))
    return folder


def both(users: Path) -> tuple[Path, Path]:
    return users / "mine/weights/best.pt", users / "theirs/weights/best.pt"


def nudged(model: Any, seed: int, classes: tuple[str, ...]) -> Any:
    """Return a copy with moved weights and other classes."""
    import copy

    from duet.families.yolo.heads import resize_classes

    model = copy.deepcopy(model)
    resize_classes(model.model[-1], len(classes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.02 * parameter.abs().mean() * noise)
    model.names, model.yaml["nc"] = dict(enumerate(classes)), len(classes)
    return model


@pytest.mark.slow
def test_two_foreign_files_in_one_command(users: Path, tmp_path: Path) -> None:
    options = ["--weights", users / "base.pt", "--method", "ties", "--set", "density=0.5"]
    result = run("merge", *both(users), *options, "--out", tmp_path / "m", "--json")
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)["classes"] == ["cup", "fork", "bolt"]
    assert "same start weights" not in result.stderr
    assert run("export", tmp_path / "m", "--to", "pt", "--out", tmp_path / "m.pt").exit_code == 0
    code = (
        "import sys; sys.modules['duet'] = None\n"
        "import ultralytics\n"
        "m = ultralytics.YOLO(sys.argv[1])\n"
        "import numpy as np\n"
        "m.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False, device='cpu')\n"
        "print(list(m.names.values()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.pt")], check=True, capture_output=True,
        text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "['cup', 'fork', 'bolt']"


@pytest.mark.slow
def test_two_files_need_no_options(users: Path, tmp_path: Path) -> None:
    result = run("merge", *both(users), "--out", tmp_path / "m", "--json")
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)["method"] == "average"


@pytest.mark.slow
def test_imported_files_merge_like_the_files(users: Path, tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        done = run(
            "import",
            users / name / "weights/best.pt",
            "--as",
            name,
            "--out",
            tmp_path / name,
            "--json",
        )
        assert json.loads(done.stdout)["name"] == name
    options = ["--weights", users / "base.pt", "--method", "ties"]
    run("merge", tmp_path / "mine", tmp_path / "theirs", *options, "--out", tmp_path / "a")
    run(
        "merge",
        users / "mine/weights/best.pt",
        users / "theirs/weights/best.pt",
        *options,
        "--out",
        tmp_path / "b",
    )
    a, b = (load_detector(tmp_path / name).state for name in "ab")
    assert not moved(flat(a), flat(b))
    assert [part.increment for part in a.parts] == ["mine", "theirs"]


@pytest.mark.slow
def test_strangers_are_warned_of(users: Path, tmp_path: Path) -> None:
    stranger = original(count=2)  # other random weights
    stranger.names = {0: "owl", 1: "fox"}
    stored(tmp_path / "stranger.pt", stranger)
    words = [users / "mine/weights/best.pt", tmp_path / "stranger.pt", "--method", "average"]
    result = run("merge", *words, "--out", tmp_path / "o")
    assert result.exit_code == 0
    assert "do not seem to come from the same start weights" in result.stderr
    assert (
        "do not seem"
        not in run(
            "merge",
            users / "mine/weights/best.pt",
            users / "theirs/weights/best.pt",
            "--method",
            "average",
            "--out",
            tmp_path / "p",
        ).stderr
    )


@pytest.mark.slow
def test_methods_that_need_theta_0_ask_for_it(users: Path, tmp_path: Path) -> None:
    result = run("merge", *both(users), "--method", "ties",
                 "--out", tmp_path / "o")  # fmt: skip
    assert isinstance(result.exception, ModelError)
    assert "average" in str(result.exception)
    assert not (tmp_path / "o").exists()


class Bomb:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (self.target, "w")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["import", "merge", "weights"])
def test_a_malicious_file_is_refused_and_does_not_run(
    users: Path, tmp_path: Path, command: str
) -> None:
    evil, canary = tmp_path / "evil.pt", tmp_path / "canary"
    torch.save({"model": Bomb(str(canary))}, evil)
    words: dict[str, list[Any]] = {
        "import": ["import", evil, "--as", "x"],
        "merge": ["merge", users / "mine/weights/best.pt", evil, "--method", "average"],
        "weights": ["merge", *both(users), "--weights", evil,
                    "--method", "ties"],
    }  # fmt: skip
    result = run(*words[command], "--out", tmp_path / "o")
    assert isinstance(result.exception, ModelError)
    assert "refused" in str(result.exception)
    assert not canary.exists()
    assert not (tmp_path / "o").exists()
    torch.load(evil, weights_only=False)  # the bomb is live: a trusting loader sets it off
    assert canary.exists()


# ---- sweep --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_measures_every_point_and_keeps_the_best(kept: Path, tmp_path: Path) -> None:
    """The score of each point is that of the detector which a plain merge with it gives."""
    steps = tuple(
        Increment(name, name, classes, make_domain(tmp_path, name, classes=classes, seed=seed))
        for seed, (name, classes) in enumerate(list(CLASSES.items())[:2])
    )
    series = Series("toy", "", steps)
    seen: list[str] = []

    def scored(question: Any, folder: Path, stopped: threading.Event) -> dict[str, Any]:
        seen.append(question.state.fingerprint())
        return {"map50": 0.2 + 0.1 * (len(seen) in (3, 4))}  # the second point is the best

    grid = sweep_module.grid_of({"density": [0.1, 0.5], "weight": 1})
    assert grid == [{"density": 0.1, "weight": 1}, {"density": 0.5, "weight": 1}]
    merge = Prepared(make_plan(recipe_of(kept, "day", "night")))
    engine, heard = Engine(answer=scored), list[tuple[int, int]]()
    best, trials = sweep_module.sweep(
        merge, grid, series, split="val", engine=engine, listen=lambda *step: heard.append(step)
    )
    assert heard[0] == (0, 2)
    assert heard[-1] == (2, 2)
    assert best.plan.recipe.params == {"density": 0.5, "weight": 1}
    assert [round(trial.score, 6) for trial in trials] == [0.2, 0.3]
    plain = [
        merge_plan(make_plan(recipe_of(kept, "day", "night", params=point))).state.fingerprint()
        for point in grid
    ]
    assert seen == [plain[0], plain[0], plain[1], plain[1]]


@pytest.mark.slow
def test_a_sweep_ends_all_scorings_when_one_fails(kept: Path, tmp_path: Path) -> None:
    step = Increment("day", "day", CLASSES["day"], make_domain(tmp_path, "day", seed=3))
    merge = Prepared(make_plan(recipe_of(kept, "day", "night")))
    asked, ended = list[str](), list[bool]()
    first = threading.Event()

    def scored(question: Any, folder: Path, stopped: threading.Event) -> dict[str, Any]:
        asked.append(question.state.fingerprint())
        if len(asked) == 1:
            first.wait(60)
            raise DuetError("the machine burns")
        first.set()
        ended.append(stopped.wait(60))
        raise DuetError("stopped")

    with pytest.raises(DuetError, match="the machine burns"):
        sweep_module.sweep(
            merge, sweep_module.grid_of({"density": [0.1, 0.3, 0.5, 0.7]}), Series("", "", (step,)),
            split="val", engine=Engine(answer=scored, jobs=2),
        )  # fmt: skip
    assert ended == [True]
    assert len(set(asked)) == 2  # no more than fit at a time were begun


@pytest.mark.slow
def test_a_sweep_on_real_images(kept: Path, tmp_path: Path) -> None:
    step = Increment("day", "day", CLASSES["day"], make_domain(tmp_path, "day", seed=3))
    grid = sweep_module.grid_of({"density": [0.1, 0.9]})
    merge = Prepared(make_plan(recipe_of(kept, "day", "night")))
    series = Series("toy", "", (step,))
    best, trials = sweep_module.sweep(merge, grid, series, split="val")
    assert best.plan.recipe.params in grid
    assert all(0 <= trial.score <= 1 and set(trial.map50) == {"day"} for trial in trials)
    words = ["merge", kept / "day", kept / "night", "--engine", "ray", "--out", tmp_path / "out"]
    assert "--engine ray measures the points of a --sweep" in run(*words).output
    with pytest.raises(ConfigError, match="needs a declared split"):
        sweep_module.sweep(merge, grid, series, split="")
    with pytest.raises(ConfigError, match="did you mean 'density'"):
        sweep_module.sweep(merge, [{"densty": 1}], series, split="val")
