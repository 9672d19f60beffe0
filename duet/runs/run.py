"""`duet run`: everything a series needs, in parallel where stages do not depend on each other."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from duet.evaluation.agreement import Agreement
from duet.evaluation.ap import ClassAP
from duet.evaluation.matrix import Slice as Cut
from duet.evaluation.pairs import cells_needed, reference_slices
from duet.files import run_lock
from duet.report.results import Results, save_results
from duet.runs.assemble import MethodOutcome, Reference, assemble, gallery
from duet.runs.chain import Setting, StageResult, run_chain, train_alone
from duet.runs.evaluate import Evaluator, require_split
from duet.runs.keep import keep_chain, require_chain, require_place
from duet.runs.known import require_learnable
from duet.runs.lab import Lab, Listener, tidy
from duet.runs.lone import coarsest_stride, require_company
from duet.runs.look import FirstLook
from duet.runs.onto import Onto
from duet.runs.plan import planned_stages
from duet.runs.walls import require_runnable
from duet.series import Series, domain_of
from duet.training.config import Method, Schedule


@dataclass(frozen=True)
class RunPlan:
    """What to run.

    Attributes:
        series: Increments and data, already checked.
        methods: The first is the one that the report is about.
        schedule: Shared by all stages.
        weights: θ_0; None if it is ``onto``.
        architecture: Architecture file of the family.
        family: Detector family.
        seed: Of everything random.
        out: Run folder.
        jobs: Training processes at a time.
        references: Train the reference models that GI and PI need.
        split: Split to evaluate on; empty = test if there is one, else val.
        command: The shell line, for the report.
        lab: Folder of the trainings, for runs that share them; default one in ``out``.
        onto: The detector that stands for the first increment, which is then not trained.
    """

    series: Series
    methods: tuple[Method, ...]
    schedule: Schedule
    weights: Path | None
    architecture: str
    family: str
    seed: int
    out: Path
    jobs: int = 1
    references: bool = True
    split: str = ""
    command: str = ""
    lab: Path | None = None
    onto: Onto | None = None

    def __post_init__(self) -> None:
        """Refuse what no training could finish; see `require_learnable`, `require_company`.

        Raises:
            DataError: A data set lacks the chosen split, or an increment cannot be learned.
            ConfigError: A method cannot learn an increment, or a batch would be one tiny image.
        """
        require_learnable(self.methods, self.family, self.series.increments)
        require_split(self.series, self.split)
        if self.schedule.image_size < 2 * coarsest_stride(self.architecture):
            images = {stage.title: stage.images for stage in planned_stages(self)}
            require_company(images, self.schedule, self.architecture)

    @property
    def image_size(self) -> int:
        """Side of the square that the detectors of the run look at, in pixels.

        What an old class needs to be seen is not taken from a detector that is gone on from.
        """
        known = self.onto.manifest.image_size if self.onto is not None else 0
        return max(self.schedule.image_size, known)

    @property
    def steps(self) -> list[tuple[str, tuple[str, ...]]]:
        """(domain, classes) per increment."""
        return [(item.domain, item.classes) for item in self.series.increments]

    @property
    def reference_cuts(self) -> list[Cut]:
        """(domain, classes) per reference model, less those in `left_out`."""
        return [cut for cut in self._references if cut not in self.left_out]

    @cached_property
    def left_out(self) -> dict[Cut, str]:
        """(domain, classes) of what the indices ask for and the data cannot answer -> why."""
        cuts = dict.fromkeys((domain, classes) for _, domain, classes in cells_needed(self.steps))
        found: dict[Cut, str] = {}
        for name, classes in (*cuts, *self._references):
            if why := self._absence(name, classes):
                found[name, classes] = why
        return found

    def _absence(self, name: str, classes: tuple[str, ...]) -> str:
        """Return why classes cannot be measured in a domain; empty where they can."""
        if name not in self.series.domains:
            return f"no image of '{name}' was given: name some under 'data' of the series' start"
        domain = domain_of(self.series, name)
        why = domain.absence(classes, self.split)
        if not why and (name, classes) in self._references:
            why = domain.absence(classes, "train")
        return why

    @property
    def _references(self) -> tuple[Cut, ...]:
        return reference_slices(self.steps) if self.references else ()


def require_chains(plans: Iterable[RunPlan]) -> None:
    """Refuse run folders whose chains begin otherwise, see `require_chain` and `require_place`.

    Raises:
        ModelError: One does, or what it holds would be lost.
    """
    for plan in plans:
        for method in plan.methods:
            require_chain(plan.out, method, plan.onto)
            for item in plan.series.learned:
                require_place(plan.out, method, item.name, independent=False)


def execute(plan: RunPlan, listen: Listener, *, date: str) -> Results:
    """Do what is missing, write `results.json` and `results.csv`, return the results.

    Raises:
        DuetError: The run could not be finished, see `duet.runs.walls`; or a stage failed: finished
            stages stay and are reused by the same command.
    """
    require_chains((plan,))
    theta_0 = require_runnable(plan)  # before anything is written
    look = FirstLook.at(plan.series)
    lab = Lab(plan.lab or plan.out / "lab", jobs=plan.jobs, listen=listen, look=look)

    def tell(line: str) -> None:
        listen(plan.series.name, {"note": line})

    setting = Setting(
        plan.series, plan.family, plan.architecture, theta_0, plan.schedule, plan.seed, lab,
        plan.weights, plan.onto,
    )  # fmt: skip
    with run_lock(plan.out):
        tidy(plan.out, tell)
        evaluator = Evaluator(
            plan.out / "evaluations", plan.image_size, lab.stopped, lab.slots, look, tell
        )
        outcomes, references = _all(plan, setting, evaluator)
        main = outcomes[0]
        pictures = gallery(plan, main.results)
        results = assemble(plan, outcomes, references, pictures, date=date, tell=tell)
        save_results(plan.out, results)
    return results


def _all(
    plan: RunPlan, setting: Setting, evaluator: Evaluator
) -> tuple[list[MethodOutcome], list[Reference]]:
    """Run chains and references side by side; the first failure stops the rest."""
    wanted = plan.reference_cuts
    with ThreadPoolExecutor(max_workers=len(plan.methods) + len(wanted)) as pool:
        chains = [pool.submit(_chain, plan, setting, evaluator, m) for m in plan.methods]
        others = [pool.submit(_reference, plan, setting, evaluator, cut) for cut in wanted]
        try:
            _wait([*chains, *others])
        except BaseException:  # Ctrl-C too: no training may outlive the command
            pool.shutdown(wait=False, cancel_futures=True)
            setting.lab.stop()
            raise
        return [f.result() for f in chains], [f.result() for f in others]


def _wait(futures: Sequence[Future[Any]]) -> None:
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()


def _chain(plan: RunPlan, setting: Setting, evaluator: Evaluator, method: Method) -> MethodOutcome:
    began = time.perf_counter()
    results = run_chain(setting, method)
    keep_chain(plan.out, setting, method, results)
    scores: dict[tuple[int, str], ClassAP] = {}
    for stage, result in enumerate(results, start=1):
        for domain in plan.series.domains:
            scores[stage, domain] = _score(plan, setting, evaluator, result, domain)
    setting.lab.listen(method.name, {"state": "evaluated"})
    kept = _kept(plan, evaluator, results) if plan.onto is not None else {}
    return MethodOutcome(method, tuple(results), scores, kept, time.perf_counter() - began)


def _kept(
    plan: RunPlan, evaluator: Evaluator, results: Sequence[StageResult]
) -> dict[str, Agreement]:
    """Compare the last detector of a chain with the one that was brought, domain by domain."""
    first, last = results[0].merged, results[-1].merged
    cuts = {name: domain_of(plan.series, name) for name in plan.series.domains}
    return {
        name: evaluator.kept(first, last, domain.evaluate((), plan.split))
        for name, domain in cuts.items()
    }


def _score(
    plan: RunPlan, setting: Setting, evaluator: Evaluator, result: StageResult, domain: str
) -> ClassAP:
    data = domain_of(plan.series, domain)
    cut = data.evaluate(data.known(plan.series.labels), plan.split)
    return evaluator(result.merged, cut).covering(plan.series.labels)


def _reference(plan: RunPlan, setting: Setting, evaluator: Evaluator, cut: Cut) -> Reference:
    domain, classes = cut
    data = domain_of(plan.series, domain)
    there = data.known(classes)
    trained = train_alone(setting, data.train(there), f"reference-{domain}")
    scores = evaluator(trained.state, data.evaluate(there, plan.split))
    return Reference(domain, classes, scores.covering(classes), trained.seconds)
