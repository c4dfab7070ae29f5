"""Lays samples one after the other in a single row, with attention kept within each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from plugins.model.chat.frozen_vision import IMAGE_FEATURES, as_encoded
from runner.records import IGNORED
from runner.stages import Features

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
