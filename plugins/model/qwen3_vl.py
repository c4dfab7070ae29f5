"""The model plugin `qwen3_vl`: Qwen3-VL."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase, Qwen3VLConfig, Qwen3VLProcessor

from plugins.model.chat.sizes import SmallSize
from plugins.model.qwen3_vl_options import Qwen3VLOptions
from plugins.model.qwen_vl import TEMPORAL_PATCH, QwenVLModel, rotary_text_config, token_ids

POSITIONS = 64
"""Learnt positions of a small vision tower, eight by eight; others are interpolated."""


class Qwen3VLModel(QwenVLModel[Qwen3VLOptions]):
    """The plugin `qwen3_vl` of the stage `model`; features of inner blocks go to the language model's first layers."""

    name = "qwen3_vl"
    config_class = Qwen3VLConfig
    processor_class = Qwen3VLProcessor

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
        vision = {
            "hidden_size": small.vision_width,
            "out_hidden_size": small.text_width,
            "depth": small.vision_depth,
            "num_heads": small.vision_heads,
            "intermediate_size": small.vision_ffn,
            "initializer_range": small.vision_init,
            "patch_size": small.patch,
            "temporal_patch_size": TEMPORAL_PATCH,
            "num_position_embeddings": POSITIONS,
            "deepstack_visual_indexes": [0],
        }
        text = {**rotary_text_config(small, tokenizer), "head_dim": small.text_width // small.text_heads}
        return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **token_ids(tokenizer))
