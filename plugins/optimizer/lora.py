"""Puts low-rank adapters on the linear layers of groups, and merges them into the weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from plugins.optimizer.groups import GROUPS, Group
from runner.errors import Problem, SpecError

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

ADAPTER = "default"
"""The one name under which peft keeps the adapters of all groups."""


def adapt(module: torch.nn.Module, groups: Sequence[Group], seed: int) -> LoraModel | None:
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


def _config(asking: Sequence[tuple[Group, Sequence[str]]]) -> LoraConfig:
    """One configuration for all groups, the rank and scale of each layer under its name."""
    from peft import LoraConfig

    asked = {layer: group.options.lora for group, layers in asking for layer in layers if group.options.lora}
    return LoraConfig(
        target_modules=list(asked),
        rank_pattern={f"^{re.escape(layer)}": each.rank for layer, each in asked.items()},
        alpha_pattern={f"^{re.escape(layer)}": each.alpha for layer, each in asked.items()},
    )


def _linear_layers(module: torch.nn.Module, group: Group) -> list[str]:
    output = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None  # type: ignore[no-untyped-call]
    return [
        path
        for path, part in module.named_modules()
        if isinstance(part, torch.nn.Linear) and part is not output and f"{path}.weight" in group.parameters
    ]


def _no_layer(group: Group) -> Problem:
    message = "lora adapts linear layers, and this group has none; leave lora out, or match others"
    return Problem(message, (*GROUPS, group.name, "lora"))
