"""An example optimizer: torch's SGD with the features of `GroupedOptimizer` (groups, freezing, adapters, manifest)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmre_examples.sgd_options import SgdOptions
from plugins.optimizer.grouped_optimizer import GroupedOptimizer, attach_schedule
from runner.stages import ScheduledOptimizer


class SgdOptimizer(GroupedOptimizer):
    """The plugin `sgd` of the stage `optimizer`."""

    def __init__(self, options: SgdOptions) -> None:
        """Store the options of the section."""
        super().__init__(options.groups, options)
        self._options = options

    def build(self, module: torch.nn.Module, num_steps: int) -> Sequence[ScheduledOptimizer]:
        """Create the optimizer and its schedule; see `Optimizer.build`."""
        parameters = [torch_group for group in self.assign_groups(module) for torch_group in group.torch_groups()]
        optimizer = torch.optim.SGD(parameters, momentum=self._options.momentum)
        return [attach_schedule(optimizer, self._options, num_steps)]
