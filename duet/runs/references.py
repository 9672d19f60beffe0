"""Reference models, the denominators of GI and PI: trained once, measured once, and let go.

What is needed of one later is its AP and its matches. So its weights are removed when these are
kept, but for those that another order of the same series begins with. A reference trained on all
that an increment brings is, to the last bit, the base of an order that begins with this increment,
where the schedule gives both the same steps: it has the same name, and is trained once for both.
"""

from __future__ import annotations

from dataclasses import dataclass

from duet.evaluation.ap import ClassAP
from duet.evaluation.matrix import Slice as Cut
from duet.runs.evaluator import Evaluator
from duet.runs.lab import job_key
from duet.runs.learn import alone, title_of
from duet.runs.memo import recall, remember
from duet.runs.plan import RunPlan
from duet.runs.setting import Setting
from duet.runs.slots import REFERENCE, one_at_a_time


@dataclass(frozen=True)
class Reference:
    """A model trained only on one slice, evaluated on it."""

    domain: str
    classes: tuple[str, ...]
    scores: ClassAP
    seconds: float


def measured_reference(
    plan: RunPlan, setting: Setting, evaluator: Evaluator, cut: Cut
) -> Reference:
    """Train the model of a slice and measure it there, or read what was measured.

    Args:
        plan: The run.
        setting: What its trainings share.
        evaluator: Measures and keeps.
        cut: One of `RunPlan.reference_cuts`.
    """
    domain, classes = cut
    data, name = plan.series.domain(domain), plan.reference_name(cut)
    there = data.known(plan.in_written_order(classes))
    train, held = data.train(there), data.evaluate(there, plan.split)
    schedule = setting.schedule.of_reference(len(train))
    job, start = alone(setting, there, name, schedule=schedule)
    key = job_key(job, start, train, None)
    path = setting.lab.folder / f"reference-{key[:16]}.json"
    with one_at_a_time(path):  # another run may ask for it, too, and then let it go
        known = recall(path, key, setting.lab.asked.tell)
        scores = evaluator.known(known["fingerprint"], start, held) if known is not None else None
        if known is None or scores is None:
            title = title_of(f"reference-{domain}", train)
            trained = setting.lab.train(
                title, job, start, train, rank=REFERENCE, put_back=setting.put_back
            )
            scores = evaluator(trained.state, held, rank=REFERENCE)
            known = {"fingerprint": trained.state.fingerprint(), "seconds": trained.seconds}
            remember(path, key, known)
        if cut not in plan.begun or schedule.epochs != setting.schedule.epochs:
            setting.lab.forget(job, key)
    return Reference(domain, classes, scores.covering(classes), float(known["seconds"]))
