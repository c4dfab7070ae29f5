"""What a frozen vision part makes of a sample's images, in the place of their pixels."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from runner.stages import Features

IMAGE_FEATURES = "image_features"
"""The name under which an encoded sample has features in the place of pixels: (image tokens, width), or a multiple of
the width where inner layers get features too."""


class FrozenFeatures:
    """The vision part of a model, tower and merger, apart from the module but with its weights; see `FrozenVision`.

    Whatever wraps the module for training, divides its weights or switches its mode passes this by, so that a thread
    can compute features while the module trains.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        """Take the module as it was made, wrapped by nothing yet."""
        decoder = module.get_decoder()  # type: ignore[no-untyped-call]
        shared = {id(parameter): parameter for parameter in module.parameters()}
        self._base: Any = copy.deepcopy(module.base_model, {**shared, id(decoder): nn.Identity()}).eval()
        self._device = module.device

    @property
    def steady(self) -> bool:
        """Whether it makes the same of an image at every step: nothing in it learns, and nothing is random."""
        learning = any(parameter.requires_grad for parameter in self._base.parameters())
        return not learning and not any(_differs_in_training(part) for part in self._base.modules())

    @property
    def digest(self) -> str:
        """SHA-256 over its weights, in hexadecimal."""
        digest = hashlib.sha256()
        for name, weight in sorted(self._base.named_parameters()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device) -> None:
        """Move it to a device."""
        self._base.to(device)
        self._device = device

    @torch.no_grad()
    def replace_pixels(self, features: Features) -> Features:
        """Put features in the place of a sample's pixels; see `FrozenVision.replace_pixels`."""
        if "pixel_values" not in features:
            return features
        pixels, grid = (features[name].to(self._device) for name in ("pixel_values", "image_grid_thw"))
        given = self._base.get_image_features(pixels, grid, return_dict=True)
        levels = [given.pooler_output, *getattr(given, "deepstack_features", ())]
        made = torch.cat([torch.cat(level) for level in levels], dim=-1)
        kept = {name: tensor for name, tensor in features.items() if name != "pixel_values"}
        return {**kept, IMAGE_FEATURES: made.cpu()}


def _differs_in_training(part: nn.Module) -> bool:
    """Whether a layer does otherwise in training: drops values at random, or measures the batch."""
    rates = [value for name, value in vars(part).items() if "drop" in name and isinstance(value, float)]
    return isinstance(part, _BatchNorm) or any(rates) or (isinstance(part, _DropoutNd) and part.p > 0)


def as_encoded(inputs: dict[str, Any], width: int) -> dict[str, Any]:
    """Pass features on in the way that transformers' models take what was encoded before.

    Args:
        inputs: Of the model's forward, perhaps with `IMAGE_FEATURES` of all samples one after the other; in place.
        width: Of the language model.
    """
    if IMAGE_FEATURES in inputs:
        first, *inner = torch.split(inputs.pop(IMAGE_FEATURES), width, dim=-1)
        # Transformers annotates single tensors, and joins sequences of them.
        inputs["mm_encoder_outputs"] = {
            "image": BaseModelOutputWithDeepstackFeatures(
                pooler_output=(first,),  # type: ignore[arg-type]
                deepstack_features=[(level,) for level in inner],  # type: ignore[misc]
            )
        }
    return inputs
