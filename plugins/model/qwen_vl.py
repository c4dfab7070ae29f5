"""The model plugins `qwen2_vl`, `qwen2_5_vl` and `qwen3_vl`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
)

from plugins.model.chat.batching import FrozenFeatures, as_encoded, packed, prepare_packing
from plugins.model.chat.chat_model import ChatModel
from plugins.model.chat.images import Dimensions, read_dimensions, unusable
from plugins.model.chat.loaded import LoadedChatModel
from plugins.model.chat.processor import Processor
from plugins.model.chat.small_models import SmallSize, text_config
from plugins.model.model_options import (
    IMAGE_PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    Qwen2VLOptions,
    Qwen3VLOptions,
    Qwen25VLOptions,
    QwenVLOptions,
)
from plugins.model.qwen2_5_vl_published import (
    MAX_PIXELS,
    MERGE,
    MIN_PIXELS,
    PATCH,
    PUBLISHED,
    PublishedSize,
    published_settings,
)
from runner.errors import SpecError
from runner.records import Rendered
from runner.stages import Features, TokenCounts

TEMPORAL_PATCH = 2
"""A still image is doubled to a film of two frames."""

QwenOptions = TypeVar("QwenOptions", bound=QwenVLOptions)


class LoadedQwenVL(LoadedChatModel):
    """A Qwen-VL in memory: a feature for each block of patches that the vision tower merges."""

    replaces_pixels = True

    def __init__(self, module: PreTrainedModel, processor: Processor) -> None:
        """Take the module and the processor of a checkpoint, and make the module ready for `pack`."""
        super().__init__(module, processor)
        self.supports_packing = prepare_packing(module)

    def pack(self, batch: Sequence[Features]) -> dict[str, Any]:
        """Lay encoded samples one after the other in a row; see `VisionLanguageModel.pack`."""
        return packed(batch, self.module)

    def collate(self, batch: Sequence[Features], padding_side: Literal["left", "right"]) -> dict[str, Any]:
        """Pad and stack encoded samples, with pixels or with features in their place; see `LoadedChatModel.collate`."""
        return as_encoded(super().collate(batch, padding_side), self.module.config.get_text_config().hidden_size)

    def frozen_vision(self) -> FrozenFeatures | None:
        """What looks at images, where it never changes; see `VisionLanguageModel.frozen_vision`."""
        vision = FrozenFeatures(self.module)
        return vision if vision.is_cacheable else None

    def num_image_features(self, features: Features) -> int:
        """Count the merged blocks in the grids of a sample's pixels."""
        grid = features.get("image_grid_thw")
        merged = self.module.config.vision_config.spatial_merge_size**2
        return 0 if grid is None else int(grid.prod(dim=1).sum()) // merged

    def _process_pictures(self, pictures: Sequence[Image.Image]) -> tuple[Features, Sequence[str]]:
        # The processor does no more with them than this, and tokenises a text besides.
        made = self.processor.image_processor(images=list(pictures), return_tensors="pt")
        return dict(made), self._texts_of_sizes(tuple((each.height, each.width) for each in pictures))

    def _image_texts(self, sizes: Sequence[Dimensions]) -> list[str]:
        patches = [self.processor.image_processor.get_number_of_image_patches(*size) for size in sizes]
        inputs = {"image_grid_thw": torch.tensor([[1, 1, count] for count in patches])}  # only their product is asked
        return [self.processor.replace_image_token(inputs, place) for place in range(len(sizes))]


