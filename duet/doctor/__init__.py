"""The doctor of data sets: what reading alone does not find, and repaired copies."""

from __future__ import annotations

from duet.doctor.examine import Diagnosis, examine
from duet.doctor.findings import Finding, findings

__all__ = ["Diagnosis", "Finding", "examine", "findings"]
