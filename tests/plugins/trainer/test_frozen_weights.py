"""Frozen weights of linear layers that are stored in bfloat16 change no loss, no gradient and no saved weight."""

from importlib.metadata import entry_points

import pytest
import torch

from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.accelerator_and_sharding import make_accelerator
from plugins.trainer.frozen_weights import frozen_linear_weights, keep_frozen_in_bf16, restore_float32
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.train_step import TrainStep

FROZEN_VISION = {"vision": {"match": "*vision*", "frozen": True}, "language": {"match": "*", "lr": 1e-2}}
FROZEN_VISUAL = {"vision": {"match": "*visual*", "frozen": True}, "language": {"match": "*", "lr": 1e-2}}
ADAPTERS = {"all": {"match": "*", "lr": 1e-2, "lora": {"rank": 2}}}


def train(samples, family, groups, *, stores_bf16, spoil=False):
    [plugin] = entry_points(group="runner.model", name=family)
    [options] = entry_points(group="runner.model.options", name=family)
    texts = [text for sample in samples for text in (sample.prompt, sample.target)]
    model = plugin.load()(options.load()(size="smoke")).build(texts, 0)
    model.module.bfloat16().float()  # as in a published checkpoint
    if spoil:
        for parameter in model.module.parameters():
            parameter.data += 1e-4
    optimizer = AdamWOptimizer(AdamWOptions(groups=groups, warmup_ratio=0))
    optimizer.prepare(model.module, 0)
    names = {id(weight): name for name, weight in model.module.named_parameters()}
    frozen = {names[id(weight)] for weight in frozen_linear_weights(model.module)}
    if stores_bf16:
        keep_frozen_in_bf16(model.module)
    stored = {name for name, weight in model.module.named_parameters() if weight.dtype == torch.bfloat16}
    step = TrainStep(
        make_accelerator("bf16"), model, optimizer.build(model.module, 3), SftOptions(precision="bf16", max_grad_norm=9)
    )
    gradients = []
    for _ in range(2):
        gradients.append(step.compute_gradient([model.encode(sample) for sample in samples[:2]]))
        step.update()
    restore_float32(model.module)
    optimizer.finish(model.module)
    return frozen, stored, gradients, {name: weight.clone() for name, weight in model.module.state_dict().items()}


@pytest.mark.parametrize(
    ("family", "groups"),
    [
        ("qwen2_5_vl", FROZEN_VISUAL),
        ("qwen2_5_vl", ADAPTERS),
        ("qwen3_vl", FROZEN_VISUAL),
        ("internvl", FROZEN_VISION),
        ("llava_onevision", FROZEN_VISION),
    ],
)
def test_frozen_bf16_weights_change_no_loss_gradient_or_weight(colour_samples, family, groups):
    _, nothing, gradients, weights = train(colour_samples, family, groups, stores_bf16=False)
    frozen, stored, same_gradients, same_weights = train(colour_samples, family, groups, stores_bf16=True)
    assert not nothing and stored == frozen != set()
    assert same_gradients == gradients
    assert weights.keys() == same_weights.keys()
    assert all(torch.equal(same_weights[name], weight) for name, weight in weights.items())


def test_weights_that_bf16_would_round_stay_float32(colour_samples):
    frozen, stored, _, _ = train(colour_samples, "qwen2_5_vl", FROZEN_VISUAL, stores_bf16=True, spoil=True)
    assert frozen and not stored
