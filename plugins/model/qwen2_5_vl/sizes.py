"""The named small sizes of Qwen2.5-VL with random weights, for machines without a checkpoint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from transformers import PreTrainedTokenizerBase, Qwen2_5_VLConfig, Qwen2VLImageProcessorPil

from plugins.model.qwen2_5_vl.tokenizer import (
    CHAT_TEMPLATE,
    IMAGE_PAD,
    SPECIAL_TOKENS,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
)
from plugins.model.qwen2_5_vl_options import Size

TEMPORAL_PATCH = 2
"""Qwen2.5-VL doubles a still image to a film of two frames."""


@dataclass(frozen=True)
class SmallSize:
    """A size of the architecture; widths in units, image sizes in pixels.

    Attributes:
        text_width: Hidden size of the language model, also the width of the vision tower's output.
        text_layers: Decoder layers.
        text_heads: Attention heads, each `text_width / text_heads` wide.
        text_ffn: Width of the language model's feed-forward layers.
        text_init: Standard deviation of its initial weights. The usual 0.02 does not learn at this width.
        vision_width: Hidden size of the vision tower.
        vision_depth: Its blocks; the last attends over the whole image, those before it within windows.
        vision_heads: Its attention heads.
        vision_ffn: Width of its feed-forward layers.
        vision_init: Standard deviation of its initial weights.
        patch: Side of a patch; two by two patches make one token.
        min_pixels: Area up to which smaller images are enlarged.
        max_pixels: Area down to which larger images are reduced.
        vocab_size: Upper limit of the tokenizer's tokens.
    """

    text_width: int
    text_layers: int
    text_heads: int
    text_ffn: int
    text_init: float
    vision_width: int
    vision_depth: int
    vision_heads: int
    vision_ffn: int
    vision_init: float
    patch: int
    min_pixels: int
    max_pixels: int
    vocab_size: int


SIZES: dict[Size, SmallSize] = {
    "tiny": SmallSize(
        text_width=96,
        text_layers=3,
        text_heads=4,
        text_ffn=192,
        text_init=0.06,
        vision_width=64,
        vision_depth=1,
        vision_heads=4,
        vision_ffn=128,
        vision_init=0.1,
        patch=8,
        min_pixels=16 * 16,
        max_pixels=64 * 64,
        vocab_size=1024,
    ),
    "smoke": SmallSize(
        text_width=32,
        text_layers=2,
        text_heads=2,
        text_ffn=64,
        text_init=0.06,
        vision_width=32,
        vision_depth=2,
        vision_heads=2,
        vision_ffn=64,
        vision_init=0.1,
        patch=8,
        min_pixels=16 * 16,
        max_pixels=48 * 48,
        vocab_size=512,
    ),
}


def size_digest(size: Size) -> str:
    """Hash all that makes a size what it is.

    Returns:
        The first 12 hexadecimal digits of a SHA-256 over its numbers, special tokens and chat template.
    """
    content = json.dumps([asdict(SIZES[size]), SPECIAL_TOKENS, CHAT_TEMPLATE], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def small_config(size: Size, tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLConfig:
    """Write out the configuration of a size for the vocabulary of a tokenizer."""
    small = SIZES[size]
    special = tokenizer.get_added_vocab()
    return Qwen2_5_VLConfig(
        text_config=_text_config(small, tokenizer),
        vision_config=_vision_config(small),
        image_token_id=special[IMAGE_PAD],
        video_token_id=special[VIDEO_PAD],
        vision_start_token_id=special[VISION_START],
        vision_end_token_id=special[VISION_END],
        tie_word_embeddings=False,
    )


def _text_config(small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    # Rotary frequencies are half a head; time, height and width share them as evenly as they divide.
    frequencies = small.text_width // small.text_heads // 2
    third = frequencies // 3
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": small.text_width,
        "num_hidden_layers": small.text_layers,
        "num_attention_heads": small.text_heads,
        "num_key_value_heads": small.text_heads,
        "intermediate_size": small.text_ffn,
        "initializer_range": small.text_init,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [frequencies - 2 * third, third, third],
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _vision_config(small: SmallSize) -> dict[str, object]:
    return {
        "hidden_size": small.vision_width,
        "out_hidden_size": small.text_width,
        "depth": small.vision_depth,
        "num_heads": small.vision_heads,
        "intermediate_size": small.vision_ffn,
        "initializer_range": small.vision_init,
        "patch_size": small.patch,
        "temporal_patch_size": TEMPORAL_PATCH,
        "fullatt_block_indexes": [small.vision_depth - 1],
    }


def small_image_processor(size: Size) -> Qwen2VLImageProcessorPil:
    """Make the image processor of a size."""
    small = SIZES[size]
    return Qwen2VLImageProcessorPil(
        patch_size=small.patch,
        temporal_patch_size=TEMPORAL_PATCH,
        size={"shortest_edge": small.min_pixels, "longest_edge": small.max_pixels},
    )
