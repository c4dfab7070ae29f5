"""Writes a checkpoint of a model type with random weights: a small configuration, a processor and a chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from plugins.model.chat.processor_and_images import create_processor, train_tokenizer
from plugins.model.model_options_and_small_sizes import END_OF_TEXT, TURN_END, TURN_START, ChatFormat, chat_template

MAX_PARAMETERS = 20_000_000
"""A small model with more parameters has a width that its recipe forgot."""

WIDTH, HEADS, FFN, LAYERS, TILE, PATCH = 32, 2, 64, 2, 32, 8
"""Hidden size of all parts, their heads, feed-forward width and layers; sides of a tile and a patch in pixels."""

VOCAB_SIZE = 420

FLAGGED_TOKEN = "<flagged_without_role>"
"""A token of every small vocabulary that `all_special_tokens` does not list."""

SMALL_VALUES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "out_hidden_size": WIDTH,
    "text_hidden_size": WIDTH,
    "projection_dim": WIDTH,
    "projector_hidden_size": FFN,
    "intermediate_size": FFN,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_hidden_layers": LAYERS,
    "depth": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "num_heads": HEADS,
    "attention_heads": HEADS,
    "head_dim": WIDTH // HEADS,
    "image_size": TILE,
    "patch_size": PATCH,
    "num_experts": 4,
    "num_local_experts": 4,
    "moe_num_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "num_position_embeddings": (TILE // PATCH) ** 2,
    "num_patches": (TILE // PATCH) ** 2,
    "deepstack_visual_indexes": [0],
    "fullatt_block_indexes": [LAYERS - 1],
    "max_window_layers": LAYERS,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": HEADS,
    "linear_num_value_heads": HEADS,
    "linear_head_dim": 16,
    "linear_num_heads": HEADS,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "index_head_dim": 16,
    "index_n_heads": HEADS,
    "projection_intermediate_size": FFN,
    "adapter_in_dim": WIDTH,
    "adapter_out_dim": WIDTH,
    "encoder_hidden_size": WIDTH,
    "shared_experts_intermediate_size": 16,
    "output_dim": WIDTH,
    "d_model": WIDTH,
    "encoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "encoder_ffn_dim": FFN,
    "initializer_range": 0.1,
    "attention_dropout": 0.0,
}
"""Small values of the fields of configurations, by name, in every part of a configuration."""

PER_LAYER_LISTS = ("layer_types", "mlp_layer_types", "indexer_types")
"""Fields with one entry for each layer; a small model gets one layer of each of the first kinds."""

DROPPED = object()
"""Value of an override that removes a field, so that the configuration computes it."""


@dataclass(frozen=True)
class Recipe:
    """What a small checkpoint of a model type needs beyond the rules for all types.

    Attributes:
        image_text: The text that the chat template writes for an image; `{image_token}` and others are `tokens`.
        config: Values of the configuration by dotted path; an integer token id may be named by its token's text.
        images: Settings of the image processor.
        processor: Settings of the processor.
        tokens: Texts of tokens by the tokenizer's attribute; other attributes in the configuration get `<attribute>`.
        extra_tokens: Further special tokens.
        image_class: The image processor's class, if transformers does not map the type to one with Pillow.
        processor_class: The processor's class, if transformers does not map the type to one.
        attention: The attention implementation; some types lack `sdpa`.
    begin: The token that the tokenizer calls the beginning of a text.
    """

    image_text: str = "{image_token}"
    config: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    extra_tokens: Sequence[str] = ()
    image_class: str | None = None
    processor_class: str | None = None
    attention: str = "sdpa"
    begin: str | None = None


class NoSmallModelError(Exception):
    """A type for which no small checkpoint can be made on this machine, and the reason."""


def write_checkpoint(model_type: str, recipe: Recipe, texts: Iterable[str], folder: Path) -> None:
    """Write configuration, random weights, tokenizer and processor of a small model.

    Raises:
        NoSmallModelError: Its processor does not run on this machine, or the model is not small.
    """
    processor_type = _processor_class(model_type, recipe)
    image_type = _image_class(model_type, recipe)
    values = CONFIG_MAPPING[model_type]().to_dict()
    tokens = {name: f"<{name}>" for name in _token_fields(values)} | {"image_token": "<image>"} | dict(recipe.tokens)
    special = list(dict.fromkeys([END_OF_TEXT, TURN_START, TURN_END, *tokens.values(), *recipe.extra_tokens]))
    template = chat_template(recipe.image_text.format(**tokens))
    tokenizer = train_tokenizer(texts, VOCAB_SIZE + len(special), ChatFormat(tuple(special), template))
    named: dict[str, str | AddedToken] = dict(tokens)
    tokenizer._set_model_specific_special_tokens(named)
    # Some published vocabularies flag tokens that have no role in the tokenizer's configuration.
    tokenizer.add_tokens([AddedToken(FLAGGED_TOKEN, special=True, normalized=False)])
    if recipe.begin:
        tokenizer.add_special_tokens({"bos_token": recipe.begin})
    parts = {"image_processor": image_type(**recipe.images), "tokenizer": tokenizer}
    processor = create_processor(processor_type, parts, **recipe.processor)
    processor.chat_template = template
    config = small_config(model_type, recipe, tokenizer, tokens)
    with torch.device("meta"):
        num_parameters = sum(p.numel() for p in AutoModelForImageTextToText.from_config(config).parameters())
    if num_parameters > MAX_PARAMETERS:
        raise NoSmallModelError(f"the recipe gives {num_parameters:,} parameters")
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():  # such as Gemma 3's projection, which starts at zero
                parameter.normal_(std=0.1)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def small_config(model_type: str, recipe: Recipe, tokenizer: Any, tokens: Mapping[str, str]) -> PreTrainedConfig:
    """Create the small configuration of a model type."""
    config_class = CONFIG_MAPPING[model_type]
    values = _shrunk(config_class().to_dict(), tokenizer, tokens)
    for path, value in recipe.config.items():
        *parents, name = path.split(".")
        part = values
        for parent in parents:
            part = part[parent]
        if value is DROPPED:
            part.pop(name, None)
        else:
            part[name] = tokenizer.convert_tokens_to_ids(value) if name.endswith(TOKEN_SUFFIXES) else value
    config: PreTrainedConfig = config_class.from_dict(values)
    return config


TOKEN_SUFFIXES = ("_token_id", "_token_index", "_token_ids")

NOT_PARTS = (
    "id2label",
    "label2id",
    "rope_parameters",
    "per_layer_config",
    "projector_patch_to_query_dict",
    "vocabulary_map",
)
"""Fields that are dictionaries, but no configuration of a part."""

TEXT_TOKENS = {"bos_token", "eos_token", "pad_token", "_pad_token", "sep_token", "decoder_start_token", "cls_token"}


def _token_name(field_name: str) -> str | None:
    """Return the tokenizer's attribute for a field with a token id, such as `image_token` for `image_token_index`."""
    for suffix in ("_id", "_index"):
        name = field_name.removesuffix(suffix)
        if name != field_name and name.endswith("_token") and name not in TEXT_TOKENS:
            return name
    return None


