"""What a report says of old domains: measured now, or as remembered from their stages."""

from __future__ import annotations

from duet.report.phrases import count_of, percent, where
from duet.results.schema import Results


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
        lines.append(f"{line}.")
    return tuple(lines)
