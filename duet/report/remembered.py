"""What a report says of old domains: measured now, or as remembered from their stages."""

from __future__ import annotations

from duet.report.phrases import count_of, percent, where
from duet.results.schema import Results, Stagewise


def sentences(results: Results) -> tuple[str, ...]:
    """Return one sentence per old increment of a folder that was made stage by stage."""
    if results.stagewise is None:
        return ()
    cells = {(one.stage, one.domain, one.classes): one.map50 for one in results.main.matrix}
    lines = []
    for stage, (domain, classes) in enumerate(results.series.steps[:-1], start=1):
        about = where(results, domain, classes)
        if (why := results.stagewise.unread.get(domain)) is None:
            lines.append(f"{about}: measured now, in its own images.")
            continue
        line = f"{about}: not measured now: {why}"
        if (map50 := cells.get((stage, domain, classes))) is not None:
            line += f". As remembered from its stage: mAP50 {percent(map50)}"
        scores = results.main.scores_at(stage, domain)
        if scores is not None and scores.deployed is not None:
            seen = scores.deployed.total(classes)
            line += (
                f", {seen.found} of {count_of(seen.objects, 'object')} found and {seen.wrong} "
                "wrong at the threshold in use"
            )
            line += _without_maps(results.stagewise, stage, seen.found)
        lines.append(f"{line}.")
    return tuple(lines)


def _without_maps(known: Stagewise, stage: int, found: int) -> str:
    """Say what hangs on the score maps, which nobody can check without the images."""
    less = known.without_maps[stage - 1] if stage <= len(known.without_maps) else None
    if less is None or less >= found:
        return ""
    return (
        f"; later stages lowered its scores, which score maps take back: without them about {less} "
        f"of these {found} would be found (from the scores kept of its stage)"
    )
