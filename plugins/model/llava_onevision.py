"""The model plugin `llava_onevision`: LLaVA-OneVision.

A single image of a sample is split into tiles; of several images, each is one square. The main image of a tweet with
segments therefore has a lower resolution than that of a tweet without: the family was trained like this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    PreTrainedTokenizerBase,
)

from plugins.model.chat.chat_model import ChatModel
from plugins.model.chat.loaded_chat_model import LoadedChatModel
from plugins.model.chat.processor_and_images import ImageSize, Processor
from plugins.model.family_options import LLAVA_IMAGE as IMAGE
from plugins.model.family_options import LLAVA_VIDEO as VIDEO
from plugins.model.family_options import LlavaOnevisionOptions
from plugins.model.model_options_and_small_sizes import SmallSize, text_config, vision_config
from runner.stages import Features

TILE_GRIDS = ((1, 1), (1, 2), (2, 1), (2, 2))
"""Possible rows and columns of tiles of an image in a small size."""


class LoadedLlavaOnevision(LoadedChatModel):
    """A LLaVA-OneVision model in memory: tile features without padding, plus one newline feature for each row."""

    def num_image_features(self, features: Features) -> int:
        """Count the image features by running the model's own packing on features of width one."""
        if "pixel_values" not in features:
            return 0
        sizes, config = features["image_sizes"], self.module.config
        is_single = int(features["batch_num_images"].sum()) == 1
        num_tiles = features["pixel_values"].shape[1] if is_single else 1
        num_patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        blank = [torch.zeros(num_tiles, num_patches, 1) for _ in sizes]
        packing: Any = self.module.base_model
        _, lengths = packing.pack_image_features(
            blank, sizes, image_newline=torch.zeros(1), vision_aspect_ratio=config.vision_aspect_ratio
        )
        return int(lengths.sum())

    def _image_texts(self, sizes: Sequence[ImageSize]) -> list[str]:
        side = self.processor.image_processor.size["height"]
        # Only the tile size of the pixels is used.
        inputs = {
            "batch_num_images": [len(sizes)],
            "image_sizes": [list(size) for size in sizes],
            "pixel_values": torch.empty(1, 1, side, side),
        }
        return [self.processor.replace_image_token(inputs, index) for index in range(len(sizes))]


class LlavaOnevisionModel(ChatModel[LlavaOnevisionOptions]):
    """The plugin `llava_onevision` of the stage `model`."""

    name = "llava_onevision"
    loaded_class = LoadedLlavaOnevision
    config_class = LlavaOnevisionConfig
    processor_class = LlavaOnevisionProcessor

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> LlavaOnevisionConfig:
        vision = {"model_type": "siglip_vision_model", **vision_config(small), "vision_use_head": False}
        special = tokenizer.get_added_vocab()
        return LlavaOnevisionConfig(
            text_config={"model_type": "qwen2", **text_config(small, tokenizer)},
            vision_config=vision,
            image_token_index=special[IMAGE],
            video_token_index=special[VIDEO],
            image_grid_pinpoints=_resolutions(small),
            tie_word_embeddings=False,
        )

    def _small_processor(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Processor:
        images = LlavaOnevisionImageProcessorPil(
            size={"height": small.tile, "width": small.tile}, image_grid_pinpoints=_resolutions(small)
        )
        num_tokens = (small.tile // small.patch) ** 2
        return self._assemble(images, tokenizer, num_image_tokens=num_tokens, vision_feature_select_strategy="full")


def _resolutions(small: SmallSize) -> list[list[int]]:
    return [[rows * small.tile, columns * small.tile] for rows, columns in TILE_GRIDS]
