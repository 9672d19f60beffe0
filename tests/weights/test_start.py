"""θ_0 by name or path: one language of every command, opened by one function."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from factories_foreign import stored
from factories_run import duet_here
from factories_series import make_clean_series
from factories_yolo import YOLO11N, write_increment

from duet.errors import ConfigError, ModelError
from duet.increments.base import load_start, open_base
from duet.recipes.plan import make_plan
from duet.recipes.recipe import load_recipe
from duet.runs.inputs import read_inputs
from duet.shipped import shipped
from duet.weights.start import Start, open_start, start_fingerprint

NAME = "yolo11n-emoji"
FILE = shipped("weights", f"{NAME}.safetensors")
CLASSES = {"day": ("cup", "plate"), "night": ("bottle",)}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two increments of the shipped θ_0 (shaken, not trained)."""
    folder = tmp_path_factory.mktemp("kept")
    for seed, (name, classes) in enumerate(CLASSES.items()):
        write_increment(folder / name, FILE, name, classes, seed)
    return folder


@pytest.fixture(scope="module")
def detector(kept: Path) -> Path:
    """Their merge, whose θ_0 is in the recipe as a path that leads nowhere."""
    from duet.recipes.recipe import Recipe
    from duet.recipes.write import write_detector

    start = shutil.copy(FILE, kept / "gone.safetensors")
    recipe = Recipe(
        increments=[str(kept / name) for name in CLASSES], weights=str(start), method="ties"
    )
    write_detector(make_plan(recipe), kept / "merged")
    Path(start).unlink()
    return kept / "merged"


def words_of(command: str, kept: Path, detector: Path, out: Path) -> list[object]:
    return {
        "merge": ["merge", kept / "day", kept / "night", "--method", "ties", "--out", out],
        "diff": ["diff", detector, kept / "night"],
        "revert": ["revert", detector, "night", "--out", out],
        "scale": ["scale", detector, "night", 0.5, "--out", out],
    }[command]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    ["merge", "merge --dry-run", "diff", "revert", "revert --dry-run", "scale", "scale --dry-run"],
)
def test_a_name_does_what_its_path_does(
    kept: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    command, *dry = words.split()
    results = []
    for weights in (NAME, FILE):
        asked = words_of(command, kept, detector, tmp_path / f"named-{weights == NAME}")
        done = duet_here(capsys, *asked, "--weights", weights, "--json", *dry)
        assert done.code == 0, done.err
        result: dict[str, Any] = done.json()
        results.append({key: value for key, value in result.items() if key != "detector"})
    assert results[0] == results[1]
    if command == "diff":
        assert results[0]["weights_of_start"] == str(FILE)
        assert results[0]["weights"]["total"]["tau_b"] > 0


@pytest.mark.parametrize("command", ["merge", "diff", "revert", "scale"])
def test_a_name_that_is_none_is_one_error(
    kept: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words = words_of(command, kept, detector, tmp_path / "out")
    done = duet_here(capsys, *words, "--weights", "yolo11n-emojy")
    assert done.code == 2
    assert "did you mean 'yolo11n-emoji'?" in done.err
    done = duet_here(capsys, *words, "--weights", "yolo11m")
    assert done.code == 2
    assert "duet weights get yolo11m" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_kept_recipe_names_the_file_that_a_name_meant(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ("merge", kept / "day", "--weights", NAME, "--method", "ties", "--out", out)
    assert duet_here(capsys, *words).code == 0
    again = duet_here(capsys, "scale", out, "day", 0.5, "--out", tmp_path / "again")
    assert again.code == 0, again.err


def test_recipes_and_series_take_names_too(kept: Path, tmp_path: Path) -> None:
    recipe = {"increments": [str(kept / "day")], "weights": NAME, "method": "ties"}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert make_plan(load_recipe(tmp_path / "r.yaml")).recipe.weights == str(FILE)
    series = make_clean_series(tmp_path)
    content = yaml.safe_load(series.read_text())
    for weights in (NAME, str(FILE)):
        series.write_text(yaml.safe_dump({**content, "defaults": {"weights": weights}}))
        inputs = read_inputs(series)
        assert (inputs.weights, inputs.architecture) == (FILE, YOLO11N)


# ---- opening ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_that_is_a_start_opens_alike(detector: Path, tmp_path: Path) -> None:
    pt = stored(tmp_path / "best.pt")
    for name in (NAME, FILE, str(FILE), pt, detector):
        start = open_start(name)
        assert (start.family, start.architecture) == ("yolo", YOLO11N)
        assert start.path.exists()
        assert start.classes == start.weights.classes
        assert len(start.fingerprint("towers")) == 64
        assert start.fingerprint("towers") == start_fingerprint(
            {name: tensor.float() for name, tensor in start.shared("towers").items()}
        )


def test_tensors_are_as_they_are_stored_and_weights_as_they_are_trained_from() -> None:
    start = open_start(NAME)
    half = {name: tensor for name, tensor in start.tensors.items() if tensor.is_floating_point()}
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}
    for name, tensor in half.items():
        assert start.weights.tensors[name].dtype == torch.float32
        assert torch.equal(start.weights.tensors[name], tensor.float())
    assert start.weights.classes == load_start(FILE).classes


def test_tensors_that_were_read_are_not_read_again_to_be_hashed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[Path] = []

    def counted(path: Path) -> Any:
        opened.append(path)
        return open_base(path)

    monkeypatch.setattr("duet.weights.start.open_base", counted)
    file = Path(shutil.copy(FILE, tmp_path))
    start = Start(file, "yolo")
    mark = start_fingerprint(start.shared("towers"))
    assert start.fingerprint("towers") == Start(file, "yolo").fingerprint("towers") == mark
    assert opened == [file]


def test_what_the_user_says_wins_and_nothing_is_guessed(detector: Path, tmp_path: Path) -> None:
    assert open_start(FILE, architecture="rtdetr-tiny.yaml").family == "rtdetr"
    with pytest.raises(ModelError, match="a detector of the family 'yolo', expected 'rtdetr'"):
        Start(detector, "rtdetr").weights  # noqa: B018  (it reads)
    (tmp_path / "readme.md").write_text("# no weights")
    with pytest.raises(ConfigError, match="no file of weights"):
        open_start(tmp_path / "readme.md")
