"""Puts the warm-up and decay of the learning rates on an optimizer."""

from __future__ import annotations

import math

import torch
from transformers import get_scheduler

from plugins.optimizer.group_options import ScheduleOptions
from runner.stages import ScheduledOptimizer


def scheduled(optimizer: torch.optim.Optimizer, options: ScheduleOptions, num_steps: int) -> ScheduledOptimizer:
    """Attach the schedule that the options name.

    Args:
        optimizer: Its rates are the peak rates.
        options: With schedule and warm-up.
        num_steps: Optimizer steps of the whole training, over which the rates rise and fall.
    """
    name = "constant_with_warmup" if options.schedule == "constant" else options.schedule
    schedule = get_scheduler(
        name, optimizer, num_warmup_steps=math.ceil(num_steps * options.warmup), num_training_steps=num_steps
    )
    return ScheduledOptimizer(optimizer, schedule)
