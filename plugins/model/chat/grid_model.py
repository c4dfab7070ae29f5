"""Models with one token for each block of patches of an image of any size, such as Qwen-VL and GLM-V."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from plugins.model.chat.batching import compute_positions, pack_samples
from plugins.model.chat.chat_model import ChatModel
from plugins.model.chat.loaded_chat_model import LoadedChatModel
from plugins.model.chat.packing_check import packs_as_alone
from plugins.model.chat.processor_and_images import ImageSize, Processor
from plugins.model.model_options_and_small_sizes import PixelOptions, SmallSize, text_config
from runner.errors import SpecError
from runner.stages import Features

TEMPORAL_PATCH = 2
"""Frames of a temporal patch; a still image is duplicated to two frames."""

GridOptions = TypeVar("GridOptions", bound=PixelOptions)


class LoadedGridModel(LoadedChatModel):
    """A model in memory whose tokens have positions with three axes: time, height and width."""

    replaces_pixels = True

    def __init__(self, module: PreTrainedModel, processor: Processor, *, attention_packs: bool) -> None:
        """Store module and processor.

        Args:
            module: The model.
            processor: Its processor.
            attention_packs: Whether its attention can be computed within the samples of a row.
        """
        super().__init__(module, processor)
        self._attention_packs = attention_packs

    @cached_property
    def supports_packing(self) -> bool:  # type: ignore[override]  # computed when it is first asked for
        """Whether packed samples are computed as if alone, found out by doing so for a hybrid model."""
        return self._attention_packs and packs_as_alone(self.module, self.pack)

    def packing_problem(self) -> str | None:
        """Return why samples are not packed although the attention could; see `ExplainsPacking`."""
        if self.supports_packing or not self._attention_packs:
            return None
        return (
            f"samples are padded instead of packed: in a packed row, {type(self.module).__name__} would compute a "
            "sample differently than alone, because some of its layers carry a state or have windows"
        )

    def pack(self, batch: Sequence[Features]) -> dict[str, Any]:
        """Concatenate encoded samples into one row; see `VisionLanguageModel.pack`."""
        return pack_samples(batch, self.module)

    def collate(self, batch: Sequence[Features], padding_side: Literal["left", "right"]) -> dict[str, Any]:
        """Pad and stack encoded samples that have pixels or image features; see `LoadedChatModel.collate`.

        For training, with padding on the right, the positions are computed here, on the CPU: in its forward pass the
        model would wait for the device several times for each image. For generation the model computes them.
        """
        inputs = super().collate(batch, padding_side)
        if padding_side == "right" and "image_grid_thw" in inputs:
            inputs["position_ids"] = compute_positions(inputs, self.module.base_model)
        return inputs

    def num_image_features(self, features: Features) -> int:
        """Count the merged blocks in the image grids of a sample."""
        grid = features.get("image_grid_thw")
        block_size = self.module.config.vision_config.spatial_merge_size**2
        return 0 if grid is None else int(grid.prod(dim=1).sum()) // block_size

    def _image_texts(self, sizes: Sequence[ImageSize]) -> list[str]:
        patches = [self.processor.image_processor.get_number_of_image_patches(*size) for size in sizes]
        inputs = {"image_grid_thw": torch.tensor([[1, 1, count] for count in patches])}  # only the product is used
        return [self.processor.replace_image_token(inputs, index) for index in range(len(sizes))]


class GridModel(ChatModel[GridOptions]):
    """Base class of the plugins of these models.

    Attributes:
        image_processor_class: The image processor of the small sizes.
        frames_in_area: How often the image processor's limits of the area count the area of a still image.
    """

    image_processor_class: ClassVar[type[Any]]
    frames_in_area: ClassVar[int] = 1

    def _small_processor(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Processor:
        images = self.image_processor_class(
            patch_size=small.patch,
            temporal_patch_size=TEMPORAL_PATCH,
            size={
                "shortest_edge": small.min_pixels * self.frames_in_area,
                "longest_edge": small.max_pixels * self.frames_in_area,
            },
        )
        return self._assemble(images, tokenizer)

    def _with_options(self, processor: Processor) -> Processor:
        size = dict(processor.image_processor.size)
        if self._options.min_pixels:
            size["shortest_edge"] = self._options.min_pixels * self.frames_in_area
        if self._options.max_pixels:
            size["longest_edge"] = self._options.max_pixels * self.frames_in_area
        if size["shortest_edge"] > size["longest_edge"]:
            raise SpecError(
                f"the minimum of {size['shortest_edge'] // self.frames_in_area} pixels exceeds the maximum of "
                f"{size['longest_edge'] // self.frames_in_area} pixels; set both model.min_pixels and model.max_pixels",
                path=("model",),
            )
        processor.image_processor.size = size
        return processor


def mrope_text_config(small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the configuration of a small language model with multimodal rotary positions (time, height, width)."""
    # There are half as many frequencies as units in a head; the axes get equal shares as far as possible.
    frequencies = small.text_width // small.text_heads // 2
    third = frequencies // 3
    section = [frequencies - 2 * third, third, third]
    rotary = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": section}
    return {**text_config(small, tokenizer), "rope_parameters": rotary}


def grid_vision_config(small: SmallSize) -> dict[str, Any]:
    """Return the vision tower's configuration of a size, as Qwen2.5-VL and the towers after it name its settings."""
    return {
        "hidden_size": small.vision_width,
        "out_hidden_size": small.text_width,
        "depth": small.vision_depth,
        "num_heads": small.vision_heads,
        "intermediate_size": small.vision_ffn,
        "initializer_range": small.vision_init,
        "patch_size": small.patch,
        "temporal_patch_size": TEMPORAL_PATCH,
    }
