"""A relative ``path`` in a YOLO description, which other programs read from somewhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator

from duet.series.formats.documents import load_description
from duet.series.model import DomainData
from duet.series.problems import Problem, note


def path_problems(data: DomainData) -> Iterator[Problem]:
    """Yield a note if stock Ultralytics may not find the data set that duet finds."""
    document, _ = load_description(data.source)
    place = (document or {}).get("path")
    if isinstance(place, str) and place.strip() and not os.path.isabs(place):
        what = f"'path: {place[:80]}' is read from this file; Ultralytics reads it from the "
        what += "working folder, or from its own folder of data sets"
        remedy = "write the whole path; or leave 'path' out, and both read from this file"
        yield note("data.path", data.source, what, remedy)
