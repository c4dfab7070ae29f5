"""AdamW with named groups of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from plugins.optimizer.adamw_options import AdamWOptions
from plugins.optimizer.group_options import AdamWConstants
from plugins.optimizer.groups import deal
from plugins.optimizer.schedule import scheduled
from runner.stages import ParameterGroup, ScheduledOptimizer


class AdamWOptimizer:
    """The plugin `adamw` of the stage `optimizer`."""

    def __init__(self, options: AdamWOptions) -> None:
        """Take the section's options."""
        self._options = options

    def groups(self, module: torch.nn.Module) -> Sequence[ParameterGroup]:
        """Assign each trainable parameter to its group; see `Optimizer.groups`.

        Raises:
            SpecError: A group wins no parameter, or a parameter is in no group.
        """
        return [group.described() for group in deal(module, self._options.groups, self._options)]

    def build(self, module: torch.nn.Module, num_steps: int) -> Sequence[ScheduledOptimizer]:
        """Make the optimizer and its schedule; see `Optimizer.build`."""
        parameters = [
            torch_group
            for group in deal(module, self._options.groups, self._options)
            for torch_group in group.torch_groups(decay_vectors=self._options.decay_vectors)
        ]
        return [scheduled(fused_adamw(parameters, self._options), self._options, num_steps)]


def fused_adamw(parameters: list[dict[str, Any]], constants: AdamWConstants) -> torch.optim.AdamW:
    """Make torch's AdamW with its fused kernel, which there is on CPU and CUDA alike."""
    return torch.optim.AdamW(parameters, betas=constants.betas, eps=constants.eps, fused=True)
