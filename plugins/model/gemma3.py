"""The model plugin `gemma3`: Gemma 3, in which an image always has the same number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import (
    Gemma3Config,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from plugins.model.chat.chat_model import ChatModel
from plugins.model.chat.loaded_chat_model import LoadedChatModel
from plugins.model.chat.processor_and_images import ImageSize, Processor
from plugins.model.family_options import GEMMA_IMAGE, GEMMA_IMAGE_END, GEMMA_IMAGE_START, Gemma3Options
from plugins.model.model_options_and_small_sizes import SmallSize, text_config, vision_config
from runner.stages import Features

SMALL_POOLING = 2
"""Factor by which each side of a small size's feature map is reduced."""

SMALL_WINDOW = 4096
"""Tokens that a sliding window of a small size covers: more than a sample has."""


class LoadedGemma3(LoadedChatModel):
    """A Gemma 3 model in memory. Tokens of an image attend to each other in both directions, so samples are padded."""

    replaces_pixels = True
    takes_features_in_parts = False
    needs_right_padding_mask = True

    def num_image_features(self, features: Features) -> int:
        """Count the features of a sample's images and crops."""
        num_images = len(features["pixel_values"]) if "pixel_values" in features else 0
        return num_images * int(self.module.config.mm_tokens_per_image)

    def _image_texts(self, sizes: Sequence[ImageSize]) -> list[str]:
        if self.processor.image_processor.do_pan_and_scan:
            return super()._image_texts(sizes)  # the number of crops depends on the size
        inputs = {"num_crops": [0] * len(sizes)}
        return [self.processor.replace_image_token(inputs, index) for index in range(len(sizes))]


class Gemma3Model(ChatModel[Gemma3Options]):
    """The plugin `gemma3` of the stage `model`."""

    name = "gemma3"
    loaded_class = LoadedGemma3
    config_class = Gemma3Config
    processor_class = Gemma3Processor

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Gemma3Config:
        head = small.text_width // small.text_heads
        text = {
            **text_config(small, tokenizer),
            "head_dim": head,
            "query_pre_attn_scalar": head,
            "sliding_window": SMALL_WINDOW,
            "layer_types": ["sliding_attention"] * (small.text_layers - 1) + ["full_attention"],
        }
        vision = {**vision_config(small), "vision_use_head": False}
        special = tokenizer.get_added_vocab()
        return Gemma3Config(
            text_config=text,
            vision_config=vision,
            mm_tokens_per_image=_num_small_tokens(small),
            image_token_index=special[GEMMA_IMAGE],
            boi_token_index=special[GEMMA_IMAGE_START],
            eoi_token_index=special[GEMMA_IMAGE_END],
            initializer_range=small.text_init,
            tie_word_embeddings=False,
        )

    def _without_weights(self, config: PreTrainedConfig, processor: Processor, attention: str) -> LoadedChatModel:
        loaded = super()._without_weights(config, processor, attention)
        # Transformers starts the projection at zero; then no image would change the answers of an untrained model.
        projector: Any = loaded.module.base_model.multi_modal_projector
        torch.nn.init.normal_(projector.mm_input_projection_weight, std=config.get_text_config().initializer_range)
        return loaded

    def _small_processor(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Processor:
        # The processor reads its tokens by these names. There is no public way to set them on an existing tokenizer.
        special_tokens: dict[str, str | AddedToken] = {
            "boi_token": GEMMA_IMAGE_START,
            "image_token": GEMMA_IMAGE,
            "eoi_token": GEMMA_IMAGE_END,
        }
        tokenizer._set_model_specific_special_tokens(special_tokens)
        images = Gemma3ImageProcessorPil(size={"height": small.tile, "width": small.tile})
        return self._assemble(images, tokenizer, image_seq_length=_num_small_tokens(small))


def _num_small_tokens(small: SmallSize) -> int:
    return int((small.tile // small.patch // SMALL_POOLING) ** 2)
