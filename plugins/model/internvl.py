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
from plugins.model.chat.loaded_chat_model import LoadedChatModel
from plugins.model.chat.processor_and_images import ImageSize, Processor
from plugins.model.family_options import (
    INTERNVL_IMAGE_CONTEXT,
    INTERNVL_IMAGE_END,
    INTERNVL_IMAGE_START,
    InternVLOptions,
)
from plugins.model.family_options import INTERNVL_VIDEO as VIDEO
from plugins.model.model_options_and_small_sizes import SmallSize, text_config, vision_config
from runner.stages import Features

DOWNSAMPLE_RATIO = 0.5
"""Factor for each side of the vision tower's feature map: two by two features become one."""

SMALL_MAX_TILES = 2
"""Maximum number of tiles of an image in a small size."""


class LoadedInternVL(LoadedChatModel):
    """An InternVL model in memory: each tile has the same number of features; two tokens enclose an image."""

    def num_image_features(self, features: Features) -> int:
        """Count the features of the tiles in a sample's pixels."""
        if "pixel_values" not in features:
            return 0
        config = self.module.config
        num_tiles, _, height, width = features["pixel_values"].shape
        patch_height, patch_width = config.vision_config.patch_size
        num_patches = (height // patch_height) * (width // patch_width)
        return num_tiles * int(num_patches * config.downsample_ratio**2)

    def _image_texts(self, sizes: Sequence[ImageSize]) -> list[str]:
        settings = {"crop_to_patches": True}  # as set by this family's processor
        num_patches = [self.processor.image_processor.get_number_of_image_patches(*size, settings) for size in sizes]
        inputs = {"num_patches": num_patches}
        return [self.processor.replace_image_token(inputs, index) for index in range(len(sizes))]


class InternVLModel(ChatModel[InternVLOptions]):
    """The plugin `internvl` of the stage `model`."""

    name = "internvl"
    loaded_class = LoadedInternVL
    config_class = InternVLConfig
    processor_class = InternVLProcessor

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> InternVLConfig:
        vision = {
            **vision_config(small),
            "initializer_range": small.vision_init,
            "image_size": [small.tile, small.tile],
            "patch_size": [small.patch, small.patch],
        }
        return InternVLConfig(
            text_config={"model_type": "qwen2", **text_config(small, tokenizer)},
            vision_config=vision,
            image_token_id=tokenizer.get_added_vocab()[INTERNVL_IMAGE_CONTEXT],
            downsample_ratio=DOWNSAMPLE_RATIO,
            tie_word_embeddings=False,
        )

    def _small_processor(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Processor:
        # The processor reads its tokens by these names. There is no public way to set them on an existing tokenizer.
        special_tokens: dict[str, str | AddedToken] = {
            "start_image_token": INTERNVL_IMAGE_START,
            "end_image_token": INTERNVL_IMAGE_END,
            "context_image_token": INTERNVL_IMAGE_CONTEXT,
            "video_token": VIDEO,
        }
        tokenizer._set_model_specific_special_tokens(special_tokens)
        images = GotOcr2ImageProcessorPil(size={"height": small.tile, "width": small.tile}, max_patches=SMALL_MAX_TILES)
        num_tokens = int((small.tile // small.patch * DOWNSAMPLE_RATIO) ** 2)
        return self._assemble(images, tokenizer, image_seq_length=num_tokens)

    def _with_options(self, processor: Processor) -> Processor:
        if self._options.max_tiles is not None:
            processor.image_processor.max_patches = self._options.max_tiles
        return processor
