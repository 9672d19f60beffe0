"""The command line: light help, honest examples, one JSON document, equal results on every way."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import factories_run as make
import pytest
import torch
import yaml
from factories_series import make_clean_series

from duet.cli.main import COMMANDS, DATA_COMMANDS, _run, cli
from duet.cli.options import TrainingCommand
from duet.emoji import build as emoji
from duet.increments.store import load_detector

HEAVY = ("torch", "ultralytics", "numpy", "cv2", "matplotlib", "pydantic", "PIL", "rich", "yaml")
NAMES = [*((name,) for name in COMMANDS), *(("data", name) for name in DATA_COMMANDS)]


# ---- help ---------------------------------------------------------------------------------


def find(name: tuple[str, ...]) -> click.Command:
    found: click.Command = cli
    for word in name:
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), word)
        assert inner is not None
        found = inner
    return found


TRAINING = [name for name in NAMES if isinstance(find(name), TrainingCommand)]


@pytest.mark.parametrize(
    ("names", "heavy"),
    [
        ([name for name in NAMES if name not in TRAINING], HEAVY),
        # Their options are the fields of a schedule, which is a model.
        (TRAINING, tuple(name for name in HEAVY if name not in ("pydantic", "yaml"))),
    ],
    ids=["plain", "training"],
)
def test_no_help_imports_anything_heavy(
    names: list[tuple[str, ...]], heavy: tuple[str, ...]
) -> None:
    lines = [[], *([*name, "--help"] for name in names), ["--version"], ["--help"]]
    program = (
        "import sys, json\n"
        "from duet.cli.main import _run\n"
        f"for line in {lines!r}: _run(line)\n"
        f"print(json.dumps([m for m in {heavy!r} if m in sys.modules]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert json.loads(done.stderr.splitlines()[-1]) == []


@pytest.mark.parametrize("name", NAMES, ids=" ".join)
def test_help_shows_examples_that_parse(name: tuple[str, ...]) -> None:
    command = find(name)
    if isinstance(command, click.Group):
        return
    assert command.epilog is not None
    assert "Examples:" in command.epilog
    lines = command.epilog.replace("\\\n", " ").split("Examples:")[1].strip().splitlines()
    examples = [shlex.split(re.split(r"[|>]", line)[0]) for line in lines if line.strip()]
    assert len(examples) >= 2
    assert any(words[: 1 + len(name)] == ["duet", *name] for words in examples)
    for words in examples:
        own = tuple(words[1:3] if words[1] == "data" else words[1:2])
        find(own).make_context(" ".join(own), words[1 + len(own) :])


def test_help_keeps_its_layout(capsys: pytest.CaptureFixture[str]) -> None:
    shown = make.duet_here(capsys, "--help").out
    assert "\\b" not in shown
    assert "\n    duet data check SERIES.yaml    is my data fit to learn from?\n" in shown


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["rnu"], "did you mean 'run'?"),
        (["data", "chekc"], "did you mean 'check'?"),
        (["run", "s.yaml", "--epoch", "3"], "'--epochs'"),
        (["run"], "Missing argument 'SERIES.yaml'"),
        (["run", "s.yaml", "--epochs", "0"], "0 is not in the range 1<=x<=1000000"),
    ],
    ids=["command", "sub-command", "option", "argument", "range"],
)
def test_usage_errors_name_the_way_out(
    capsys: pytest.CaptureFixture[str], line: list[str], said: str
) -> None:
    done = make.duet_here(capsys, *line)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "--help`" in done.err
    record = make.duet_here(capsys, *line, "--json").error()
    assert said in record["message"]


# ---- one JSON document on stdout ------------------------------------------------------------


@pytest.mark.slow
def test_run_prints_one_document_and_quiet_progress(base: Path, run: Path) -> None:
    done = make.finished_run(base)[1]
    assert set(done.json()["indices"]) == {"duet-plus", "seq-ft"}
    assert done.err.count(": finished") >= 7
    assert done.err.count(": evaluated") == 2
    for noise in ("Caching", "Ultralytics", "Warning", "Traceback", "\x1b"):
        assert noise not in done.err
    assert Path(done.json()["report"]).is_file()
    assert (run / "results.csv").is_file()


@pytest.mark.slow
def test_runs_write_inside_their_folder_only(base: Path, run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {"lab", "models", "increments"}
    assert not (base / "runs").exists()
    assert not list(run.glob("**/engine"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "methods", "methods duet", "eval MODEL SERIES", "eval MODEL SERIES --split val",
        "report RUN", "data check SERIES", "run SERIES --dry-run",
        "merge BASE COMIC --weights WEIGHTS --out OUT --dry-run",
        "merge BASE COMIC --weights WEIGHTS --method average --set weights=[1,3] --out OUT",
        "data emoji EMOJI --protocol none --train 2 --val 1 --test 1",
    ],
)  # fmt: skip
def test_json_is_the_whole_of_stdout(
    capsys: pytest.CaptureFixture[str], series: make.Tiny, run: Path, tmp_path: Path, line: str
) -> None:
    if line == "report RUN":  # it writes there
        light = shutil.ignore_patterns("lab", "models", "increments")
        run = shutil.copytree(run, tmp_path / "run", ignore=light)
    done = make.duet_here(capsys, *fill(line, series, run, tmp_path), "--json")
    assert done.code == 0, done.err
    assert done.json()
    if line == "report RUN":
        return  # drawing the plots once is enough
    human = make.duet_here(capsys, *fill(line, series, run, tmp_path / "again"))
    assert human.code == 0
    with pytest.raises(ValueError, match=r"Expecting|Extra"):
        human.json()


def fill(line: str, series: make.Tiny, run: Path, folder: Path) -> list[str]:
    """Replace the capital words of a command line by paths."""
    places = {
        "SERIES": series.series, "WEIGHTS": series.weights, "RUN": run,
        "MODEL": run / "models/duet-plus/2-comic", "BASE": run / "increments/duet-plus/flat",
        "COMIC": run / "increments/duet-plus/comic", "OUT": folder / "out", "EMOJI": folder / "em",
    }  # fmt: skip
    return [str(places.get(word, word)) for word in line.split()]


@pytest.mark.slow
def test_a_base_that_learned_nothing_is_told_before_increments_are_trained(base: Path) -> None:
    """Two epochs from random weights: hours later would be too late."""
    run, done = make.finished_run(base)
    lines = done.err.splitlines()
    (told,) = (line for line in lines if line.startswith("duet-plus: the base finds"))
    assert told.endswith("%): train longer, check labels")
    assert lines.index(told) < lines.index("duet-plus: comic: started")
    stages = {line.split(":")[0] for line in lines if "after stage 2 the detector finds" in line}
    assert stages == {"duet-plus", "seq-ft"}
    assert done.err.count("\nwarning: The base finds") == 1  # again at the end
    report = (run / "report.md").read_text()
    first = report.split("## Before anyone relies on this\n\n")[1].splitlines()[0]
    assert first.startswith("- The base finds")


# ---- plans ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dry_run_counts_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], series: make.Tiny, tmp_path: Path
) -> None:
    before = make.listing(series.folder)
    line = ["run", series.series, *series.methods(), "--out", tmp_path / "run", "--dry-run"]
    plan = make.duet_here(capsys, *line, "--json").json()
    titles = [stage["title"] for stage in plan["stages"]]
    assert titles[:4] == ["base", "duet-plus: comic", "duet-plus: comic re-fit", "seq-ft: comic"]
    assert plan["estimated_seconds"] >= 0
    first = plan["stages"][0]
    assert first["seconds"] > 0
    assert (first["classes"], first["images"], first["epochs"]) == (10, 24, 2)
    assert first["steps"] == 6
    assert "at a time; nothing was done" in make.duet_here(capsys, *line).out
    assert list(tmp_path.iterdir()) == []
    assert make.listing(series.folder) == before


@pytest.mark.slow
def test_a_dry_demo_draws_and_plans(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn = emoji.build

    def small(directory: Path, **options: Any) -> emoji.BuildReport:
        return drawn(directory, **{**options, "val": 4, "size": 64})

    monkeypatch.setattr(emoji, "build", small)
    line = ["demo", "--train-scenes", 20, "--test-scenes", 20, "--epochs", 1, "--dry-run", "--json"]
    done = make.duet_here(capsys, *line, "--out", tmp_path / "demo")
    assert done.code == 0, done.err
    assert [stage["epochs"] for stage in done.json()["stages"]][:2] == [1, 1]
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["data"]


# ---- equal results on every way -------------------------------------------------------------


@pytest.mark.slow
def test_a_second_run_trains_nothing_and_says_the_same(
    capsys: pytest.CaptureFixture[str], run: Path, series: make.Tiny, tmp_path: Path
) -> None:
    again = tmp_path / "finished"
    shutil.copytree(run, again)
    command = ["run", series.series, *series.methods(), "--out", again, "--jobs", 2, "--json"]
    done = make.duet_here(capsys, *command)
    assert done.code == 0, done.err
    assert "started" not in done.err
    assert done.err.count("reused") >= 5
    assert make.detectors(again) == make.detectors(run)
    assert results(again) == results(run)


def results(run: Path) -> Any:
    """Return `results.json` without the shell line, which names the folder."""
    found = json.loads((run / "results.json").read_text())
    found["commands"] = None
    found["environment"]["date"] = None
    return json.loads(json.dumps(found).replace(str(run), "RUN"))


@pytest.mark.slow
def test_only_what_is_missing_is_trained(
    capsys: pytest.CaptureFixture[str], run: Path, series: make.Tiny, tmp_path: Path
) -> None:
    """A strategy is new and a result was lost: two trainings, everything else stays as it is."""
    more = tmp_path / "more"
    shutil.copytree(run, more)
    shutil.rmtree(next(more.glob("lab/refit-*")))
    command = ["run", series.series, *series.methods(), "--strategy", "frozen", "--out", more]
    done = make.duet_here(capsys, *command, "--json")
    assert done.code == 0, done.err
    started = {line for line in done.err.splitlines() if "started" in line}
    assert started == {"frozen: comic: started", "duet-plus: comic re-fit: started"}
    assert list(done.json()["indices"]) == ["duet-plus", "seq-ft", "frozen"]
    kept = {name: sha for name, sha in make.detectors(more).items() if "frozen" not in name}
    assert kept == make.detectors(run)


@pytest.mark.slow
def test_single_steps_without_the_old_data_give_the_same_detector(
    capsys: pytest.CaptureFixture[str], run: Path, series: make.Tiny, tmp_path: Path
) -> None:
    own = make.copy_tiny(series, tmp_path / "own")
    words = ["--strategy", own.method, "--out", tmp_path / "steps", "--json"]
    first = make.duet_here(capsys, "base", own.series, *words)
    assert first.code == 0, first.err
    assert len(first.json()["classes"]) == 10
    little = "flat: the base finds (almost )?nothing on its own evaluation images, flat .mAP50"
    assert re.search(little, first.err)
    shutil.rmtree(own.folder / "data" / "flat")
    second = make.duet_here(capsys, "increment", own.series, "comic", *words)
    assert second.code == 0, second.err
    little = "comic: after stage 2 the detector finds (almost )?nothing of that stage's classes"
    assert re.search(little, second.err)
    assert second.json()["classes"] == [*make.OLD, *make.NEW]
    wanted = make.detectors(run)
    assert make.detectors(tmp_path / "steps") == {
        name: wanted[name] for name in wanted if "duet-plus" in name
    }


@pytest.mark.slow
def test_new_images_of_known_classes_are_an_increment_too(
    capsys: pytest.CaptureFixture[str], run: Path, series: make.Tiny, tmp_path: Path
) -> None:
    """A new domain without new classes: learned, merged, logged, and taken back."""
    out = tmp_path / "out"
    for name in ("models", "increments"):
        shutil.copytree(run / name, out / name)
    own = make.copy_tiny(series, tmp_path / "own")
    text = yaml.safe_load(own.series.read_text())
    text["increments"] = [{"domain": "dusk", "data": "comic/data.yaml", "classes": list(make.NEW)}]
    own.series.write_text(yaml.safe_dump(text))
    words = ["--strategy", own.method, "--out", out, "--json"]
    done = make.duet_here(capsys, "increment", own.series, "dusk", *words)
    assert done.code == 0, done.err
    assert done.json()["classes"] == [*make.OLD, *make.NEW]
    before, after = (out / "models/duet-plus" / name for name in ("2-comic", "3-dusk"))
    states = [load_detector(path).state for path in (before, after)]
    for old, new in zip(*(state.parts for state in states), strict=True):
        assert all(torch.equal(old.tensors[k], new.tensors[k]) for k in old.tensors)
    assert any(not torch.equal(states[0].shared[k], states[1].shared[k]) for k in states[0].shared)
    told = make.duet_here(capsys, "log", after, "--json")
    assert told.code == 0, told.err
    assert "dusk" in told.out
    reverted = make.duet_here(
        capsys, "revert", after, "dusk", "--weights", own.weights, "--out", tmp_path / "without"
    )
    assert reverted.code == 0, reverted.err
    again = load_detector(tmp_path / "without").state
    for name, tensor in states[0].shared.items():
        assert torch.allclose(again.shared[name], tensor, atol=1e-6), name


@pytest.mark.slow
def test_merging_kept_increments_again_gives_the_kept_detector(
    capsys: pytest.CaptureFixture[str], run: Path, series: make.Tiny, tmp_path: Path
) -> None:
    line = "merge BASE COMIC --weights WEIGHTS --out OUT --json"
    done = make.duet_here(capsys, *fill(line, series, run, tmp_path))
    kept = load_detector(run / "models/duet-plus/2-comic").manifest
    merged = load_detector(tmp_path / "out").manifest
    assert done.json()["fingerprint"] == kept.fingerprint == merged.fingerprint
    assert merged.files == kept.files
    assert merged.lineage == kept.lineage
    assert done.json()["remarks"] == []


@pytest.mark.slow
def test_another_coefficient_gives_another_detector_and_a_remark(
    capsys: pytest.CaptureFixture[str], run: Path, series: make.Tiny, tmp_path: Path
) -> None:
    line = "merge BASE COMIC --weights WEIGHTS --set alpha_base=0.9 --out OUT --json"
    done = make.duet_here(capsys, *fill(line, series, run, tmp_path)).json()
    kept = load_detector(run / "models/duet-plus/2-comic").manifest
    assert done["fingerprint"] != kept.fingerprint
    assert "re-fit on other merged weights" in done["remarks"][0]


@pytest.mark.slow
def test_a_gate_that_is_not_met_exits_with_6(
    capsys: pytest.CaptureFixture[str], run: Path, series: make.Tiny, tmp_path: Path
) -> None:
    line = "eval MODEL SERIES --min-map50 0.99 --json"
    done = make.duet_here(capsys, *fill(line, series, run, tmp_path))
    assert done.code == 6
    assert done.json()["cells"]
    assert done.error()["error"] == "gate"


# ---- offline --------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_asked_for_the_network(base: Path, run: Path) -> None:
    """The run with all its trainings; `duet_here` refuses the network by itself."""
    assert run.is_dir()
    assert make.network_log(base) == ""


def test_the_network_hook_works(base: Path) -> None:
    program = "import socket; socket.create_connection(('example.org', 80))"
    environment = {**make.offline(base), "DUET_TEST_NETWORK": str(base / "canary.log")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert done.returncode == 1
    assert "create_connection" in (base / "canary.log").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["run", "s.yaml", "--seeds", str(2**32)],
        ["run", "s.yaml", "--strategies", ",,"],
        ["run", "s.yaml", "--strategy", "x" * 5000],
        ["compare", "run", "--bootstrap", str(10**12)],
    ],
    ids=["seeds", "strategies", "strategy", "bootstrap"],
)
def test_values_that_nobody_can_mean_are_refused_at_once(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make_clean_series(tmp_path)
    monkeypatch.chdir(tmp_path)
    next(tmp_path.glob("*.yaml")).rename("s.yaml")
    assert _run(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("Error [config]")
    assert len(told) < 1000
