"""The model plugin `internvl`: InternVL 2.5 and later, in transformers' own classes."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLProcessor,
    PreTrainedTokenizerBase,
)

from plugins.model.chat.chat_model import ChatModel
from plugins.model.chat.images import Dimensions
from plugins.model.chat.loaded import LoadedChatModel
from plugins.model.chat.processor import Processor
from plugins.model.chat.small_models import SmallSize, text_config
from plugins.model.model_options import BEGIN, END, PLACE, InternVLOptions
from plugins.model.model_options import INTERNVL_VIDEO as VIDEO
from runner.stages import Features

SHUFFLE = 0.5
"""Side by which the vision tower's features are shrunk: two by two become one."""

SMALL_TILES = 2
"""Tiles of an image in a small size."""


class LoadedInternVL(LoadedChatModel):
    """An InternVL in memory: as many features for each tile, with a token before and one behind an image."""

    def num_image_features(self, features: Features) -> int:
        """Count the features of the tiles that a sample's pixels hold."""
        if "pixel_values" not in features:
            return 0
        config = self.module.config
        num_tiles, _, height, width = features["pixel_values"].shape
        down, across = config.vision_config.patch_size
        places = (height // down) * (width // across)
        return num_tiles * int(places * config.downsample_ratio**2)

    def _image_texts(self, sizes: Sequence[Dimensions]) -> list[str]:
        told = {"crop_to_patches": True}  # as this family's processor asks of its image processor
        counted = [self.processor.image_processor.get_number_of_image_patches(*size, told) for size in sizes]
        return [self.processor.replace_image_token({"num_patches": counted}, place) for place in range(len(sizes))]


class InternVLModel(ChatModel[InternVLOptions]):
    """The plugin `internvl` of the stage `model`."""

    name = "internvl"
    loaded = LoadedInternVL
    config_class = InternVLConfig
    processor_class = InternVLProcessor

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> InternVLConfig:
        vision = {
            "hidden_size": small.vision_width,
            "num_hidden_layers": small.vision_depth,
            "num_attention_heads": small.vision_heads,
            "intermediate_size": small.vision_ffn,
            "initializer_range": small.vision_init,
            "image_size": [small.tile, small.tile],
            "patch_size": [small.patch, small.patch],
        }
        return InternVLConfig(
            text_config={"model_type": "qwen2", **text_config(small, tokenizer)},
            vision_config=vision,
            image_token_id=tokenizer.get_added_vocab()[PLACE],
            downsample_ratio=SHUFFLE,
            tie_word_embeddings=False,
        )

    def _small_processor(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Processor:
        # By these names the processor looks for its tokens; a tokenizer is given them by no other way once it is made.
        marks: dict[str, str | AddedToken] = {
            "start_image_token": BEGIN,
            "end_image_token": END,
            "context_image_token": PLACE,
            "video_token": VIDEO,
        }
        tokenizer._set_model_specific_special_tokens(marks)
        images = GotOcr2ImageProcessorPil(size={"height": small.tile, "width": small.tile}, max_patches=SMALL_TILES)
        places = int((small.tile // small.patch * SHUFFLE) ** 2)
        return self._assemble(images, tokenizer, image_seq_length=places)

    def _with_options(self, processor: Processor) -> Processor:
        if self._options.max_tiles is not None:
            processor.image_processor.max_patches = self._options.max_tiles
        return processor
