"""`duet run`: everything a series needs, in parallel where stages do not depend on each other."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duet.evaluation.ap import ClassAP
from duet.files import run_lock
from duet.progress import Listener
from duet.report.markdown import REPORT_FILE, write_report
from duet.report.phrases import learned_little
from duet.results.files import RESULTS_FILE, save_results
from duet.results.schema import Results
from duet.runs.apart import apart_stages
from duet.runs.assemble import StrategyOutcome, assemble
from duet.runs.engines.engine import HERE, LOOKERS, Engine
from duet.runs.evaluator import Evaluator
from duet.runs.forks import forking
from duet.runs.gallery import gallery
from duet.runs.keep import kept_stages, require_chain, require_place
from duet.runs.lab import Lab, silent, tidy
from duet.runs.learn import chain_stages
from duet.runs.look import FirstLook
from duet.runs.needed import Look
from duet.runs.plan import RunPlan, left_out
from duet.runs.references import Reference, measured_reference
from duet.runs.remember import EVALUATIONS, remember_stage
from duet.runs.setting import FinishedStage, Setting
from duet.runs.slots import CHAIN, LOOK
from duet.runs.walls import require_runnable
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
                apart = strategy.apart and item is not plan.series.increments[0]
                require_place(plan.out, strategy, item.name, independent=apart)


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
        evaluator = Evaluator(
            plan.out / EVALUATIONS, plan.image_size, lab.asked, look, plan.device, plan.evaluations
        )
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
    """Run chains, references and looks side by side; the first failure stops the rest.

    Chains go first, see `duet.runs.slots`. No more references and looks are begun than can be at
    work: who waits would hold a detector in memory.
    """
    wanted, jobs = plan.reference_cuts, setting.lab.jobs
    with (
        ThreadPoolExecutor(max_workers=min(jobs, LOOKERS)) as lookers,
        ThreadPoolExecutor(max_workers=max(min(jobs, len(wanted)), 1)) as trainers,
        ThreadPoolExecutor(max_workers=len(plan.strategies)) as pool,
    ):
        see = _Seeing(plan, setting, evaluator, lookers)
        chains = [pool.submit(_chain, see, strategy) for strategy in plan.strategies]
        others = [
            trainers.submit(measured_reference, plan, setting, evaluator, cut) for cut in wanted
        ]
        try:
            futures: list[Future[Any]] = [*chains, *others]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:  # Ctrl-C too: no training may outlive the command
            for one in (lookers, trainers, pool):
                one.shutdown(wait=False, cancel_futures=True)
            setting.lab.stop()
            raise
        return [f.result() for f in chains], [f.result() for f in others]


@dataclass(frozen=True)
class _Seeing:
    """How the stages of a chain are measured while the next ones train.

    Attributes:
        plan: The run.
        setting: What its trainings share.
        evaluator: Measures and keeps.
        pool: Where that is done.
    """

    plan: RunPlan
    setting: Setting
    evaluator: Evaluator
    pool: ThreadPoolExecutor

    def stage(
        self, strategy: Strategy, stage: int, result: FinishedStage
    ) -> dict[Look, Future[ClassAP]]:
        """Begin to look at all domains that are wanted of a stage, its own first."""
        own = result.increment.domain
        domains = [domain for one, domain in self.plan.looks if one == stage]
        # Chains share their base, so the first speaks for all; one that was brought is as it is.
        telling = stage > 1 or (strategy is self.plan.strategies[0] and self.plan.onto is None)
        return {
            (stage, name): self.pool.submit(
                self._look, strategy, stage, result, name, telling=telling and name == own
            )
            for name in sorted(domains, key=lambda name: name != own)
        }

    def _look(
        self, strategy: Strategy, stage: int, result: FinishedStage, name: str, *, telling: bool
    ) -> ClassAP:
        """Measure a stage in a domain.

        Say it as soon as it learned next to nothing: hours may follow that build on it.
        """
        domain, labels = self.plan.series.domain(name), self.plan.series.labels
        data = domain.evaluate(domain.known(labels), self.plan.split)
        rank = CHAIN if telling else LOOK
        scores = self.evaluator(result.merged, data, rank=rank).covering(labels)
        classes = result.increment.classes
        known = telling and scores.has_truth(classes)
        if known and (line := learned_little(stage, name, scores.map50(classes))):
            self.setting.lab.listen(strategy.name, {"note": line})
        return scores


def _chain(see: _Seeing, strategy: Strategy) -> StrategyOutcome:
    """Learn a chain, keep it, and measure its stages on the domains that are wanted."""
    plan, setting, began = see.plan, see.setting, time.perf_counter()
    results: list[FinishedStage] = []
    begun: dict[Look, Future[ClassAP]] = {}
    if strategy.apart:
        stages = apart_stages(plan.out, setting, strategy)
    else:
        stages = kept_stages(plan.out, setting, strategy, chain_stages(setting, strategy))
    for stage, result in enumerate(stages, start=1):
        results.append(result)
        begun |= see.stage(strategy, stage, result)
        for place, look in begun.items():
            # What failed ends the chain before the next stage trains; of the first stage the own
            # domain is waited for, so that a base that learned nothing is told before hours follow.
            if look.done() or place == (1, results[0].increment.domain):
                look.result()
    scores = {look: begun[look].result() for look in plan.looks}
    setting.lab.listen(strategy.name, {"state": "evaluated"})
    if strategy.old_part == "kept":
        for stage, result in enumerate(results, start=1):
            _remember(plan, strategy, result, scores.get((stage, result.increment.domain)))
    first, last = results[0].merged, results[-1].merged
    domains = map(plan.series.domain, plan.series.domains if plan.onto is not None else ())
    kept = {
        domain.name: see.evaluator.kept(first, last, domain.evaluate((), plan.split))
        for domain in domains
    }
    return StrategyOutcome(strategy, tuple(results), scores, kept, time.perf_counter() - began)


def _remember(
    plan: RunPlan, strategy: Strategy, result: FinishedStage, scores: ClassAP | None
) -> None:
    """Keep what a stage that was trained here reached, beside its increment."""
    item = result.increment
    if item.detector is None and scores is not None and scores.seen is not None:
        folder = plan.out / "increments" / strategy.name / item.name
        split = plan.series.domain(item.domain).split(plan.split)
        remember_stage(plan.out, folder, result.merged, item, scores, split)
