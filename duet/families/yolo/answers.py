"""A YOLO detector of any head form that answers at every anchor, and learns to."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn
from ultralytics.nn.modules.head import Detect

from duet.families.answers import Answers, Look
from duet.families.rows import cut_rows
from duet.families.ultralytics.teacher import Teacher
from duet.families.yolo import build, roles
from duet.families.yolo.heads import TeachingHead
from duet.increments.state import DetectorState
from duet.training.precision import Precision
from duet.vectors.tensors import Tensors

_OF_PART = re.compile(
    r"heads\.(?P<head>\d+)\.|(?P<cv>(?:one2one_)?cv3\.\d+\.)towers\.(?P<tower>\d+)\."
)
"""What the names of several parts' tensors have in a joined head: in parallel, or in towers."""


class YoloAnswering:
    """See `duet.families.answers.Answering`.

    Args:
        start: The detector.
    """

    module: nn.Module

    def __init__(self, start: DetectorState) -> None:
        self._start, self._prefix = start, roles.RULES.head_of(start.architecture)
        model = build.inference_model(start)
        head = model.model[-1]
        self.bins = int(head.reg_max)
        model.model[-1] = TeachingHead(head, objects=False)
        self.module = model

    def look(self, images_B3SS: torch.Tensor) -> Sequence[Answers]:
        """Return the answers of each branch."""
        return _answers(self.module(images_B3SS)[1])

    def name_of(self, parameter: str) -> str:
        """Return the stock name of a parameter."""
        return parameter.replace(f"{self._prefix}head.", self._prefix, 1)

    def state(self, tensors: Tensors) -> DetectorState:
        """Return the state that holds these tensors."""
        start, rules, prefix = self._start, roles.RULES, self._prefix
        stock: dict[str, torch.Tensor] = {}
        parts: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            local = self.name_of(name).removeprefix(prefix)
            found = _OF_PART.match(local) if self.name_of(name).startswith(prefix) else None
            if found is None:
                stock[self.name_of(name)] = tensor
            elif rules.own_pattern(start.head).match(own := _OF_PART.sub(found["cv"] or "", local)):
                parts.setdefault(int(found["head"] or found["tower"] or 0), {})[own] = tensor
        if parts:
            shared = {name: stock[name] for name in start.shared}
            buffers = {name: stock[name] for name in start.buffers}
            told = (replace(part, tensors=parts[k]) for k, part in enumerate(start.parts))
            return replace(start, shared=shared, buffers=buffers, parts=tuple(told))
        split = rules.split_roles(stock, start.head)
        kept = cut_rows(split.own, start.parts) if start.head == "rows" else None
        return replace(
            start, shared=split.shared, buffers=split.buffers,
            parts=kept or (replace(start.parts[0], tensors=split.own),),
        )  # fmt: skip


def teaching_model(state: DetectorState, *, objects: bool) -> nn.Module:
    """Build a detector, folded, with all branches of its head, as `Teacher` wants it.

    Args:
        state: The detector.
        objects: It decodes its objects, too.
    """
    model = build.inference_model(state)
    for module in model.modules():
        if isinstance(module, Detect):
            module.fuse = _keep_branches
    folded: Any = model.fuse(verbose=False)
    folded.model[-1] = TeachingHead(folded.model[-1], objects=objects)
    return cast("nn.Module", folded)


def specialist(state: DetectorState, precision: Precision) -> Look:
    """Return what asks a detector that does not train; see `Family.specialist`."""
    return functools.partial(_asked, Teacher(teaching_model(state, objects=False), precision))


def _asked(network: Teacher, images_B3SS: torch.Tensor) -> Sequence[Answers]:
    return _answers(network(images_B3SS)[1])


def _answers(raw: dict[str, Any]) -> Sequence[Answers]:
    """Return the answers of each branch, the parts of parallel heads side by side."""
    heads = raw["parts"]
    return [
        Answers(
            torch.cat([head[branch]["scores"] for head in heads], 1),
            tuple(head[branch]["boxes"] for head in heads),
        )
        for branch in heads[0]
    ]


def _keep_branches() -> None:
    """Take the place of `Detect.fuse`, which would drop a branch before it is folded."""
