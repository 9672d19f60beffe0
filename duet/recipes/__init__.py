"""Recipes: one YAML is one merge of kept increments, detectors or foreign files.

Names load on first use, so that importing this package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duet.recipes.apply import Remerged, merge_plan
    from duet.recipes.plan import Plan, make_plan
    from duet.recipes.recipe import Entry, Recipe, load_recipe
    from duet.recipes.write import write_detector

__all__ = [
    "Entry",
    "Plan",
    "Recipe",
    "Remerged",
    "load_recipe",
    "make_plan",
    "merge_plan",
    "write_detector",
]

_HOME = {
    "Entry": "recipe",
    "Plan": "plan",
    "Recipe": "recipe",
    "Remerged": "apply",
    "merge_plan": "apply",
    "load_recipe": "recipe",
    "make_plan": "plan",
    "write_detector": "write",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'duet.recipes' has no attribute '{name}'")
    return getattr(importlib.import_module(f"duet.recipes.{_HOME[name]}"), name)
