"""Muon on matrices and AdamW on the rest, with named groups of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from plugins.optimizer.adamw import fused_adamw
from plugins.optimizer.groups import GROUPS, Group, deal, listed
from plugins.optimizer.muon_options import MuonGroupOptions, MuonOptions
from plugins.optimizer.schedule import scheduled
from runner.errors import Problem, SpecError
from runner.stages import ParameterGroup, ScheduledOptimizer


class MuonOptimizer:
    """The plugin `muon` of the stage `optimizer`."""

    def __init__(self, options: MuonOptions) -> None:
        """Take the section's options."""
        self._options = options

    def groups(self, module: torch.nn.Module) -> Sequence[ParameterGroup]:
        """Assign each trainable parameter to its group; see `Optimizer.groups`.

        Raises:
            SpecError: A group wins no parameter, a parameter is in no group, or Muon gets what is no matrix.
        """
        return [group.described() for group in self._dealt(module)]

    def build(self, module: torch.nn.Module, num_steps: int) -> Sequence[ScheduledOptimizer]:
        """Make an optimizer for each algorithm in use, and their schedules; see `Optimizer.build`."""
        parameters: dict[str, list[dict[str, Any]]] = {"muon": [], "adamw": []}
        for group in self._dealt(module):
            parameters[_algorithm(group)] += group.torch_groups(decay_vectors=self._options.decay_vectors)
        optimizers: list[torch.optim.Optimizer] = []
        if parameters["muon"]:
            optimizers.append(torch.optim.Muon(parameters["muon"], momentum=self._options.momentum))
        if parameters["adamw"]:
            optimizers.append(fused_adamw(parameters["adamw"], self._options))
        return [scheduled(optimizer, self._options, num_steps) for optimizer in optimizers]

    def _dealt(self, module: torch.nn.Module) -> list[Group]:
        groups = deal(module, self._options.groups, self._options)
        if problems := [problem for group in groups for problem in _no_matrices(group)]:
            raise SpecError(problems)
        return groups


def _algorithm(group: Group) -> str:
    assert isinstance(group.options, MuonGroupOptions)
    return group.options.algorithm


def _no_matrices(group: Group) -> list[Problem]:
    if _algorithm(group) != "muon":
        return []
    odd = [f"{name} {tuple(each.shape)}" for name, each in group.parameters.items() if each.ndim != 2]
    if not odd:
        return []
    message = (
        f"Muon takes matrices alone; this group also wins {listed(odd)}; "
        "win them in a group above it that has algorithm: adamw"
    )
    return [Problem(message, (*GROUPS, group.name, "match"))]
