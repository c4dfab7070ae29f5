"""The model plugins `qwen2_vl`, `qwen2_5_vl`, `qwen3_vl`, `qwen3_5` and `qwen3_5_moe`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from PIL import Image
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3_5Config,
    Qwen3_5MoeConfig,
    Qwen3_5Tokenizer,
    Qwen3VLConfig,
    Qwen3VLProcessor,
)

from plugins.model.chat.grid_model import (
    TEMPORAL_PATCH,
    GridModel,
    LoadedGridModel,
    grid_vision_config,
    mrope_text_config,
)
from plugins.model.chat.packing_check import FULL_ATTENTION
from plugins.model.chat.processor_and_images import Processor
from plugins.model.chat.raw_pixels import RawPixels
from plugins.model.chat.vision_tower import prepare_attention
from plugins.model.family_options import (
    IMAGE_PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    Qwen2VLOptions,
    Qwen3VLOptions,
    Qwen25VLOptions,
    Qwen35MoeOptions,
    Qwen35Options,
    QwenVLOptions,
)
from plugins.model.model_options_and_small_sizes import SmallSize
from runner.stages import Features, ModelSpec

QwenOptions = TypeVar("QwenOptions", bound=QwenVLOptions)


class LoadedQwenVL(LoadedGridModel):
    """A Qwen-VL model in memory; samples hold the bytes of the pixels, and patches are made on the device."""

    def __init__(self, module: PreTrainedModel, processor: Processor) -> None:
        """Store module and processor, and prepare the module's attention and vision tower."""
        super().__init__(module, processor, attention_packs=prepare_attention(module))
        images = processor.image_processor
        self._raw_pixels = RawPixels(images) if type(images) is Qwen2VLImageProcessorPil else None
        self.stores_raw_pixels = self._raw_pixels is not None
        if self._raw_pixels is not None:
            self._raw_pixels.add_to(module.base_model.visual)

    def _process_images(self, images: Sequence[Image.Image]) -> tuple[Features, Sequence[str]]:
        if self._raw_pixels is not None:
            features = self._raw_pixels.encode(images)
        else:
            # The processor does the same, but tokenizes a text as well.
            features = dict(self.processor.image_processor(images=list(images), return_tensors="pt"))
        return features, self._texts_for_sizes(tuple((image.height, image.width) for image in images))


