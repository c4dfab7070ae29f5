"""LoRA adapters of parameter groups: added to their linear layers, and merged after training."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from transformers import PreTrainedModel

from plugins.optimizer.optimizer_options import require_bitsandbytes
from plugins.optimizer.param_groups import GROUPS_PATH, ParamGroup
from runner.errors import Problem, SpecError

FLOAT32_BYTES = 4

ADAPTER_NAME = "default"
"""The name under which peft keeps the adapters of all groups."""

CONVERTED = ("target_modules", "target_parameters", "rank_pattern", "alpha_pattern")
"""Fields of a configuration that peft converts."""

AS_WRITTEN = "as_written"
"""Attribute of a configuration with these fields before the conversion."""


def add_adapters(module: torch.nn.Module, groups: Sequence[ParamGroup], seed: int) -> LoraModel:
    """Add adapters to the linear layers of the groups with `lora`, in place.

    Afterwards only the adapters of these groups are trainable. Layers of groups with `load_in_4bit` are quantized,
    except on the meta device.

    Args:
        module: The whole model, without adapters.
        groups: All groups, with their parameters.
        seed: Seed of the adapters' random weights.

    Returns:
        The peft model, for `merge_adapters`.

    Raises:
        SpecError: A group with `lora` has no linear layer.
        RequirementError: A group has `load_in_4bit`, and bitsandbytes is not installed.
    """
    lora_groups = [(group, _linear_layers(module, group)) for group in groups if group.options.lora is not None]
    if problems := [_no_layer_problem(group) for group, layers in lora_groups if not layers]:
        raise SpecError(problems)
    trainable = [parameter for group in groups if group.options.lora is None for parameter in group.trainable.values()]
    for group, layers in lora_groups:
        if group.options.lora is not None and group.options.lora.load_in_4bit:
            _quantize(module, layers)
    adapted = [cast(torch.nn.Linear, module.get_submodule(layer)) for _, layers in lora_groups for layer in layers]
    with torch.random.fork_rng(), _float32_placeholders(adapted):
        torch.manual_seed(seed)
        lora_model = _ExactLoraModel(module, _lora_config(lora_groups), ADAPTER_NAME)
    # peft freezes everything but adapters; groups without `lora` stay trainable.
    for parameter in trainable:
        parameter.requires_grad_(True)
    return lora_model


class _ExactLoraModel(LoraModel):
    """A peft model with adapters on exactly the layers of its configuration.

    For some families with experts, peft takes layers for those of an older version of transformers, and would add
    adapters to the experts, which have no linear layers.
    """

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        vars(peft_config).update(copy.deepcopy(vars(peft_config)[AS_WRITTEN]))
        return super()._prepare_adapter_config(peft_config, model_config)  # type: ignore[no-untyped-call]


@contextmanager
def _float32_placeholders(layers: Sequence[torch.nn.Linear]) -> Iterator[None]:
    """Replace weights that are not float32 by placeholders without memory.

    peft gives adapters the number format of the weights that they adapt, and would round the adapters' first values.
    Weights in 4 bits stay, as peft gives their adapters float32.
    """
    replaced = [
        (layer, layer.weight)
        for layer in layers
        if layer.weight.is_floating_point() and layer.weight.dtype.itemsize < FLOAT32_BYTES
    ]
    for layer, weight in replaced:
        empty = torch.zeros((), device=weight.device).expand(weight.shape)
        layer.weight = torch.nn.Parameter(empty, requires_grad=False)
    try:
        yield
    finally:
        for layer, weight in replaced:
            layer.weight = weight.requires_grad_(False)  # peft has frozen all other weights


def _quantize(module: torch.nn.Module, layers: Sequence[str]) -> None:
    """Replace linear layers by layers with weights in 4 bits, one after another."""
    if any(parameter.is_meta for parameter in module.parameters()):
        return
    require_bitsandbytes("lora.load_in_4bit", "remove load_in_4bit")
    from plugins.optimizer.quantized import FourBitLinear

    for path in layers:
        linear = module.get_submodule(path)
        assert isinstance(linear, torch.nn.Linear)
        module.set_submodule(path, FourBitLinear.of(linear))


def merge_adapters(lora_model: LoraModel) -> None:
    """Merge the adapters into the weights of the module that `add_adapters` was given.

    Weights keep their number format. The sum is computed in float32, and rounded once.

    Raises:
        ValueError: A merged weight is not finite.
    """
    module = lora_model.model
    for path, layer in list(module.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        base = layer.get_base_layer()
        if hasattr(base, "dequantized"):
            module.set_submodule(path, _merged(layer))
            continue
        weight = cast(torch.Tensor, base.weight)
        dtype, weight.data = weight.dtype, weight.data.float()
        layer.merge(safe_merge=True)
        weight.data = weight.data.to(dtype)
    lora_model.unload()


def _merged(layer: Any) -> torch.nn.Linear:
    """Return the layer as trained, on the CPU: the dequantized weight plus the adapter.

    peft would quantize the sum again, which loses most of what was trained.
    """
    quantized = layer.get_base_layer()
    weight = quantized.dequantized() + layer.get_delta_weight(ADAPTER_NAME)
    if not weight.isfinite().all():
        raise ValueError(f"the adapter of a layer of {tuple(weight.shape)} is not finite")
    merged = torch.nn.Linear(layer.in_features, layer.out_features, bias=quantized.bias is not None, device="meta")
    merged.weight = torch.nn.Parameter(weight.cpu(), requires_grad=False)
    if quantized.bias is not None:
        merged.bias = torch.nn.Parameter(quantized.bias.detach().cpu(), requires_grad=False)
    return merged


def _lora_config(lora_groups: Sequence[tuple[ParamGroup, Sequence[str]]]) -> LoraConfig:
    """Return one configuration for all groups, with rank and scale of each layer by its name."""
    options = {layer: group.options.lora for group, layers in lora_groups for layer in layers if group.options.lora}
    config = LoraConfig(
        target_modules=list(options),
        rank_pattern={f"^{re.escape(layer)}": lora.rank for layer, lora in options.items()},
        alpha_pattern={f"^{re.escape(layer)}": lora.alpha for layer, lora in options.items()},
    )
    vars(config)[AS_WRITTEN] = {name: copy.deepcopy(vars(config)[name]) for name in CONVERTED}
    return config


def _linear_layers(module: torch.nn.Module, group: ParamGroup) -> list[str]:
    """Return the paths of the group's linear layers, without the output layer."""
    output = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None  # type: ignore[no-untyped-call]
    return [
        path
        for path, submodule in module.named_modules()
        if isinstance(submodule, torch.nn.Linear) and submodule is not output and f"{path}.weight" in group.parameters
    ]


def _no_layer_problem(group: ParamGroup) -> Problem:
    message = "lora adapts linear layers, but this group has none; remove lora, or match other parameters"
    return Problem(message, (*GROUPS_PATH, group.name, "lora"))
