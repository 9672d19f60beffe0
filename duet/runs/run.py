"""`duet run`: everything a series needs, in parallel where stages do not depend on each other."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from duet.evaluation.ap import ClassAP
from duet.evaluation.matrix import Slice as Cut
from duet.files import run_lock
from duet.progress import Listener
from duet.report.markdown import REPORT_FILE, write_report
from duet.report.phrases import learned_little
from duet.results.files import RESULTS_FILE, save_results
from duet.results.schema import Results
from duet.runs.assemble import Reference, StrategyOutcome, assemble
from duet.runs.engines.engine import HERE, Engine
from duet.runs.evaluator import Evaluator
from duet.runs.forks import forking
from duet.runs.gallery import gallery
from duet.runs.keep import keep_chain, require_chain, require_place
from duet.runs.lab import Lab, silent, tidy
from duet.runs.learn import chain_stages, train_alone
from duet.runs.look import FirstLook
from duet.runs.plan import RunPlan, left_out
from duet.runs.remember import EVALUATIONS, remember_stage
from duet.runs.setting import Setting, StageResult
from duet.runs.walls import require_runnable
from duet.series.domains import Domain
from duet.training.config import Strategy


def require_chains(plans: Iterable[RunPlan]) -> None:
    """Refuse run folders whose chains begin otherwise, see `require_chain` and `require_place`.

    Raises:
        ModelError: One does, or what it holds would be lost.
    """
    for plan in plans:
        for strategy in plan.strategies:
            require_chain(plan.out, strategy, plan.onto)
            for item in plan.series.learned:
                require_place(plan.out, strategy, item.name, independent=False)


def execute(
    plan: RunPlan,
    listen: Listener = silent,
    *,
    date: str = "",
    engine: Engine = HERE,
    stopped: threading.Event | None = None,
) -> Results:
    """Do what is missing, write `results.json` and `results.csv`, return the results.

    Args:
        plan: What to do.
        listen: Progress, see `Lab`.
        date: ISO 8601, for the report; default today.
        engine: Where trainings are done.
        stopped: Ends the run when set; set when it fails.

    Raises:
        DuetError: The run could not be finished, see `duet.runs.walls`; or a stage failed: finished
            stages stay and are reused by the same command.
    """
    require_chains((plan,))
    theta_0 = require_runnable(plan)  # before anything is written
    date = date or datetime.date.today().isoformat()
    look = FirstLook.at(plan.series)
    lab = Lab(
        plan.lab or plan.out / "lab", jobs=engine.at_a_time(plan.jobs), listen=listen, look=look,
        run=engine.run, answer=engine.answer, stopped=stopped or threading.Event(),
    )  # fmt: skip

    def tell(line: str) -> None:
        listen(plan.series.name, {"note": line})

    engine.prepare(look.there, plan.schedule, tell)
    setting = Setting(
        plan.series, plan.family, plan.architecture, theta_0, plan.training, plan.seed, lab,
        plan.weights, plan.onto,
    )  # fmt: skip
    with run_lock(plan.out), forking(lab.run) as lab.run:
        tidy(plan.out, tell)
        evaluator = Evaluator(plan.out / EVALUATIONS, plan.image_size, lab.asked, look, plan.device)
        outcomes, references = _all(plan, setting, evaluator)
        pictures = gallery(plan, outcomes)
        results = assemble(plan, outcomes, references, pictures, date=date, tell=tell)
        save_results(plan.out, results)
    return results


def learn(
    plan: RunPlan, listen: Listener = silent, *, date: str = "", engine: Engine = HERE
) -> Results:
    """Do what `execute` does, tell what it leaves out, and write the report beside it."""
    tell_left_out(plan, listen)
    results = execute(plan, listen, date=date, engine=engine)
    write_report(plan.out)
    return results


def tell_left_out(plan: RunPlan, listen: Listener) -> None:
    """Tell what the indices ask for and a run will not measure."""
    for line in left_out(plan):
        listen(plan.series.name, {"note": line})


def summary(results: Results, out: Path) -> dict[str, Any]:
    """Return the JSON of a run: indices, models beside published values, where all lies."""
    return {
        "schema": 1,
        "series": results.series.name,
        "out": str(out),
        "report": str(out / REPORT_FILE),
        "results": str(out / RESULTS_FILE),
        "main_strategy": results.main_strategy,
        "indices": {strategy.name: strategy.indices.numbers() for strategy in results.strategies},
        "objects": results.objects,
        "published": [entry.as_record() for entry in results.published],
    }


def _all(
    plan: RunPlan, setting: Setting, evaluator: Evaluator
) -> tuple[list[StrategyOutcome], list[Reference]]:
    """Run chains and references side by side; the first failure stops the rest."""
    wanted = plan.reference_cuts
    with ThreadPoolExecutor(max_workers=len(plan.strategies) + len(wanted)) as pool:
        chains = [pool.submit(_chain, plan, setting, evaluator, m) for m in plan.strategies]
        others = [pool.submit(_reference, plan, setting, evaluator, cut) for cut in wanted]
        try:
            futures: list[Future[Any]] = [*chains, *others]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:  # Ctrl-C too: no training may outlive the command
            pool.shutdown(wait=False, cancel_futures=True)
            setting.lab.stop()
            raise
        return [f.result() for f in chains], [f.result() for f in others]


def _chain(
    plan: RunPlan, setting: Setting, evaluator: Evaluator, strategy: Strategy
) -> StrategyOutcome:
    """Learn a chain, keep it, and measure every stage of it on every domain."""
    began = time.perf_counter()
    results: list[StageResult] = []
    for result in chain_stages(setting, strategy):
        results.append(result)
        # Chains share their base, so the first speaks for all; one that was brought is as it is.
        if len(results) > 1 or (strategy is plan.strategies[0] and plan.onto is None):
            _tell_little(plan, setting, evaluator, strategy, results)
    keep_chain(plan.out, setting, strategy, results)
    domains = [plan.series.domain(name) for name in plan.series.domains]
    scores = {
        (stage, domain.name): _scores(plan, evaluator, result, domain)
        for stage, result in enumerate(results, start=1)
        for domain in domains
    }
    setting.lab.listen(strategy.name, {"state": "evaluated"})
    if strategy.old_part == "kept":
        for stage, result in enumerate(results, start=1):
            _remember(plan, strategy, result, scores.get((stage, result.increment.domain)))
    first, last = results[0].merged, results[-1].merged
    kept = {
        domain.name: evaluator.kept(first, last, domain.evaluate((), plan.split))
        for domain in (domains if plan.onto is not None else ())
    }
    return StrategyOutcome(strategy, tuple(results), scores, kept, time.perf_counter() - began)


def _remember(
    plan: RunPlan, strategy: Strategy, result: StageResult, scores: ClassAP | None
) -> None:
    """Keep what a stage that was trained here reached, beside its increment."""
    item = result.increment
    if item.detector is None and scores is not None and scores.seen is not None:
        folder = plan.out / "increments" / strategy.name / item.name
        split = plan.series.domain(item.domain).split(plan.split)
        remember_stage(plan.out, folder, result.merged, item, scores, split)


def _scores(plan: RunPlan, evaluator: Evaluator, result: StageResult, domain: Domain) -> ClassAP:
    """Measure a stage on a domain; asked again, it is read back."""
    labels = plan.series.labels
    data = domain.evaluate(domain.known(labels), plan.split)
    return evaluator(result.merged, data).covering(labels)


def _tell_little(
    plan: RunPlan, setting: Setting, evaluator: Evaluator, strategy: Strategy,
    results: Sequence[StageResult],
) -> None:  # fmt: skip
    """Say it as soon as a stage learned next to nothing: hours may follow that build on it."""
    increment = results[-1].increment
    domain = plan.series.domain(increment.domain)
    scores = _scores(plan, evaluator, results[-1], domain)
    if scores.has_truth(increment.classes):
        map50 = scores.map50(increment.classes)
        if line := learned_little(len(results), domain.name, map50):
            setting.lab.listen(strategy.name, {"note": line})


def _reference(plan: RunPlan, setting: Setting, evaluator: Evaluator, cut: Cut) -> Reference:
    domain, classes = cut
    data = plan.series.domain(domain)
    there = data.known(classes)
    trained = train_alone(setting, data.train(there), f"reference-{domain}", merged=False)
    scores = evaluator(trained.state, data.evaluate(there, plan.split))
    return Reference(domain, classes, scores.covering(classes), trained.seconds)
