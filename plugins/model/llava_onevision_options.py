"""Options of the model `llava_onevision`."""

from __future__ import annotations

from plugins.model.chat.options import ChatModelOptions


class LlavaOnevisionOptions(ChatModelOptions):
    """LLaVA-OneVision from a checkpoint, or of a small named size with random weights."""
