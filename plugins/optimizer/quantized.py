"""Weights in 4 bits (QLoRA) and optimizer state in 8 bits; the only module that imports bitsandbytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, Params4bit
from bitsandbytes.optim import AdamW8bit
from torch import nn

from plugins.optimizer.optimizer_options import AdamWConstants


class FourBitLinear(Linear4bit):  # type: ignore[misc]  # its types are not read
    """A linear layer whose frozen weight is stored in 4 bits (NF4; Dettmers et al. 2023) and computes like `nn.Linear`.

    Under autocast, the layer computes in autocast's precision. bitsandbytes would compute in that of the first input.
    """

    bias: nn.Parameter | None

    @classmethod
    def of(cls, linear: nn.Linear) -> FourBitLinear:
        """Quantize a linear layer; the scales of blocks of 64 weights are quantized too (double quantization).

        A GPU quantizes some thousand times as fast as a CPU, so it is used if there is one. The result is on the device
        of the layer.
        """
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, quant_type="nf4", device="meta")
        weight = Params4bit(linear.weight.detach(), quant_type="nf4", module=layer)
        layer.weight = weight.to(_quantizing_device(linear.weight.device)).to(linear.weight.device)
        layer.quant_state = layer.weight.quant_state
        layer.bias = linear.bias
        # In evaluation mode, a CPU with AVX512-BF16 would store the weight in another order.
        layer.support_avx512bf16_for_cpu = False
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the layer's output, in autocast's precision or in that of the input."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        self.compute_dtype, self.compute_type_is_set = x.dtype, True
        # bitsandbytes would convert the bias in place, which must stay float32.
        bias = self.bias
        self.bias = None
        try:
            output: torch.Tensor = super().forward(x)
        finally:
            self.bias = bias
        return output if bias is None else output + bias.to(x.dtype)

    def dequantized(self) -> torch.Tensor:
        """Return the weight as the layer computes with it, in float32."""
        weight: torch.Tensor = dequantize_4bit(self.weight.data, self.weight.quant_state)
        return weight.float()


def _quantizing_device(device: torch.device) -> torch.device:
    if device.type == "cpu" and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


class TensorStepAdamW8bit(AdamW8bit):  # type: ignore[misc]
    """bitsandbytes' AdamW with 8-bit state, whose step count is a tensor, so that checkpoints store it."""

    def update_step(self, group: dict[str, Any], p: nn.Parameter, gindex: int, pindex: int) -> None:
        """Update one parameter; see `bitsandbytes.optim.optimizer.Optimizer8bit`."""
        state = self.state[p]
        state["step"] = int(state["step"])
        super().update_step(group, p, gindex, pindex)
        state["step"] = torch.tensor(state["step"])


def make_adamw_8bit(torch_groups: Sequence[dict[str, Any]], constants: AdamWConstants) -> torch.optim.Optimizer:
    """Build AdamW with state in 8 bits (Dettmers et al. 2022); parameters of less than 4,096 weights have 32 bits."""
    return TensorStepAdamW8bit(torch_groups, betas=constants.betas, eps=constants.eps)
