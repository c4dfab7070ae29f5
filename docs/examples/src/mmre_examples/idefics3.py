"""An example model: a family that `image_text_to_text` supports, with an additional option."""

from __future__ import annotations

from pathlib import Path

from transformers import Idefics3Config, PreTrainedConfig

from mmre_examples.idefics3_options import Idefics3Options
from plugins.model.chat.chat_model import ChatModel
from plugins.model.chat.processor_and_images import Processor
from plugins.model.image_text_to_text import ImageTextToTextModel


class Idefics3Model(ImageTextToTextModel):
    """The plugin `idefics3` of the stage `model`."""

    name = "idefics3"
    config_class = Idefics3Config
    _options: Idefics3Options

    def _config(self, folder: Path) -> PreTrainedConfig:
        """Accept checkpoints of this family only."""
        return ChatModel._config(self, folder)

    def _with_options(self, processor: Processor) -> Processor:
        """Set the image size; it is saved with the trained model and checked when that model is loaded."""
        if self._options.longest_edge is not None:
            processor.image_processor.size = {"longest_edge": self._options.longest_edge}
        return processor
