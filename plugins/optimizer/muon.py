"""Muon on matrices and AdamW on the rest, with named groups of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from plugins.optimizer.adamw import fused_adamw
from plugins.optimizer.cpu_muon import CpuMuon
from plugins.optimizer.grouped import GroupedOptimizer
from plugins.optimizer.groups import GROUPS, Group, listed
from plugins.optimizer.muon_options import MuonGroupOptions, MuonOptions
from plugins.optimizer.schedule import scheduled
from runner.errors import Problem, SpecError
from runner.stages import ScheduledOptimizer


class MuonOptimizer(GroupedOptimizer):
    """The plugin `muon` of the stage `optimizer`."""

    def __init__(self, options: MuonOptions) -> None:
        """Take the section's options."""
        super().__init__(options.groups, options)
        self._options = options

    def dealt(self, module: torch.nn.Module) -> list[Group]:
        """The groups with their parameters; see `deal`.

        Raises:
            SpecError: Muon gets what is no matrix.
        """
        groups = super().dealt(module)
        if problems := [problem for group in groups for problem in _no_matrices(group)]:
            raise SpecError(problems)
        return groups

    def build(self, module: torch.nn.Module, num_steps: int) -> Sequence[ScheduledOptimizer]:
        """Make an optimizer for each algorithm in use, and their schedules; see `Optimizer.build`."""
        parameters: dict[str, list[dict[str, Any]]] = {"muon": [], "adamw": []}
        for group in self.dealt(module):
            parameters[_algorithm(group)] += group.torch_groups()
        optimizers: list[torch.optim.Optimizer] = []
        if parameters["muon"]:
            optimizers.append(CpuMuon(parameters["muon"], momentum=self._options.momentum))
        if parameters["adamw"]:
            optimizers.append(fused_adamw(parameters["adamw"], self._options))
        return [scheduled(optimizer, self._options, num_steps) for optimizer in optimizers]


def _algorithm(group: Group) -> str:
    assert isinstance(group.options, MuonGroupOptions)
    return group.options.algorithm


def _no_matrices(group: Group) -> list[Problem]:
    if _algorithm(group) != "muon":
        return []
    odd = [f"{name} {tuple(each.shape)}" for name, each in group.learning.items() if each.ndim != 2]
    if not odd:
        return []
    message = (
        f"Muon takes matrices alone; this group also wins {listed(odd)}; "
        "win them in a group above it that has algorithm: adamw"
    )
    return [Problem(message, (*GROUPS, group.name, "match"))]
