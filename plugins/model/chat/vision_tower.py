"""Prepares the vision tower of a Qwen-VL model for speed: one attention call per layer, and no waiting for the GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils.generic import is_flash_attention_requested
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from plugins.model.chat.segment_attention import VISION_ATTENTION, use_packed_attention


def prepare_attention(module: PreTrainedModel) -> bool:
    """Prepare language model and vision tower of a Qwen-VL model for attention within samples, images and windows.

    Args:
        module: The model. Its weights and its outputs stay the same, except for rounding on GPUs.

    Returns:
        Whether the attention implementation supports packing; eager attention does not.
    """
    if module.config.get_text_config()._attn_implementation == "sdpa":
        module.set_attn_implementation({"vision_config": VISION_ATTENTION})
    tower: Any = module.base_model.visual
    if is_flash_attention_requested(tower.config):
        tower.register_forward_pre_hook(_add_host_inputs, with_kwargs=True)
    projection = tower.patch_embed.proj
    assert isinstance(projection, nn.Conv3d)
    projection.__class__ = PatchProjection
    return use_packed_attention(module)


def _add_host_inputs(tower: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """Add what a vision tower derives from the sizes of the images, before its forward pass.

    Transformers derives it from a tensor on the device, and waits for the device about ten times.
    """
    grid: torch.Tensor = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
    return args, {**_host_inputs(tower, grid), **kwargs}


def _host_inputs(tower: Any, grid: torch.Tensor) -> dict[str, Any]:
    """Compute the inputs on the CPU with transformers' own functions, and move them to the device of the grid."""
    sizes = grid.cpu()
    images = get_vision_cu_seqlens(sizes)
    inputs = {"position_ids": get_vision_position_ids(sizes, tower.spatial_merge_size), "cu_seqlens": images}
    longest = {"max_seqlen": int(images.diff().max())}
    segments = [images]
    if hasattr(tower, "num_grid_per_side"):  # Qwen3-VL
        inputs["interp_indices"], inputs["interp_weights"] = get_vision_interpolation_indices_and_weights(
            sizes,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=tower.spatial_merge_size,
        )
    if hasattr(tower, "window_size"):  # Qwen2.5-VL
        inputs["window_index"], windows = get_vision_window_index(
            sizes, tower.spatial_merge_size, window_size=tower.window_size, patch_size=tower.patch_size
        )
        inputs["cu_window_seqlens"] = windows
        longest["max_window_seqlen"] = int(windows.diff().max())
        segments.append(windows)
    on_device: dict[str, Any] = {name: each.to(grid.device, non_blocking=True) for name, each in inputs.items()}
    if tower.config._attn_implementation == VISION_ATTENTION:
        on_device["segment_lengths"] = {len(each) - 1: each.diff().tolist() for each in segments}
    return on_device | longest


class PatchProjection(nn.Conv3d):
    """A convolution whose kernel covers its whole input, as vision towers use it to embed patches.

    On a GPU the convolution is computed as the matrix product that it is: in some builds of torch 2.9 the convolution
    takes ten to twenty times as long (pytorch issue 166643, transformers issue 45750). On a CPU it stays a convolution,
    so that no bit changes.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Embed patches: (patches, channels, frames, height, width) to (patches, width of the tower, 1, 1, 1)."""
        return self.as_product(input) if input.is_cuda else super().forward(input)

    def as_product(self, patches: torch.Tensor) -> torch.Tensor:
        """Compute the convolution as a matrix product; it sums in another order."""
        assert patches.shape[1:] == self.weight.shape[1:]
        product = functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)
        return product[..., None, None, None]
