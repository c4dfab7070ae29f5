"""Options of each model family, with the special tokens and the chat template of its small sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from plugins.model.model_options_and_small_sizes import (
    END_OF_TEXT,
    SIZES,
    TURN_END,
    TURN_START,
    ChatFormat,
    ChatModelOptions,
    PixelOptions,
    chat_template,
)
from plugins.model.qwen2_5_vl_published_sizes import MERGE_SIZE
from plugins.model.tested_model_types import folder_model_type, refusal
from runner.stages import OutsideFingerprint, RelativeFrame, ResizedFrame

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"


class QwenVLOptions(PixelOptions):
    """A Qwen-VL model, from a checkpoint or in a small size with random weights."""

    chat_format = ChatFormat(
        (END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD),
        chat_template(f"{VISION_START}{IMAGE_PAD}{VISION_END}"),
    )


BOX_UNITS = 1000
"""Units of each side of an image in which Qwen2-VL, Qwen3-VL and InternVL write boxes, by their model cards."""


class Qwen2VLOptions(QwenVLOptions):
    """Qwen2-VL, from a checkpoint or in a small size with random weights."""

    def box_frame(self) -> RelativeFrame:
        """Return parts per thousand of each side."""
        return RelativeFrame(units=BOX_UNITS)


class Qwen25VLOptions(QwenVLOptions):
    """Qwen2.5-VL, from a checkpoint or in a small size with random weights."""

    def box_frame(self) -> ResizedFrame:
        """Return pixels of the resized image, which depend on `min_pixels`, `max_pixels` and the checkpoint.

        Raises:
            RequirementError: The checkpoint's settings for images are missing or damaged.
        """
        if self.checkpoint is None:
            assert self.size is not None
            small = SIZES[self.size]
            side, min_pixels, max_pixels = small.patch * MERGE_SIZE, small.min_pixels, small.max_pixels
        else:
            from plugins.model.chat.resize_settings import find_resize_settings

            side, min_pixels, max_pixels = find_resize_settings(self.checkpoint, self.revision)
        return ResizedFrame(
            multiple=side, min_pixels=self.min_pixels or min_pixels, max_pixels=self.max_pixels or max_pixels
        )


class Qwen3VLOptions(QwenVLOptions):
    """Qwen3-VL, from a checkpoint or in a small size with random weights."""

    def box_frame(self) -> RelativeFrame:
        """Return parts per thousand of each side."""
        return RelativeFrame(units=BOX_UNITS)


class Qwen35Options(QwenVLOptions):
    """Qwen3.5, from a checkpoint or in a small size with random weights."""


class Qwen35MoeOptions(QwenVLOptions):
    """Qwen3.5 with a mixture of experts, from a checkpoint or in a small size with random weights."""


LLAVA_IMAGE, LLAVA_VIDEO = "<image>", "<video>"


class LlavaOnevisionOptions(ChatModelOptions):
    """LLaVA-OneVision, from a checkpoint or in a small size with random weights."""

    chat_format = ChatFormat(
        (END_OF_TEXT, TURN_START, TURN_END, LLAVA_IMAGE, LLAVA_VIDEO), chat_template(f"{LLAVA_IMAGE}\n")
    )


INTERNVL_IMAGE_START, INTERNVL_IMAGE_CONTEXT, INTERNVL_IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"
INTERNVL_VIDEO = "<video>"


class InternVLOptions(ChatModelOptions):
    """InternVL, from a checkpoint in transformers' format (named `…-hf`) or in a small size with random weights."""

    chat_format = ChatFormat(
        (
            *(END_OF_TEXT, TURN_START, TURN_END),
            *(INTERNVL_IMAGE_START, INTERNVL_IMAGE_CONTEXT, INTERNVL_IMAGE_END, INTERNVL_VIDEO),
        ),
        chat_template(f"{INTERNVL_IMAGE_CONTEXT}\n"),
    )

    max_tiles: Annotated[int, Field(gt=0)] | None = None
    """Maximum number of square tiles into which an image is split, not counting the thumbnail; 1 disables splitting. A
    tile has 256 tokens in the published checkpoints. Default: the value of the checkpoint or size."""

    def box_frame(self) -> RelativeFrame:
        """Return parts per thousand of each side, between the marks of the family."""
        return RelativeFrame(units=BOX_UNITS, before="<box>", after="</box>", separator=", ")

    def smoke(self) -> Mapping[str, Any]:
        """Use the smallest size of the same architecture, without special kernels."""
        return {**super().smoke(), "max_tiles": None}


