"""Options of the model `llava_onevision`."""

from __future__ import annotations

from plugins.model.chat.options import ChatModelOptions
from plugins.model.chat.wording import END_OF_TEXT, TURN_END, TURN_START, Wording, chat_template

IMAGE, VIDEO = "<image>", "<video>"


class LlavaOnevisionOptions(ChatModelOptions):
    """LLaVA-OneVision from a checkpoint, or of a small named size with random weights."""

    wording = Wording((END_OF_TEXT, TURN_START, TURN_END, IMAGE, VIDEO), chat_template(f"{IMAGE}\n"))
