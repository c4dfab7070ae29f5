"""A hybrid model carries a state across the samples of a packed row, which is found out by running it."""

import pytest
import torch

from plugins.model.chat import packing_check
from plugins.model.chat.packing_check import packs_as_alone
from plugins.model.family_options import Qwen25VLOptions, Qwen35MoeOptions, Qwen35Options
from plugins.model.qwen_vl import Qwen25VLModel, Qwen35Model, Qwen35MoeModel
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from runner.stages import TrainingRun

TEXTS = ["Who is this?", "It is one, of course."]


@pytest.fixture(params=[(Qwen35Model, Qwen35Options), (Qwen35MoeModel, Qwen35MoeOptions)], ids=["dense", "experts"])
def hybrid(request):
    plugin, options = request.param
    return plugin(options(size="smoke")).build(TEXTS, 0)


def test_a_hybrid_model_is_not_packed(hybrid):
    kinds = set(hybrid.module.config.text_config.layer_types)
    assert kinds == {"linear_attention", "full_attention"}
    before = {name: weight.clone() for name, weight in hybrid.module.named_parameters()}
    hybrid.module.train()
    assert hybrid.supports_packing is False
    assert hybrid.module.training
    assert all(weight.equal(before[name]) and weight.grad is None for name, weight in hybrid.module.named_parameters())


def test_a_kernel_that_resets_the_state_makes_packing_right(hybrid, monkeypatch):
    """The check measures, and does not judge by names: with a state that ends with each sample, it says yes."""
    lengths = []

    def pack(batch):
        lengths[:] = [len(sample["input_ids"]) for sample in batch]
        return type(hybrid).pack(hybrid, batch)

    for layer in hybrid.module.model.language_model.layers:
        if layer.block_type == "linear_attention":
            monkeypatch.setattr(layer.linear_attn, "forward", _within_samples(layer.linear_attn.forward, lengths))
    assert packs_as_alone(hybrid.module, pack)


def _within_samples(forward, lengths):
    def parts(hidden_states, **kwargs):
        return torch.cat([forward(part, **kwargs) for part in hidden_states.split(lengths, dim=1)], dim=1)

    return parts


def _qwen25(**options):
    return Qwen25VLModel(Qwen25VLOptions(size="smoke", **options))


def test_a_model_with_full_attention_alone_is_packed_without_a_run(monkeypatch):
    model = _qwen25().build(TEXTS, 0)
    monkeypatch.setattr(model.module, "forward", None)
    assert model.supports_packing is True
    assert _qwen25(attention="eager").build(TEXTS, 0).supports_packing is False


def test_full_attention_passes_the_measurement_too(monkeypatch):
    model = _qwen25().build(TEXTS, 0)
    monkeypatch.setattr(packing_check, "FULL_ATTENTION", "none")
    assert packs_as_alone(model.module, model.pack)


def test_sliding_windows_and_models_without_weights_are_not_packed(monkeypatch):
    model = _qwen25().build(TEXTS, 0)
    monkeypatch.setattr(model.module.config.text_config, "layer_types", ["sliding_attention", "full_attention"])
    assert not packs_as_alone(model.module, model.pack)
    spec = Qwen35Model(Qwen35Options(size="smoke")).model_spec(TEXTS)
    assert spec.supports_packing is False


def _train(model, samples, folder, reporter, **options):
    trainer = SftTrainer(SftOptions(epochs=1, max_steps=1, global_batch_size=3, precision="fp32", **options))
    optimizer = AdamWOptimizer(AdamWOptions(groups={"all": {"match": "*", "lr": 1e-3}}))
    optimizer.prepare(model.module, 0)
    trainer.train(model, optimizer, samples, [sample.id for sample in samples], TrainingRun(folder, 3, reporter))
    return reporter


def test_a_training_says_that_samples_are_padded(hybrid, pictured, tmp_path, recorder):
    asked = _train(hybrid, pictured, tmp_path / "auto", recorder())
    (warning,) = (text for text in asked.warnings if "padded instead of packed" in text)
    assert type(hybrid.module).__name__ in warning
    off = _train(hybrid, pictured, tmp_path / "off", recorder(), packing="off")
    assert not any("packed" in text for text in off.warnings)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_models_have_nothing_to_say(attention, pictured, tmp_path, recorder):
    model = _qwen25(attention=attention).build(TEXTS, 0)
    assert not any("packed" in text for text in _train(model, pictured, tmp_path, recorder()).warnings)
