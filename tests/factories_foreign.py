"""Checkpoints as Ultralytics writes them, of small detectors that it builds."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from factories_states import images
from factories_yolo import YOLO11N
from torch import nn
from ultralytics.nn.tasks import DetectionModel

CLASSES = ("cat", "traffic light", "Ärger")


@functools.cache
def original(architecture: str = YOLO11N, count: int = 3) -> Any:
    """Return a stock detector as Ultralytics builds it; tower width is tied to the class count."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(count)
        return enlivened(DetectionModel(architecture, nc=count, verbose=False), count)


def enlivened(model: Any, count: int) -> Any:
    """Give a fresh network statistics of its own, so that signals reach the head, and names."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics of all batches, so that nothing dies out
    with torch.no_grad():
        for seed in range(2):
            model(images(4, 64, seed))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.03
    names = CLASSES if count == len(CLASSES) else [f"class {i}" for i in range(count)]
    model.names, model.task = dict(enumerate(names)), "detect"
    return model.eval()


def stored(
    path: Path, model: Any = None, change: Callable[[Any], object] | None = None, **content: Any
) -> Path:
    """Write a checkpoint as `strip_optimizer` leaves it: half precision."""
    model = copy.deepcopy(model if model is not None else original())
    if change is not None:
        change(model)
    train_args = {"imgsz": 320, "model": "/data/private/yolo11n.pt", "pretrained": True}
    checkpoint = {
        "epoch": -1, "model": model.half(), "ema": None, "optimizer": None,
        "train_args": {"task": "detect", **train_args}, "date": "2026-01-02T03:04:05",
        "version": "8.4.190", "license": "AGPL-3.0 License",
    }  # fmt: skip
    torch.save({**checkpoint, **content}, path)
    return path


def described(**changes: Any) -> Callable[[Any], object]:
    return lambda model: model.yaml.update(changes)


class Payload(nn.Module):
    """Creates a file when it is unpickled: the harmless stand-in for any program."""

    def __init__(self, canary: Path) -> None:
        super().__init__()
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)
