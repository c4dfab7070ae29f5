"""The model plugin `qwen2_5_vl`: Qwen2.5-VL."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase, Qwen2_5_VLConfig, Qwen2_5_VLProcessor

from plugins.model.chat.sizes import SmallSize
from plugins.model.qwen2_5_vl_options import Qwen25VLOptions
from plugins.model.qwen2_5_vl_outline import PublishedOutline
from plugins.model.qwen2_5_vl_published import MAX_PIXELS, MIN_PIXELS, PUBLISHED
from plugins.model.qwen_vl import TEMPORAL_PATCH, QwenVLModel, rotary_text_config, token_ids


class Qwen25VLModel(QwenVLModel[Qwen25VLOptions]):
    """The plugin `qwen2_5_vl` of the stage `model`; its vision tower attends within windows but in some blocks."""

    name = "qwen2_5_vl"
    config_class = Qwen2_5_VLConfig
    processor_class = Qwen2_5_VLProcessor

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLConfig:
        vision = {
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
        return Qwen2_5_VLConfig(
            text_config=rotary_text_config(small, tokenizer),
            vision_config=vision,
            tie_word_embeddings=False,
            **token_ids(tokenizer),
        )

    def _published(self) -> PublishedOutline | None:
        size = PUBLISHED.get(self._options.checkpoint or "")
        if size is None:
            return None
        fewest, most = self._options.min_pixels or MIN_PIXELS, self._options.max_pixels or MAX_PIXELS
        return PublishedOutline(size, fewest, most, self._options.attention)
