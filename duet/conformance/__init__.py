"""What every detector family must do, as checks that any test suite can run.

    from duet.conformance import CHECKS, Case

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_my_family(check, tmp_path):
        check(Case("mine", "mine-tiny"), tmp_path)

docs/new_family.md walks through adding a family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from duet.conformance.case import Case
from duet.conformance.structure import (
    check_class_tensors,
    check_merge,
    check_row,
    check_rows_survive,
    check_scores,
    check_split,
    check_start_by_name,
    check_stored,
)
from duet.conformance.training import (
    check_adapts,
    check_exported,
    check_learns,
    check_refines,
    check_resumes,
)

Check = Callable[[Case, Path], None]

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "row": check_row,
        "split": check_split,
        "class-tensors": check_class_tensors,
        "start-by-name": check_start_by_name,
        "rows-survive": check_rows_survive,
        "scores": check_scores,
        "stored": check_stored,
        "merge": check_merge,
        "learns": check_learns,
        "adapts": check_adapts,
        "refines": check_refines,
        "resumes": check_resumes,
        "exported": check_exported,
    }
)
"""Every check takes a case and an empty folder, and raises `AssertionError`."""

__all__ = ["CHECKS", "Case"]
