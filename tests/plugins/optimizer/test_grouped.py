"""Frozen groups, verification of the optimizer, low-rank adapters, and the six groups of the paper's trainer."""

import copy

import pytest
import torch
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.muon import MuonOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions, MuonOptions
from plugins.trainer.accelerator_and_sharding import make_accelerator
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.train_step import TrainStep
from runner.errors import SpecError, StepError
from runner.stages.optimizer_and_trainer import summarize_groups

FROZEN_VISION = {"vision": {"match": "*visual*", "frozen": True}, "language": {"match": "*", "lr": 1e-2}}
ADAPTED = {
    "vision": {"match": "*visual*", "lr": 1e-2, "lora": {"rank": 2, "alpha": 4}},
    "embeddings": {"match": "*embed_tokens*", "lr": 1e-3},
    "language": {"match": "*", "lr": 1e-2, "lora": {"rank": 4, "alpha": 4}},
}


def adamw(groups, **options):
    return AdamWOptimizer(AdamWOptions(groups=groups, **options))


def trained(model, optimizer, samples, steps=2):
    """Take some steps as the trainer does, and return the manifest."""
    rows = optimizer.prepare(model.module, seed=0)
    built = optimizer.build(model.module, steps + 1)
    train_step = TrainStep(make_accelerator("fp32"), model, built, SftOptions(precision="fp32"))
    optimizer.check(model.module, train_step.optimizers)
    for _ in range(steps):
        train_step.compute_gradient([model.encode(sample) for sample in samples])
        train_step.update()
    return rows


def weights(module):
    return {name: each.detach().clone() for name, each in module.named_parameters()}


def test_frozen_group_is_unchanged_and_others_are_trained(build_smoke, colour_samples):
    model, optimizer = build_smoke(), adamw(FROZEN_VISION, warmup_ratio=0)
    before = weights(model.module)
    rows = trained(model, optimizer, colour_samples)
    optimizer.finish(model.module)
    for row in rows:
        same = before[row.name].equal(model.module.get_parameter(row.name))
        assert same == (row.group == "vision") == (not row.trainable), row.name
    vision, language = summarize_groups(rows)
    assert (vision["num_trainable"], vision["lr"], vision["weight_decay"]) == (0, None, None)
    assert language["num_trainable"] == language["num_parameters"]


def test_changed_frozen_weight_is_reported(build_smoke):
    model, optimizer = build_smoke(), adamw(FROZEN_VISION)
    optimizer.prepare(model.module, 0)
    with torch.no_grad():
        model.module.model.visual.merger.ln_q.weight[3] += 1e-6
    with pytest.raises(StepError, match=r"^model\.visual\.merger\.ln_q\.weight changed in training"):
        optimizer.finish(model.module)


def test_adapters_are_trained_and_merged_without_changing_outputs(build_smoke, colour_samples):
    model, optimizer = build_smoke(), adamw(ADAPTED, warmup_ratio=0)
    plain = weights(model.module)
    rows = trained(model, optimizer, colour_samples)
    learning = {row.name: row for row in rows if row.trainable}
    assert all(("lora_" in name) != ("embed_tokens" in name) for name in learning)
    assert {row.group for row in rows} == set(ADAPTED)
    rank = {name: model.module.get_parameter(name).shape[0] for name in learning if "lora_A" in name}
    assert {rows for name, rows in rank.items() if "visual" in name} == {2}
    assert {rows for name, rows in rank.items() if "visual" not in name} == {4}
    assert not any("lm_head" in name for name in learning)

    batch = model.collate([model.encode(sample) for sample in colour_samples[:4]], "right")
    model.module.eval()
    with torch.no_grad():
        adapted = model.module(**batch).logits
        optimizer.finish(model.module)
        torch.testing.assert_close(model.module(**batch).logits, adapted, rtol=1e-4, atol=1e-5)
    merged = weights(model.module)
    assert merged.keys() == plain.keys()
    changed = {name for name in plain if not merged[name].equal(plain[name])}
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in changed
    assert "model.language_model.norm.weight" not in changed


