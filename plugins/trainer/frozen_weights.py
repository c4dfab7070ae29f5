"""Frozen weights in bfloat16: which they are, and how they are stored during a training."""

from __future__ import annotations

import torch


def frozen_linear_weights(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """List the frozen weights of linear layers, which autocast and FSDP convert to the compute precision at each use.

    Weights that embeddings share are left out: embeddings compute in the precision of their weights.
    """
    shared = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    weights = (weight for part in module.modules() if type(part) is torch.nn.Linear for weight in part.parameters())
    return [weight for weight in weights if not weight.requires_grad and id(weight) not in shared]


def keep_frozen_in_bf16(module: torch.nn.Module) -> None:
    """Store the weights of `frozen_linear_weights` in bfloat16, in place, unless this would round one of their values.

    Published checkpoints hold bfloat16 values. Accelerate converts only trainable weights to float32.
    """
    for weight in frozen_linear_weights(module):
        half = weight.data.bfloat16()
        if weight.dtype == torch.float32 and torch.equal(half.float(), weight.data):
            weight.data = half


def restore_float32(module: torch.nn.Module) -> None:
    """Undo `keep_frozen_in_bf16`, so that adapters are merged in float32; the module moves to the CPU, if necessary."""
    converted = [weight for weight in frozen_linear_weights(module) if weight.dtype == torch.bfloat16]
    if any(weight.device.type != "cpu" for weight in converted):
        module.cpu()  # A device that holds the weights in bfloat16 may be too small for float32.
    for weight in converted:
        weight.data = weight.data.float()
