"""The library in eight functions; `duet` gives their names and loads them on first use.

series = duet.read_series("shop.yaml")
run = duet.learn(series, ["duet-plus", "seq-ft"], start="yolo11n.pt", out="runs/shop")
day, night = run.increments
merged = duet.merge([day, 0.7 * night], method="ties", density=0.3)
merged.evaluate(series, split="val"), merged("photo.jpg")
merged.scale("night", 0.5).drop("can").save("models/shop")
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from duet.comparison.ranking import compare as compare_runs
from duet.comparison.runs import find_runs
from duet.comparison.tables import as_dict, as_text
from duet.config import parse_config
from duet.errors import ConfigError
from duet.objects.detector import Detector
from duet.objects.evaluation import Evaluation
from duet.objects.grid import Told
from duet.objects.increment import Increment
from duet.objects.merged import merged
from duet.objects.opening import load as load
from duet.objects.run import Run, Stage
from duet.objects.series import SeriesFile, series_of
from duet.progress import Listener, Progress, shown
from duet.recipes.defaults import recipe_of
from duet.recipes.plan import make_plan
from duet.recipes.prepared import Prepared
from duet.recipes.recipe import Entry
from duet.runs.engines.engine import Engine, Wishes, opened
from duet.runs.inputs import read_inputs
from duet.runs.needed import Cells
from duet.runs.plan import plan_run
from duet.runs.run import learn as learn_plan
from duet.runs.stage import learn_stage
from duet.series import Problem
from duet.series.problems import first_of_each
from duet.text import shell_line

Mergeable = Increment | Detector | str | Path
"""What can be merged: an increment, a saved detector, or the path of either or of a ``.pt``."""


def read_series(path: str | Path, *, data_root: str | Path | None = None) -> SeriesFile:
    """Read a series YAML; its data are read when they are asked for.

    Args:
        path: The YAML.
        data_root: Folder that replaces its ``root``.

    Raises:
        ConfigError: It is missing or malformed, with every problem at once.

    Example:
        >>> series = duet.read_series("shop.yaml")
        >>> series.check()
        ()
    """
    return SeriesFile(Path(path), Path(data_root) if data_root is not None else None)


def learn(
    series: SeriesFile | str | Path,
    strategies: str | Sequence[str] = (),
    *,
    start: str | Path | None = None,
    onto: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: Progress = True,
    **options: Any,
) -> Run:
    """Learn a whole series: base, increments, merges, references, evaluation, report.

    What is missing in the run folder is done, so a stopped run is continued by the same call.

    Args:
        series: What `read_series` gave, or the path of a series YAML.
        strategies: How increments are learned: shipped names such as ``duet-plus``, or YAML paths;
            the report is about the first. Default `duet.shipped.DEFAULT_STRATEGIES`.
        start: θ_0: a ``.pt``, ``.safetensors`` or folder, or a name of `duet weights ls`.
        onto: A detector that is there, which the series goes on from.
        out: Run folder; default ``runs/<series>``.
        seed: Of everything random.
        progress: ``True``: bars, or lines where none can be drawn; ``False``: nothing; or a
            function that gets every record: ``progress(title, record)``.
        options: See `Options`; every other name is a key of the schedule: ``epochs=20``,
            ``device="cuda:0"``, ``**{"augmentation.mosaic": 1}``; or of each strategy.

    Raises:
        DuetError: With everything that is missing or wrong, before anything is trained; or a
            training failed, and the same call goes on from there.

    Example:
        >>> run = duet.learn("shop.yaml", ["duet-plus", "seq-ft"], start="yolo11n.pt", epochs=20)
        >>> run.indices["duet-plus"].ri
    """
    given, chosen = series_of(series), Options.of(options)
    inputs = read_inputs(given.path, weights=start, onto=_path(onto), **chosen.inputs(given))
    plan = plan_run(
        inputs, (strategies,) if isinstance(strategies, str) else tuple(strategies), seed=seed,
        out=_path(out), jobs=chosen.jobs, references=chosen.references, cells=chosen.cells,
        split=chosen.split, command=_command(), elsewhere=chosen.engine != "local",
    )  # fmt: skip
    with shown(progress) as show, chosen.opened(plan.out) as engine:
        _warn(show, inputs.warnings)
        learn_plan(plan, show, engine=engine)
    return Run(plan.out)


def learn_increment(
    series: SeriesFile | str | Path,
    increment: str,
    *,
    out: str | Path,
    strategy: str | None = None,
    start: str | Path | None = None,
    onto: str | Path | None = None,
    independent: bool = False,
    seed: int = 0,
    progress: Progress = True,
    **options: Any,
) -> Stage:
    """Learn one increment, on its images alone: those of earlier ones may be gone.

    Args:
        series: What `read_series` gave, or the path of a series YAML.
        increment: Its name; the first one of a series that goes on from no detector is its base.
        out: Run folder; holds what was learned before.
        strategy: Shipped name or YAML path; default what suits the beginning.
        start: As of `learn`.
        onto: A detector to go on from: a ``.pt``, a detector folder, or an export in one.
        independent: Train from θ_0 alone and merge nothing: `merge` joins such increments.
        seed: Of everything random.
        progress: As of `learn`.
        options: As of `learn`.

    Raises:
        DuetError: As of `learn`.

    Example:
        >>> stage = duet.learn_increment("mine.yaml", "night", onto="best.pt", out="runs/mine")
        >>> stage.detector("photo.jpg")
    """
    given, chosen = series_of(series), Options.of(options)
    base = given.config.start is None and given.config.increment_names()[0] == increment
    name = None if base and onto is None and not independent else increment
    with shown(progress) as show, chosen.opened(Path(out)) as engine:
        report = learn_stage(
            given.path, name, Path(out), strategy=strategy, independent=independent,
            onto=_path(onto), seed=seed, weights=start, listen=show, engine=engine,
            warn=lambda problems, _: _warn(show, problems), **chosen.inputs(given),
        )  # fmt: skip
    return Stage(report)


def load_increment(folder: str | Path) -> Increment:
    """Open an increment folder.

    Raises:
        ModelError: It is none, or its manifest is damaged.

    Example:
        >>> night = duet.load_increment("runs/shop/increments/duet-plus/night")
        >>> lighter = 0.7 * night
    """
    return Increment(Path(folder))


def merge(
    models: Sequence[Mergeable] | Mapping[str, Mergeable],
    *,
    method: str | None = None,
    start: str | Path | None = None,
    batchnorm: str | None = None,
    geometry: str | None = None,
    images: str | Path | None = None,
    keep_apart: bool = False,
    device: str = "cpu",
    progress: Progress = True,
    **params: Any,
) -> Detector:
    """Merge increments, detectors or ``.pt`` files into one detector: no training, no data.

    Args:
        models: What to merge, oldest first: increments (``0.7 * night`` counts less), saved
            detectors, or paths; a mapping gives them names.
        method: See `duet methods`; default the last increment's own, of whole models average.
        start: θ_0, by name or path; default the one that the increments' fingerprints name.
        batchnorm: ``mixture``, ``average``, ``newest`` or ``oldest``.
        geometry: ``sequential`` or ``independent``; default what the manifests say.
        images: Unlabelled images, for methods that learn.
        keep_apart: Each model keeps its own head part; a class of several becomes ``cat@NAME``.
        device: Where the detector shall run.
        progress: As of `learn`.
        params: Parameters of the method, such as ``density=0.3``.

    Returns:
        The detector, in memory; `Detector.save` keeps it.

    Raises:
        ConfigError: An unknown method or parameter, or a detector that was not saved.
        ModelError: The models do not fit together, or θ_0 is missing or another one.

    Example:
        >>> merged = duet.merge([day, 0.7 * night], method="ties", density=0.3)
        >>> merged.trace.summary()
    """
    named = models.items() if isinstance(models, Mapping) else ((None, one) for one in models)
    recipe = recipe_of(
        [_entry(model, name) for name, model in named], method=method, params=params,
        batchnorm=batchnorm, geometry=geometry, weights=start, images=images,
        keep_apart=keep_apart,
    )  # fmt: skip
    return Detector(merged(Prepared(make_plan(recipe)), progress), device)


def evaluate(
    model: Detector | str | Path,
    data: SeriesFile | str | Path,
    *,
    split: str = "",
    domain: str | None = None,
    device: str = "cpu",
) -> Evaluation:
    """Measure a detector on every domain of a series or on a data set, per class.

    Args:
        model: A detector, or what `load` opens.
        data: What `read_series` gave, or the path of a series YAML, of a ``data.yaml`` or of a
            folder in a format that duet reads. Domains whose images are gone are left out.
        split: Default test if there is one, else val.
        domain: Of a data set: what its images are called; default the name of its folder.
        device: Where a model that is opened here runs.

    Raises:
        DataError: A data set has no such split, or the detector knows no class of the data.

    Example:
        >>> duet.evaluate("best.pt", "shop.yaml", split="val").map50
    """
    detector = model if isinstance(model, Detector) else load(model, device)
    return detector.evaluate(data, split=split, domain=domain)


def compare(
    runs: Sequence[Run | str | Path], *, metric: str | None = None, bootstrap: int = 1000
) -> Told:
    """Compare finished runs: strategies, seeds, orders.

    Args:
        runs: Runs, or folders that hold some.
        metric: What to rank by: ``h``, ``ri``, ``pi`` …; default H, else RI.
        bootstrap: Resamples of the test images for intervals.

    Returns:
        What `duet compare` prints: a mapping as its ``--json``; ``.value`` is the `Comparison`.

    Raises:
        DataError: There is no finished run, or they did not learn the same.

    Example:
        >>> duet.compare(["runs/shop-a", "runs/shop-b"])
    """
    folders = [run.path if isinstance(run, Run) else Path(run) for run in runs]
    found = compare_runs(find_runs(folders), metric=metric, bootstrap=bootstrap)
    return Told(found, as_dict(found), lambda _: as_text(found))


@dataclass(frozen=True)
class Options:
    """What else a training takes.

    Attributes:
        train: Schedule YAML; default the series' own.
        architecture: Such as ``yolo11n.yaml``, where nothing tells it.
        jobs: Trainings at a time; default the CPU cores, at most two.
        references: Train the reference models that GI and PI need.
        cells: Which detectors look at which domains: what an index or the report reads
            (``needed``), or ``all``.
        split: Split to evaluate on; default test if there is one, else val.
        engine: Where trainings are done: ``local`` or ``ray``.
        address: Of the Ray cluster; default ``RAY_ADDRESS``, else one of this machine alone.
        store: Folder that all machines share, or a bucket: ``s3://…``, ``gs://…``.
        stage_data: Send the images through the store, too.
        changes: Keys of the schedule and of the strategies to replace.
    """

    train: str | Path | None = None
    architecture: str | None = None
    jobs: int | None = None
    references: bool = True
    cells: Cells = "needed"
    split: str = ""
    engine: str = "local"
    address: str | None = None
    store: str | Path | None = None
    stage_data: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Return them from keyword arguments; what is no field is a change."""
        names = {one.name for one in fields(cls)} - {"changes"}
        own = {key: value for key, value in options.items() if key in names}
        return cls(**own, changes={k: v for k, v in options.items() if k not in names})

    def opened(self, out: Path) -> AbstractContextManager[Engine]:
        """Return where trainings are done, to be entered."""
        store = str(self.store) if self.store is not None else None
        return opened(self.engine, Wishes(self.address, store, self.stage_data, self.jobs), out)

    def inputs(self, series: SeriesFile) -> dict[str, Any]:
        """Return what of them is told to `read_inputs`."""
        return {
            "data_root": series.data_root, "train": _path(self.train),
            "architecture": self.architecture, "changes": self.changes,
        }  # fmt: skip


def _warn(show: Listener, problems: Sequence[Problem]) -> None:
    """Tell what is odd about the data of a series, as the commands do."""
    for line in first_of_each(problems):
        show("warning", {"note": line})


def _command() -> str:
    """Return what reproduces a run from a script; nothing where a person types."""
    script = Path(sys.argv[0]) if sys.argv else Path()
    typed = "ipykernel" in sys.modules or script.suffix != ".py"
    return "" if typed else shell_line("python", *sys.argv)


def _path(path: str | Path | None) -> Path | None:
    return Path(path) if path is not None else None


def _entry(model: Mergeable, name: str | None) -> Entry:
    """Return a model as a line of a recipe."""
    if isinstance(model, Increment):
        return model.entry.model_copy(update={"name": name})
    if isinstance(model, Detector):
        if model.path is None:
            raise ConfigError(
                "a detector in memory, and a merge remembers its models by their folders",
                where=repr(model).split("\n", 1)[0],
                remedy="keep it first: detector.save(FOLDER) returns the one to merge",
            )
        model = model.path
    data = {"path": str(model), "name": name}
    return parse_config(Entry, data, where=str(model))