def test_adapters_are_the_same_for_the_same_seed(build_smoke):
    made = []
    for seed in (1, 1, 2):
        module = build_smoke().module
        torch.rand(3)
        adamw(ADAPTED).prepare(module, seed)
        made.append(module.get_parameter("model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight"))
    assert made[0].equal(made[1])
    assert not made[0].equal(made[2])


def test_lora_group_without_linear_layers_is_an_error(build_smoke):
    groups = {"norms": {"match": "*norm*", "lr": 1.0, "lora": {}}, "rest": {"match": "*", "lr": 1.0}}
    with pytest.raises(SpecError, match="linear layers") as caught:
        adamw(groups).prepare(build_smoke().module, 0)
    assert caught.value.problems[0].path == ("optimizer", "groups", "norms", "lora")


@pytest.mark.parametrize("fault", ["rate", "decay", "left out", "frozen", "foreign"])
def test_optimizer_that_differs_from_the_groups_is_an_error(build_smoke, fault):
    module, optimizer = build_smoke().module, adamw(FROZEN_VISION)
    optimizer.prepare(module, 0)
    [built] = optimizer.build(module, 2)
    live = built.optimizer
    optimizer.check(module, [live])
    if fault == "rate":
        live.param_groups[0]["initial_lr"] = 1e-3
    elif fault == "decay":
        live.param_groups[1]["weight_decay"] = 0.1
    elif fault == "left out":
        live.param_groups[0]["params"].pop()
    elif fault == "frozen":
        live.add_param_group({"params": [module.model.visual.merger.ln_q.weight]})
    else:
        live.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    with pytest.raises(StepError, match="the optimizer"):
        optimizer.check(module, [live])


def test_muon_groups_can_be_frozen_too(build_smoke):
    groups = {
        "vision": {"match": "*visual*", "frozen": True},
        "vectors": {"match": "*norm*", "lr": 1e-3},
        "biases": {"match": "*.bias", "lr": 1e-3},
        "matrices": {"match": "*", "lr": 0.01, "algorithm": "muon"},
    }
    module = build_smoke().module
    optimizer = MuonOptimizer(MuonOptions(groups=groups))
    rows = optimizer.prepare(module, 0)
    optimizer.check(module, [each.optimizer for each in optimizer.build(module, 2)])
    assert {row.group for row in rows if not row.trainable} == {"vision"}


SEVEN_BILLION = {
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
    },
    "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
    "tie_word_embeddings": False,
}
PAPER = {
    "merger": {"match": "*merger*", "lr": 2e-6},
    "vision": {"match": "*visual*", "lr": 2e-6},
    "language": {"match": "*", "lr": 1e-5},
}


@pytest.fixture(scope="module")
def seven_billion():
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(Qwen2_5_VLConfig(**SEVEN_BILLION))


def groups_of_2u1(module):
    """Deal parameters out as 2U1's trainer does: by part of the model, each in two by decay."""
    layer_norms = {
        f"{path}.{name}"
        for path, part in module.named_modules()
        if isinstance(part, torch.nn.LayerNorm)
        for name, _ in part.named_parameters()
    }
    dealt = {}
    for name, _ in module.named_parameters():
        part = "merger" if "merger" in name else "vision" if "visual" in name else "language"
        decays = "bias" not in name and name not in layer_norms
        dealt.setdefault((part, decays), set()).add(name)
    return dealt


def test_six_groups_equal_those_of_the_papers_trainer(seven_billion):
    wanted = groups_of_2u1(seven_billion)
    assert len(wanted) == 6
    [built] = adamw(PAPER, weight_decay_on="2u1").build(seven_billion, 10)
    names = {id(parameter): name for name, parameter in seven_billion.named_parameters()}
    found = {
        (group["name"], group["weight_decay"] > 0): {names[id(parameter)] for parameter in group["params"]}
        for group in built.optimizer.param_groups
    }
    assert found == wanted
    assert all(group["initial_lr"] == PAPER[group["name"]]["lr"] for group in built.optimizer.param_groups)


def test_7b_has_the_number_of_weights_of_its_published_checkpoint(seven_billion):
    rows = adamw(PAPER).prepare(copy.copy(seven_billion), 0)
    assert sum(row.num_parameters for row in rows) == 8_292_166_656
