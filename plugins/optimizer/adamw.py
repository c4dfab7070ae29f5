"""AdamW with named groups of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from plugins.optimizer.adamw_options import AdamWOptions
from plugins.optimizer.group_options import AdamWConstants
from plugins.optimizer.grouped import GroupedOptimizer
from plugins.optimizer.schedule import scheduled
from runner.stages import ScheduledOptimizer


class AdamWOptimizer(GroupedOptimizer):
    """The plugin `adamw` of the stage `optimizer`."""

    def __init__(self, options: AdamWOptions) -> None:
        """Take the section's options."""
        super().__init__(options.groups, options)
        self._options = options

    def build(self, module: torch.nn.Module, num_steps: int) -> Sequence[ScheduledOptimizer]:
        """Make the optimizer and its schedule; see `Optimizer.build`."""
        parameters = [torch_group for group in self.dealt(module) for torch_group in group.torch_groups()]
        return [scheduled(fused_adamw(parameters, self._options), self._options, num_steps)]


def fused_adamw(parameters: list[dict[str, Any]], constants: AdamWConstants) -> torch.optim.AdamW:
    """Make torch's AdamW with its fused kernel, which there is on CPU and CUDA alike."""
    return torch.optim.AdamW(parameters, betas=constants.betas, eps=constants.eps, fused=True)
