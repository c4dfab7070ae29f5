"""Named parameter groups: assigns a module's parameters to them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from plugins.optimizer.optimizer_options import GroupOptions, ScheduleOptions
from runner.errors import Problem, SpecError, SpecPath
from runner.stages import ParameterRow

GROUPS_PATH: SpecPath = ("optimizer", "groups")
"""Path of the groups in a spec."""

MAX_NAMES_LISTED = 5
"""Number of parameters that an error lists; the others are counted."""

_ADAPTER_WEIGHT = re.compile(r"\.lora_[AB]\.[^.]+\.weight$")


@dataclass(frozen=True)
class ParamGroup:
    """A parameter group and the parameters assigned to it.

    Attributes:
        name: The group's name in the spec.
        options: The group's options.
        weight_decay: The group's weight decay, or the section's.
        parameters: Parameters by full name, frozen ones included.
        no_decay: Names of the parameters without weight decay.
    """

    name: str
    options: GroupOptions
    weight_decay: float
    parameters: Mapping[str, torch.nn.Parameter]
    no_decay: frozenset[str]

    @property
    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The trainable parameters."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.requires_grad}

    def rows(self) -> list[ParameterRow]:
        """Return the group's rows of the parameter table."""
        return [
            ParameterRow(
                name=name,
                group=self.name,
                lr=self.options.lr if parameter.requires_grad else None,
                weight_decay=self._decay(name) if parameter.requires_grad else None,
                trainable=parameter.requires_grad,
                num_parameters=count_weights(parameter),
            )
            for name, parameter in self.parameters.items()
        ]

    def _decay(self, name: str) -> float:
        return 0.0 if name in self.no_decay else self.weight_decay

    def torch_groups(self) -> list[dict[str, Any]]:
        """Return the group as groups of torch's optimizers: parameters with weight decay, and those without.

        Each has the group's `name`, under which its learning rate is reported.
        """
        decayed = [parameter for name, parameter in self.trainable.items() if name not in self.no_decay]
        not_decayed = [parameter for name, parameter in self.trainable.items() if name in self.no_decay]
        return [
            {"name": self.name, "params": parameters, "lr": self.options.lr, "weight_decay": weight_decay}
            for parameters, weight_decay in ((decayed, self.weight_decay), (not_decayed, 0.0))
            if parameters
        ]


def count_weights(parameter: torch.nn.Parameter) -> int:
    """Count the weights of a parameter; two weights of 4 bits share a byte."""
    quant_state = getattr(parameter, "quant_state", None)
    return parameter.numel() if quant_state is None else int(quant_state.shape.numel())


def assign_param_groups(
    module: torch.nn.Module, groups: Mapping[str, GroupOptions], section: ScheduleOptions
) -> list[ParamGroup]:
    """Assign each parameter to the first group whose pattern it matches and that takes parameters of its shape.

    An adapter belongs to the group of the weight that it adapts.

    Raises:
        SpecError: A group that is not optional gets no trainable parameter, or parameters are left over; all problems
            at once.
    """
    assigned: dict[str, dict[str, torch.nn.Parameter]] = {name: {} for name in groups}
    unmatched: list[str] = []
    parts = model_parts(module) if any(options.match is None for options in groups.values()) else {}
    for name, parameter in module.named_parameters():
        original = original_name(name)
        match = next(
            (
                group
                for group, options in groups.items()
                if options.takes(parameter.ndim) and _matches(original, group, options, parts.get(original))
            ),
            None,
        )
        if match is not None:
            assigned[match][name] = parameter
        elif parameter.requires_grad:
            unmatched.append(f"{original} {tuple(parameter.shape)}")
    problems = [
        _empty_group_problem(name, groups[name], module)
        for name, parameters in assigned.items()
        if not _is_used(groups[name], parameters) and not groups[name].optional
    ]
    if unmatched:
        problems.append(_unmatched_problem(unmatched))
    if problems:
        raise SpecError(problems)
    no_decay = _no_decay(module, section)
    return [
        ParamGroup(
            name,
            options,
            section.weight_decay if options.weight_decay is None else options.weight_decay,
            assigned[name],
            no_decay,
        )
        for name, options in groups.items()
    ]


