"""Options that Qwen's vision-language families share."""

from __future__ import annotations

from plugins.model.chat.options import PixelOptions
from plugins.model.chat.wording import END_OF_TEXT, TURN_END, TURN_START, Wording, chat_template

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"


class QwenVLOptions(PixelOptions):
    """A Qwen-VL from a checkpoint, or of a small named size with random weights."""

    wording = Wording(
        (END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD),
        chat_template(f"{VISION_START}{IMAGE_PAD}{VISION_END}"),
    )
