"""Weights in 4 bits and optimizer state in 8 bits, with bitsandbytes on a CPU, and the errors without it."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.optimizer import optimizer_options
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.adamw_8bit import AdamW8bitOptimizer
from plugins.optimizer.optimizer_options import AdamW8bitOptions, AdamWOptions
from plugins.trainer.accelerator_and_sharding import make_accelerator
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.train_step import TrainStep
from plugins.trainer.training_estimate import optimizer_state_bytes
from runner.errors import RequirementError, SpecError
from runner.stages import StopRequestedError, TrainingRun

GROUPS = {"vision": {"match": "*visual*", "lr": 1e-3}, "language": {"match": "*", "lr": 1e-3}}
ADAPTED = {
    "vision": {"match": "*visual*", "lr": 1e-2, "lora": {"rank": 2, "load_in_4bit": True}},
    "embeddings": {"match": "*embed_tokens*", "frozen": True},
    "language": {"match": "*", "lr": 1e-2, "lora": {"rank": 4, "alpha": 4, "load_in_4bit": True}},
}
PROJECTION = "model.language_model.layers.0.self_attn.q_proj"


@pytest.fixture
def installed():
    return pytest.importorskip("bitsandbytes")


@pytest.fixture
def missing(monkeypatch):
    monkeypatch.setattr(optimizer_options, "find_spec", lambda name: None)


def test_without_bitsandbytes_the_errors_name_what_to_install(missing, build_smoke):
    module = build_smoke().module
    with pytest.raises(RequirementError, match=r"adamw_8bit.*pip install 'mmre-runner\[bitsandbytes\]'.*type: adamw"):
        AdamW8bitOptimizer(AdamW8bitOptions(groups=GROUPS)).build(module, 2)
    with pytest.raises(RequirementError, match=r"load_in_4bit needs the package bitsandbytes.*remove load_in_4bit"):
        AdamWOptimizer(AdamWOptions(groups=ADAPTED)).prepare(module, 0)


def test_a_plan_with_4_bits_needs_no_bitsandbytes(missing, build_smoke):
    module = build_smoke().module.to("meta")
    rows = AdamWOptimizer(AdamWOptions(groups=ADAPTED)).prepare(module, 0)
    assert any("lora_A" in row.name for row in rows)


def test_sharded_weights_are_refused_before_training(installed, build_smoke, monkeypatch):
    module, optimizer = build_smoke().module, AdamW8bitOptimizer(AdamW8bitOptions(groups=GROUPS))
    optimizer.prepare(module, 0)
    [built] = optimizer.build(module, 2)
    optimizer.check(module, [built.optimizer])
    monkeypatch.setattr("plugins.optimizer.adamw_8bit.DTensor", torch.nn.Parameter)
    with pytest.raises(SpecError, match=r"cannot train sharded weights; use trainer\.strategy: ddp") as caught:
        optimizer.check(module, [built.optimizer])
    assert caught.value.problems[0].path == ("optimizer", "type")


def _train_step(model, optimizer):
    rows = optimizer.prepare(model.module, seed=0)
    built = optimizer.build(model.module, 20)
    train_step = TrainStep(make_accelerator("fp32"), model, built, SftOptions(precision="fp32"))
    optimizer.check(model.module, train_step.optimizers)
    return rows, train_step


def _losses(model, train_step, samples, num_steps):
    losses = []
    for _ in range(num_steps):
        losses.append(train_step.compute_gradient([model.encode(sample) for sample in samples]).loss)
        train_step.update()
    return losses


def test_moments_in_8_bits_train_almost_like_those_in_32(installed, build_smoke, colour_samples):
    losses, sizes = [], []
    for optimizer in (
        AdamWOptimizer(AdamWOptions(groups=GROUPS, warmup_ratio=0)),
        AdamW8bitOptimizer(AdamW8bitOptions(groups=GROUPS, warmup_ratio=0)),
    ):
        model = build_smoke()
        _, train_step = _train_step(model, optimizer)
        losses.append(_losses(model, train_step, colour_samples[:4], 8))
        tensors = [
            tensor
            for wrapped in train_step.optimizers
            for state in wrapped.optimizer.state.values()
            for name, tensor in state.items()
            if not name.startswith("qmap")  # one table for all parameters
        ]
        sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
    exact, quantized = losses
    assert exact[-1] < exact[0] - 0.5
    assert quantized == pytest.approx(exact, rel=0.02) and quantized != exact
    assert sizes[1] < 0.6 * sizes[0]  # a third of the weights of this model are in parameters below 4,096


def test_the_plan_counts_two_bytes_a_weight(installed, build_smoke):
    module = build_smoke().module
    num_weights = sum(each.numel() for each in module.parameters())
    for optimizer, num_bytes in (
        (AdamWOptimizer(AdamWOptions(groups=GROUPS)), 8),
        (AdamW8bitOptimizer(AdamW8bitOptions(groups=GROUPS)), 2),
    ):
        assert optimizer_state_bytes(optimizer, module) == num_bytes * num_weights


class Stopping:
    """A reporter that stops the training after some steps."""

    def __init__(self, stop_after=None):
        self.losses, self.stop_after, self.done = [], stop_after, 0

    def metrics(self, step, values):
        self.losses += [values["train/loss"]] if "train/loss" in values else []

    def progress(self, done, total, **shown):
        self.done = done

    def warn(self, message):
        raise AssertionError(message)

    def stop_requested(self):
        return self.done == self.stop_after


def _train(build_smoke, samples, folder, reporter, optimizer):
    model, ids = build_smoke(), [sample.id for sample in samples]
    optimizer.prepare(model.module, 0)
    options = SftOptions(epochs=2, global_batch_size=3, precision="fp32")
    trained = SftTrainer(options).train(model, optimizer, samples, ids, TrainingRun(folder, 11, reporter))
    optimizer.finish(trained.module)
    return torch.cat([parameter.detach().flatten() for parameter in trained.module.parameters()])


@pytest.mark.parametrize("kind", ["adamw_8bit", "load_in_4bit"])
def test_a_resumed_training_ends_with_the_same_bits(installed, build_smoke, colour_samples, tmp_path, kind):
    def make():
        if kind == "adamw_8bit":
            return AdamW8bitOptimizer(AdamW8bitOptions(groups=GROUPS))
        return AdamWOptimizer(AdamWOptions(groups=ADAPTED))

    undisturbed, resumed = Stopping(), Stopping()
    expected = _train(build_smoke, colour_samples, tmp_path / "whole", undisturbed, make())
    with pytest.raises(StopRequestedError):
        _train(build_smoke, colour_samples, tmp_path / "parts", Stopping(stop_after=5), make())
    weights = _train(build_smoke, colour_samples, tmp_path / "parts", resumed, make())
    assert resumed.losses == undisturbed.losses[5:]
    assert weights.equal(expected)


def test_weights_in_4_bits_are_stored_in_an_eighth_trained_and_merged(installed, build_smoke, colour_samples):
    model, optimizer = build_smoke(), AdamWOptimizer(AdamWOptions(groups=ADAPTED, warmup_ratio=0))
    plain = {name: each.detach().clone() for name, each in model.module.named_parameters()}
    num_weights = sum(each.numel() for each in plain.values())
    rows, train_step = _train_step(model, optimizer)
    base = model.module.get_parameter(f"{PROJECTION}.base_layer.weight")
    assert base.numel() * base.element_size() == plain[f"{PROJECTION}.weight"].numel() // 2
    assert sum(row.num_parameters for row in rows if "lora_" not in row.name) == num_weights
    assert all("lora_" in row.name for row in rows if row.trainable)
    losses = _losses(model, train_step, colour_samples[:4], 6)
    assert losses[-1] < losses[0] - 0.5

    batch = model.collate([model.encode(sample) for sample in colour_samples[:4]], "right")
    model.module.eval()
    with torch.no_grad():
        adapted = model.module(**batch).logits
        optimizer.finish(model.module)
        torch.testing.assert_close(model.module(**batch).logits, adapted, rtol=1e-4, atol=1e-4)
    merged = dict(model.module.named_parameters())
    assert {name: each.shape for name, each in merged.items()} == {name: each.shape for name, each in plain.items()}
    assert {each.dtype for each in merged.values()} == {torch.float32}
    assert merged["model.language_model.embed_tokens.weight"].equal(plain["model.language_model.embed_tokens.weight"])


def test_4_bits_compute_in_the_precision_of_autocast(installed):
    from plugins.optimizer.quantized import FourBitLinear

    linear = torch.nn.Linear(64, 32)
    layer, inputs = FourBitLinear.of(linear), torch.randn(3, 64)
    exact = torch.nn.functional.linear(inputs, layer.dequantized(), linear.bias)
    torch.testing.assert_close(layer(inputs), exact, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer(inputs)
    assert rounded.dtype == torch.bfloat16 and layer.bias.dtype == torch.float32
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)
    assert layer(inputs).dtype == torch.float32


@settings(deadline=None, max_examples=20)
@given(rows=st.integers(1, 4), blocks=st.integers(1, 3), scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_a_quantized_weight_is_near_its_original(rows, blocks, scale):
    pytest.importorskip("bitsandbytes")
    from plugins.optimizer.quantized import FourBitLinear

    linear = torch.nn.Linear(64 * blocks, rows, bias=False)
    torch.nn.init.normal_(linear.weight, std=scale)
    restored = FourBitLinear.of(linear).dequantized()
    # The largest gap between values of NF4 is 0.3 of the largest weight of a block, and a value is half of it away.
    assert (restored - linear.weight).abs().max() <= 0.17 * linear.weight.abs().max()


def test_4_bits_are_not_sharded(installed, build_smoke, colour_samples, tmp_path):
    model, optimizer = build_smoke(), AdamWOptimizer(AdamWOptions(groups=ADAPTED))
    optimizer.prepare(model.module, 0)
    trainer = SftTrainer(SftOptions(strategy="fsdp", precision="fp32"))
    with pytest.raises(SpecError, match=r"fsdp cannot shard weights in 4 bits") as caught:
        trainer.train(model, optimizer, colour_samples, [], TrainingRun(tmp_path, 0, Stopping()))
    assert caught.value.problems[0].path == ("trainer", "strategy")


@pytest.mark.slow
def test_a_training_of_all_weights_imports_neither_bitsandbytes_nor_peft():
    """Together they take more than a second of each process that imports them."""
    code = (
        "import sys, plugins.model.qwen_vl, plugins.optimizer.adamw, plugins.optimizer.muon, plugins.trainer.sft\n"
        "import plugins.generator.transformers\n"
        "print(*sorted({'bitsandbytes', 'peft', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "transformers"