def _token_fields(values: Mapping[str, Any]) -> list[str]:
    names = [_token_name(name) for name in values]
    parts = [value for name, value in values.items() if isinstance(value, dict) and name not in NOT_PARTS]
    return [name for name in names if name] + [name for part in parts for name in _token_fields(part)]


def _shrunk(values: Mapping[str, Any], tokenizer: Any, tokens: Mapping[str, str]) -> dict[str, Any]:
    small = {}
    for name, value in values.items():
        if isinstance(value, dict) and name not in NOT_PARTS:
            small[name] = _shrunk(value, tokenizer, tokens)
        elif name == "vocab_size":
            small[name] = len(tokenizer)
        elif token := _token_name(name):
            small[name] = tokenizer.convert_tokens_to_ids(tokens[token])
        elif name in ("eos_token_id", "pad_token_id", "bos_token_id", "_pad_token_id"):
            text = {"eos_token_id": TURN_END, "bos_token_id": TURN_START}.get(name, END_OF_TEXT)
            small[name] = tokenizer.convert_tokens_to_ids(text)
        elif name in PER_LAYER_LISTS and value:
            small[name] = (list(dict.fromkeys(value)) * LAYERS)[:LAYERS]
        elif name in SMALL_VALUES and value is not None:
            small[name] = [SMALL_VALUES[name]] * len(value) if _is_pair(name, value) else SMALL_VALUES[name]
        else:
            small[name] = value
    if "rope_parameters" in small and "mrope_section" in (small["rope_parameters"] or {}):
        small["rope_parameters"] = {**small["rope_parameters"], "mrope_section": [4, 2, 2]}
    return small


def _is_pair(name: str, value: Any) -> bool:
    return isinstance(value, list | tuple) and name in ("image_size", "patch_size")


def _processor_class(model_type: str, recipe: Recipe) -> Any:
    name = recipe.processor_class or PROCESSOR_MAPPING_NAMES.get(model_type)
    if name is None:
        raise NoSmallModelError("transformers names no processor of this type")
    return getattr(transformers, name)


def _image_class(model_type: str, recipe: Recipe) -> Any:
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
    name = recipe.image_class or names.get("pil")
    if name is None:
        raise NoSmallModelError("its image processor needs torchvision, which the project does not use")
    return getattr(transformers, name)