class QwenVLModel(ChatModel[QwenOptions]):
    """What the plugins `qwen2_vl`, `qwen2_5_vl` and `qwen3_vl` share."""

    loaded = LoadedQwenVL

    def _small_processor(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Processor:
        images = Qwen2VLImageProcessorPil(
            patch_size=small.patch,
            temporal_patch_size=TEMPORAL_PATCH,
            size={"shortest_edge": small.min_pixels, "longest_edge": small.max_pixels},
        )
        return self._assemble(images, tokenizer)

    def _with_options(self, processor: Processor) -> Processor:
        size = dict(processor.image_processor.size)
        size["shortest_edge"] = self._options.min_pixels or size["shortest_edge"]
        size["longest_edge"] = self._options.max_pixels or size["longest_edge"]
        if size["shortest_edge"] > size["longest_edge"]:
            raise SpecError(
                f"an image cannot have at least {size['shortest_edge']} and at most "
                f"{size['longest_edge']} pixels; set both model.min_pixels and model.max_pixels",
                path=("model",),
            )
        processor.image_processor.size = size
        return processor


def token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The special tokens that a configuration of these families names."""
    special = tokenizer.get_added_vocab()
    return {
        "image_token_id": special[IMAGE_PAD],
        "video_token_id": special[VIDEO_PAD],
        "vision_start_token_id": special[VISION_START],
        "vision_end_token_id": special[VISION_END],
    }


def rotary_text_config(small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Write out a small language model whose rotary frequencies time, height and width share."""
    # Frequencies are half a head; the three share them as evenly as they divide.
    frequencies = small.text_width // small.text_heads // 2
    third = frequencies // 3
    section = [frequencies - 2 * third, third, third]
    rotary = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": section}
    return {**text_config(small, tokenizer), "rope_parameters": rotary}


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

    def _published(self) -> PublishedModelSpec | None:
        size = PUBLISHED.get(self._options.checkpoint or "")
        if size is None:
            return None
        fewest, most = self._options.min_pixels or MIN_PIXELS, self._options.max_pixels or MAX_PIXELS
        return PublishedModelSpec(size, fewest, most, self._options.attention)


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


CHARACTERS_PER_TOKEN = 4.0
"""English prose has about 4.5 characters a token in vocabularies of 150,000, the names, tags and links of tweets about
3; prompts and answers here are mostly prose."""


TURNS, TURN = 19, 10
"""Tokens of the published template around a question and its answer, system message included, and around an example."""


class PublishedModelSpec:
    """What planning needs of a published size; see `Outline`.

    Attributes:
        module: On the meta device.
        supports_packing: As the family does with this attention.
        replaces_pixels: As the family does.
        context_length: As published.
    """

    module: torch.nn.Module
    supports_packing: bool
    replaces_pixels = True
    context_length: int | None

    def __init__(self, size: PublishedSize, min_pixels: int, max_pixels: int, attention: str) -> None:
        """Build the architecture without memory for its weights.

        Args:
            size: Which one.
            min_pixels: Area to which smaller images are enlarged.
            max_pixels: Area to which larger images are reduced.
            attention: Implementation in transformers.
        """
        config = Qwen2_5_VLConfig(**published_settings(size))
        # Kernels that are not installed here make no difference to what is counted.
        known = attention if attention != "flash_attention_2" else "sdpa"
        with torch.device("meta"):
            module: PreTrainedModel = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
                config, attn_implementation=known, dtype=torch.float32
            )
        self.module = module
        self.supports_packing = prepare_packing(module)
        self.context_length = config.get_text_config().max_position_embeddings
        self._images = Qwen2VLImageProcessorPil(
            patch_size=PATCH, merge_size=MERGE, size={"shortest_edge": min_pixels, "longest_edge": max_pixels}
        )

    def count(self, rendered: Rendered) -> TokenCounts:
        """Count image tokens from the sizes of the files, and estimate the text's from its characters.

        Raises:
            DataError: An image cannot be used.
        """
        patches = [self._patches(path, rendered.id) for path in rendered.images]
        shown = [(each.prompt, each.target or "") for each in rendered.examples]
        text = estimated(rendered.prompt) + sum(estimated(asked) + estimated(told) for asked, told in shown)
        return TokenCounts(
            text=text + 2 * len(patches) + TURNS + TURN * len(shown),  # each image stands between two tokens of its own
            image=sum(patches) // MERGE**2,
            target=0 if rendered.target is None else estimated(rendered.target) + 1,
            estimated=True,
        )

    def _patches(self, path: Path, sample: str) -> int:
        try:
            return int(self._images.get_number_of_image_patches(*read_dimensions(path, sample)))
        except ValueError as error:  # too narrow
            raise unusable(path, sample, error) from error


def estimated(text: str) -> int:
    """Estimate the tokens of a text from its characters."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)