GLM_IMAGE, GLM_IMAGE_START, GLM_IMAGE_END = "<|image|>", "<|begin_of_image|>", "<|end_of_image|>"
GLM_VIDEO, GLM_VIDEO_START, GLM_VIDEO_END = "<|video|>", "<|begin_of_video|>", "<|end_of_video|>"


class Glm4vOptions(PixelOptions):
    """GLM-4.1V, from a checkpoint or in a small size with random weights."""

    chat_format = ChatFormat(
        (
            *(END_OF_TEXT, TURN_START, TURN_END, GLM_IMAGE, GLM_IMAGE_START, GLM_IMAGE_END),
            *(GLM_VIDEO, GLM_VIDEO_START, GLM_VIDEO_END),
        ),
        chat_template(f"{GLM_IMAGE_START}{GLM_IMAGE}{GLM_IMAGE_END}"),
    )


GEMMA_IMAGE_START, GEMMA_IMAGE, GEMMA_IMAGE_END = "<start_of_image>", "<image_soft_token>", "<end_of_image>"


class Gemma3Options(ChatModelOptions):
    """Gemma 3, from a checkpoint or in a small size with random weights."""

    chat_format = ChatFormat(
        (END_OF_TEXT, TURN_START, TURN_END, GEMMA_IMAGE_START, GEMMA_IMAGE, GEMMA_IMAGE_END),
        chat_template(GEMMA_IMAGE_START),
    )


UTTERANCE_END, FAKE_IMAGE_TOKEN, IDEFICS3_IMAGE = "<end_of_utterance>", "<fake_token_around_image>", "<image>"

SMALL_TILE_GRID = 2
"""Maximum number of rows and of columns of tiles of an image in a small size."""

_TILE_NUMBERS = range(1, SMALL_TILE_GRID + 1)


IDEFICS3_FORMAT = ChatFormat(
    (
        *(END_OF_TEXT, TURN_START, TURN_END, UTTERANCE_END, FAKE_IMAGE_TOKEN, IDEFICS3_IMAGE, "<global-img>"),
        *(f"<row_{row}_col_{column}>" for row in _TILE_NUMBERS for column in _TILE_NUMBERS),
    ),
    f"{{% for message in messages %}}{TURN_START}{{{{ message.role }}}}: "
    "{% for part in message.content %}"
    f"{{% if part.type == 'image' %}}{IDEFICS3_IMAGE}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
    f"{{% endfor %}}{UTTERANCE_END}\n{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{TURN_START}assistant: {{% endif %}}",
)
"""Special tokens and chat template of small Idefics3 models."""


class SmolVLMOptions(ChatModelOptions):
    """SmolVLM or Idefics3, from a checkpoint or in a small size with random weights."""

    chat_format = IDEFICS3_FORMAT

    longest_edge: Annotated[int, Field(gt=0)] | None = None
    """Length in pixels to which the longer side of an image is scaled before the image is split into tiles. A length of
    one tile (512 in SmolVLM2) disables splitting. Default: the value of the checkpoint or size."""

    def smoke(self) -> Mapping[str, Any]:
        """Use the smallest size of the same architecture, without special kernels."""
        return {**super().smoke(), "longest_edge": None}


class ImageTextToTextOptions(ChatModelOptions):
    """Any checkpoint that transformers loads as an image-text-to-text model. The small sizes are Idefics3 models."""

    chat_format = IDEFICS3_FORMAT

    untested: Annotated[bool, OutsideFingerprint()] = False
    """Whether to use a checkpoint of a model type that the project has not tried; docs/models.md lists the types that
    passed its test. Types that failed are refused in any case."""

    @model_validator(mode="after")
    def _is_tested_type(self) -> Self:
        # The type of a checkpoint on the hub is checked when its configuration is read.
        folder = Path(self.checkpoint) if self.checkpoint else None
        model_type = folder_model_type(folder) if folder is not None and folder.is_absolute() else None
        if model_type is not None and (reason := refusal(model_type, untested=self.untested)):
            raise ValueError(reason)
        return self
