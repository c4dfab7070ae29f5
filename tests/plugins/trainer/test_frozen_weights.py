"""Frozen weights of linear layers that are stored in bfloat16 change no loss, no gradient and no saved weight."""

from importlib.metadata import entry_points

import pytest
import torch

from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.accelerator_and_sharding import autocast_weight_ids, make_accelerator, move_and_convert
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.train_step import TrainStep

FROZEN_VISION = {"vision": {"match": "*vision*", "frozen": True}, "language": {"match": "*", "lr": 1e-2}}
FROZEN_VISUAL = {"vision": {"match": "*visual*", "frozen": True}, "language": {"match": "*", "lr": 1e-2}}
ADAPTERS = {"all": {"match": "*", "lr": 1e-2, "lora": {"rank": 2}}}


def train(samples, family, groups, *, stores_bf16):
    [plugin] = entry_points(group="runner.model", name=family)
    [options] = entry_points(group="runner.model.options", name=family)
    texts = [text for sample in samples for text in (sample.prompt, sample.target)]
    model = plugin.load()(options.load()(size="smoke")).build(texts, 0)
    model.module.bfloat16()  # as in a published checkpoint
    if not stores_bf16:
        model.module.float()
    optimizer = AdamWOptimizer(AdamWOptions(groups=groups, warmup_ratio=0))
    optimizer.prepare(model.module, 0)
    names = {id(weight): name for name, weight in model.module.named_parameters()}
    frozen = {names[weight] for weight in autocast_weight_ids(model.module)}
    move_and_convert(model.module, torch.device("cpu"), autocast=True)
    stored = {name for name, weight in model.module.named_parameters() if weight.dtype == torch.bfloat16}
    step = TrainStep(
        make_accelerator("bf16"), model, optimizer.build(model.module, 3), SftOptions(precision="bf16", max_grad_norm=9)
    )
    gradients = []
    for _ in range(2):
        gradients.append(step.compute_gradient([model.encode(sample) for sample in samples[:2]]))
        step.update()
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
    # The sum of weight and adapter is rounded to the format in which the weight is stored.
    assert all(torch.equal(same_weights[name], weight.to(same_weights[name].dtype)) for name, weight in weights.items())
