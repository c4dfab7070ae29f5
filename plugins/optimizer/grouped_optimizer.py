"""The base of optimizers with named parameter groups: freezing, LoRA, learning-rate schedule, manifest and checks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from plugins.optimizer.optimizer_options import AdamWConstants, GroupOptions, LrSchedule, ScheduleOptions
from plugins.optimizer.param_groups import ParamGroup, assign_param_groups, format_names, original_name
from runner.errors import StepError
from runner.stages import ParameterRow, ScheduledOptimizer

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel


class GroupedOptimizer:
    """Freezes and adapts a module as its groups say, and verifies the result; subclasses build the optimizers."""

    def __init__(self, groups: Mapping[str, GroupOptions], section: ScheduleOptions) -> None:
        """Take the section's groups and the options that they share."""
        self._groups, self._section = groups, section
        self._lora_model: LoraModel | None = None
        self._frozen_digests: dict[str, str] = {}

    def prepare(self, module: torch.nn.Module, seed: int) -> Sequence[ParameterRow]:
        """Freeze parameters, add adapters and list every parameter; see `Optimizer.prepare`.

        Raises:
            SpecError: A group gets no parameter, a parameter is in no group, or adapters find no linear layer.
        """
        groups = self.assign_groups(module)
        for group in groups:
            if group.options.frozen:
                for parameter in group.parameters.values():
                    parameter.requires_grad_(False)
        if any(group.options.lora for group in groups):
            from plugins.optimizer.lora import add_adapters

            self._lora_model = add_adapters(module, groups, seed)
        self._frozen_digests = _digests(module)
        return [row for group in self.assign_groups(module) for row in group.rows()]

    def assign_groups(self, module: torch.nn.Module) -> list[ParamGroup]:
        """Return the groups with their parameters; see `assign_param_groups`."""
        return assign_param_groups(module, self._groups, self._section)

    def check(self, module: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Compare the optimizers with the groups before training; see `Optimizer.check`.

        Raises:
            StepError: A parameter's learning rate or weight decay differs from its group's, a trainable parameter is
                missing, or a frozen one is trained.
        """
        actual_settings = {
            id(parameter): (group.get("initial_lr", group["lr"]), group["weight_decay"])
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        rows = [row for group in self.assign_groups(module) for row in group.rows()]
        parameters = dict(module.named_parameters())
        for row in rows:
            actual = actual_settings.pop(id(parameters[row.name]), None)
            expected = (row.lr, row.weight_decay) if row.trainable else None
            if actual != expected:
                raise StepError(
                    f"the optimizer does not train {row.name} as the group {row.group!r} says: (lr, weight_decay) is "
                    f"{actual}, and should be {expected}; None means not trained"
                )
        if actual_settings:
            raise StepError(f"the optimizer trains {len(actual_settings)} parameter(s) that do not belong to the model")

    def finish(self, module: torch.nn.Module) -> None:
        """Verify that frozen weights are unchanged, and merge adapters; see `Optimizer.finish`.

        Raises:
            StepError: Frozen weights changed.
        """
        digests = _digests(module)
        changed = [original_name(name) for name, digest in self._frozen_digests.items() if digests.get(name) != digest]
        if changed:
            raise StepError(f"{format_names(changed)} changed in training, although frozen")
        if self._lora_model is not None:
            from plugins.optimizer.lora import merge_adapters

            merge_adapters(self._lora_model)
            self._lora_model = None


def attach_schedule(optimizer: torch.optim.Optimizer, options: ScheduleOptions, num_steps: int) -> ScheduledOptimizer:
    """Attach the learning-rate schedule that the options name.

    Args:
        optimizer: The optimizer; its learning rates are the peak rates.
        options: Options with schedule and warm-up.
        num_steps: Optimizer steps of the whole training, over which the rates rise and fall.
    """
    factor = partial(
        learning_rate_factor,
        lr_schedule=options.lr_schedule,
        num_warmup_steps=math.ceil(num_steps * options.warmup_ratio),
        num_steps=num_steps,
    )
    return ScheduledOptimizer(optimizer, LambdaLR(optimizer, factor))


def learning_rate_factor(step: int, lr_schedule: LrSchedule, num_warmup_steps: int, num_steps: int) -> float:
    """Return the share of the peak learning rate at a step: `get_scheduler` of transformers computes the same.

    Importing that function would import peft and bitsandbytes with it, which takes more than a second in each process.

    Args:
        step: Optimizer steps that were taken.
        lr_schedule: How the rate changes after the warm-up.
        num_warmup_steps: Optimizer steps over which the rate rises from zero to its peak.
        num_steps: Optimizer steps of the whole training.
    """
    if step < num_warmup_steps:
        return step / num_warmup_steps
    num_steps_after_warmup = max(1, num_steps - num_warmup_steps)
    match lr_schedule:
        case "cosine":
            progress = (step - num_warmup_steps) / num_steps_after_warmup
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        case "linear":
            return max(0.0, (num_steps - step) / num_steps_after_warmup)
        case "constant":
            return 1.0


def make_fused_adamw(torch_groups: list[dict[str, Any]], constants: AdamWConstants) -> torch.optim.AdamW:
    """Build torch's AdamW with its fused kernel, which exists on CPU and CUDA."""
    return torch.optim.AdamW(torch_groups, betas=constants.betas, eps=constants.eps, fused=True)


def _digests(module: torch.nn.Module) -> dict[str, str]:
    """Return the SHA-256 of the bytes of each frozen weight in float32, except on the meta device.

    A trainer may convert weights from bfloat16, which float32 contains exactly.
    """
    return {
        name: hashlib.sha256(parameter.detach().cpu().float().contiguous().view(torch.uint8).numpy().data).hexdigest()
        for name, parameter in module.named_parameters()
        if not parameter.requires_grad and not parameter.is_meta
    }
