"""Options of the model `image_text_to_text`."""

from __future__ import annotations

from plugins.model.chat.options import ChatModelOptions


class ImageTextToTextOptions(ChatModelOptions):
    """Any checkpoint that transformers loads as an image-text-to-text model; of a small size, Idefics3."""
