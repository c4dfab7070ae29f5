"""Deals a module's parameters out to the named groups of a spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from plugins.optimizer.group_options import GroupOptions, ScheduleOptions
from runner.errors import Problem, SpecError, SpecPath
from runner.stages import ParameterGroup

GROUPS: SpecPath = ("optimizer", "groups")
"""Where the groups stand in a spec."""

NAMES_SHOWN = 5
"""How many parameters an error lists before it only counts."""


@dataclass(frozen=True)
class Group:
    """A group with the parameters that it won.

    Attributes:
        name: In the spec.
        options: Its rates.
        weight_decay: Its own, or the section's.
        parameters: By full name, trainable ones alone.
    """

    name: str
    options: GroupOptions
    weight_decay: float
    parameters: Mapping[str, torch.nn.Parameter]

    def described(self) -> ParameterGroup:
        """What `runner plan` tells of it."""
        num_parameters = sum(parameter.numel() for parameter in self.parameters.values())
        return ParameterGroup(self.name, num_parameters, self.options.lr, self.weight_decay)

    def torch_groups(self, *, decay_vectors: bool) -> list[dict[str, Any]]:
        """The group as torch's optimizers take it: what decays, and what does not.

        Each carries the group's `name`, by which its rate is reported.
        """
        decayed = [p for p in self.parameters.values() if decay_vectors or p.ndim > 1]
        spared = [p for p in self.parameters.values() if not decay_vectors and p.ndim <= 1]
        return [
            {"name": self.name, "params": parameters, "lr": self.options.lr, "weight_decay": weight_decay}
            for parameters, weight_decay in ((decayed, self.weight_decay), (spared, 0.0))
            if parameters
        ]


def deal(module: torch.nn.Module, groups: Mapping[str, GroupOptions], section: ScheduleOptions) -> list[Group]:
    """Give each trainable parameter to the first group whose pattern it matches.

    Raises:
        SpecError: A group wins nothing, or parameters are left over; all of it at once.
    """
    won: dict[str, dict[str, torch.nn.Parameter]] = {name: {} for name in groups}
    left: list[str] = []
    trainable = {name: each for name, each in module.named_parameters() if each.requires_grad}
    for name, parameter in trainable.items():
        winner = next((group for group, options in groups.items() if fnmatchcase(name, options.match)), None)
        if winner is None:
            left.append(name)
        else:
            won[winner][name] = parameter
    problems = [
        _wins_nothing(name, groups[name].match, trainable) for name, parameters in won.items() if not parameters
    ]
    if left:
        problems.append(_left_over(left))
    if problems:
        raise SpecError(problems)
    return [
        Group(name, options, _own_or(options.weight_decay, section.weight_decay), won[name])
        for name, options in groups.items()
    ]


def _own_or(own: float | None, shared: float) -> float:
    return shared if own is None else own


def _wins_nothing(group: str, pattern: str, trainable: Mapping[str, object]) -> Problem:
    matched = [name for name in trainable if fnmatchcase(name, pattern)]
    message = (
        f"the pattern {pattern!r} matches {listed(matched)}, but an earlier group wins all of them; "
        "the first match wins, so put this group above the wider one"
        if matched
        else f"the pattern {pattern!r} matches no trainable parameter; names are such as "
        f"{', '.join(_spread(trainable))}"
    )
    return Problem(message, (*GROUPS, group, "match"))


def _left_over(names: Sequence[str]) -> Problem:
    message = f'no group matches {listed(names)}; add a group for them, such as one with match: "*" at the end'
    return Problem(message, GROUPS)


def _spread(names: Mapping[str, object]) -> list[str]:
    listed = list(names)
    return listed[:: max(1, len(listed) // NAMES_SHOWN)][:NAMES_SHOWN]


def listed(names: Sequence[str]) -> str:
    """Name the first few parameters and count the rest."""
    shown = ", ".join(names[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown
