"""The model plugin `image_text_to_text`: what transformers' image-text-to-text classes carry, whatever the family.

It knows nothing of a family beforehand, so it asks its processor and its vision tower, which takes longer. Its small
sizes are Idefics3's, whose processor marks the rows and columns of tiles.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Idefics3Config,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from plugins.model.chat.chat_model import ChatModel, read_config
from plugins.model.chat.loaded import TEXT_FEATURES, LoadedChatModel
from plugins.model.chat.processor import Processor, load_processor, named_processor_class
from plugins.model.chat.small_models import SmallSize, text_config
from plugins.model.model_options import GENERIC_IMAGE as IMAGE
from plugins.model.model_options import SPLIT, ImageTextToTextOptions
from runner.errors import RequirementError, SpecError
from runner.stages import Features

SHRINK = 2
"""Side by which a small size's vision features are shrunk."""


class LoadedImageTextToText(LoadedChatModel):
    """Any chat model in memory."""

    mask_on_the_right = True  # some families let text see what follows it

    def num_image_features(self, features: Features) -> int:
        """Run the vision tower on a sample's pixels, and count what it gives."""
        pixels = {name: value for name, value in features.items() if name not in TEXT_FEATURES}
        if not pixels:
            return 0
        tower = self._vision
        with torch.no_grad():
            given = tower.get_image_features(**{name: value.to(tower.device) for name, value in pixels.items()})
        parts = given.pooler_output if hasattr(given, "pooler_output") else given
        parts = [parts] if isinstance(parts, torch.Tensor) else parts
        return sum(part.numel() // part.shape[-1] for part in parts)

    @property
    def _vision(self) -> Any:
        return self._blank_tower if self.module.device.type == "meta" else self.module.base_model

    @cached_property
    def _blank_tower(self) -> Any:
        """The vision tower of an model_spec, with zeros for weights, as what it does may depend on the pixels."""
        tower: Any = copy.deepcopy(self.module.base_model)
        decoder = tower.get_decoder()
        for name, child in tower.named_children():
            if child is decoder:
                setattr(tower, name, torch.nn.Identity())
        tower.to_empty(device="cpu")
        for tensor in (*tower.parameters(), *tower.buffers()):
            tensor.data.zero_()
        return tower


class ImageTextToTextModel(ChatModel[ImageTextToTextOptions]):
    """The plugin `image_text_to_text` of the stage `model`."""

    name = "image_text_to_text"
    loaded = LoadedImageTextToText

    def build(self, texts: Iterable[str], seed: int) -> LoadedChatModel:
        """Make the model to train; see `ChatModel.build`.

        Raises:
            UnmetError: Also where the trainer's loss would not be the model's own.
        """
        loaded = super().build(texts, seed)
        _check_head(loaded.module, loaded.stop_token_ids[0])
        return loaded

    def _config(self, folder: Path) -> PreTrainedConfig:
        config = read_config(folder)
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise SpecError(
                f"{folder} holds a model of type {config.model_type!r}, which is none of transformers' "
                "image-text-to-text models",
                path=("model", "checkpoint"),
            )
        return config

    def _processor(self, folder: Path) -> Processor:
        named = named_processor_class(folder, self._config(folder))
        processor = None
        if named.replace_image_token is not ProcessorMixin.replace_image_token:
            processor = load_processor(named, folder)
        if getattr(processor, "image_token", None) is None:
            raise RequirementError(
                f"model.checkpoint: {named.__name__} of {folder} does not say what stands for an image in a prompt, "
                "which this plugin goes by; take a family that is newer or has a plugin of its own"
            )
        return processor

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Idefics3Config:
        vision = {
            "hidden_size": small.vision_width,
            "num_hidden_layers": small.vision_depth,
            "num_attention_heads": small.vision_heads,
            "intermediate_size": small.vision_ffn,
            "initializer_range": small.vision_init,
            "image_size": small.tile,
            "patch_size": small.patch,
        }
        return Idefics3Config(
            text_config={"model_type": "llama", **text_config(small, tokenizer)},
            vision_config=vision,
            image_token_id=tokenizer.get_added_vocab()[IMAGE],
            scale_factor=SHRINK,
            tie_word_embeddings=False,
        )

    def _small_processor(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Processor:
        images = Idefics3ImageProcessorPil(
            size={"longest_edge": SPLIT * small.tile}, max_image_size={"longest_edge": small.tile}
        )
        places = (small.tile // small.patch // SHRINK) ** 2
        return self._assemble(images, tokenizer, image_seq_len=places)

    processor_class = Idefics3Processor  # of the small sizes; a checkpoint names its own
    config_class = Idefics3Config


def _check_head(module: Any, token: int) -> None:
    """Make sure that the logits are what the output embeddings make of the hidden states, as the trainer has them.

    Some families scale or cap their logits afterwards; trained without that, they would learn something else.
    """
    ids = torch.full((1, 4), token)
    with torch.no_grad():
        logits = module(input_ids=ids).logits
        plain = module.get_output_embeddings()(module.base_model(input_ids=ids).last_hidden_state)
    if (logits - plain).abs().max() > 1e-3 * plain.abs().max():
        raise RequirementError(
            f"model.checkpoint: {type(module).__name__} changes its logits after the output embeddings, which "
            "training does not reproduce; take another family"
        )
