"""Families with experts, parts that are absent, or no fused attention, in small checkpoints of the bench."""

import json

import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import SmolVLMProcessor

from bench.model_matrix.recipes import RECIPES
from bench.model_matrix.small_checkpoint import write_checkpoint
from plugins.model.chat.processor_and_images import image_text_processor_class
from plugins.model.family_options import ImageTextToTextOptions
from plugins.model.image_text_to_text import ImageTextToTextModel
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from runner.errors import RequirementError


def _plugin(folder, name, pictured, monkeypatch, **options):
    monkeypatch.setattr("plugins.model.tested_model_types.type_results", dict)
    texts = [text for sample in pictured for text in (sample.prompt, sample.target)]
    write_checkpoint(name, RECIPES[name], texts, folder)
    return ImageTextToTextModel(ImageTextToTextOptions(checkpoint=str(folder), untested=True, **options))


def test_adapters_are_on_the_linear_layers_of_the_group_and_on_no_experts(tmp_path, pictured, monkeypatch):
    module = _plugin(tmp_path, "glm4v_moe", pictured, monkeypatch).build([], 0).module
    before = {name: weight.clone() for name, weight in module.named_parameters()}
    linear = {
        name
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear) and "language_model" in name
    }
    groups = {
        "language": {"match": "*language_model*", "lr": 1e-2, "lora": {"rank": 2}},
        "rest": {"match": "*", "frozen": True},
    }
    optimizer = AdamWOptimizer(AdamWOptions(groups=groups))
    optimizer.prepare(module, 0)
    adapted = {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
    assert adapted.keys() == linear
    for layer in adapted.values():
        torch.nn.init.ones_(layer.lora_B["default"].weight)
    optimizer.finish(module)
    changed = {name for name, weight in module.named_parameters() if not weight.equal(before[name])}
    assert changed == {f"{name}.weight" for name in linear}


def test_the_types_of_the_tokens_of_ernie_are_those_of_its_processor(tmp_path, pictured, monkeypatch):
    model = _plugin(tmp_path, "ernie4_5_vl_moe", pictured, monkeypatch).model_spec([])
    features = model.encode(pictured[1])
    ids = features["input_ids"].tolist()
    assert features["moe_mm_token_type_ids"].tolist() == list(model.processor.create_moe_mm_token_type_ids([ids])[0])
    # The experts for images also read the tokens before and after an image.
    assert int(features["moe_mm_token_type_ids"].sum()) == int(features["mm_token_type_ids"].sum()) + 2


def test_a_model_without_an_audio_part_is_saved(tmp_path, pictured, monkeypatch):
    model = _plugin(tmp_path / "checkpoint", "gemma4", pictured, monkeypatch).build([], 0)
    assert model.module.config.audio_config is None
    model.save(tmp_path / "model", "bf16")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["vision_config"]["dtype"] == "bfloat16"


def test_an_attention_that_a_family_lacks_is_refused_with_the_option_to_change(tmp_path, pictured, monkeypatch):
    plugin = _plugin(tmp_path, "got_ocr2", pictured, monkeypatch)
    for build in (plugin.build, lambda texts, seed: plugin.model_spec(texts)):
        with pytest.raises(RequirementError, match=r"model\.attention: .*'got_ocr2' do not support sdpa .* use eager"):
            build([], 0)


def test_a_processor_without_videos_keeps_the_order_of_its_arguments():
    derived = image_text_processor_class(SmolVLMProcessor)
    assert derived.get_attributes() == ["image_processor", "tokenizer"]
    assert derived.all_parts == SmolVLMProcessor.get_attributes()
    assert derived.__name__ == "SmolVLMProcessor"