class QwenVLModel(GridModel[QwenOptions]):
    """Base class of the plugins of Qwen-VL models."""

    loaded_class = LoadedQwenVL
    image_processor_class = Qwen2VLImageProcessorPil


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the ids of the special tokens that a configuration of these families contains."""
    special = tokenizer.get_added_vocab()
    return {
        "image_token_id": special[IMAGE_PAD],
        "video_token_id": special[VIDEO_PAD],
        "vision_start_token_id": special[VISION_START],
        "vision_end_token_id": special[VISION_END],
    }


class Qwen2VLModel(QwenVLModel[Qwen2VLOptions]):
    """The plugin `qwen2_vl` of the stage `model`."""

    name = "qwen2_vl"
    config_class = Qwen2VLConfig
    processor_class = Qwen2VLProcessor

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Qwen2VLConfig:
        vision = {
            "embed_dim": small.vision_width,
            "hidden_size": small.text_width,  # in this family, the width of the tower's output
            "depth": small.vision_depth,
            "num_heads": small.vision_heads,
            "mlp_ratio": small.vision_ffn // small.vision_width,
            "initializer_range": small.vision_init,
            "patch_size": small.patch,
            "temporal_patch_size": TEMPORAL_PATCH,
        }
        return Qwen2VLConfig(
            text_config=mrope_text_config(small, tokenizer),
            vision_config=vision,
            tie_word_embeddings=False,
            **special_token_ids(tokenizer),
        )


class Qwen25VLModel(QwenVLModel[Qwen25VLOptions]):
    """The plugin `qwen2_5_vl` of the stage `model`; most blocks of its vision tower use windowed attention."""

    name = "qwen2_5_vl"
    config_class = Qwen2_5_VLConfig
    processor_class = Qwen2_5_VLProcessor

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLConfig:
        vision = {**grid_vision_config(small), "fullatt_block_indexes": [small.vision_depth - 1]}
        return Qwen2_5_VLConfig(
            text_config=mrope_text_config(small, tokenizer),
            vision_config=vision,
            tie_word_embeddings=False,
            **special_token_ids(tokenizer),
        )

    def _published(self) -> ModelSpec | None:
        from plugins.model.published_model_spec import published_model_spec

        options = self._options
        return published_model_spec(options.checkpoint, options.min_pixels, options.max_pixels, options.attention)


SMALL_NUM_POSITIONS = 64
"""Number of learned positions of a small vision tower, eight by eight; other positions are interpolated."""


class Qwen3VLModel(QwenVLModel[Qwen3VLOptions]):
    """The plugin `qwen3_vl` of the stage `model`; the first decoder layers get features of inner vision blocks."""

    name = "qwen3_vl"
    config_class = Qwen3VLConfig
    processor_class = Qwen3VLProcessor

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
        vision = {
            **grid_vision_config(small),
            "num_position_embeddings": SMALL_NUM_POSITIONS,
            "deepstack_visual_indexes": [0],
        }
        text = {**mrope_text_config(small, tokenizer), "head_dim": small.text_width // small.text_heads}
        return Qwen3VLConfig(
            text_config=text, vision_config=vision, tie_word_embeddings=False, **special_token_ids(tokenizer)
        )


LINEAR_ATTENTION = "linear_attention"

Qwen35Family = TypeVar("Qwen35Family", bound=QwenVLOptions)


class _Qwen35Model(QwenVLModel[Qwen35Family]):
    """Base class of the plugins of Qwen3.5: a hybrid decoder, in which most layers have linear attention."""

    processor_class = Qwen3VLProcessor  # as transformers maps the type
    tokenizer_class = Qwen3_5Tokenizer

    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
        vision = {**grid_vision_config(small), "num_position_embeddings": SMALL_NUM_POSITIONS}
        head = small.text_width // small.text_heads
        text = mrope_text_config(small, tokenizer)
        text["rope_parameters"] |= {"partial_rotary_factor": 1.0, "mrope_interleaved": True}
        linear = {
            "linear_key_head_dim": head,
            "linear_value_head_dim": head,
            "linear_num_key_heads": small.text_heads,
            "linear_num_value_heads": small.text_heads,
            "layer_types": [LINEAR_ATTENTION] * (small.text_layers - 1) + [FULL_ATTENTION],
        }
        config_class: Any = self.config_class
        config: PreTrainedConfig = config_class(
            text_config={**text, **linear, **self._small_experts(small), "head_dim": head},
            vision_config=vision,
            tie_word_embeddings=False,
            **special_token_ids(tokenizer),
        )
        return config

    def _small_experts(self, small: SmallSize) -> dict[str, Any]:
        """Return the settings of the experts of a small size; none by default."""
        return {}


class Qwen35Model(_Qwen35Model[Qwen35Options]):
    """The plugin `qwen3_5` of the stage `model`."""

    name = "qwen3_5"
    config_class = Qwen3_5Config


SMALL_NUM_EXPERTS = 4


class Qwen35MoeModel(_Qwen35Model[Qwen35MoeOptions]):
    """The plugin `qwen3_5_moe` of the stage `model`: Qwen3.5 with a mixture of experts."""

    name = "qwen3_5_moe"
    config_class = Qwen3_5MoeConfig

    def _small_experts(self, small: SmallSize) -> dict[str, Any]:
        return {
            "num_experts": SMALL_NUM_EXPERTS,
            "num_experts_per_tok": SMALL_NUM_EXPERTS // 2,
            "moe_intermediate_size": small.text_ffn // 2,
            "shared_expert_intermediate_size": small.text_ffn // 2,
        }
