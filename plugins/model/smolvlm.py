"""The model plugin `smolvlm`: SmolVLM and Idefics3, which cut an image into tiles and mark their rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers import (
    Idefics3Config,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SmolVLMConfig,
)

from plugins.model.chat.batching import pack_samples
from plugins.model.chat.chat_model import ChatModel
from plugins.model.chat.loaded_chat_model import LoadedChatModel
from plugins.model.chat.processor_and_images import ImageSize, Processor, find_processor_class, load_processor
from plugins.model.chat.segment_attention import use_packed_attention
from plugins.model.family_options import IDEFICS3_IMAGE, SMALL_TILE_GRID, SmolVLMOptions
from plugins.model.model_options_and_small_sizes import ChatModelOptions, SmallSize, text_config, vision_config
from runner.stages import Features

SMALL_SCALE_FACTOR = 2
"""Factor by which each side of a small size's feature map is reduced."""

SmallOptions = TypeVar("SmallOptions", bound=ChatModelOptions)


class LoadedSmolVLM(LoadedChatModel):
    """A SmolVLM or Idefics3 model in memory: each tile has the same number of features."""

    replaces_pixels = True

    def __init__(self, module: PreTrainedModel, processor: Processor) -> None:
        """Store module and processor, and prepare the attention of the language model for packed samples."""
        super().__init__(module, processor)
        self.supports_packing = use_packed_attention(module)

    def pack(self, batch: Sequence[Features]) -> dict[str, Any]:
        """Concatenate encoded samples into one row; see `VisionLanguageModel.pack`."""
        return pack_samples(batch, self.module)

    def num_image_features(self, features: Features) -> int:
        """Count the features of the tiles in a sample's pixels: (1, tiles, channels, height, width)."""
        if "pixel_values" not in features:
            return 0
        config = self.module.config
        _, num_tiles, _, height, width = features["pixel_values"].shape
        patch = config.vision_config.patch_size
        return int(num_tiles * ((height // patch) * (width // patch) // config.scale_factor**2))

    def _image_texts(self, sizes: Sequence[ImageSize]) -> list[str]:
        count: Any = self.processor.image_processor.get_number_of_image_patches
        grids = [count(*size)[1:] for size in sizes]
        inputs = {"rows": [[rows for rows, _ in grids]], "cols": [[columns for _, columns in grids]]}
        return [self.processor.replace_image_token(inputs, index) for index in range(len(sizes))]


class SmallIdefics3(ChatModel[SmallOptions]):
    """Base class of the plugins whose small sizes are Idefics3 models."""

    config_class = Idefics3Config
    processor_class = Idefics3Processor

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Idefics3Config:
        vision = {**vision_config(small), "initializer_range": small.vision_init}
        return Idefics3Config(
            text_config={"model_type": "llama", **text_config(small, tokenizer)},
            vision_config=vision,
            image_token_id=tokenizer.get_added_vocab()[IDEFICS3_IMAGE],
            scale_factor=SMALL_SCALE_FACTOR,
            tie_word_embeddings=False,
        )

    def _small_processor(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Processor:
        images = Idefics3ImageProcessorPil(
            size={"longest_edge": SMALL_TILE_GRID * small.tile}, max_image_size={"longest_edge": small.tile}
        )
        num_tokens = (small.tile // small.patch // SMALL_SCALE_FACTOR) ** 2
        return self._assemble(images, tokenizer, image_seq_len=num_tokens)


class SmolVLMModel(SmallIdefics3[SmolVLMOptions]):
    """The plugin `smolvlm` of the stage `model`."""

    name = "smolvlm"
    loaded_class = LoadedSmolVLM
    other_config_classes = (SmolVLMConfig,)

    def _processor(self, folder: Path) -> Processor:
        # The processor of SmolVLM needs the package num2words, and that of Idefics3 does not.
        return self._with_options(load_processor(find_processor_class(folder, self._config(folder)), folder))

    def _with_options(self, processor: Processor) -> Processor:
        if self._options.longest_edge is not None:
            processor.image_processor.size = {"longest_edge": self._options.longest_edge}
        return processor
