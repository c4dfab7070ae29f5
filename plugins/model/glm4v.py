"""The model plugin `glm4v`: GLM-4.1V, in transformers' own classes."""

from __future__ import annotations

from transformers import (
    Glm4vConfig,
    Glm4vImageProcessorPil,
    Glm4vProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from plugins.model.chat.grid_model import (
    TEMPORAL_PATCH,
    GridModel,
    LoadedGridModel,
    grid_vision_config,
    mrope_text_config,
)
from plugins.model.chat.processor_and_images import Processor
from plugins.model.chat.segment_attention import use_packed_attention
from plugins.model.family_options import (
    GLM_IMAGE,
    GLM_IMAGE_END,
    GLM_IMAGE_START,
    GLM_VIDEO,
    GLM_VIDEO_END,
    GLM_VIDEO_START,
    Glm4vOptions,
)
from plugins.model.model_options_and_small_sizes import SmallSize

TOKEN_IDS = {
    "image_token_id": GLM_IMAGE,
    "image_start_token_id": GLM_IMAGE_START,
    "image_end_token_id": GLM_IMAGE_END,
    "video_token_id": GLM_VIDEO,
    "video_start_token_id": GLM_VIDEO_START,
    "video_end_token_id": GLM_VIDEO_END,
}
"""Special tokens that a configuration of this family names."""


class LoadedGlm4v(LoadedGridModel):
    """A GLM-4.1V model in memory."""

    def __init__(self, module: PreTrainedModel, processor: Processor) -> None:
        """Store module and processor, and prepare the attention of the language model for packed samples."""
        super().__init__(module, processor, attention_packs=use_packed_attention(module))


class Glm4vModel(GridModel[Glm4vOptions]):
    """The plugin `glm4v` of the stage `model`."""

    name = "glm4v"
    loaded_class = LoadedGlm4v
    config_class = Glm4vConfig
    processor_class = Glm4vProcessor
    image_processor_class = Glm4vImageProcessorPil
    # Its image processor compares height x width x frames with the limits, and a still image becomes two frames.
    frames_in_area = TEMPORAL_PATCH

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Glm4vConfig:
        vision = {**grid_vision_config(small), "image_size": small.tile}
        special = tokenizer.get_added_vocab()
        return Glm4vConfig(
            text_config=mrope_text_config(small, tokenizer),
            vision_config=vision,
            tie_word_embeddings=False,
            **{name: special[text] for name, text in TOKEN_IDS.items()},
        )
