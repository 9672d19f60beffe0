"""The optimizer of a job and its learning rate over time."""

from __future__ import annotations

import math

import torch
from torch import nn

from duet.training.job import Job


def make_optimizer(module: nn.Module, job: Job) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with Nesterov momentum, over the trainable parameters.

    Weight decay is for matrices and kernels; scales and biases have none.
    """
    schedule, decay = job.schedule, weight_decay(job)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    peak = peak_rate(job)
    if schedule.optimizer == "SGD":
        nesterov = schedule.momentum > 0
        made: torch.optim.Optimizer = torch.optim.SGD(
            groups, peak, momentum=schedule.momentum, nesterov=nesterov
        )
    else:  # a momentum of 1 is allowed for SGD; AdamW needs less
        betas = (min(schedule.momentum, 0.999), 0.999)
        made = torch.optim.AdamW(groups, peak, betas=betas)
    return in_one_pass(made)


def in_one_pass(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Have an optimizer of torch's step each tensor in one pass, where its device can.

    The same sums in another order of rounding: 7 in place of 18 ms for YOLO11n on a CPU. Gradients
    and what is remembered must lie in memory as their parameter does; `lay_out_state` sees to it.
    """
    for group in optimizer.param_groups:
        kinds = {parameter.device.type for parameter in group["params"]}
        if kinds <= {"cpu", "cuda"}:
            group.update(fused=True, foreach=False)
    return optimizer


def peak_rate(job: Job) -> float:
    """Return the peak learning rate of the job's phase."""
    return job.schedule.lr if job.phase == "base" else job.schedule.increment_lr


def weight_decay(job: Job) -> float:
    """Return the weight decay of the job's phase."""
    schedule = job.schedule
    if job.phase != "base" and schedule.weight_decay_increment is not None:
        return schedule.weight_decay_increment
    return schedule.weight_decay


def learning_rate(job: Job, done: int, steps: int) -> float:
    """Return the learning rate of a step.

    Args:
        job: Peak, shape and warm-up.
        done: Steps of the job before this one.
        steps: Steps in an epoch.
    """
    schedule = job.schedule
    share = done / (schedule.epochs * steps)
    one_cycle = schedule.decay == "one-cycle"
    rest = (1 + math.cos(math.pi * share)) / 2 if one_cycle else 1 - share
    rate = peak_rate(job) * (schedule.final_lr + (1 - schedule.final_lr) * rest)
    warm_up = round(schedule.warm_up * steps)
    return rate * min(1.0, (done + 1) / warm_up) if warm_up else rate
