"""Image features that a frozen vision tower computes once, to replace the pixels of samples in training."""

from __future__ import annotations

import copy
import hashlib
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from runner.stages import Features

IMAGE_FEATURES = "image_features"
"""Entry of an encoded sample with features instead of pixels: (image tokens, width); a multiple of the width if inner
layers get features too."""

PIXEL_INPUTS = ("pixel_values", "pixel_attention_mask", "image_grid_thw")
"""Entries of an encoded sample from which a vision tower computes features."""


class FrozenVisionTower:
    """A copy of a model's vision tower and merger that shares its weights; see `FrozenVisionEncoder`.

    Wrapping the module for training, sharding its weights or changing its mode does not affect this copy. A thread can
    therefore compute features while the module trains.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        """Copy the vision part of a module that is not wrapped yet."""
        decoder = module.get_decoder()  # type: ignore[no-untyped-call]
        shared = {id(parameter): parameter for parameter in module.parameters()}
        self._base: Any = copy.deepcopy(module.base_model, {**shared, id(decoder): nn.Identity()}).eval()
        self._device = module.device
        compute: Any = self._base.get_image_features
        self._inputs = [name for name in PIXEL_INPUTS if name in signature(compute).parameters]

    @property
    def is_cacheable(self) -> bool:
        """Whether the features of an image never change: no weight is trained, and no layer is random."""
        is_trained = any(parameter.requires_grad for parameter in self._base.parameters())
        return not is_trained and not any(_differs_in_training(layer) for layer in self._base.modules())

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the weights."""
        digest = hashlib.sha256()
        for name, weight in sorted(self._base.named_parameters()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device) -> None:
        """Move the weights, which are those of the model, to a device, and convert them to float32 there."""
        for parameter in self._base.parameters():
            parameter.data = parameter.data.to(device).float()
        self._base.to(device)
        self._device = device

    @torch.no_grad()
    def replace_pixels(self, features: Features) -> Features:
        """Replace a sample's pixels by features; see `FrozenVisionEncoder.replace_pixels`."""
        if "pixel_values" not in features:
            return features
        inputs = {name: features[name].to(self._device) for name in self._inputs if name in features}
        outputs = self._base.get_image_features(**inputs, return_dict=True)
        levels = [outputs.pooler_output, *getattr(outputs, "deepstack_features", ())]
        image_features = torch.cat([torch.cat(tuple(level)) for level in levels], dim=-1)
        # The positions of image tokens depend on the grid.
        replaced = set(inputs) - {"image_grid_thw"}
        others = {name: tensor for name, tensor in features.items() if name not in replaced}
        return {**others, IMAGE_FEATURES: image_features.cpu()}


def _differs_in_training(layer: nn.Module) -> bool:
    """Whether a layer behaves differently in training: dropout or batch statistics."""
    rates = [value for name, value in vars(layer).items() if "drop" in name and isinstance(value, float)]
    return isinstance(layer, _BatchNorm) or any(rates) or (isinstance(layer, _DropoutNd) and layer.p > 0)


def to_encoder_outputs(inputs: dict[str, Any], width: int, *, in_parts: bool = True) -> dict[str, Any]:
    """Convert precomputed image features to the argument that transformers' models accept.

    Args:
        inputs: Arguments of the forward pass, changed in place; may contain the concatenated `IMAGE_FEATURES` of all
            samples.
        width: Hidden size of the language model.
        in_parts: Whether the model concatenates a sequence of tensors; some families take one tensor instead.
    """
    if IMAGE_FEATURES in inputs:
        first, *inner = torch.split(inputs.pop(IMAGE_FEATURES), width, dim=-1)
        # Transformers annotates single tensors, but concatenates sequences of tensors.
        inputs["mm_encoder_outputs"] = {
            "image": BaseModelOutputWithDeepstackFeatures(
                pooler_output=(first,) if in_parts else first,  # type: ignore[arg-type]
                deepstack_features=[(level,) for level in inner],  # type: ignore[misc]
            )
        }
    return inputs
