"""What Qwen's vision-language families share: images of any size as grids of patches, positions in three axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import torch
from PIL import Image
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2VLImageProcessorPil

from plugins.model.chat.frozen_vision import FrozenFeatures, as_encoded
from plugins.model.chat.loaded import LoadedChatModel
from plugins.model.chat.packing import packed, prepare_packing
from plugins.model.chat.pictures import Dimensions
from plugins.model.chat.plugin import ChatModel
from plugins.model.chat.processor import Processor
from plugins.model.chat.sizes import SmallSize, text_config
from plugins.model.qwen_vl_options import IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START, QwenVLOptions
from runner.errors import SpecError
from runner.stages import Features

TEMPORAL_PATCH = 2
"""A still image is doubled to a film of two frames."""

QwenOptions = TypeVar("QwenOptions", bound=QwenVLOptions)


class LoadedQwenVL(LoadedChatModel):
    """A Qwen-VL in memory: a feature for each block of patches that the vision tower merges."""

    replaces_pixels = True

    def __init__(self, module: PreTrainedModel, processor: Processor) -> None:
        """Take the module and the processor of a checkpoint, and make the module ready for `pack`."""
        super().__init__(module, processor)
        self.packs = prepare_packing(module)

    def pack(self, batch: Sequence[Features]) -> dict[str, Any]:
        """Lay encoded samples one after the other in a row; see `VisionLanguageModel.pack`."""
        return packed(batch, self.module)

    def collate(self, batch: Sequence[Features], padding_side: Literal["left", "right"]) -> dict[str, Any]:
        """Pad and stack encoded samples, with pixels or with features in their place; see `LoadedChatModel.collate`."""
        return as_encoded(super().collate(batch, padding_side), self.module.config.get_text_config().hidden_size)

    def frozen_vision(self) -> FrozenFeatures | None:
        """What looks at images, where it never changes; see `VisionLanguageModel.frozen_vision`."""
        vision = FrozenFeatures(self.module)
        return vision if vision.steady else None

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
