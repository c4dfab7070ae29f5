"""Batches encoded samples: padded to one length, or packed into one row; frozen vision features instead of pixels."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from runner.records import IGNORED
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
    def is_cacheable(self) -> bool:
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


def collate(
    batch: Sequence[Features], fills: Mapping[str, int], padding_side: Literal["left", "right"], *, masked: bool
) -> Features:
    """Pad and stack encoded samples; see `VisionLanguageModel.collate`.

    Args:
        batch: Of one family's model.
        fills: What pads each sequence of a sample, by name, `input_ids` among them; all else is of images.
        padding_side: Where padding stands.
        masked: Whether an `attention_mask` says where the padding is.
    """
    stacked = {
        name: pad_sequence(
            [each[name] for each in batch], batch_first=True, padding_value=fill, padding_side=padding_side
        )
        for name, fill in fills.items()
    }
    if masked:
        ones = [torch.ones_like(each["input_ids"]) for each in batch]
        stacked["attention_mask"] = pad_sequence(ones, batch_first=True, padding_side=padding_side)
    for name in dict.fromkeys(name for each in batch for name in each if name not in fills):
        stacked[name] = _one_after_another([each[name] for each in batch if name in each])
    return stacked


def _one_after_another(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join along the first dimension, the others filled up with zeros to the largest."""
    shape = [max(lengths) for lengths in zip(*(part.shape[1:] for part in parts), strict=True)]
    return torch.cat([part if list(part.shape[1:]) == shape else _filled_up(part, shape) for part in parts])


def _filled_up(part: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    lacking = [want - have for want, have in zip(shape, part.shape[1:], strict=True)]
    # `pad` takes what to add before and behind, the last dimension first.
    return functional.pad(part, [each for behind in reversed(lacking) for each in (0, behind)])


WITHIN_SAMPLES = "sdpa_within_samples"
"""The name of the attention below in transformers' registry; without `sample_lengths` it is its `sdpa`."""


def attend_within_samples(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    sample_lengths: Sequence[int] | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as `sdpa` does, sample by sample where a row holds several.

    Args:
        module: The layer, which says whether it is causal.
        query: (rows, heads, length, width of a head), as are `key` and `value`.
        key: Perhaps with fewer heads.
        value: As many heads as `key`.
        attention_mask: Of rows that hold one sample each.
        sample_lengths: Of the samples in the one row; together its length.
        settings: What else transformers passes.

    Returns:
        (rows, length, heads, width of a head), and no weights.
    """
    if sample_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    parts = (torch.split(each, list(sample_lengths), dim=2) for each in (query, key, value))
    within = [sdpa_attention_forward(module, q, k, v, None, **settings)[0] for q, k, v in zip(*parts, strict=True)]
    return torch.cat(within, dim=1), None


AttentionInterface.register(WITHIN_SAMPLES, attend_within_samples)
AttentionMaskInterface.register(WITHIN_SAMPLES, sdpa_mask)


def prepare_packing(module: PreTrainedModel) -> bool:
    """Let a model's language part attend within samples.

    Returns:
        Whether it can, which eager attention cannot.
    """
    language = module.config.get_text_config()
    if language._attn_implementation == "sdpa":
        module.set_attn_implementation({"text_config": WITHIN_SAMPLES})
    return language._attn_implementation in (WITHIN_SAMPLES, "flash_attention_2")


def packed(batch: Sequence[Features], module: Any) -> dict[str, Any]:
    """Pack encoded samples of a model whose positions have three axes, into one row without padding.

    Positions are those that the model gives each sample alone. Flash attention finds the samples by a fourth axis that
    begins again with each, as transformers has it; the attention above by `sample_lengths`.

    Args:
        batch: With `input_ids`, `labels` and `mm_token_type_ids` (length,), and perhaps `image_grid_thw` and
            `pixel_values` or features in their place.
        module: Its base gives the positions (`get_rope_index`).
    """
    lengths = [len(each["input_ids"]) for each in batch]
    positions = torch.cat([_positions(each, module.base_model) for each in batch], dim=-1)
    row: dict[str, Any] = {
        "input_ids": torch.cat([each["input_ids"] for each in batch])[None],
        "labels": torch.cat([_labels(each) for each in batch])[None],
    }
    if module.config.get_text_config()._attn_implementation == WITHIN_SAMPLES:
        row |= {"position_ids": positions, "sample_lengths": lengths}
    else:
        places = torch.cat([torch.arange(length) for length in lengths]).expand(1, 1, -1)
        row["position_ids"] = torch.cat([places, positions])
    for name in ("pixel_values", IMAGE_FEATURES, "image_grid_thw"):
        if parts := [each[name] for each in batch if name in each]:
            row[name] = torch.cat(parts)
    return as_encoded(row, module.config.get_text_config().hidden_size)


def _positions(sample: Features, base: Any) -> torch.Tensor:
    """Time, height and width of each token of a sample that stands alone: (3, 1, length)."""
    ids, kinds = sample["input_ids"][None], sample["mm_token_type_ids"][None]
    positions: torch.Tensor = base.get_rope_index(ids, kinds, image_grid_thw=sample.get("image_grid_thw"))[0]
    return positions


def _labels(sample: Features) -> torch.Tensor:
    """Labels, but for the first token, which only the sample before could predict."""
    labels = sample["labels"].clone()
    labels[0] = IGNORED
    return labels
