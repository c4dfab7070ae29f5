"""Named parameter groups: assigns a module's parameters to them, and puts LoRA adapters on them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from plugins.optimizer.optimizer_options import GroupOptions, ScheduleOptions
from runner.errors import Problem, SpecError, SpecPath
from runner.stages import ParameterRow

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel


GROUPS: SpecPath = ("optimizer", "groups")
"""Where the groups stand in a spec."""

NAMES_SHOWN = 5
"""How many parameters an error lists before it only counts."""

_ADAPTER = re.compile(r"\.lora_[AB]\.[^.]+\.weight$")


@dataclass(frozen=True)
class ParamGroup:
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


def assign_param_groups(
    module: torch.nn.Module, groups: Mapping[str, GroupOptions], section: ScheduleOptions
) -> list[ParamGroup]:
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
    spared = _no_decay(module, section)
    return [
        ParamGroup(name, options, _own_or(options.weight_decay, section.weight_decay), won[name], spared)
        for name, options in groups.items()
    ]


def original_name(name: str) -> str:
    """The name that a parameter has without adapters; of an adapter, that of the weight it adapts."""
    return _ADAPTER.sub(".weight", name).replace(".base_layer.", ".")


def _serves(options: GroupOptions, parameters: Mapping[str, torch.nn.Parameter]) -> bool:
    return bool(parameters) if options.frozen else any(each.requires_grad for each in parameters.values())


def _no_decay(module: torch.nn.Module, section: ScheduleOptions) -> frozenset[str]:
    """Names of the parameters that do not decay."""
    named = dict(module.named_parameters())
    if section.weight_decay_on == "all":
        return frozenset()
    if section.weight_decay_on == "matrices":
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


ADAPTER = "default"
"""The one name under which peft keeps the adapters of all groups."""


def adapt(module: torch.nn.Module, groups: Sequence[ParamGroup], seed: int) -> LoraModel | None:
    """Put adapters on the linear layers of the groups that ask for them; in place.

    Afterwards the adapters learn, and of those groups nothing else does.

    Args:
        module: The whole model, without adapters.
        groups: All groups, dealt.
        seed: For the adapters' random weights.

    Returns:
        What merges them back, for `merge`; None where no group asks for any.

    Raises:
        SpecError: A group that asks for adapters has no linear layer.
    """
    asking = [(group, _linear_layers(module, group)) for group in groups if group.options.lora is not None]
    if problems := [_no_layer(group) for group, layers in asking if not layers]:
        raise SpecError(problems)
    if not asking:
        return None
    from peft.tuners.lora import LoraModel

    learning = [parameter for group in groups if group.options.lora is None for parameter in group.learning.values()]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = LoraModel(module, _config(asking), ADAPTER)
    # It lets adapters alone learn; the groups without any go on as they did.
    for parameter in learning:
        parameter.requires_grad_(True)
    return adapted


def merge(adapted: LoraModel) -> None:
    """Add the adapters to the weights that they adapt, and put the plain layers back in their places; in place.

    Raises:
        ValueError: A merged weight would not be a number.
    """
    adapted.merge_and_unload(safe_merge=True)


def _config(asking: Sequence[tuple[ParamGroup, Sequence[str]]]) -> LoraConfig:
    """One configuration for all groups, the rank and scale of each layer under its name."""
    from peft import LoraConfig

    asked = {layer: group.options.lora for group, layers in asking for layer in layers if group.options.lora}
    return LoraConfig(
        target_modules=list(asked),
        rank_pattern={f"^{re.escape(layer)}": each.rank for layer, each in asked.items()},
        alpha_pattern={f"^{re.escape(layer)}": each.alpha for layer, each in asked.items()},
    )


def _linear_layers(module: torch.nn.Module, group: ParamGroup) -> list[str]:
    output = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None  # type: ignore[no-untyped-call]
    return [
        path
        for path, part in module.named_modules()
        if isinstance(part, torch.nn.Linear) and part is not output and f"{path}.weight" in group.parameters
    ]


def _no_layer(group: ParamGroup) -> Problem:
    message = "lora adapts linear layers, and this group has none; leave lora out, or match others"
    return Problem(message, (*GROUPS, group.name, "lora"))
