"""Deals a module's parameters out to the named groups of a spec."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from plugins.optimizer.group_options import GroupOptions, ScheduleOptions
from runner.errors import Problem, SpecError, SpecPath
from runner.stages import ParameterRow

GROUPS: SpecPath = ("optimizer", "groups")
"""Where the groups stand in a spec."""

NAMES_SHOWN = 5
"""How many parameters an error lists before it only counts."""

_ADAPTER = re.compile(r"\.lora_[AB]\.[^.]+\.weight$")


@dataclass(frozen=True)
class Group:
    """A group with the parameters that it won.

    Attributes:
        name: In the spec.
        options: Its rates.
        weight_decay: Its own, or the section's.
        parameters: By full name, those that do not learn among them.
        spared: Names of those that do not decay.
    """

    name: str
    options: GroupOptions
    weight_decay: float
    parameters: Mapping[str, torch.nn.Parameter]
    spared: frozenset[str]

    @property
    def learning(self) -> dict[str, torch.nn.Parameter]:
        """Those that learn."""
        return {name: each for name, each in self.parameters.items() if each.requires_grad}

    def rows(self) -> list[ParameterRow]:
        """The group's part of the manifest."""
        return [
            ParameterRow(
                name=name,
                group=self.name,
                lr=self.options.lr if each.requires_grad else None,
                weight_decay=self._decay(name) if each.requires_grad else None,
                trainable=each.requires_grad,
                num_parameters=each.numel(),
            )
            for name, each in self.parameters.items()
        ]

    def _decay(self, name: str) -> float:
        return 0.0 if name in self.spared else self.weight_decay

    def torch_groups(self) -> list[dict[str, Any]]:
        """The group as torch's optimizers take it: what decays, and what does not.

        Each carries the group's `name`, by which its rate is reported.
        """
        decayed = [each for name, each in self.learning.items() if name not in self.spared]
        spared = [each for name, each in self.learning.items() if name in self.spared]
        return [
            {"name": self.name, "params": parameters, "lr": self.options.lr, "weight_decay": weight_decay}
            for parameters, weight_decay in ((decayed, self.weight_decay), (spared, 0.0))
            if parameters
        ]


def deal(module: torch.nn.Module, groups: Mapping[str, GroupOptions], section: ScheduleOptions) -> list[Group]:
    """Give each parameter to the first group whose pattern it matches.

    An adapter goes where the weight goes that it adapts.

    Raises:
        SpecError: A group wins nothing that can learn, or parameters are left over; all of it at once.
    """
    won: dict[str, dict[str, torch.nn.Parameter]] = {name: {} for name in groups}
    left: list[str] = []
    for name, parameter in module.named_parameters():
        own = original_name(name)
        winner = next((group for group, options in groups.items() if fnmatchcase(own, options.match)), None)
        if winner is not None:
            won[winner][name] = parameter
        elif parameter.requires_grad:
            left.append(own)
    problems = [
        _wins_nothing(name, groups[name], module)
        for name, parameters in won.items()
        if not _serves(groups[name], parameters)
    ]
    if left:
        problems.append(_left_over(left))
    if problems:
        raise SpecError(problems)
    spared = _spared(module, section)
    return [
        Group(name, options, _own_or(options.weight_decay, section.weight_decay), won[name], spared)
        for name, options in groups.items()
    ]


def original_name(name: str) -> str:
    """The name that a parameter has without adapters; of an adapter, that of the weight it adapts."""
    return _ADAPTER.sub(".weight", name).replace(".base_layer.", ".")


def _serves(options: GroupOptions, parameters: Mapping[str, torch.nn.Parameter]) -> bool:
    return bool(parameters) if options.frozen else any(each.requires_grad for each in parameters.values())


def _spared(module: torch.nn.Module, section: ScheduleOptions) -> frozenset[str]:
    """Names of the parameters that do not decay."""
    named = dict(module.named_parameters())
    if section.decayed == "all":
        return frozenset()
    if section.decayed == "matrices":
        return frozenset(name for name, each in named.items() if each.ndim <= 1)
    layer_norms = {
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        if isinstance(part, torch.nn.LayerNorm)
        for name, _ in part.named_parameters(recurse=False)
    }
    return frozenset(name for name in named if name in layer_norms or "bias" in name)


def _own_or(own: float | None, shared: float) -> float:
    return shared if own is None else own


def _wins_nothing(group: str, options: GroupOptions, module: torch.nn.Module) -> Problem:
    names = [original_name(name) for name, each in module.named_parameters() if each.requires_grad]
    matched = [name for name in names if fnmatchcase(name, options.match)]
    message = (
        f"the pattern {options.match!r} matches {listed(matched)}, but an earlier group wins all of them; "
        "the first match wins, so put this group above the wider one"
        if matched
        else f"the pattern {options.match!r} matches no trainable parameter; names are such as "
        f"{', '.join(_spread(names))}"
    )
    return Problem(message, (*GROUPS, group, "match"))


def _left_over(names: Sequence[str]) -> Problem:
    message = f'no group matches {listed(names)}; add a group for them, such as one with match: "*" at the end'
    return Problem(message, GROUPS)


def _spread(names: Sequence[str]) -> Sequence[str]:
    return names[:: max(1, len(names) // NAMES_SHOWN)][:NAMES_SHOWN]


def listed(names: Sequence[str]) -> str:
    """Name the first few parameters and count the rest."""
    shown = ", ".join(names[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown
