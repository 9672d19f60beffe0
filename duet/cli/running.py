"""What several commands do: a run or a merge, and saying what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from duet.cli.common import emit, hint, require_place, writing
from duet.progress import counted, note, stages
from duet.text import duration, printable

if TYPE_CHECKING:
    from duet.comparison.runs import Run
    from duet.evaluation.gate import Gate, Verdict
    from duet.recipes.model import Model
    from duet.recipes.prepared import Prepared
    from duet.recipes.recipe import Mending
    from duet.runs.engines.engine import Engine
    from duet.runs.gated import Before
    from duet.runs.mend import Specialist
    from duet.runs.plan import RunPlan


def emit_gated(
    result: dict[str, Any],
    verdict: Verdict | None,
    as_json: bool,
    human: Callable[[dict[str, Any]], str],
) -> None:
    """Print a result as `emit` does, and after it how the limits of a gate ended, if there is one.

    The command raises with `Verdict.require`, when it has said everything.
    """
    if verdict is None:
        emit(result, as_json, human)
    else:
        from duet.report.gate import gate_text

        records = {"gate": verdict.as_records()}
        emit(result | records, as_json, lambda seen: f"{human(seen)}\n\n{gate_text(verdict)}")


def perform(
    plan: RunPlan, *, dry_run: bool, as_json: bool, gate: Gate | None = None,
    engine: AbstractContextManager[Engine] | None = None,
) -> None:  # fmt: skip
    """Do a plan, or say what it would do, and print what came out."""
    from duet.comparison.runs import Run
    from duet.report.cautions import learned_nothing, off_published
    from duet.report.markdown import REPORT_FILE
    from duet.report.tables import summary_text
    from duet.runs.engines.engine import HERE
    from duet.runs.plan import plan_as_dict, plan_as_text
    from duet.runs.run import learn, require_chains, summary
    from duet.runs.walls import require_runnable

    before = opened(gate, plan)
    if dry_run:
        require_chains((plan,))
        require_runnable(plan)
        emit(plan_as_dict(plan), as_json, lambda _: plan_as_text(plan))
        return
    with stages() as show, engine or nullcontext(HERE) as where:
        results = learn(plan, show, engine=where)
    verdict = judged(gate, before, (Run(plan.out, plan.out.name, results),), plan)
    for line in (*learned_nothing(results), *off_published(results)):
        note(f"warning: {line}")
    report = plan.out / REPORT_FILE
    found = summary(results, plan.out)
    emit_gated(found, verdict, as_json, lambda _: summary_text(results, report))
    for line in results.commands.next:
        note(f"next: {printable(line)}")
    if verdict is not None:
        verdict.require(plan.out)


def opened(gate: Gate | None, plan: RunPlan) -> Before:
    """Open what a gate compares with, and look at its names, before anything is trained."""
    from duet.runs.gated import open_before, require_gate

    require_gate(gate, plan.series, [strategy.name for strategy in plan.strategies])
    return open_before(gate, note)


def judged(gate: Gate | None, before: Before, runs: Sequence[Run], plan: RunPlan) -> Verdict | None:
    """Return how a gate ends for the runs of a plan and its repeats."""
    from duet.comparison.gated import judge
    from duet.devices import at_hand
    from duet.runs.gated import standings_before

    if gate is None:
        return None
    known = standings_before(before, plan.series, plan.split, at_hand(plan.device))
    return judge(gate, runs, (plan.strategies[0].name,), before=known)


def write_mended(
    model: Model, specialists: Sequence[Specialist], mending: Mending, *, out: Path,
    overwrite: bool, as_json: bool, device: str = "cpu", threads: int = 1,
    extra: Mapping[str, Any] = MappingProxyType({}), judge: Callable[[Path], Verdict] | None = None,
) -> None:  # fmt: skip
    """Mend a detector into a folder and print what it stands on; see `write_merge`."""
    from duet.increments.store import save_detector
    from duet.runs.mend import forget, mended_model

    require_place(out, overwrite=overwrite)
    with stages() as show:
        made, facts = mended_model(
            model, specialists, mending, out, show, device=device, threads=threads
        )
    with writing(out, overwrite=overwrite):
        manifest = save_detector(
            out, made.state, made.manifest, traces=made.traces, overwrite=overwrite
        )
    forget(out)
    result = {"schema": 1, "detector": str(out), "fingerprint": manifest.fingerprint}
    for remark in model.remarks:
        note(f"note: {remark}")
    verdict = judge(out) if judge is not None else None
    emit_gated(result | facts.as_dict() | {**extra}, verdict, as_json, _mended_text)
    hint("duet", "predict", out, "IMAGES")
    if verdict is not None:
        verdict.require(out)


def _mended_text(result: dict[str, Any]) -> str:
    images = " + ".join(f"{count} of {place}" for place, count in result["images"].items())
    lines = [f"mended on {images} in {duration(result['seconds'])} -> {result['detector']}"]
    for one in result["teachers"]:
        was, now = (f"{one[key]['kept']} of {one[key]['before']}" for key in ("before", "after"))
        lines.append(f"  {one['name']}: finds {now} of what it finds there (merged: {was})")
    return "\n".join(map(printable, lines))


def write_merge(
    merge: Prepared,
    out: Path,
    extra: dict[str, Any],
    *,
    overwrite: bool,
    as_json: bool,
    judge: Callable[[Path], Verdict] | None = None,
) -> None:
    """Do a merge and print what came out, and ``extra`` with it in JSON.

    ``judge`` holds the detector that was written against a gate.
    """
    from duet.recipes.texts import written_text

    with writing(out, overwrite=overwrite), counted(f"{merge.plan.recipe.method} merge") as step:
        written = merge.write(out, overwrite=overwrite, listen=step)
    for remark in written.remarks:
        note(f"note: {remark}")
    verdict = judge(out) if judge is not None else None
    emit_gated(written.as_dict() | extra, verdict, as_json, written_text)
    hint("duet", "predict", out, "IMAGES")
    if verdict is not None:
        verdict.require(out)
