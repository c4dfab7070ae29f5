"""Optimizers with named parameter groups, and AdamW."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import get_scheduler

from plugins.optimizer.optimizer_options import AdamWConstants, AdamWOptions, GroupOptions, ScheduleOptions
from plugins.optimizer.param_groups import ParamGroup, adapt, assign_param_groups, listed, merge, original_name
from runner.errors import StepError
from runner.stages import ParameterRow, ScheduledOptimizer

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel


class GroupedOptimizer:
    """Freezes and adapts a module as its groups say, and vouches for it; subclasses build the optimizers."""

    def __init__(self, groups: Mapping[str, GroupOptions], section: ScheduleOptions) -> None:
        """Take the section's groups and what they share."""
        self._groups, self._section = groups, section
        self._adapted: LoraModel | None = None
        self._fixed: dict[str, str] = {}

    def prepare(self, module: torch.nn.Module, seed: int) -> Sequence[ParameterRow]:
        """Freeze, adapt, and list every parameter; see `Optimizer.prepare`.

        Raises:
            SpecError: A group wins no parameter, a parameter is in no group, or adapters have no layer to sit on.
        """
        groups = self.assign_groups(module)
        for group in groups:
            if group.options.frozen:
                for parameter in group.parameters.values():
                    parameter.requires_grad_(False)
        self._adapted = adapt(module, groups, seed)
        self._fixed = _digests(module)
        return [row for group in self.assign_groups(module) for row in group.rows()]

    def assign_groups(self, module: torch.nn.Module) -> list[ParamGroup]:
        """The groups with their parameters; see `assign_param_groups`."""
        return assign_param_groups(module, self._groups, self._section)

    def check(self, module: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Compare what is about to train with the groups; see `Optimizer.check`.

        Raises:
            StepError: A parameter learns otherwise than its group says, or not at all, or is not to learn.
        """
        live = {
            id(parameter): (group.get("initial_lr", group["lr"]), group["weight_decay"])
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        rows = [row for group in self.assign_groups(module) for row in group.rows()]
        named = dict(module.named_parameters())
        for row in rows:
            found = live.pop(id(named[row.name]), None)
            wanted = (row.lr, row.weight_decay) if row.trainable else None
            if found != wanted:
                raise StepError(
                    f"the optimizer does not train {row.name} as the group {row.group!r} says: (lr, weight_decay) is "
                    f"{found}, and should be {wanted}; None is for what does not learn"
                )
        if live:
            raise StepError(f"the optimizer trains {len(live)} parameter(s) that are none of the model's")

    def finish(self, module: torch.nn.Module) -> None:
        """Prove that what was not to learn is unchanged, and merge adapters; see `Optimizer.finish`.

        Raises:
            StepError: Weights changed that were not to learn.
        """
        now = _digests(module)
        changed = [original_name(name) for name, digest in self._fixed.items() if now.get(name) != digest]
        if changed:
            raise StepError(f"{listed(changed)} changed in training, although nothing there was to learn")
        if self._adapted is not None:
            merge(self._adapted)
            self._adapted = None


def _digests(module: torch.nn.Module) -> dict[str, str]:
    """Hash the weights that do not learn: SHA-256 over their bytes; those without memory (meta) are left out."""
    return {
        name: hashlib.sha256(each.detach().cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()
        for name, each in module.named_parameters()
        if not each.requires_grad and not each.is_meta
    }


def with_schedule(optimizer: torch.optim.Optimizer, options: ScheduleOptions, num_steps: int) -> ScheduledOptimizer:
    """Attach the schedule that the options name.

    Args:
        optimizer: Its rates are the peak rates.
        options: With schedule and warm-up.
        num_steps: Optimizer steps of the whole training, over which the rates rise and fall.
    """
    name = "constant_with_warmup" if options.lr_schedule == "constant" else options.lr_schedule
    schedule = get_scheduler(
        name, optimizer, num_warmup_steps=math.ceil(num_steps * options.warmup_ratio), num_training_steps=num_steps
    )
    return ScheduledOptimizer(optimizer, schedule)


class AdamWOptimizer(GroupedOptimizer):
    """The plugin `adamw` of the stage `optimizer`."""

    def __init__(self, options: AdamWOptions) -> None:
        """Take the section's options."""
        super().__init__(options.groups, options)
        self._options = options

    def build(self, module: torch.nn.Module, num_steps: int) -> Sequence[ScheduledOptimizer]:
        """Make the optimizer and its schedule; see `Optimizer.build`."""
        parameters = [torch_group for group in self.assign_groups(module) for torch_group in group.torch_groups()]
        return [with_schedule(fused_adamw(parameters, self._options), self._options, num_steps)]


def fused_adamw(parameters: list[dict[str, Any]], constants: AdamWConstants) -> torch.optim.AdamW:
    """Make torch's AdamW with its fused kernel, which there is on CPU and CUDA alike."""
    return torch.optim.AdamW(parameters, betas=constants.betas, eps=constants.eps, fused=True)
