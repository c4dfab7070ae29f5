"""The model plugin `image_text_to_text`: any family that transformers' image-text-to-text classes support.

It has no knowledge of a family, so it runs the processor and the vision tower to count tokens, which takes longer. Its
small sizes are Idefics3 models.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from plugins.model.chat.chat_model import read_config
from plugins.model.chat.loaded_chat_model import TEXT_FEATURES, LoadedChatModel
from plugins.model.chat.processor_and_images import Processor, find_processor_class, load_processor
from plugins.model.family_options import ImageTextToTextOptions
from plugins.model.smolvlm import SmallIdefics3
from plugins.model.tested_model_types import refusal
from runner.errors import RequirementError, SpecError
from runner.stages import Features


class LoadedImageTextToText(LoadedChatModel):
    """A chat model of any family in memory."""

    needs_right_padding_mask = True  # in some families, text attends to later tokens

    def num_image_features(self, features: Features) -> int:
        """Run the vision tower on a sample's pixels, and count its features."""
        pixels = {name: value for name, value in features.items() if name not in TEXT_FEATURES}
        if not pixels:
            return 0
        tower = self._vision
        with torch.no_grad():
            outputs = tower.get_image_features(**{name: value.to(tower.device) for name, value in pixels.items()})
        images = outputs.pooler_output if hasattr(outputs, "pooler_output") else outputs
        images = [images] if isinstance(images, torch.Tensor) else images
        return sum(image.numel() // image.shape[-1] for image in images)

    @property
    def _vision(self) -> Any:
        return self._zero_tower if self.module.device.type == "meta" else self.module.base_model

    @cached_property
    def _zero_tower(self) -> Any:
        """The vision tower of a meta-device model, with zero weights: its output size may depend on the pixels."""
        tower: Any = copy.deepcopy(self.module.base_model)
        decoder = tower.get_decoder()
        for name, child in tower.named_children():
            if child is decoder:
                setattr(tower, name, torch.nn.Identity())
        tower.to_empty(device="cpu")
        for tensor in (*tower.parameters(), *tower.buffers()):
            tensor.data.zero_()
        return tower


class ImageTextToTextModel(SmallIdefics3[ImageTextToTextOptions]):
    """The plugin `image_text_to_text` of the stage `model`."""

    name = "image_text_to_text"
    loaded_class = LoadedImageTextToText

    def build(self, texts: Iterable[str], seed: int) -> LoadedChatModel:
        """Create the model to train; see `ChatModel.build`.

        Raises:
            RequirementError: Also if the trainer's loss would differ from the model's own.
        """
        loaded = super().build(texts, seed)
        _check_head(loaded.module, loaded.stop_token_ids[0])
        return loaded

    def _config(self, folder: Path) -> PreTrainedConfig:
        config = read_config(folder)
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise SpecError(
                f"{folder} contains a model of type {config.model_type!r}, which is not one of transformers' "
                "image-text-to-text models",
                path=("model", "checkpoint"),
            )
        if reason := refusal(config.model_type, untested=self._options.untested):
            raise SpecError(reason, path=("model", "checkpoint"))
        return config

    def _processor(self, folder: Path) -> Processor:
        processor_class = find_processor_class(folder, self._config(folder))
        processor = None
        if processor_class.replace_image_token is not ProcessorMixin.replace_image_token:
            processor = load_processor(processor_class, folder)
        if getattr(processor, "image_token", None) is None:
            raise RequirementError(
                f"model.checkpoint: {processor_class.__name__} of {folder} does not define the text for an image in a "
                "prompt, which this plugin requires; use a newer family, or one that has its own plugin"
            )
        return processor


def _check_head(module: Any, token: int) -> None:
    """Check that the logits are the output embeddings applied to the hidden states, as the trainer computes them.

    Some families scale or cap their logits afterwards. Training without that step would optimize another loss.
    """
    ids = torch.full((1, 4), token)
    with torch.no_grad():
        logits = module(input_ids=ids).logits
        expected = module.get_output_embeddings()(module.base_model(input_ids=ids).last_hidden_state)
    if (logits - expected).abs().max() > 1e-3 * expected.abs().max():
        raise RequirementError(
            f"model.checkpoint: {type(module).__name__} changes its logits after the output embeddings, which "
            "training does not support; use another family"
        )
