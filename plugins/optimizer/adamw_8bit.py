"""Optimizer `adamw_8bit`: AdamW with its two moments in 8 bits, computed by bitsandbytes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.distributed.tensor import DTensor

from plugins.optimizer.grouped_optimizer import GroupedOptimizer, attach_schedule
from plugins.optimizer.optimizer_options import AdamW8bitOptions, require_bitsandbytes
from runner.errors import SpecError
from runner.stages import ScheduledOptimizer


class AdamW8bitOptimizer(GroupedOptimizer):
    """The plugin `adamw_8bit` of the stage `optimizer`."""

    def __init__(self, options: AdamW8bitOptions) -> None:
        """Take the section's options."""
        super().__init__(options.groups, options)
        self._options = options

    def build(self, module: torch.nn.Module, num_steps: int) -> Sequence[ScheduledOptimizer]:
        """Build the optimizer and its schedule; see `Optimizer.build`.

        Raises:
            RequirementError: bitsandbytes is not installed.
        """
        require_bitsandbytes("optimizer: `type: adamw_8bit`", "use `type: adamw`")
        from plugins.optimizer.quantized import make_adamw_8bit

        torch_groups = [torch_group for group in self.assign_groups(module) for torch_group in group.torch_groups()]
        return [attach_schedule(make_adamw_8bit(torch_groups, self._options), self._options, num_steps)]

    def check(self, module: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Check the optimizer before training; see `GroupedOptimizer.check`.

        Raises:
            SpecError: The weights are sharded, which bitsandbytes' optimizers cannot update.
            StepError: The optimizer does not train as its groups say.
        """
        if any(isinstance(parameter, DTensor) for parameter in module.parameters()):
            raise SpecError(
                "adamw_8bit cannot train sharded weights; use trainer.strategy: ddp, or type: adamw, whose moments "
                "fsdp shards over the workers",
                path=("optimizer", "type"),
            )
        super().check(module, optimizers)
