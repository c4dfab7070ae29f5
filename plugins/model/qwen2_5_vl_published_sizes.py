"""The published sizes of Qwen2.5-VL as configurations, to plan a run without its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PATCH_SIZE, MERGE_SIZE = 14, 2
"""Side of a patch in pixels, and of a token in patches."""

MIN_PIXELS, MAX_PIXELS = 3136, 12_845_056
"""Minimum and maximum image area of the published processor."""


@dataclass(frozen=True)
class PublishedSize:
    """Values in which the published sizes differ; widths in units.

    Attributes:
        width: Hidden size of the language model, also the width of the vision tower's output.
        layers: Decoder layers.
        heads: Attention heads, each of 128 units.
        kv_heads: Heads of keys and values.
        ffn: Width of the language model's feed-forward layers.
        vocabulary: Number of rows of the embeddings.
        tied: Whether the output layer shares its weights with the embeddings.
        vision_ffn: Width of the vision tower's feed-forward layers.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    tied: bool
    vision_ffn: int


PUBLISHED_SIZES: dict[str, PublishedSize] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": PublishedSize(2048, 36, 16, 2, 11_008, 151_936, True, 3420),
    "Qwen/Qwen2.5-VL-7B-Instruct": PublishedSize(3584, 28, 28, 4, 18_944, 152_064, False, 3420),
    "Qwen/Qwen2.5-VL-32B-Instruct": PublishedSize(5120, 64, 40, 8, 27_648, 152_064, False, 3456),
    "Qwen/Qwen2.5-VL-72B-Instruct": PublishedSize(8192, 80, 64, 8, 29_568, 152_064, False, 3456),
}
"""Published sizes by name on the hub."""


def published_config(size: PublishedSize) -> dict[str, Any]:
    """Return the arguments of transformers' `Qwen2_5_VLConfig` for a size."""
    return {
        "text_config": {
            "vocab_size": size.vocabulary,
            "hidden_size": size.width,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "intermediate_size": size.ffn,
            "max_position_embeddings": 128_000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]},
        },
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "num_heads": 16,
            "intermediate_size": size.vision_ffn,
            "out_hidden_size": size.width,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        },
        "tie_word_embeddings": size.tied,
    }
