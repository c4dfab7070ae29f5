"""A model: a family that the general class carries, with an option of its own."""

from __future__ import annotations

from pathlib import Path

from transformers import Idefics3Config, PreTrainedConfig

from mmre_examples.idefics3_options import Idefics3Options
from plugins.model.chat.chat_model import ChatModel
from plugins.model.chat.processor import Processor
from plugins.model.image_text_to_text import ImageTextToTextModel


class Idefics3Model(ImageTextToTextModel):
    """The plugin `idefics3` of the stage `model`."""

    name = "idefics3"
    config_class = Idefics3Config
    _options: Idefics3Options

    def _config(self, folder: Path) -> PreTrainedConfig:
        """Take a checkpoint of this family alone."""
        return ChatModel._config(self, folder)

    def _with_options(self, processor: Processor) -> Processor:
        """Set the size of images; it is saved with the trained model, and compared when that answers."""
        if self._options.longest_edge is not None:
            processor.image_processor.size = {"longest_edge": self._options.longest_edge}
        return processor
