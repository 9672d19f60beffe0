"""What several commands do: a run or a merge, and saying what came out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from duet.cli.common import emit, hint, writing
from duet.progress import counted, note, stages
from duet.text import printable

if TYPE_CHECKING:
    from duet.recipes.prepared import Prepared
    from duet.runs.plan import RunPlan


def perform(plan: RunPlan, *, dry_run: bool, as_json: bool) -> None:
    """Do a plan, or say what it would do, and print what came out."""
    from duet.report.cautions import learned_nothing, off_published
    from duet.report.markdown import REPORT_FILE
    from duet.report.tables import summary_text
    from duet.runs.plan import plan_as_dict, plan_as_text
    from duet.runs.run import learn, require_chains, summary
    from duet.runs.walls import require_runnable

    if dry_run:
        require_chains((plan,))
        require_runnable(plan)
        emit(plan_as_dict(plan), as_json, lambda _: plan_as_text(plan))
        return
    with stages() as show:
        results = learn(plan, show)
    for line in (*learned_nothing(results), *off_published(results)):
        note(f"warning: {line}")
    report = plan.out / REPORT_FILE
    emit(summary(results, plan.out), as_json, lambda _: summary_text(results, report))
    for line in results.commands.next:
        note(f"next: {printable(line)}")


def write_merge(
    merge: Prepared, out: Path, extra: dict[str, Any], *, overwrite: bool, as_json: bool
) -> None:
    """Do a merge and print what came out, and ``extra`` with it in JSON."""
    from duet.recipes.texts import written_text

    with writing(out, overwrite=overwrite), counted(f"{merge.plan.recipe.method} merge") as step:
        written = merge.write(out, overwrite=overwrite, listen=step)
    for remark in written.remarks:
        note(f"note: {remark}")
    emit(written.as_dict() | extra, as_json, written_text)
    hint("duet", "predict", out, "IMAGES")
