"""Options of the models: weights, image sizes and attention, and what each family adds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from plugins.model.chat.small_models import (
    END_OF_TEXT,
    TURN_END,
    TURN_START,
    ChatWording,
    Size,
    chat_template,
    size_digest,
)
from runner.stages import LocatedStr, ModelOptions, OutsideFingerprint


def _folder_beside_the_spec(value: object) -> object:
    """Make the name of a local folder absolute; leave a hub name as it is."""
    if not isinstance(value, str):
        return value
    beside = value.folder if isinstance(value, LocatedStr) else Path.cwd()
    folder = (beside / Path(value).expanduser()).resolve()
    written_as_path = value.startswith((".", "/", "~"))
    return str(folder) if written_as_path or (isinstance(value, LocatedStr) and folder.is_dir()) else str(value)


class ChatModelOptions(ModelOptions):
    """A vision-language model from a checkpoint, or of a small named size with random weights."""

    wording: ClassVar[ChatWording]
    """Of the family's small sizes."""

    checkpoint: Annotated[str | None, BeforeValidator(_folder_beside_the_spec), OutsideFingerprint()] = None
    """A name on the Hugging Face hub, or a local folder: what starts with `.`, `/` or `~`, or is found beside
    the spec. Relative to the spec. The content stands in the fingerprint, not this name."""

    size: Size | None = None
    """Random weights instead of a checkpoint: `tiny` is the demo's size, with which Qwen2.5-VL learns the synthetic
    data in a minute or two on two CPU cores, `smoke` only shows that everything runs. Their tokenizer is made from
    the training texts."""

    revision: Annotated[str, OutsideFingerprint()] = "main"
    """Branch, tag or commit of a checkpoint on the hub; the commit it stands for is in the fingerprint."""

    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Implementation in transformers; `flash_attention_2` needs the package flash-attn and a CUDA GPU."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.checkpoint is None) == (self.size is None):
            both = "both are given" if self.size else "neither is given"
            raise ValueError(
                f"give either `checkpoint` (a hub name or a local folder) or `size` (random weights); {both}"
            )
        return self

    def exact_revision(self) -> str:
        """Name the exact weights: a hub commit, a content hash, or `random:` with the size and its digest.

        Raises:
            UnmetError: The checkpoint cannot be had on this machine.
        """
        if self.checkpoint is None:
            assert self.size is not None
            return f"random:{self.size}:{size_digest(self.size, self.wording)}"
        from plugins.model.chat.checkpoint_files import hub_revision, local_folder, local_revision

        if Path(self.checkpoint).is_absolute():
            return local_revision(local_folder(self.checkpoint))
        return hub_revision(self.checkpoint, self.revision)

    def smoke(self) -> Mapping[str, Any]:
        """The same architecture in its smallest size, without special kernels."""
        return {"checkpoint": None, "size": "smoke", "attention": "sdpa"}


class PixelOptions(ChatModelOptions):
    """A model that takes images of any size, cut into as many patches as they have room for."""

    min_pixels: Annotated[int, Field(gt=0)] | None = None
    """Area in pixels to which smaller images are enlarged; by default that of the checkpoint or the size."""

    max_pixels: Annotated[int, Field(gt=0)] | None = None
    """Area in pixels to which larger images are reduced; by default that of the checkpoint or the size."""

    @model_validator(mode="after")
    def _pixels_in_order(self) -> Self:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels ({self.min_pixels}) must not be above max_pixels ({self.max_pixels}); both are areas"
            )
        return self

    def smoke(self) -> Mapping[str, Any]:
        """The same architecture in its smallest size, on small images and without special kernels."""
        return {**super().smoke(), "min_pixels": None, "max_pixels": None}


VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"


class QwenVLOptions(PixelOptions):
    """A Qwen-VL from a checkpoint, or of a small named size with random weights."""

    wording = ChatWording(
        (END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD),
        chat_template(f"{VISION_START}{IMAGE_PAD}{VISION_END}"),
    )


class Qwen2VLOptions(QwenVLOptions):
    """Qwen2-VL from a checkpoint, or of a small named size with random weights."""


class Qwen25VLOptions(QwenVLOptions):
    """Qwen2.5-VL from a checkpoint, or of a small named size with random weights."""


class Qwen3VLOptions(QwenVLOptions):
    """Qwen3-VL from a checkpoint, or of a small named size with random weights."""


LLAVA_IMAGE, LLAVA_VIDEO = "<image>", "<video>"


class LlavaOnevisionOptions(ChatModelOptions):
    """LLaVA-OneVision from a checkpoint, or of a small named size with random weights."""

    wording = ChatWording(
        (END_OF_TEXT, TURN_START, TURN_END, LLAVA_IMAGE, LLAVA_VIDEO), chat_template(f"{LLAVA_IMAGE}\n")
    )


BEGIN, PLACE, END, INTERNVL_VIDEO = "<img>", "<IMG_CONTEXT>", "</img>", "<video>"


class InternVLOptions(ChatModelOptions):
    """InternVL, from a checkpoint in transformers' own form (`…-hf`), or of a small named size with random weights."""

    wording = ChatWording(
        (END_OF_TEXT, TURN_START, TURN_END, BEGIN, PLACE, END, INTERNVL_VIDEO), chat_template(f"{PLACE}\n")
    )

    max_tiles: Annotated[int, Field(gt=0)] | None = None
    """Square tiles that an image may be cut into, an overview of it not counted; 1 keeps each image whole. By
    default that of the checkpoint or the size. A tile takes 256 tokens in the published checkpoints."""

    def smoke(self) -> Mapping[str, Any]:
        """The same architecture in its smallest size, without special kernels."""
        return {**super().smoke(), "max_tiles": None}


UTTERANCE_END, AROUND, GENERIC_IMAGE = "<end_of_utterance>", "<fake_token_around_image>", "<image>"

SPLIT = 2
"""Rows and columns of tiles of an image in a small size, at most."""


class ImageTextToTextOptions(ChatModelOptions):
    """Any checkpoint that transformers loads as an image-text-to-text model; of a small size, Idefics3."""

    wording = ChatWording(
        (
            *(END_OF_TEXT, TURN_START, TURN_END, UTTERANCE_END, AROUND, GENERIC_IMAGE, "<global-img>"),
            *(f"<row_{row}_col_{column}>" for row in range(1, SPLIT + 1) for column in range(1, SPLIT + 1)),
        ),
        f"{{% for message in messages %}}{TURN_START}{{{{ message.role }}}}: "
        "{% for part in message.content %}"
        f"{{% if part.type == 'image' %}}{GENERIC_IMAGE}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
        f"{{% endfor %}}{UTTERANCE_END}\n{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{TURN_START}assistant: {{% endif %}}",
    )
