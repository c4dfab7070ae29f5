"""The model plugin `qwen2_vl`: Qwen2-VL."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase, Qwen2VLConfig, Qwen2VLProcessor

from plugins.model.chat.sizes import SmallSize
from plugins.model.qwen2_vl_options import Qwen2VLOptions
from plugins.model.qwen_vl import TEMPORAL_PATCH, QwenVLModel, rotary_text_config, token_ids


class Qwen2VLModel(QwenVLModel[Qwen2VLOptions]):
    """The plugin `qwen2_vl` of the stage `model`."""

    name = "qwen2_vl"
    config_class = Qwen2VLConfig
    processor_class = Qwen2VLProcessor

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Qwen2VLConfig:
        vision = {
            "embed_dim": small.vision_width,
            "hidden_size": small.text_width,  # of what the tower gives, in this family's words
            "depth": small.vision_depth,
            "num_heads": small.vision_heads,
            "mlp_ratio": small.vision_ffn // small.vision_width,
            "initializer_range": small.vision_init,
            "patch_size": small.patch,
            "temporal_patch_size": TEMPORAL_PATCH,
        }
        return Qwen2VLConfig(
            text_config=rotary_text_config(small, tokenizer),
            vision_config=vision,
            tie_word_embeddings=False,
            **token_ids(tokenizer),
        )
