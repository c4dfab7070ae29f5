"""Optimizer `adamw`: AdamW with named parameter groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from plugins.optimizer.grouped_optimizer import GroupedOptimizer, attach_schedule, make_fused_adamw
from plugins.optimizer.optimizer_options import AdamWOptions
from runner.stages import ScheduledOptimizer


class AdamWOptimizer(GroupedOptimizer):
    """The plugin `adamw` of the stage `optimizer`."""

    def __init__(self, options: AdamWOptions) -> None:
        """Take the section's options."""
        super().__init__(options.groups, options)
        self._options = options

    def build(self, module: torch.nn.Module, num_steps: int) -> Sequence[ScheduledOptimizer]:
        """Build the optimizer and its schedule; see `Optimizer.build`."""
        torch_groups = [torch_group for group in self.assign_groups(module) for torch_group in group.torch_groups()]
        return [attach_schedule(make_fused_adamw(torch_groups, self._options), self._options, num_steps)]