MERGER_NAMES = (
    *("merger", "projector", "connector", "aligner", "resampler", "vision_projection", "embed_vision"),
    *("visual_embeddings_table", "image_newline"),
)
"""Words in the names of modules and weights between vision tower and language model, in transformers' families."""


def model_parts(module: torch.nn.Module) -> dict[str, str]:
    """Return the part of each parameter of a model, by its original name: `language`, `merger` or `vision`.

    The language model is the decoder that transformers names, with the embeddings and the output layer. Of the other
    modules, the merger has one of the usual names, outside the layers of the vision tower.
    """
    model: Any = module
    language = {
        id(parameter)
        for part in (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
        for parameter in part.parameters()
    }
    return {
        original_name(name): "language"
        if id(parameter) in language
        else "merger"
        if _is_merger(original_name(name))
        else "vision"
        for name, parameter in module.named_parameters()
    }


def _is_merger(name: str) -> bool:
    """Return whether a module on the path of a parameter is a merger; a numbered layer of the tower contains none."""
    outside_layers = re.split(r"\.\d+\.", name)[0]
    return any(word in outside_layers for word in MERGER_NAMES)


def _matches(name: str, group: str, options: GroupOptions, part: str | None) -> bool:
    return part == group if options.match is None else fnmatchcase(name, options.match)


def original_name(name: str) -> str:
    """Return a parameter's name without adapters; for an adapter, the name of the weight that it adapts."""
    return _ADAPTER_WEIGHT.sub(".weight", name).replace(".base_layer.", ".")


def _is_used(options: GroupOptions, parameters: Mapping[str, torch.nn.Parameter]) -> bool:
    return bool(parameters) if options.frozen else any(each.requires_grad for each in parameters.values())


def _no_decay(module: torch.nn.Module, section: ScheduleOptions) -> frozenset[str]:
    """Return the names of the parameters without weight decay."""
    parameters = dict(module.named_parameters())
    if section.weight_decay_on == "all":
        return frozenset()
    if section.weight_decay_on == "matrices":
        return frozenset(name for name, parameter in parameters.items() if parameter.ndim <= 1)
    layer_norms = {
        f"{path}.{name}" if path else name
        for path, submodule in module.named_modules()
        if isinstance(submodule, torch.nn.LayerNorm)
        for name, _ in submodule.named_parameters(recurse=False)
    }
    return frozenset(name for name in parameters if name in layer_norms or "bias" in name)


def _empty_group_problem(group: str, options: GroupOptions, module: torch.nn.Module) -> Problem:
    shapes = {original_name(name): each.ndim for name, each in module.named_parameters() if each.requires_grad}
    parts = model_parts(module) if options.match is None else {}
    names = list(shapes)
    matched = [name for name in names if _matches(name, group, options, parts.get(name))]
    taken = [name for name in matched if options.takes(shapes[name])]
    examples = names[:: max(1, len(names) // MAX_NAMES_LISTED)][:MAX_NAMES_LISTED]
    what = f"the name {group!r}" if options.match is None else f"the pattern {options.match!r}"
    message = (
        f"{what} matches {format_names(taken)}, but an earlier group matches all of them; "
        "the first match counts, so move this group above the wider one"
        if taken
        else f"{what} matches {format_names(matched)}, but no matrix, and Muon trains only matrices; use adamw"
        if matched
        else f"{what} matches no trainable parameter; examples of names: {', '.join(examples)}"
    )
    return Problem(message, (*GROUPS_PATH, group) if options.match is None else (*GROUPS_PATH, group, "match"))


def _unmatched_problem(names: Sequence[str]) -> Problem:
    message = (
        f'no group takes {format_names(names)}; add a group for them, such as one with match: "*" at the end, which '
        "must have algorithm: adamw for parameters that are not matrices"
    )
    return Problem(message, GROUPS_PATH)


def format_names(names: Sequence[str]) -> str:
    """List the first parameter names and count the others."""
    listed = ", ".join(names[:MAX_NAMES_LISTED])
    return f"{listed} and {len(names) - MAX_NAMES_LISTED} more" if len(names) > MAX_NAMES_LISTED else listed
